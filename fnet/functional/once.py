"""A value that XLA computes once on CPU."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def once(x: jax.Array) -> jax.Array:
    """`x` itself, which XLA on CPU then computes one time rather than again in each operation that reads it.

    XLA's fusion takes additions and maxima for free and copies them into every reader, and what they are made of with
    them. Along a residual stream each reader so adds up all blocks before it: the work grows with the square of the
    depth. A division is not copied, so the result is divided by a one that the compiler does not see through: exact,
    and lost in the time of writing the result. Derivatives divide too, so that gradients are also computed once.
    Elsewhere than on CPU, outside of a trace, and for integers, `x` is returned as it is.

    >>> once(jnp.float32(3.0)) + 1
    Array(4., dtype=float32)
    """
    if jax.default_backend() != "cpu" or not isinstance(x, jax.core.Tracer) or not jnp.issubdtype(x.dtype, jnp.inexact):
        return x
    return x / jax.lax.optimization_barrier(jnp.ones((), x.dtype))
