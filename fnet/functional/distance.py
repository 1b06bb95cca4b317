"""Distances and similarities of vectors on the last axis."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from fnet.functional.dtypes import as_float, at_least_float32


def vector_norm(x: jax.Array, p: float, dim: int, where: str) -> jax.Array:
    """||x||_p along an axis, which is kept with length 1; real floats of 32 bits or more, gradient 0 at 0."""
    if not p >= 1:
        raise ValueError(f"{where}: p={p} is not the order of a norm; pass 1 or more, or math.inf")
    size = x * jnp.sign(x)  # |x| with PyTorch's derivative at 0, which is 0; jnp.abs has 1
    if p == math.inf:
        return size.max(dim, keepdims=True)
    total = (size**p).sum(dim, keepdims=True)
    # The root has no derivative at 0: there take PyTorch's, which is 0.
    return jnp.where(total > 0, jnp.where(total > 0, total, 1) ** (1 / p), 0)


def cosine_similarity(x1: ArrayLike, x2: ArrayLike, dim: int = -1, eps: float = 1e-8) -> jax.Array:
    """x1 . x2 / (max(||x1||, eps) * max(||x2||, eps)) along axis `dim` (PyTorch's default is axis 1).

    Shapes: any two that broadcast; the axis goes away. At least float32.

    >>> cosine_similarity(jnp.array([3.0, 4.0]), jnp.array([3.0, 0.0]))
    Array(0.6, dtype=float32)
    """
    x1, x2 = _common("cosine_similarity", x1, x2)
    units = []
    for x in (x1, x2):
        norm = vector_norm(x, 2, dim, "cosine_similarity")
        units.append(x / jnp.maximum(norm, eps))
    return (units[0] * units[1]).sum(dim)


def pairwise_distance(
    x1: ArrayLike, x2: ArrayLike, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False
) -> jax.Array:
    """||x1 - x2 + eps||_p over the last axis, for each pair of rows.

    Shapes: any two (..., features) that broadcast -> (...), or (..., 1) with `keepdim`. At least float32. `p` is 1 or
    more, math.inf for the largest difference; another is a ValueError.

    >>> pairwise_distance(jnp.array([[0.0, 0.0]]), jnp.array([[3.0, 4.0]]), eps=0.0)
    Array([5.], dtype=float32)
    """
    x1, x2 = _common("pairwise_distance", x1, x2)
    norm = vector_norm(x1 - x2 + eps, p, -1, "pairwise_distance")
    return norm if keepdim else norm[..., 0]


def pdist(input: ArrayLike, p: float = 2.0) -> jax.Array:
    """The distance ||a - b||_p of every pair of rows, in the order (0, 1), (0, 2), …, (1, 2), ….

    Shapes: (n, features) -> (n (n - 1) / 2,), at least float32. Two equal rows have distance 0 with gradient 0.
    Raises ValueError for another rank or for `p` below 1.

    >>> pdist(jnp.array([[0.0], [1.0], [3.0]]))
    Array([1., 3., 2.], dtype=float32)
    """
    x = at_least_float32(as_float(input), "pdist")
    if x.ndim != 2:
        raise ValueError(f"pdist: input has shape {x.shape}, expected (n, features)")
    first, second = np.triu_indices(x.shape[0], 1)
    return vector_norm(x[first] - x[second], p, -1, "pdist")[..., 0]


def _common(where: str, x1: ArrayLike, x2: ArrayLike) -> tuple[jax.Array, jax.Array]:
    """Both in the dtype to compute in and in one shape, or a ValueError that names both shapes."""
    a, b = at_least_float32(x1, where), at_least_float32(x2, where)
    if not a.ndim or not b.ndim:
        raise ValueError(f"{where}: got shapes {a.shape} and {b.shape}, expected vectors (..., features)")
    dtype = jnp.promote_types(a.dtype, b.dtype)
    try:
        shape = jnp.broadcast_shapes(a.shape, b.shape)
    except ValueError:
        raise ValueError(f"{where}: shapes {a.shape} and {b.shape} do not broadcast") from None
    return jnp.broadcast_to(a, shape).astype(dtype), jnp.broadcast_to(b, shape).astype(dtype)
