"""A constant matrix applied along one axis of an array."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np


def along_axis(x: jax.Array, matrix: np.ndarray, axis: int) -> jax.Array:
    """y[..., j, ...] = sum over i of x[..., i, ...] matrix[i, j], with i and j on `axis`; in x's dtype.

    Products of matrices, whose gradient is such a product again, where that of a gather would be a scatter. One for
    each leading index transposes nothing, which is faster on CPU than tensordot; but many narrow ones are slow.
    """
    lead, rest = x.shape[:axis], x.shape[axis + 1 :]
    if math.prod(rest) < 32:
        return jnp.moveaxis(jnp.tensordot(x, matrix.astype(x.dtype), (axis, 0), precision="highest"), -1, axis)
    rows = jnp.broadcast_to(matrix.T.astype(x.dtype), (*lead, *matrix.T.shape))
    y = jnp.matmul(rows, x.reshape(*lead, x.shape[axis], math.prod(rest)), precision="highest")
    return y.reshape(*lead, matrix.shape[1], *rest)
