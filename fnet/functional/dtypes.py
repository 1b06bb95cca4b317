"""The dtype rules that every function here follows, in one place."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def as_float(x: ArrayLike) -> jax.Array:
    """`x` as an array of floats: floating and complex input keeps its dtype, integers and bools become JAX's
    default float.

    >>> as_float(jnp.arange(2)).dtype, as_float(jnp.ones(2, jnp.bfloat16)).dtype
    (dtype('float32'), dtype(bfloat16))
    """
    x = jnp.asarray(x)
    return x if jnp.issubdtype(x.dtype, jnp.inexact) else x.astype(jnp.result_type(float))


def at_least_float32(x: ArrayLike, where: str) -> jax.Array:
    """`x` as real floats of 32 bits or more, for what loses too much in 16: softmax, norms, losses, metrics.

    Complex input is a TypeError that begins with `where`, the caller's name.

    >>> at_least_float32(jnp.ones(2, jnp.bfloat16), "loss").dtype
    dtype('float32')
    """
    if isinstance(x, tuple) and len(x) == 2 and isinstance(x[1], dict):
        raise TypeError(f"{where}: got what apply gives, which is two things: output, state = model.apply(…)")
    x = jnp.asarray(x)
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        raise TypeError(
            f"{where}: got {x.dtype} of shape {x.shape}, and takes real numbers; pass .real, .imag or abs(x)"
        )
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def to_weight_dtype(x: ArrayLike, weight: jax.Array, where: str) -> jax.Array:
    """Cast `x` to the dtype of the weight that it meets, refusing the casts that would lose what `x` says.

    Floats are cast to the weight's float dtype, so casting the parameters is all that mixed precision takes. Integers
    that meet a float weight are a TypeError: raw bytes and token ids reach a float layer by mistake, not by intent.

    >>> to_weight_dtype(jnp.ones(2), jnp.ones(2, jnp.bfloat16), "linear").dtype
    dtype(bfloat16)
    """
    x = jnp.asarray(x)
    float_weight = jnp.issubdtype(weight.dtype, jnp.inexact)
    if float_weight and not jnp.issubdtype(x.dtype, jnp.inexact):
        raise TypeError(
            f"{where}: got integer input ({x.dtype}, shape {x.shape}) for a {weight.dtype} weight. "
            f"Scale it to floats first: x / 255, or data.transforms.ToFloat() for bytes; ids go through an Embedding."
        )
    if jnp.issubdtype(x.dtype, jnp.complexfloating) and not jnp.issubdtype(weight.dtype, jnp.complexfloating):
        raise TypeError(
            f"{where}: got {x.dtype} input for a {weight.dtype} weight, "
            f"which would drop the imaginary part; pass x.real"
        )
    if not float_weight and jnp.issubdtype(x.dtype, jnp.inexact):
        raise TypeError(
            f"{where}: got {x.dtype} input for an integer weight ({weight.dtype}); cast the weight to a float dtype"
        )
    return x.astype(weight.dtype)
