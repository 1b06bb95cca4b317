"""Sums, means and maxima of looked-up rows, bag by bag."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from fnet.functional.embedding import embedding
from fnet.functional.ids import equals, integer_ids, is_concrete
from fnet.functional.reduction import leading_mask, or_nan


def embedding_bag(
    ids: ArrayLike,
    weight: ArrayLike,
    offsets: ArrayLike | None = None,
    *,
    mode: str = "mean",
    per_sample_weights: ArrayLike | None = None,
    padding_idx: int | None = None,
    mask: ArrayLike | None = None,
) -> jax.Array:
    """The "sum", "mean" or "max" of the rows of `weight` that each bag of `ids` names.

    Shapes: ids (..., bag), one bag per row and padded to one length, which compiles once -> (..., dim). Or ids (n,) of
    all bags in a row and `offsets` (bags,), where each bag starts -> (bags, dim). Ids equal to `padding_idx`, and those
    that `mask` (bool, like ids) takes out, count for nothing; a bag of nothing is 0. `per_sample_weights` (like
    ids, for "sum") scales each row. Result in the weight's dtype.

    Raises ValueError for an id out of range or offsets out of order (NaN under jit), another mode, and shapes that do
    not fit; TypeError for ids that are not integers.

    >>> table = jnp.array([[1.0], [2.0], [4.0]])
    >>> embedding_bag(jnp.array([[0, 2], [1, 1]]), table, mode="sum")
    Array([[5.],
           [4.]], dtype=float32)
    >>> embedding_bag(jnp.array([0, 2, 1]), table, jnp.array([0, 2]))  # bags [0, 2] and [1]
    Array([[2.5],
           [2. ]], dtype=float32)
    """
    if mode not in ("sum", "mean", "max"):
        raise ValueError(f'embedding_bag: mode={mode!r}, expected "sum", "mean" or "max"')
    if per_sample_weights is not None and mode != "sum":
        raise ValueError(f'embedding_bag: per_sample_weights need mode="sum", got mode={mode!r}')
    weight = jnp.asarray(weight)
    counted = jnp.ones(jnp.shape(ids), bool)
    if mask is not None:
        counted = leading_mask(mask, jnp.shape(ids), "embedding_bag")
        ids = jnp.where(counted, integer_ids(ids, "embedding_bag"), 0)
    if not counted.ndim:
        raise ValueError("embedding_bag: ids are a scalar, expected (..., bag), or (n,) with offsets")
    rows = embedding(ids, weight)
    if padding_idx is not None:
        if not -weight.shape[0] <= padding_idx < weight.shape[0]:
            raise ValueError(f"embedding_bag: padding_idx={padding_idx} is out of range for {weight.shape[0]} rows")
        counted &= ~equals(integer_ids(ids, "embedding_bag"), padding_idx % weight.shape[0])
    if per_sample_weights is not None:
        if jnp.shape(per_sample_weights) != counted.shape:
            raise ValueError(
                f"embedding_bag: per_sample_weights have shape {jnp.shape(per_sample_weights)}, expected that of "
                f"the ids: {counted.shape}"
            )
        rows = rows * jnp.asarray(per_sample_weights, rows.dtype)[..., None]
    rows = jnp.where(counted[..., None], rows, -jnp.inf if mode == "max" else 0)
    if offsets is None:
        total, sizes = (rows.max(-2, initial=-jnp.inf) if mode == "max" else rows.sum(-2)), counted.sum(-1)
    else:
        total, sizes = _by_offsets(rows, counted, offsets, mode)
    if mode == "mean":
        return total / jnp.maximum(sizes, 1)[..., None].astype(total.dtype)
    return jnp.where(sizes[..., None] > 0, total, 0) if mode == "max" else total


def _by_offsets(rows: jax.Array, counted: jax.Array, offsets: ArrayLike, mode: str) -> tuple[jax.Array, jax.Array]:
    """The sum or maximum of each bag, and how many rows count in it."""
    starts = integer_ids(offsets, "embedding_bag offsets")
    if counted.ndim != 1 or starts.ndim != 1:
        raise ValueError(
            f"embedding_bag: with offsets of shape {starts.shape} the ids have shape {counted.shape}; expected (bags,) "
            f"and (n,)"
        )
    valid = (jnp.diff(starts) >= 0).all() & (starts[:1] == 0).all() & (starts[-1:] <= counted.size).all()
    if is_concrete(valid) and not valid:
        raise ValueError(
            f"embedding_bag: offsets must start at 0, not fall, and end by {counted.size}; got {np.asarray(offsets)}"
        )
    bags = jnp.searchsorted(starts, jnp.arange(counted.size), side="right") - 1
    reduce = jax.ops.segment_max if mode == "max" else jax.ops.segment_sum
    total = reduce(rows, bags, starts.size, indices_are_sorted=True)
    return or_nan(total, valid), jax.ops.segment_sum(
        counted.astype(jnp.int32), bags, starts.size, indices_are_sorted=True
    )
