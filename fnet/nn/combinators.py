"""Combinators: JAX transforms of a layer's `apply` that add no name of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from fnet.nn.core import Layer
from fnet.nn.core.frame import shape_text
from fnet.nn.core.keys import Withheld, fold_index
from fnet.nn.core.param import Param, Spec, Tree
from fnet.nn.core.render import parts_of
from fnet.nn.core.values import text
from fnet.nn.core.walk import is_layer, record, run, specs_of, split_arrays


@dataclass(frozen=True, repr=False)
class Combinator(Layer):
    """A layer around another, whose parts and names are those of the layer inside."""

    layer: Any

    def __post_init__(self) -> None:
        super().__post_init__()
        if not is_layer(self.layer):
            raise TypeError(f"{type(self).__name__} takes a layer first, got {self.layer!r}")

    @property
    def parts(self) -> dict[str, Any]:
        return parts_of(self.layer)

    def with_parts(self, parts: Mapping[str, Any]) -> Combinator:
        return replace(self, layer=self.layer.with_parts(parts))

    def title(self) -> str:
        """The first line of the printed tree."""
        inner = self.layer.title() if hasattr(self.layer, "title") else text(self.layer)
        return repr(replace(self, layer=_Named(inner)))

    def spec(self, *inputs: Any, **kwargs: Any) -> Spec:
        return specs_of(self, inputs, kwargs, False)

    def record_parts(
        self, inputs: tuple[Any, ...], kwargs: Mapping[str, Any], key: Any, train: bool
    ) -> tuple[Spec, Any]:
        """Walk the layer inside: its Params and its output, as this combinator changes them."""
        return record(self.layer, inputs, kwargs, key, train)


@dataclass(frozen=True, repr=False)
class Residual(Combinator):
    """``x + layer(x, …)``; the sum is with the first input.

    >>> import jax, jax.numpy as jnp
    >>> from fnet import nn
    >>> params, _ = nn.Residual(nn.Linear(4)).init(jax.random.key(0), jnp.ones((2, 4)))
    >>> nn.Residual(nn.Linear(4))(params, jnp.ones((2, 4))).shape
    (2, 4)
    """

    def apply(
        self, params: Tree, state: Tree, *inputs: Any, key: Any = None, train: bool = False, **kwargs: Any
    ) -> Any:
        output, state = run(self.layer, params, state, inputs, kwargs, key, train)
        return _sum(self, inputs, output), state

    def record_parts(
        self, inputs: tuple[Any, ...], kwargs: Mapping[str, Any], key: Any, train: bool
    ) -> tuple[Spec, Any]:
        specs, output = record(self.layer, inputs, kwargs, key, train)
        return specs, _sum(self, inputs, output)


@dataclass(frozen=True, repr=False)
class Remat(Combinator):
    """The layer with its inner activations computed again in the backward pass, by `jax.checkpoint`, to save memory.

    >>> import jax, jax.numpy as jnp
    >>> from fnet import nn
    >>> model = nn.Sequential(nn.Remat(nn.Linear(4)))
    >>> sorted(model.init(jax.random.key(0), jnp.ones((2, 4)))[0]["0"])
    ['bias', 'weight']
    """

    def apply(
        self, params: Tree, state: Tree, *inputs: Any, key: Any = None, train: bool = False, **kwargs: Any
    ) -> Any:
        # What is no array goes around the checkpoint, as does the stand-in for a key that must not be used.
        held = key if isinstance(key, Withheld) else None
        arrays, join = split_arrays((inputs, kwargs, None if held else key))

        def inner(params: Tree, state: Tree, arrays: list[Any]) -> tuple[Any, Tree]:
            inputs, kwargs, key = join(arrays)
            return run(self.layer, params, state, inputs, kwargs, held or key, train)

        return jax.checkpoint(inner)(params, state, arrays)


@dataclass(frozen=True, repr=False)
class Stack(Combinator):
    """``n`` layers of one configuration in a row, compiled once: `jax.lax.scan` over stacked weights.

    Every array has a leading axis of ``n``, each slice drawn with a key of its own; names are those of one layer.
    The first input is carried from layer to layer, the others go to each. State and keys are per layer. For the
    gradient, only what is costly is kept of a layer on CPU, matmuls and convolutions; the rest is computed again.
    `unstack` gives ``3.fc.weight`` for ``fc.weight[3]``, `restack` the way back.

    >>> import jax, jax.numpy as jnp
    >>> from fnet import nn
    >>> model = nn.Stack(nn.Residual(nn.Linear(4)), 12)
    >>> params, _ = model.init(jax.random.key(0), jnp.ones((2, 4)))
    >>> params["weight"].shape, model(params, jnp.ones((2, 4))).shape
    ((12, 4, 4), (2, 4))
    """

    n: int

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_count(self, self.n)

    def apply(
        self, params: Tree, state: Tree, x: Any, *rest: Any, key: Any = None, train: bool = False, **kwargs: Any
    ) -> Any:
        def one(carry: Any, part: tuple[Tree, Tree, jax.Array]) -> tuple[Any, Tree]:
            params, state, index = part
            return run(self.layer, params, state, (carry, *rest), kwargs, fold_index(key, index), train)

        parts = (params, state, jnp.arange(self.n))
        carry = _carry(self, one, x, parts)
        step = jax.checkpoint(one, prevent_cse=False, policy=_costly) if _keeping_less_is_faster() else one
        return jax.lax.scan(step, carry, parts, length=self.n)

    def record_parts(
        self, inputs: tuple[Any, ...], kwargs: Mapping[str, Any], key: Any, train: bool
    ) -> tuple[Spec, Any]:
        specs, output = record(self.layer, inputs, kwargs, key, train)
        _check_same(self, inputs, output)
        return stacked(specs, self.n), output


@dataclass(frozen=True, repr=False)
class Ensemble(Combinator):
    """``n`` layers of one configuration side by side on the same inputs: `jax.vmap` over stacked weights.

    Every array, and every output, has a leading axis of ``n``; each slice is drawn with a key of its own.

    >>> import jax, jax.numpy as jnp
    >>> from fnet import nn
    >>> model = nn.Ensemble(nn.Linear(3), 5)
    >>> params, _ = model.init(jax.random.key(0), jnp.ones((2, 4)))
    >>> model(params, jnp.ones((2, 4))).shape
    (5, 2, 3)
    """

    n: int

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_count(self, self.n)

    def apply(
        self, params: Tree, state: Tree, *inputs: Any, key: Any = None, train: bool = False, **kwargs: Any
    ) -> Any:
        def one(params: Tree, state: Tree, index: jax.Array) -> tuple[Any, Tree]:
            return run(self.layer, params, state, inputs, kwargs, fold_index(key, index), train)

        return jax.vmap(one)(params, state, jnp.arange(self.n))

    def record_parts(
        self, inputs: tuple[Any, ...], kwargs: Mapping[str, Any], key: Any, train: bool
    ) -> tuple[Spec, Any]:
        specs, output = record(self.layer, inputs, kwargs, key, train)
        return stacked(specs, self.n), jax.tree.map(lambda y: jnp.broadcast_to(y, (self.n, *jnp.shape(y))), output)


def unstack(stacked: Tree) -> Tree:
    """The arrays of a `Stack` or `Ensemble` as one subtree a layer: ``{"0": …, "1": …}``.

    >>> import jax.numpy as jnp
    >>> from fnet import nn
    >>> nn.unstack({"weight": jnp.arange(2)})
    {'0': {'weight': Array(0, dtype=int32)}, '1': {'weight': Array(1, dtype=int32)}}
    """
    shapes = {leaf.shape for leaf in jax.tree.leaves(stacked)}
    sizes = {shape[0] for shape in shapes if shape}
    if len(sizes) != 1 or () in shapes:
        raise ValueError(f"unstack needs arrays with one leading size, the number of layers; got shapes {shapes}")
    return {str(index): jax.tree.map(lambda leaf: leaf[index], stacked) for index in range(sizes.pop())}  # noqa: B023


def restack(layers: Mapping[str, Tree]) -> Tree:
    """The subtrees ``{"0": …, "1": …}`` of equal layers as the stacked arrays of a `Stack` or `Ensemble`.

    >>> import jax.numpy as jnp
    >>> from fnet import nn
    >>> nn.restack({"0": {"weight": jnp.zeros(3)}, "1": {"weight": jnp.ones(3)}})["weight"].shape
    (2, 3)
    """
    if set(layers) != {str(index) for index in range(len(layers))} or not layers:
        raise ValueError(f"restack needs layers named '0', '1', … without gaps, got {sorted(layers)}")
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *(layers[str(index)] for index in range(len(layers))))


@dataclass(frozen=True)
class _Named:
    """Stands for the inner layer in a combinator's title."""

    name: str
    spec = apply = None

    def __repr__(self) -> str:
        return self.name


def stacked(specs: Spec, n: int) -> Spec:
    """The Params with a leading axis of ``n``, each slice drawn alone."""
    return {
        name: replace(item, shape=(n, *item.shape), stacked=item.stacked + 1)
        if isinstance(item, Param)
        else stacked(item, n)
        for name, item in specs.items()
    }


def _costly(primitive: Any, *_: Any, **__: Any) -> bool:
    """What a scan keeps for its gradient: not the elementwise, which is computed again in the loop that needs it."""
    return primitive.name in ("dot_general", "conv_general_dilated", "random_bits", "threefry2x32", "scan", "while")


def _keeping_less_is_faster() -> bool:
    """Whether to keep less than all of a scanned layer for the gradient: on CPU, where each array that is kept is
    copied into that of all layers and out again, which made a Stack of 6 up to 2.7x as slow as 6 layers in a list."""
    return jax.default_backend() == "cpu"


def _check_count(layer: Layer, n: Any) -> None:
    if not isinstance(n, int) or n < 1:
        raise ValueError(f"{type(layer).__name__} needs n of at least 1, got {n!r}")


def _check_same(layer: Layer, inputs: tuple[Any, ...], output: Any) -> None:
    if not inputs:
        raise TypeError(f"{type(layer).__name__} takes its first input by position")
    before, after = (jax.tree.map(jnp.shape, tree) for tree in (inputs[0], output))
    if before != after:
        raise ValueError(
            f"{type(layer).__name__} needs a layer whose output is shaped like its first input; "
            f"{shape_text(inputs[0])} went in, {shape_text(output)} came out"
        )


def _sum(layer: Layer, inputs: tuple[Any, ...], output: Any) -> Any:
    _check_same(layer, inputs, output)
    return jax.tree.map(jnp.add, inputs[0], output)


def _carry(layer: Layer, one: Any, x: Any, parts: Any) -> Any:
    """The input in the dtypes that the layers return, those of their weights: a scan cannot change what it carries."""
    dtypes = {leaf.dtype for leaf in jax.tree.leaves((x, parts[0])) if jnp.issubdtype(leaf.dtype, jnp.floating)}
    if len(dtypes) <= 1:
        return x
    first = jax.tree.map(lambda leaf: leaf[0], parts)
    output = jax.eval_shape(lambda: one(x, first)[0])
    _check_same(layer, (x,), output)
    return jax.tree.map(lambda a, y: jnp.asarray(a, y.dtype), x, output)
