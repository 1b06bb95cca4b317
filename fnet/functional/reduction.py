"""From one value per element to one number: reductions, and the masks that take elements out of them."""

from __future__ import annotations

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fnet.functional.platform import on_one_cpu

Work = Literal["little", "some", "much"]  # to compute one value: sums and products alone; more; an exponential


def reduce(
    values: jax.Array,
    reduction: str,
    counted: jax.Array | None,
    weight: jax.Array | None = None,
    work: Work = "some",
) -> jax.Array:
    """Reduce `values` over the `counted` entries; with `weight`, which is in the values already, "mean" divides by
    its sum. `work` chooses the form of the sum on CPU."""
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f'reduction={reduction!r}, expected "mean", "sum" or "none"')
    if counted is not None:
        values = jnp.where(counted, values, 0)
    if reduction == "none":
        return values
    total = _total(values, work)
    if reduction == "sum":
        return total
    if weight is not None:
        divisor = (weight if counted is None else jnp.where(counted, weight, 0)).sum()
    else:
        divisor = jnp.asarray(values.size if counted is None else counted.sum()).astype(values.dtype)
    return total / jnp.where(divisor == 0, 1, divisor)


def _total(values: jax.Array, work: Work) -> jax.Array:
    """The sum of all elements. What XLA on CPU sums it writes to memory first, or else computes one element at a time
    in one thread. Both take longer than a product with ones, of values of much work or of a quarter of wide rows, but
    for values of little work, which it computes well inside of the sum."""
    if work == "little" or values.ndim < 2 or values.dtype.itemsize < 4 or not on_one_cpu(values):
        return values.sum()
    # Narrow rows do not vectorise in blocks, and of few rows the rest of a division by 4 is a large part.
    wide = values.shape[-1] >= 128 and values.size >= max(2**16, 16 * values.shape[-1])
    return _product(values, 4 if wide else 1) if wide or work == "much" else values.sum()


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _product(values: jax.Array, parts: int) -> jax.Array:
    """The sum, as a product of ones with the sum of so many blocks of rows, which XLA computes together with the
    values and, a product being next, in parallel."""
    rows = values.reshape(-1, values.shape[-1])
    size = rows.shape[0] // parts
    block, rest = rows[:size], rows[parts * size :]
    for part in range(1, parts):
        block = block + rows[part * size : (part + 1) * size]
    return jnp.matmul(block, jnp.ones(rows.shape[-1], rows.dtype), precision="highest").sum() + rest.sum()


@_product.defjvp
def _product_jvp(parts: int, primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    return _product(primals[0], parts), tangents[0].sum()


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
