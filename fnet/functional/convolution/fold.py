"""The windows of a convolution as an array, and the sum of windows back into place."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fnet.functional.convolution.arguments import Axes, IntPerAxis, check_window, per_axis
from fnet.functional.convolution.padding import Pairs, pad_axes, pairs_of


def unfold(
    x: ArrayLike,
    kernel_size: IntPerAxis,
    dilation: IntPerAxis = 1,
    padding: IntPerAxis = 0,
    stride: IntPerAxis = 1,
) -> jax.Array:
    """The windows of `x`, each as one row: im2col.

    Shapes: x (..., *spatial, channels) -> (..., windows, channels * prod(kernel_size)), which is PyTorch's output with
    its last two axes swapped: windows in row-major order, and in a row the channel is the slowest index, then the
    position in the kernel. An int `kernel_size` is that of two axes, as in PyTorch; a sequence has one int for each.
    Arguments and their order are PyTorch's. The dtype is kept.

    With a weight of `conv`, `unfold(x, k) @ jnp.moveaxis(weight, -2, 0).reshape(-1, out)` is its output.

    Raises ValueError for too few axes and for a kernel that is larger than the padded input.

    >>> unfold(jnp.ones((8, 28, 28, 3)), 4, stride=4).shape
    (8, 49, 48)
    """
    x = jnp.asarray(x)
    kernel, dilation, stride, pads = _arguments(kernel_size, dilation, padding, stride, "unfold")
    rank = len(kernel)
    if x.ndim < rank + 1:
        raise ValueError(
            f"unfold: input has shape {x.shape}, expected at least {rank + 1} axes, (..., {'spatial, ' * rank}channels)"
        )
    check_window(x.shape[-rank - 1 : -1], kernel, dilation, pads, "unfold")
    return _unfold(x, kernel, dilation, pads, stride)


def fold(
    x: ArrayLike,
    output_size: int | Sequence[int],
    kernel_size: IntPerAxis,
    dilation: IntPerAxis = 1,
    padding: IntPerAxis = 0,
    stride: IntPerAxis = 1,
) -> jax.Array:
    """The sum of windows put back where `unfold` took them from: its transpose as a linear map, not its inverse.

    Shapes: x (..., windows, channels * prod(kernel_size)) -> (..., *output_size, channels). `output_size` is the
    spatial size of what was unfolded. Where windows overlap, their values add up; divide by
    `fold(unfold(ones))` for their mean. Arguments and their order are PyTorch's; floating dtypes are kept.

    Raises ValueError for another number of windows than `unfold` makes of output_size, and for a last axis that is
    no multiple of prod(kernel_size); TypeError for integers.

    >>> rows = unfold(jnp.ones((1, 4, 4, 1)), 2, stride=2)
    >>> fold(rows, (4, 4), 2, stride=2).shape
    (1, 4, 4, 1)
    """
    x = jnp.asarray(x)
    kernel, dilation, stride, pads = _arguments(kernel_size, dilation, padding, stride, "fold")
    size = per_axis(output_size, len(kernel), "output_size", "fold")
    check_window(size, kernel, dilation, pads, "fold")
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        raise TypeError(f"fold: got {x.dtype} of shape {x.shape}, expected floats; cast it first")
    positions = math.prod(kernel)
    if x.ndim < 2 or x.shape[-1] % positions:
        raise ValueError(
            f"fold: input has shape {x.shape}, expected (..., windows, channels * {positions}) for a kernel {kernel}"
        )
    image = jax.ShapeDtypeStruct((*x.shape[:-2], *size, x.shape[-1] // positions), x.dtype)
    windows = jax.eval_shape(lambda image: _unfold(image, kernel, dilation, pads, stride), image).shape[-2]
    if windows != x.shape[-2]:
        raise ValueError(
            f"fold: input has shape {x.shape} with {x.shape[-2]} windows, expected {windows}: as many as a kernel "
            f"{kernel} with stride {stride}, padding {pads} and dilation {dilation} has in output_size {size}"
        )
    return jax.linear_transpose(lambda image: _unfold(image, kernel, dilation, pads, stride), image)(x)[0]


def _arguments(
    kernel_size: IntPerAxis, dilation: IntPerAxis, padding: IntPerAxis, stride: IntPerAxis, where: str
) -> tuple[Axes, Axes, Axes, Pairs]:
    rank = 2 if isinstance(kernel_size, int) else len(kernel_size)
    kernel = per_axis(kernel_size, rank, "kernel_size", where)
    stride = per_axis(stride, rank, "stride", where)
    return kernel, per_axis(dilation, rank, "dilation", where), stride, pairs_of(padding, rank, where)


def _unfold(x: jax.Array, kernel: Axes, dilation: Axes, pads: Pairs, stride: Axes) -> jax.Array:
    """Windows along one axis after another, so that it takes as many slices as the kernel's sides have in sum."""
    rank = len(kernel)
    first = x.ndim - rank - 1
    x = pad_axes(x, pads, "zeros", "unfold")
    for axis, (k, d, s) in enumerate(zip(kernel, dilation, stride, strict=True), start=first):
        reach = (x.shape[axis] - d * (k - 1) - 1) // s * s + 1
        views = [jax.lax.slice_in_dim(x, i * d, i * d + reach, s, axis) for i in range(k)]
        x = jnp.stack(views, -1)  # (..., *spatial, channels, *kernel)
    leading, windows, row = x.shape[:first], x.shape[first : first + rank], x.shape[first + rank :]
    return x.reshape(*leading, math.prod(windows), math.prod(row))
