"""What the rules that precondition matrices share."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from fnet.optim.stacked import Shape, flat_matrix


def matmul(a: jax.Array, b: jax.Array) -> jax.Array:
    """The product in full precision: a GPU or TPU would round its factors, and orthogonal bases drift by it."""
    return jnp.matmul(a, b, precision="highest")


def gram(x: jax.Array) -> jax.Array:
    """``x xᵀ``."""
    return matmul(x, x.T)


def square_side(shape: Shape, axis: int, longest: int) -> Shape | None:
    """The shape of the square matrix for one axis of `flat_matrix`; None if that is empty or above ``longest``."""
    size = flat_matrix(shape)[axis]
    return (size, size) if 0 < size <= longest else None


def inverse_root(x: jax.Array, eps: Any, power: int) -> jax.Array:
    """``(x + eps · 1)^(-1/power)`` of a positive semidefinite matrix, or of the diagonal of one.

    >>> import jax.numpy as jnp
    >>> inverse_root(jnp.diag(jnp.array([4.0, 16.0])), 0.0, 2)
    Array([[0.5 , 0.  ],
           [0.  , 0.25]], dtype=float32)
    """
    if x.ndim == 1:
        return (x + eps) ** (-1 / power)
    values, vectors = jnp.linalg.eigh(x)
    return matmul(vectors * (jnp.maximum(values, 0) + eps) ** (-1 / power), vectors.T)
