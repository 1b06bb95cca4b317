"""Pooling to a given size: windows that divide an axis as evenly as whole numbers allow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from fnet.functional.along import along_axis
from fnet.functional.pooling.fixed import floating, wide_of
from fnet.functional.pooling.lowering import first_largest, fold, global_mean, larger
from fnet.functional.pooling.ranks import with_rank

OutputSize: TypeAlias = int | None | Sequence[int | None]


def adaptive_avg_pool(x: ArrayLike, output_size: OutputSize) -> jax.Array:
    """The means of `output_size` windows along each axis; window i of an axis is floor(i L / n) to ceil((i + 1) L / n).

    Shapes: x (..., *spatial, C) -> (..., *output_size, C), in x's dtype, summed in at least float32. A plain number is
    for all axes but the first and the last, a tuple for as many as it has; None keeps an axis. Raises ValueError
    for sizes that do not fit, TypeError for integer input.

    >>> adaptive_avg_pool(jnp.arange(5.0).reshape(1, 5, 1), 2).ravel().tolist()
    [1.0, 3.0]
    """
    x = floating(x, "adaptive_avg_pool")
    mean, sizes = wide_of(x), _sizes("adaptive_avg_pool", x, output_size)
    if all(size == 1 for _, size in sizes):
        return global_mean(mean, tuple(axis for axis, _ in sizes)).astype(x.dtype)
    for axis, size in sizes:
        mean = _mean_along(mean, axis, size)
    return mean.astype(x.dtype)


def adaptive_max_pool(x: ArrayLike, output_size: OutputSize) -> jax.Array:
    """The largest values of `output_size` windows along each axis, which are those of `adaptive_avg_pool`.

    The first of equal values gets the gradient, as in `max_pool`. Raises ValueError for sizes that do not fit.

    >>> adaptive_max_pool(jnp.arange(5.0).reshape(1, 5, 1), 2).ravel().tolist()
    [2.0, 4.0]
    """
    x = jnp.asarray(x)
    sizes = _sizes("adaptive_max_pool", x, output_size)
    if all(size == 1 for _, size in sizes):
        return first_largest(x, tuple(axis for axis, _ in sizes))
    for axis, size in reversed(sizes):
        x = _max_along(x, axis, size)
    return x


def _sizes(where: str, x: jax.Array, output_size: OutputSize) -> list[tuple[int, int]]:
    """The axes to pool and how many windows each gets."""
    rank = len(output_size) if isinstance(output_size, Sequence) else x.ndim - 2
    sizes = tuple(output_size) if isinstance(output_size, Sequence) else (output_size,) * rank
    if rank < 1 or x.ndim < rank + 1:
        raise ValueError(
            f"{where}: input has shape {x.shape}, expected (..., *spatial, C) with {max(rank, 1)} spatial axes"
            + ("" if rank >= 1 else "; a plain output_size takes (N, ..., C), so without a batch axis give a tuple")
        )
    found = []
    for axis, size in enumerate(sizes, x.ndim - 1 - rank):
        size = x.shape[axis] if size is None else size
        if size < 1 or x.shape[axis] < 1:
            raise ValueError(f"{where}: cannot pool axis {axis} of the input {x.shape} to output_size={size}")
        found.append((axis, size))
    return found


def _bounds(length: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    index = np.arange(size)
    return index * length // size, -(-(index + 1) * length // size)


def _mean_along(x: jax.Array, axis: int, size: int) -> jax.Array:
    length = x.shape[axis]
    if length % size == 0:
        return x.reshape(*x.shape[:axis], size, length // size, *x.shape[axis + 1 :]).mean(axis + 1)
    start, end = _bounds(length, size)
    place = np.arange(length)[:, None]
    return along_axis(x, ((place >= start) & (place < end)) / (end - start), axis)


def _max_along(x: jax.Array, axis: int, size: int) -> jax.Array:
    length = x.shape[axis]
    if length % size == 0:
        shape = (*x.shape[:axis], size, length // size, *x.shape[axis + 1 :])
        return first_largest(x.reshape(shape), (axis + 1,)).squeeze(axis + 1)
    start, end = _bounds(length, size)
    # A window shorter than the longest repeats its last place, which changes neither maximum nor gradient.
    places = [np.minimum(start + offset, end - 1) for offset in range(int((end - start).max()))]
    return fold([jnp.take(x, place, axis, mode="clip") for place in places], larger)


adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_avg_pool3d = (
    with_rank(adaptive_avg_pool, rank, "2") for rank in (1, 2, 3)
)
adaptive_max_pool1d, adaptive_max_pool2d, adaptive_max_pool3d = (
    with_rank(adaptive_max_pool, rank, "2") for rank in (1, 2, 3)
)
