"""From one value per element to one number: reductions, and the masks that take elements out of them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def reduce(
    values: jax.Array, reduction: str, counted: jax.Array | None, weight: jax.Array | None = None, costly: bool = False
) -> jax.Array:
    """Reduce `values` over the `counted` entries; with `weight`, which is in the values already, "mean" divides by
    its sum. `costly` says that each value takes an exponential or more to compute."""
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f'reduction={reduction!r}, expected "mean", "sum" or "none"')
    if counted is not None:
        values = jnp.where(counted, values, 0)
    if reduction == "none":
        return values
    total = _total(values) if costly and values.ndim > 1 and _product_is_faster() else values.sum()
    if reduction == "sum":
        return total
    if weight is not None:
        divisor = (weight if counted is None else jnp.where(counted, weight, 0)).sum()
    else:
        divisor = jnp.asarray(values.size if counted is None else counted.sum()).astype(values.dtype)
    return total / jnp.where(divisor == 0, 1, divisor)


@jax.custom_jvp
def _total(values: jax.Array) -> jax.Array:
    """The sum, as a product with ones and the sum of its results: what a product takes is written to memory first."""
    ones = jnp.ones(values.shape[-1], values.dtype)
    return jnp.matmul(values, ones, precision="highest").sum()


@_total.defjvp
def _total_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    return _total(primals[0]), tangents[0].sum()


def _product_is_faster() -> bool:
    """Whether not to let XLA compute costly values inside of a sum: on CPU, where it would compute one at a time, in
    one thread, at a quarter of the speed."""
    return jax.default_backend() == "cpu"


def or_nan(values: jax.Array, valid: jax.Array) -> jax.Array:
    """NaN where not valid. By a product and not a select, so that the gradient is NaN too."""
    return values * jnp.where(valid, 1, jnp.nan).astype(values.dtype)


def leading_mask(mask: ArrayLike, shape: tuple[int, ...], where: str) -> jax.Array:
    """`mask` checked, and broadcast from the leading axes of `shape` to all of it."""
    mask = jnp.asarray(mask)
    if mask.dtype != bool:
        raise TypeError(
            f"{where}: mask is {mask.dtype}, expected bool (True: counts); pass mask > 0, or scale the losses yourself"
        )
    if mask.shape != shape[: mask.ndim]:
        raise ValueError(f"{where}: mask has shape {mask.shape}, expected {shape} or its leading axes")
    return jnp.broadcast_to(mask.reshape(mask.shape + (1,) * (len(shape) - mask.ndim)), shape)
