"""Max pooling that says where each maximum came from, and its partial inverse."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from fnet.functional.ids import in_range
from fnet.functional.pooling.lowering import largest, padded
from fnet.functional.pooling.ranks import with_rank
from fnet.functional.pooling.windows import Sizes, Window, each
from fnet.functional.reduction import or_nan


def max_with_indices(x: jax.Array, windows: list[Window]) -> tuple[jax.Array, jax.Array]:
    """The largest value of each window and its place, counted in C order over the axes of the windows."""
    spatial = tuple(window.size for window in windows)
    place = jnp.arange(math.prod(spatial), dtype=jnp.int32).reshape(*spatial, 1)
    place = jnp.broadcast_to(place, x.shape)
    best, place = padded(x, windows, largest(x.dtype).start), padded(place, windows, np.int32(-1))
    for w in reversed(windows):  # the last axis first, so that of equal values the first in C order stays
        reach = (w.out - 1) * w.stride + 1
        starts = range(0, w.kernel * w.dilation, w.dilation)
        parts = [tuple(jax.lax.slice_in_dim(a, s, s + reach, w.stride, w.axis) for a in (best, place)) for s in starts]
        best, place = parts[0]
        for value, index in parts[1:]:
            wins = (value > best) | (value != value) | (place < 0)  # a place of -1 is padding, which never wins
            best, place = jnp.where(wins, value, best), jnp.where(wins, index, place)
    return best, place


def max_unpool(
    x: ArrayLike,
    indices: ArrayLike,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    output_size: Sequence[int] | None = None,
) -> jax.Array:
    """Each value at the place that its index names, and zeros elsewhere: what `max_pool` leaves of its input.

    Shapes: x and integer indices (..., *windows, C), as `max_pool(…, return_indices=True)` gives them, ->
    (..., *spatial, C). An axis of `size` becomes `(size - 1) stride - 2 padding + kernel_size`, or what `output_size`
    says, the sizes of the spatial axes. Where two values have one index, as overlapping windows make them, one of the
    two stays.

    Raises ValueError for sizes that do not fit, and for an index outside the output (NaN under jit).

    >>> max_unpool(jnp.array([[[2.0], [4.0]]]), jnp.array([[[1], [2]]]), 2).ravel().tolist()
    [0.0, 2.0, 4.0, 0.0]
    """
    x, indices = jnp.asarray(x), jnp.asarray(indices)
    rank = len(kernel_size) if isinstance(kernel_size, Sequence) else x.ndim - 2
    if rank < 1 or x.ndim < rank + 1 or indices.shape != x.shape:
        raise ValueError(
            f"max_unpool: x has shape {x.shape} and indices {indices.shape}, expected both (..., *windows, C) with "
            f"{max(rank, 1)} axes of windows"
        )
    kernels, paddings = each(kernel_size, rank), each(padding, rank)
    strides = kernels if stride is None else each(stride, rank)
    lead, pooled, channels = x.shape[: -rank - 1], x.shape[-rank - 1 : -1], x.shape[-1]
    sizes: Any = zip(pooled, kernels, strides, paddings, strict=True)
    sizes = tuple((size - 1) * step - 2 * pad + kernel for size, kernel, step, pad in sizes)
    sizes = sizes if output_size is None else tuple(output_size)
    if len(sizes) != rank or min(sizes) < 1:
        raise ValueError(f"max_unpool: output_size={sizes} for {rank} axes of windows")
    valid = in_range(indices, math.prod(sizes), "max_unpool indices")
    rows = jnp.where(valid, indices, 0).reshape(-1, math.prod(pooled), channels)
    values = or_nan(x, valid).reshape(rows.shape)

    def one(rows: jax.Array, values: jax.Array) -> jax.Array:
        return jnp.zeros(math.prod(sizes), x.dtype).at[rows].set(values, mode="promise_in_bounds")

    spread = jax.vmap(jax.vmap(one, (1, 1), 1))(rows, values)
    return spread.reshape(*lead, *sizes, channels)


max_unpool1d, max_unpool2d, max_unpool3d = (
    with_rank(max_unpool, rank, f"jnp.arange({4**rank}).reshape({(4,) * rank + (1,)}), 1", 4) for rank in (1, 2, 3)
)
