"""Running any layer, for real or abstractly on stand-ins, which is how `init` learns what arrays there are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from fnet.nn.core.param import NoState, Spec, Tree, flat_specs, stand_ins
from fnet.tree import diff


def is_layer(value: Any) -> bool:
    """Whether a value follows the layer contract: it has `spec` and `apply`, and is no class."""
    return not isinstance(value, type) and hasattr(value, "spec") and hasattr(value, "apply")


def specs_of(layer: Any, inputs: tuple[Any, ...], kwargs: Mapping[str, Any], train: bool) -> Spec:
    """The nested Params of any layer for these inputs, from an abstract walk that takes no memory."""
    arrays, join = split_arrays((inputs, dict(kwargs)))
    found: Spec = {}

    def walk(key: jax.Array, arrays: list[Any]) -> None:  # a fresh closure each time: eval_shape caches by function
        inputs, kwargs = join(arrays)
        found.update(record(layer, inputs, kwargs, key, train)[0])

    jax.eval_shape(walk, jax.eval_shape(lambda: jax.random.key(0)), abstract(arrays))
    return found


def record(layer: Any, inputs: tuple[Any, ...], kwargs: Mapping[str, Any], key: Any, train: bool) -> tuple[Spec, Any]:
    """Run a layer on stand-ins for its arrays, inside a trace: ``(its Params, its output)``."""
    if hasattr(layer, "record_parts"):
        return layer.record_parts(inputs, kwargs, key, train)
    specs = layer.spec(*abstract(inputs), **abstract(dict(kwargs)))
    flat = flat_specs(specs)
    output, _ = run(layer, stand_ins(flat, True), stand_ins(flat, False), inputs, kwargs, key, train)
    return specs, output


def run(
    layer: Any, params: Tree, state: Tree, inputs: tuple[Any, ...], kwargs: Mapping[str, Any], key: Any, train: bool
) -> tuple[Any, Tree]:
    """Apply any layer, checking that it keeps the contract and saying which arrays it misses."""
    try:
        result = layer.apply(params, state, *inputs, key=key, train=train, **kwargs)
    except KeyError as error:
        _explain_missing(error, layer, params, state, inputs, kwargs)
        raise
    if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict)):
        raise TypeError(
            f"apply of {type(layer).__name__} returned {type(result).__name__}, expected (output, new state)"
        )
    _check_state(layer, state, result[1])
    return result


def _check_state(layer: Any, state: Tree, new: Tree) -> None:
    if isinstance(state, NoState):
        if new:
            raise TypeError(NoState.message(repr(next(iter(new)))))
    elif changes := diff(abstract(dict(state)), abstract(dict(new))):
        shown = "; ".join(f"{name!r}: {how}" for name, how in changes.items())
        raise TypeError(
            f"{type(layer).__name__} was given one state and returned another kind (given, returned: {shown}). "
            "The new state has the names, shapes and dtypes of the old; spec declares them with trainable=False"
        )


def _explain_missing(error: KeyError, layer: Any, params: Tree, state: Tree, inputs: Any, kwargs: Any) -> None:
    if hasattr(layer, "record_parts") or getattr(error, "__notes__", None):
        return  # the part that misses something has said so
    for name, param in flat_specs(layer.spec(*abstract(inputs), **abstract(dict(kwargs)))).items():
        given, kind = (params, "params") if param.trainable else (state, "state")
        if name.split(".")[0] not in given:
            have = f"has only {', '.join(map(repr, given))}" if given else "is empty here"
            error.add_note(
                f"{kind} has no {name!r} of shape {param.shape} for {layer!r}; it {have}. model.init gives both"
            )


def split_arrays(tree: Any) -> tuple[list[Any], Callable[[list[Any]], Any]]:
    """The array leaves of a tree, and the function that puts others in their place; what else is in it stays."""
    leaves, treedef = jax.tree.flatten(tree)
    where = [index for index, leaf in enumerate(leaves) if is_array(leaf)]

    def join(arrays: list[Any]) -> Any:
        filled = list(leaves)
        for index, array in zip(where, arrays, strict=True):
            filled[index] = array
        return jax.tree.unflatten(treedef, filled)

    return [leaves[index] for index in where], join


def is_array(leaf: Any) -> bool:
    """Whether a leaf is an array or stands for one: it has a shape and a dtype."""
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype")


def abstract(tree: Any) -> Any:
    """Arrays replaced by their ShapeDtypeStructs; whatever else is in the tree stays."""

    def one(leaf: Any) -> Any:
        if not is_array(leaf):
            return leaf
        extended = jnp.issubdtype(leaf.dtype, jax.dtypes.extended)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype if extended else jax.dtypes.canonicalize_dtype(leaf.dtype))

    return jax.tree.map(one, tree)
