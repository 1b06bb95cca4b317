"""The map that is linear in each of two inputs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fnet.functional.dtypes import to_weight_dtype


def bilinear(x1: ArrayLike, x2: ArrayLike, weight: ArrayLike, bias: ArrayLike | None = None) -> jax.Array:
    """y_o = sum over i, j of x1_i weight_ijo x2_j, plus bias_o.

    Shapes: x1 (..., in1), x2 (..., in2) with equal leading axes, weight (in1, in2, out), which in PyTorch is (out, in1,
    in2), bias (out,) -> (..., out), in the weight's dtype. Raises TypeError for integer inputs, ValueError for
    shapes that do not fit.

    >>> bilinear(jnp.array([1.0, 2.0]), jnp.array([3.0]), jnp.ones((2, 1, 4)))
    Array([9., 9., 9., 9.], dtype=float32)
    """
    weight = jnp.asarray(weight)
    if weight.ndim != 3:
        raise ValueError(f"bilinear: weight has shape {weight.shape}, expected (in1, in2, out)")
    x1, x2 = (to_weight_dtype(x, weight, "bilinear") for x in (x1, x2))
    if not x1.ndim or not x2.ndim or x1.shape[:-1] != x2.shape[:-1] or (x1.shape[-1], x2.shape[-1]) != weight.shape[:2]:
        raise ValueError(
            f"bilinear: inputs have shapes {x1.shape} and {x2.shape}, expected (..., {weight.shape[0]}) and "
            f"(..., {weight.shape[1]}) with equal leading axes, for a weight (in1, in2, out) of {weight.shape}"
        )
    rows1, rows2 = x1.reshape(-1, x1.shape[-1]), x2.reshape(-1, x2.shape[-1])
    out = jnp.einsum("ni,nj,ijo->no", rows1, rows2, weight).reshape(*x1.shape[:-1], weight.shape[2])
    if bias is None:
        return out
    bias = to_weight_dtype(bias, weight, "bilinear bias")
    if bias.shape != weight.shape[2:]:
        raise ValueError(f"bilinear: bias has shape {bias.shape}, expected {weight.shape[2:]}")
    return out + jnp.broadcast_to(bias, out.shape)
