"""What losses ask of their arguments: equal shapes, a common dtype, masks, values in range."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from fnet.functional.dtypes import at_least_float32
from fnet.functional.ids import is_concrete
from fnet.functional.reduction import leading_mask


def aligned(
    where: str, mask: ArrayLike | None, vector: bool = False, /, **arrays: ArrayLike
) -> tuple[list[jax.Array], jax.Array | None]:
    """Arrays of one shape in the dtype of the loss, 0 where the mask takes out, and the mask in the loss's shape.

    With `vector` the loss has one value per vector of the last axis. Raises ValueError, naming the two arguments,
    for unequal shapes.
    """
    (first, example), *rest = arrays.items()
    shape = jnp.shape(example)
    for name, x in rest:
        if jnp.shape(x) != shape:
            raise ValueError(f"{where}: {first} has shape {shape} and {name} {jnp.shape(x)}; {_same(x, shape)}")
    if vector and not shape:
        raise ValueError(f"{where}: {first} is a scalar, expected vectors (..., features)")
    floats = [at_least_float32(x, where) for x in arrays.values()]
    dtype = jnp.result_type(*floats)
    floats = [x.astype(dtype) for x in floats]
    if mask is None:
        return floats, None
    mask = leading_mask(mask, shape[:-1] if vector else shape, where)
    kept = mask[..., None] if vector else mask
    return [jnp.where(kept, x, 0) for x in floats], mask


def _same(x: ArrayLike, shape: tuple[int, ...]) -> str:
    squeezed = tuple(n for n in jnp.shape(x) if n != 1) == tuple(n for n in shape if n != 1)
    fix = f"reshape one: x.reshape({jnp.shape(x)})" if squeezed else "use jnp.broadcast_to if you mean to repeat one"
    return f"they must be equal, {fix}"


def broadcast(weight: ArrayLike, x: jax.Array, where: str, name: str) -> jax.Array:
    """`weight` in the dtype and shape of `x`, or a ValueError that names both."""
    try:
        return jnp.broadcast_to(jnp.asarray(weight, x.dtype), x.shape)
    except ValueError:
        raise ValueError(
            f"{where}: {name} has shape {jnp.shape(weight)}, which does not broadcast to {x.shape}"
        ) from None


def demand(valid: jax.Array, x: ArrayLike, where: str, expected: str, mask: ArrayLike | None, fix: str) -> jax.Array:
    """`valid`, or True where masked; a ValueError where it can be read and is False somewhere."""
    if mask is not None:
        valid |= ~leading_mask(mask, valid.shape, where)
    if is_concrete(valid) and not valid.all():
        values = np.asarray(x)[~np.asarray(valid)]
        raise ValueError(
            f"{where}: {expected}; {values.size} of {valid.size} are not, the first {values.flat[0]} ({fix})"
        )
    return valid


def probabilities(x: ArrayLike, where: str, name: str, mask: ArrayLike | None) -> jax.Array:
    """Which entries of `x` are in [0, 1]; NaN passes, as NaN."""
    valid = ~((jnp.asarray(x) < 0) | (jnp.asarray(x) > 1))
    fix = "divide a 0/255 mask by 255; raw scores belong in binary_cross_entropy_with_logits"
    return demand(valid, x, where, f"{name} must be in [0, 1]", mask, fix)


def signs(x: ArrayLike, where: str, mask: ArrayLike | None) -> jax.Array:
    """Which entries of `x` are 1 or -1, what these losses call positive and negative."""
    valid = jnp.abs(jnp.asarray(x).astype(jnp.float32)) == 1
    return demand(valid, x, where, "target must be 1 or -1", mask, "make 0/1 labels so with 2 * target - 1")


def hinge(x: jax.Array) -> jax.Array:
    """max(x, 0), with slope 1 at 0 as PyTorch's clamp_min has."""
    return jnp.where(x >= 0, x, 0)


def power(base: jax.Array, exponent: float) -> jax.Array:
    """`base ** exponent` for a base from 0 up, with gradient 0 at base 0, where a power below 1 has an infinite one."""
    some = base > 0
    return jnp.where(some, jnp.where(some, base, 1) ** exponent, float(exponent == 0))
