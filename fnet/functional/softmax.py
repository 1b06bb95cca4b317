"""The softmax family and normalisation of vectors: each couples the elements of one axis.

All compute in at least float32 and return the dtype of their input (integers count as JAX's default float).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fnet.functional.distance import vector_norm
from fnet.functional.dropout import MissingKey
from fnet.functional.dtypes import as_float, at_least_float32


def softmax(x: ArrayLike, dim: int = -1) -> jax.Array:
    """exp(x_i) / sum_j exp(x_j) along axis `dim`; any shape.

    >>> softmax(jnp.array([0.0, 0.0]))
    Array([0.5, 0.5], dtype=float32)
    """
    x = as_float(x)
    return jax.nn.softmax(at_least_float32(x, "softmax"), axis=dim).astype(x.dtype)


def log_softmax(x: ArrayLike, dim: int = -1) -> jax.Array:
    """x_i - log sum_j exp(x_j) along axis `dim`, exact where softmax would underflow; any shape.

    >>> log_softmax(jnp.array([0.0, -1000.0]))
    Array([    0., -1000.], dtype=float32)
    """
    x = as_float(x)
    return jax.nn.log_softmax(at_least_float32(x, "log_softmax"), axis=dim).astype(x.dtype)


def softmin(x: ArrayLike, dim: int = -1) -> jax.Array:
    """softmax(-x): the smallest element gets the largest share.

    >>> softmin(jnp.array([0.0, 0.0]))
    Array([0.5, 0.5], dtype=float32)
    """
    return softmax(-as_float(x), dim)


def gumbel_softmax(
    logits: ArrayLike, tau: float = 1.0, hard: bool = False, dim: int = -1, *, key: jax.Array | None = None
) -> jax.Array:
    """A differentiable sample from the categorical distributions that `logits` describe along axis `dim`.

    softmax((logits + Gumbel noise) / tau). With `hard` the value is exactly one-hot and the gradient that of the soft
    sample. Shapes: any, kept. Source: Jang et al. 2017 (arXiv:1611.01144). Raises MissingKey without a key.

    >>> gumbel_softmax(jnp.zeros(4), hard=True, key=jax.random.key(0)).sum()
    Array(1., dtype=float32)
    """
    if key is None:
        raise MissingKey(
            "gumbel_softmax draws a sample and has no key: pass key=jax.random.key(seed), a new one for each call"
        )
    logits = as_float(logits)
    wide = at_least_float32(logits, "gumbel_softmax")
    soft = jax.nn.softmax((wide + jax.random.gumbel(key, wide.shape, wide.dtype)) / tau, axis=dim)
    if hard:
        sample = jax.nn.one_hot(soft.argmax(dim), soft.shape[dim], axis=dim, dtype=soft.dtype)
        soft = sample + (soft - jax.lax.stop_gradient(soft))
    return soft.astype(logits.dtype)


def normalize(x: ArrayLike, p: float = 2.0, dim: int = -1, eps: float = 1e-12) -> jax.Array:
    """x / max(||x||_p, eps) along axis `dim` (PyTorch's default is axis 1); any shape.

    A zero vector stays zero and its gradient is finite. `p` is 1 or more, math.inf for the largest
    magnitude. Raises ValueError for other `p`.

    >>> normalize(jnp.array([3.0, 4.0]))
    Array([0.6, 0.8], dtype=float32)
    """
    x = as_float(x)
    wide = at_least_float32(x, "normalize")
    return (wide / jnp.maximum(vector_norm(wide, p, dim, "normalize"), eps)).astype(x.dtype)
