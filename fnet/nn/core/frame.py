"""One call of a model's forward: the parts bound to their arrays, their keys, their state, their errors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import get_opaque_trace_state

from fnet.nn.core.keys import TransformError, Withheld, check_key
from fnet.nn.core.param import NoState, Param, Path, Spec, Tree, flat_specs, get, replaced, stand_ins
from fnet.nn.core.render import holds_layers
from fnet.nn.core.values import FrozenList, text, thaw
from fnet.nn.core.walk import is_array, is_layer, record, run
from fnet.tree import escape, fold_name


class Frame:
    """What the bound parts of a model share for the length of one call of its forward; nothing outlives the call."""

    def __init__(self, params: Tree, state: Tree, key: Any, train: bool, recording: bool):
        if not isinstance(params, dict) or not isinstance(state, dict):
            given = ", ".join(shape_text(tree) if is_array(tree) else type(tree).__name__ for tree in (params, state))
            raise TypeError(f"apply takes (params, state, *inputs), with dicts for the first two, got ({given}, …)")
        if key is not None and not isinstance(key, Withheld):
            check_key(key, "apply")
        self.params, self.state, self.key, self.train = params, state, key, train
        self.recording = recording
        self.specs: dict[Path, Spec] = {}
        self.calls: Counter[Path] = Counter()
        self.trace: Any = get_opaque_trace_state()
        self.open = True

    def close(self) -> None:
        self.open, self.trace = False, None

    def key_for(self, part: Bound, path: Path) -> Any:
        """The part's own key for this call, from its name and the number of the call."""
        if self.key is None or isinstance(self.key, Withheld) or getattr(part.layer, "keyless", False):
            return self.key
        if self.inside_transform() and not self.recording:
            return Withheld(_transform_message(part, "needs a key", "key=k"))
        return fold_name(self.key, f"{dotted(path)}#{self.calls[path]}")

    def inside_transform(self) -> bool:
        """Whether a JAX transform has begun within the forward."""
        return get_opaque_trace_state() != self.trace


class Bound:
    """A layer bound to its arrays for one call of a model's forward."""

    def __init__(self, layer: Any, path: Path, frame: Frame):
        self.layer = layer
        self._path, self._frame = path, frame

    @property
    def params(self) -> Tree:
        """The part's own parameters, for tied weights: ``h @ embed.params["weight"].T``."""
        self._check_open()
        frame = self._frame
        if not frame.recording:
            return get(frame.params, self._path)
        if self._path not in frame.specs:
            try:
                frame.specs[self._path] = self.layer.spec()
            except TypeError as error:
                raise ValueError(f"{self!r}: call the part before .params; its shapes depend on its input") from error
        return stand_ins(flat_specs(frame.specs[self._path]), True)

    def __call__(self, *inputs: Any, **kwargs: Any) -> Any:
        self._check_open()
        frame, path = self._frame, self._path
        with PartScope(dotted(path), self.layer, inputs):
            train = kwargs.pop("train", frame.train)
            key = kwargs.pop("key") if "key" in kwargs else frame.key_for(self, path)
            frame.calls[path] += 1
            if frame.recording:
                return self._record(inputs, kwargs, key, train)
            state = get(frame.state, path)
            output, new = run(self.layer, get(frame.params, path), state, inputs, kwargs, key, train)
            if _changed(state, new) and frame.inside_transform():
                raise TransformError(_transform_message(self, "changes its state", "train=False"))
            if new:
                frame.state = replaced(frame.state, path, new)
            return output

    def _record(self, inputs: tuple[Any, ...], kwargs: Mapping[str, Any], key: Any, train: bool) -> Any:
        frame, path = self._frame, self._path
        specs, output = record(self.layer, inputs, kwargs, key, train)
        before = frame.specs.setdefault(path, specs)
        shapes, earlier = ({name: p.shape for name, p in flat_specs(s).items()} for s in (specs, before))
        if shapes != earlier:
            raise ValueError(
                f"one set of weights cannot serve both calls of this part: they need {earlier} and {shapes}"
            )
        return output

    def _check_open(self) -> None:
        if not self._frame.open:
            raise RuntimeError(f"{self!r} was used after the forward that it was bound for had returned")

    def __repr__(self) -> str:
        return f"<part {dotted(self._path)!r}: {text(self.layer)}>"


class PartScope:
    """A named scope for one part, which writes the part's dotted path into any error raised inside."""

    def __init__(self, name: str, layer: Any, inputs: tuple[Any, ...]):
        self._name, self._layer, self._inputs = name, layer, inputs
        self._scope = jax.named_scope(name)

    def __enter__(self) -> None:
        self._scope.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._scope.__exit__(kind, error, trace)
        if not isinstance(error, Exception):
            return
        mark = "in part '"
        notes = getattr(error, "__notes__", [])
        for index, note in enumerate(notes):
            if note.startswith(mark):  # raised further in: its path goes through this part
                notes[index] = f"{mark}{self._name}.{note.removeprefix(mark)}"
                return
        shapes = ", ".join(shape_text(value) for value in self._inputs)
        error.add_note(f"{mark}{self._name}': {text(self._layer)} called with ({shapes})")


def shape_text(value: Any) -> str:
    """An input as it reads in an error: ``float32[8, 4]`` for arrays, the tree of them for pytrees."""

    def one(leaf: Any) -> Any:
        return _Plain(f"{leaf.dtype}{list(leaf.shape)}") if is_array(leaf) else leaf

    return repr(jax.tree.map(one, value))


class _Plain(str):
    def __repr__(self) -> str:
        return str(self)


def _transform_message(part: Bound, need: str, override: str) -> str:
    name = part._path[-1]
    return (
        f"part {dotted(part._path)!r} ({text(part.layer)}) {need}, but is called inside a JAX transform begun within "
        "the forward, where one random mask would repeat and new state could not come out. Use the combinator that is "
        "this transform of a layer: nn.Remat (jax.checkpoint), nn.Stack (jax.lax.scan over layers), nn.RNN "
        f"(jax.lax.scan over time), nn.Ensemble (jax.vmap); or give {name}(…, {override}) to say what it should use"
    )


def bind(part: Any, path: Path, frame: Frame) -> Any:
    if isinstance(part, Param):
        return _array(part, path, frame)
    if is_layer(part):
        return Bound(part, path, frame)
    if isinstance(part, list | tuple) and holds_layers(part):
        items = [bind(item, (*path, str(index)), frame) for index, item in enumerate(part)]
        if isinstance(part, FrozenList):
            return items
        return type(part)(*items) if hasattr(part, "_fields") else tuple(items)
    if isinstance(part, dict) and holds_layers(part):
        return {name: bind(item, (*path, str(name)), frame) for name, item in part.items()}
    return thaw(part)


def _array(param: Param, path: Path, frame: Frame) -> Any:
    if frame.recording:
        return jnp.zeros(param.shape, param.dtype)
    tree = get(frame.params if param.trainable else frame.state, path)
    if isinstance(tree, NoState):
        raise TypeError(NoState.message(repr(dotted(path))))
    if isinstance(tree, dict) and not tree:
        raise KeyError(f"{'params' if param.trainable else 'state'} has no {dotted(path)!r}, which is {param}")
    return tree


def _changed(old: Tree, new: Tree) -> bool:
    before, after = jax.tree.leaves(dict(old)), jax.tree.leaves(dict(new))
    return len(before) != len(after) or any(a is not b for a, b in zip(before, after, strict=True))


def dotted(path: Path) -> str:
    """The dotted name of a part from the keys on the way to it."""
    return ".".join(map(escape, path))
