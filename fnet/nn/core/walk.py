"""Running any layer, for real or abstractly on stand-ins, which is how `init` learns what arrays there are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from fnet.nn.core.param import Spec, Tree, flat_specs, stand_ins


def is_layer(value: Any) -> bool:
    """Whether a value follows the layer contract: it has `spec` and `apply`, and is no class."""
    return not isinstance(value, type) and hasattr(value, "spec") and hasattr(value, "apply")


def specs_of(layer: Any, inputs: tuple[Any, ...], kwargs: Mapping[str, Any], train: bool) -> Spec:
    """The nested Params of any layer for these inputs, from an abstract walk that takes no memory."""
    leaves, treedef = jax.tree.flatten((inputs, dict(kwargs)))
    where = [index for index, leaf in enumerate(leaves) if hasattr(leaf, "shape") and hasattr(leaf, "dtype")]
    found: Spec = {}

    def walk(
        key: jax.Array, arrays: list[jax.Array]
    ) -> None:  # a fresh closure each time: eval_shape caches by function
        filled = list(leaves)
        for index, array in zip(where, arrays, strict=True):
            filled[index] = array
        inputs, kwargs = jax.tree.unflatten(treedef, filled)
        found.update(record(layer, inputs, kwargs, key, train)[0])

    jax.eval_shape(walk, jax.eval_shape(lambda: jax.random.key(0)), [abstract(leaves[index]) for index in where])
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
    return result


def _explain_missing(error: KeyError, layer: Any, params: Tree, state: Tree, inputs: Any, kwargs: Any) -> None:
    if getattr(layer, "parts", None) or getattr(error, "__notes__", None):
        return  # the part that misses something has said so
    for name, param in flat_specs(layer.spec(*abstract(inputs), **abstract(dict(kwargs)))).items():
        given, kind = (params, "params") if param.trainable else (state, "state")
        if name.split(".")[0] not in given:
            have = f"has only {', '.join(map(repr, given))}" if given else "is empty here"
            error.add_note(
                f"{kind} has no {name!r} of shape {param.shape} for {layer!r}; it {have}. model.init gives both"
            )


def abstract(tree: Any) -> Any:
    """Arrays replaced by their ShapeDtypeStructs; whatever else is in the tree stays."""

    def one(leaf: Any) -> Any:
        if not (hasattr(leaf, "shape") and hasattr(leaf, "dtype")):
            return leaf
        extended = jnp.issubdtype(leaf.dtype, jax.dtypes.extended)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype if extended else jax.dtypes.canonicalize_dtype(leaf.dtype))

    return jax.tree.map(one, tree)
