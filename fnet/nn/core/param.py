"""`Param`, the declaration of one array, and trees of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from fnet.init import Initializer
from fnet.nn.core.values import freeze
from fnet.tree import escape, unescape

Spec: TypeAlias = dict[str, Any]  # nested {name: Param}
Tree: TypeAlias = dict[str, Any]  # nested {name: array}
Path: TypeAlias = tuple[str, ...]  # the dict keys on the way to a leaf


@dataclass(frozen=True)
class Param:
    """The declaration of one array of a layer; not an array.

    ``init`` is called as ``init(key, shape, dtype)``. With ``trainable=False`` the array belongs to the state.
    ``torch_shape`` is for a part of an `nn.Model` to which PyTorch's counterpart gives other axes of one, such as
    (channels, 1, 1) where the channels are first: `io.to_torch` gives the array that shape.

    >>> from fnet import init, nn
    >>> nn.Param((1, 1, 192), init.normal(0.02))
    Param((1, 1, 192), normal(0.02))
    """

    shape: tuple[int, ...]
    init: Initializer
    dtype: Any = np.dtype("float32")
    trainable: bool = True
    stacked: int = 0  # leading axes over layers, as nn.Stack adds them: each slice is drawn alone, with its own fans
    torch_shape: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        shape = (self.shape,) if isinstance(self.shape, int) else tuple(int(size) for size in self.shape)
        if any(size < 0 for size in shape):
            raise ValueError(f"a Param's shape has no negative sizes, got {shape}")
        if not callable(self.init):
            raise TypeError(f"a Param's init is a function (key, shape, dtype) -> array, got {self.init!r}")
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "dtype", jnp.dtype(self.dtype))
        object.__setattr__(self, "init", freeze(self.init, "a Param's init"))

    def __repr__(self) -> str:
        dtype = "" if self.dtype == np.float32 else f", dtype={self.dtype.name}"
        return f"Param({self.shape}, {self.init!r}{dtype}{'' if self.trainable else ', trainable=False'})"


class NoState(dict):
    """The empty state of the short call: asking it for anything says how to pass a state."""

    @staticmethod
    def message(name: str) -> str:
        return (
            f"this model has state ({name}), and model(params, x) is for models without: "
            "use output, state = model.apply(params, state, x)"
        )

    def __missing__(self, name: str) -> Any:
        raise TypeError(self.message(repr(name)))


# Without leaves for JAX, so that it passes through scan, vmap and checkpoint as what it is.
jax.tree_util.register_pytree_node(NoState, lambda state: ((), None), lambda _, children: NoState())


def flat_specs(specs: Spec, prefix: str = "") -> dict[str, Param]:
    """Nested Params as ``{dotted name: Param}``, in the order of declaration."""
    if not isinstance(specs, Mapping):
        raise TypeError(f"spec returns a dict of Params, got {specs!r}" + (f" at {prefix!r}" if prefix else ""))
    flat: dict[str, Param] = {}
    for name, value in specs.items():
        if not isinstance(name, str):
            raise TypeError(f"names in a spec are strings, got {name!r}")
        if isinstance(value, Param):
            flat[prefix + escape(name)] = value
        else:
            flat.update(flat_specs(value, prefix + escape(name) + "."))
    return flat


def stand_ins(flat: Mapping[str, Param], trainable: bool) -> Tree:
    """Zeros in the shape of Params, to be made under a trace, where they cost nothing."""
    tree: Tree = {}
    for name, param in flat.items():
        if param.trainable == trainable:
            put(tree, keys_of(name), jnp.zeros(param.shape, param.dtype))
    return tree


def keys_of(name: str) -> Path:
    """The dict keys on the way to a dotted name."""
    return tuple(map(unescape, name.split(".")))


def put(tree: Tree, path: Path, value: Any) -> None:
    """Set a leaf of a nested dict in place, making the dicts on the way."""
    for key in path[:-1]:
        tree = tree.setdefault(key, {})
    tree[path[-1]] = value


def get(tree: Tree, path: Path) -> Any:
    """A leaf or subtree of a nested dict; an empty dict of the same kind where there is nothing."""
    for key in path:
        tree = tree[key] if key in tree else type(tree)()
    return tree


def replaced(tree: Tree, path: Path, value: Any) -> Tree:
    """The nested dict with a leaf or subtree replaced; only the dicts on the way are copied."""
    inner = value if len(path) == 1 else replaced(tree.get(path[0], {}), path[1:], value)
    return {**tree, path[0]: inner}


def draw(init: Initializer, key: jax.Array, name: str, param: Param) -> jax.Array:
    """The first value of one array; raises ValueError naming it where the initialiser gives another shape or dtype."""
    if param.stacked:
        inner = replace(param, shape=param.shape[1:], stacked=param.stacked - 1)
        slices = [draw(init, jax.random.fold_in(key, index), name, inner) for index in range(param.shape[0])]
        return jnp.stack(slices)
    dtype = jax.dtypes.canonicalize_dtype(param.dtype)
    try:
        value = init(key, param.shape, dtype)
    except Exception as error:
        error.add_note(f"while drawing {name!r}, {dtype.name}{list(param.shape)}, with {init!r}")
        raise
    if getattr(value, "shape", None) != param.shape or value.dtype != dtype:
        given = f"{value.dtype}{list(value.shape)}" if hasattr(value, "dtype") else repr(value)
        wanted = f"{dtype.name}{list(param.shape)}"
        raise ValueError(f"the initialiser {init!r} gave {given} for {name!r}, expected {wanted}")
    return jax.lax.convert_element_type(value, dtype)  # a strong type: a weak one would compile the step twice
