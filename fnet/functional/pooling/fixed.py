"""Pooling with windows of a given size: max, average, p-norm."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from fnet.functional.pooling.lowering import added, largest, pool
from fnet.functional.pooling.ranks import with_rank
from fnet.functional.pooling.unpool import max_with_indices
from fnet.functional.pooling.windows import Sizes, Window, windows_of


def max_pool(
    x: ArrayLike,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The largest value of each window; of equal ones the first, in C order, gets the gradient, as in PyTorch.

    Shapes: x (..., *spatial, C) -> (..., *windows, C), in x's dtype, where each axis of `size` has
    `(size + 2 padding - dilation (kernel_size - 1) - 1) / stride + 1` windows, rounded down, or up with `ceil_mode` (as
    long as the last window begins inside). `stride` is `kernel_size` unless given. Padding never wins; NaN does.
    With `return_indices` also the place of each value, int32, counted in C order over the spatial axes, for
    `max_unpool`.

    Raises ValueError for sizes that do not fit the input, and for padding of more than half a window.

    >>> max_pool(jnp.arange(16.0).reshape(1, 4, 4, 1), 2).ravel().tolist()
    [5.0, 7.0, 13.0, 15.0]
    """
    x = jnp.asarray(x)
    windows = windows_of("max_pool", x, kernel_size, stride, padding, dilation, ceil_mode)
    return max_with_indices(x, windows) if return_indices else pool(x, windows, largest(x.dtype))


def avg_pool(
    x: ArrayLike,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> jax.Array:
    """The mean of each window: its sum divided by the number of its values, with padding counted as zeros.

    Shapes as in `max_pool`. `count_include_pad=False` divides by the number of values that are not padding,
    `divisor_override` by that number. Summed in at least float32. Raises ValueError as `max_pool` does, TypeError
    for integer input.

    >>> avg_pool(jnp.arange(16.0).reshape(1, 4, 4, 1), 2).ravel().tolist()
    [2.5, 4.5, 10.5, 12.5]
    """
    x = floating(x, "avg_pool")
    windows = windows_of("avg_pool", x, kernel_size, stride, padding, 1, ceil_mode)
    if divisor_override is not None and divisor_override < 1:
        raise ValueError(f"avg_pool: divisor_override is a number of at least 1, got {divisor_override}")
    total = _window_sums(x, windows)
    if divisor_override is not None:
        return (total / divisor_override).astype(x.dtype)
    counts = [window.counts(count_include_pad) for window in windows]
    if all((count == count[0]).all() for count in counts):
        return (total / math.prod(int(count[0]) for count in counts)).astype(x.dtype)
    for window, count in zip(windows, counts, strict=True):
        total = total / _along(count, window, total)
    return total.astype(x.dtype)


def lp_pool(
    x: ArrayLike, norm_type: float, kernel_size: Sizes, stride: Sizes | None = None, ceil_mode: bool = False
) -> jax.Array:
    """The p-norm of each window, `(sum of x ** norm_type) ** (1 / norm_type)`; `norm_type=2` is L2 pooling.

    Shapes as in `max_pool`. A window whose sum is zero has the gradient 0 (NaN in PyTorch). As in
    PyTorch, the values are not made positive before the power, so that for odd norms a negative sum has no root (NaN;
    itself for `norm_type=1`), and the windows that `ceil_mode` adds at the end are scaled up to a whole one. Raises
    ValueError as `max_pool` does, TypeError for integer input.

    >>> lp_pool(jnp.array([[[3.0], [4.0]]]), 2, 2)
    Array([[[5.]]], dtype=float32)
    """
    x = floating(x, "lp_pool")
    windows = windows_of("lp_pool", x, kernel_size, stride, 0, 1, ceil_mode)
    if norm_type <= 0 or math.isinf(norm_type):
        raise ValueError(f"lp_pool: norm_type is a positive number, got {norm_type}; max_pool is the limit of large")
    total = _window_sums(wide_of(x) ** norm_type, windows)
    for window in windows:
        total = total * _along(window.kernel / window.counts(True), window, total)
    some = total != 0
    return jnp.where(some, jnp.where(some, total, 1) ** (1 / norm_type), total * 0).astype(x.dtype)


def _along(values: np.ndarray, window: Window, like: jax.Array) -> np.ndarray:
    """One value a window of an axis, shaped and typed to multiply `like`."""
    shape = [1] * like.ndim
    shape[window.axis] = window.out
    return values.reshape(shape).astype(like.dtype)


def _window_sums(x: jax.Array, windows: list[Window]) -> jax.Array:
    wide = wide_of(x)
    return pool(wide, windows, added(wide.dtype))


def wide_of(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def floating(x: ArrayLike, where: str) -> jax.Array:
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(
            f"{where}: got {x.dtype} input of shape {x.shape}, and averages real floats; scale integers first: "
            f"x / 255, or data.transforms.ToFloat() for bytes"
        )
    return x


max_pool1d, max_pool2d, max_pool3d = (with_rank(max_pool, rank, "2") for rank in (1, 2, 3))
avg_pool1d, avg_pool2d, avg_pool3d = (with_rank(avg_pool, rank, "2") for rank in (1, 2, 3))
lp_pool1d, lp_pool2d, lp_pool3d = (with_rank(lp_pool, rank, "2, 2") for rank in (1, 2, 3))
