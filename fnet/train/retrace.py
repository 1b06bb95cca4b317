"""The recompile guard: which leaf of its inputs made a function be traced again, and from what to what."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from fnet import tree

# Frames that are not the caller's: the warning should point to the line that called the step.
INSIDE = tuple(str(Path(module.__file__).parent) for module in (jax, tree) if module.__file__)


class Retraced(RuntimeWarning):
    """A step is traced and compiled again; to allow it: ``warnings.simplefilter("ignore", train.Retraced)``."""


class Guard:
    """Remembers with what a jitted function was traced. It is told from inside that function, so a call costs nothing.

    It does not see what recompiles without a new trace: another sharding or placement of the same shapes.
    """

    def __init__(self, strict: bool) -> None:
        self.strict = strict
        self._seen: list[tuple[Any, dict[str, Any]]] = []

    def __call__(self, **inputs: Any) -> None:
        """Note a trace; warn, or with ``strict`` raise `Retraced`, where the inputs are not those of one before."""
        if not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(inputs)):
            return  # jax.disable_jit: nothing is compiled
        structure, leaves = jax.tree.structure(inputs), {name: jax.typeof(leaf) for name, leaf in tree.named(inputs)}
        changes = [list(differences((structure, leaves), seen)) for seen in self._seen]
        if changes and all(changes):
            nearest = min(changes, key=len)
            more = [f"… and {len(nearest) - 10} more"] if len(nearest) > 10 else []
            message = "\n  ".join(["the step is traced and compiled again, since what it is given changed:",
                                   *nearest[:10], *more])  # fmt: skip
            if self.strict:
                raise Retraced(message)
            warnings.warn(message, Retraced, stacklevel=_caller())
        if all(changes):
            self._seen.append((structure, leaves))


def differences(new: tuple[Any, dict[str, Any]], old: tuple[Any, dict[str, Any]]) -> Iterator[str]:
    """A line for each leaf that changed; one for the structure, where only that did."""
    (structure, leaves), (structure_before, before) = new, old
    for name, kind in leaves.items():
        if name not in before:
            yield f"{name}: new, {_describe(kind)}"
        elif kind != before[name]:
            was, now = _describe(before[name]), _describe(kind)
            if was == now:  # the sharding is a part of the type
                yield f"{name}: {now} {_layout(before[name])} → {_layout(kind)}"
            else:
                yield f"{name}: {was} → {now}{_hint(name, before[name], kind)}"
    yield from (f"{name}: gone, it was {_describe(kind)}" for name, kind in before.items() if name not in leaves)
    if structure != structure_before and leaves.keys() == before.keys():
        yield _structures(structure, structure_before)


def _describe(kind: Any) -> str:
    if not hasattr(kind, "shape"):
        return str(kind)
    weak = " (weakly typed, as a Python scalar)" if getattr(kind, "weak_type", False) else ""
    return f"{kind.dtype}[{', '.join(map(str, kind.shape))}]{weak}"


def _hint(name: str, before: Any, now: Any) -> str:
    one: tuple[int, ...] = getattr(before, "shape", ())
    other: tuple[int, ...] = getattr(now, "shape", ())
    if name.startswith("batch") and one and len(one) == len(other):
        if one[0] != other[0] and one[1:] == other[1:]:
            return '; batches of one size: last="drop" or "pad" in the loader'
        return "; batches of one shape: cut or pad to it, or to a few lengths"
    if getattr(before, "weak_type", False) != getattr(now, "weak_type", False):
        return "; give it a dtype: jnp.asarray(value, dtype)"
    return ""


def _layout(kind: Any) -> str:
    """``on the mesh (data=2, model=4)``, with the axes that are explicit and what they split."""
    sharding: Any = getattr(kind, "sharding", None)
    mesh = getattr(sharding, "mesh", None)
    if mesh is None or mesh.empty:
        return "on no mesh"
    types = [" explicit" if each == jax.sharding.AxisType.Explicit else "" for each in mesh.axis_types]
    axes = ", ".join(f"{name}={size}{which}" for (name, size), which in zip(mesh.shape.items(), types, strict=True))
    split = [axis for axis in sharding.spec if axis is not None]
    return f"on the mesh ({axes})" + (f" split by {sharding.spec}" if split else "")


def _structures(new: Any, old: Any, path: str = "") -> str:
    """Where two trees with the same names first differ: the type of a node, or what it holds beside its leaves."""
    children = list(zip(new.children(), old.children(), strict=False))
    if new.node_data() == old.node_data() and len(new.children()) == len(old.children()):
        index = next(index for index, (child, before) in enumerate(children) if child != before)
        return _structures(*children[index], f"{path}.{_key(new, index)}" if path else _key(new, index))
    return f"{path}: {_node(old)} → {_node(new)}; what is no array is a part of the program"


def _key(structure: Any, index: int) -> str:
    kind, data = structure.node_data()
    if kind is dict:
        return str(data[index])
    fields = getattr(kind, "_fields", None)
    return fields[index] if fields else str(index)


def _node(structure: Any) -> str:
    if structure.node_data() is None:
        return "a leaf"
    kind, data = structure.node_data()
    count = f" of {len(structure.children())}" if kind in (tuple, list) else ""
    return kind.__name__ + count + (f" with {data!r}" if data is not None and kind is not dict else "")


def _caller() -> int:
    """The stacklevel of the first frame outside of jax and fnet, as `Guard.__call__` must give it."""
    frame, level = sys._getframe(1), 0
    while frame.f_back is not None and frame.f_code.co_filename.startswith(INSIDE):
        frame, level = frame.f_back, level + 1
    return level + 1
