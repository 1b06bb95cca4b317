"""Convolution over any number of spatial axes, and the names that fix the number."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fnet.functional.convolution import plain
from fnet.functional.convolution.arguments import Axes, IntPerAxis, check_rank, check_shapes, check_window, per_axis
from fnet.functional.convolution.cpu import choice
from fnet.functional.convolution.padding import MODES, Padding, Pairs, pad_axes, resolve
from fnet.functional.dtypes import to_weight_dtype
from fnet.functional.platform import on_cores, on_one_cpu


def conv(
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: IntPerAxis = 1,
    padding: Padding = 0,
    dilation: IntPerAxis = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
) -> jax.Array:
    """Cross-correlation of `x` with `weight`, plus `bias`: what deep learning calls a convolution.

    Shapes: x (..., *spatial, in), weight (*kernel, in / groups, out), bias (out,) -> (..., *spatial', out). The weight
    has as many kernel axes as there are spatial axes; any number of axes stands before these, none included. PyTorch's
    weight (out, in / groups, *kernel) is ours with its first two axes moved to the end and swapped. The computation
    and the result have the weight's dtype; floating `x` and `bias` are cast to it. Per axis,

        spatial' = (spatial + before + after - dilation * (kernel - 1) - 1) // stride + 1

    `padding`: an int; an int for each axis; a pair (before, after) for each axis; or a word in any case. "SAME" gives
    ceil(spatial / stride) positions, the odd one of the padding after; with stride 1 that is PyTorch's "same", which
    has no other stride, and with others it is XLA's. "VALID" is none. "CAUSAL" (one spatial axis) is
    dilation * (kernel - 1) before, so that no output sees a later input. `padding_mode`: what stands there, "zeros",
    "reflect", "replicate" or "circular" (see `pad`).

    Raises TypeError for integer `x` with a float weight, ValueError for shapes and arguments that do not fit.

    >>> conv(jnp.ones((8, 28, 28, 3)), jnp.ones((3, 3, 3, 16)), padding=1, stride=2).shape
    (8, 14, 14, 16)
    """
    return _conv(x, weight, bias, stride, padding, dilation, groups, padding_mode, "conv")


def conv1d(
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: IntPerAxis = 1,
    padding: Padding = 0,
    dilation: IntPerAxis = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
) -> jax.Array:
    """`conv` over one spatial axis: x (..., length, in), weight (kernel, in / groups, out).

    Raises ValueError for a weight of another rank, and what `conv` raises.

    >>> conv1d(jnp.ones((8, 100, 3)), jnp.ones((5, 3, 16)), padding="CAUSAL").shape
    (8, 100, 16)
    """
    check_rank(jnp.asarray(weight), 1, "conv1d")
    return _conv(x, weight, bias, stride, padding, dilation, groups, padding_mode, "conv1d")


def conv2d(
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: IntPerAxis = 1,
    padding: Padding = 0,
    dilation: IntPerAxis = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
) -> jax.Array:
    """`conv` over two spatial axes: x (..., height, width, in), weight (kernel, kernel, in / groups, out).

    Raises ValueError for a weight of another rank, and what `conv` raises.

    >>> conv2d(jnp.ones((8, 28, 28, 3)), jnp.ones((3, 3, 3, 16)), padding="same").shape
    (8, 28, 28, 16)
    """
    check_rank(jnp.asarray(weight), 2, "conv2d")
    return _conv(x, weight, bias, stride, padding, dilation, groups, padding_mode, "conv2d")


def conv3d(
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: IntPerAxis = 1,
    padding: Padding = 0,
    dilation: IntPerAxis = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
) -> jax.Array:
    """`conv` over three spatial axes: x (..., depth, height, width, in), weight (*kernel, in / groups, out).

    Raises ValueError for a weight of another rank, and what `conv` raises.

    >>> conv3d(jnp.ones((2, 8, 8, 8, 3)), jnp.ones((3, 3, 3, 3, 4))).shape
    (2, 6, 6, 6, 4)
    """
    check_rank(jnp.asarray(weight), 3, "conv3d")
    return _conv(x, weight, bias, stride, padding, dilation, groups, padding_mode, "conv3d")


def _conv(
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None,
    stride: IntPerAxis,
    padding: Padding,
    dilation: IntPerAxis,
    groups: int,
    padding_mode: str,
    where: str,
) -> jax.Array:
    weight = jnp.asarray(weight)
    x = to_weight_dtype(x, weight, where)
    check_shapes(x, weight, groups, where)
    rank = weight.ndim - 2
    kernel, size = weight.shape[:rank], x.shape[-rank - 1 : -1]
    stride = per_axis(stride, rank, "stride", where)
    dilation = per_axis(dilation, rank, "dilation", where)
    pads = resolve(padding, size, kernel, stride, dilation, where)
    check_window(size, kernel, dilation, pads, where)
    if padding_mode not in MODES or padding_mode == "constant":
        raise ValueError(
            f'{where}: padding_mode={padding_mode!r}, expected "zeros", "reflect", "replicate" or "circular"'
        )
    if padding_mode != "zeros":
        x, pads = pad_axes(x, pads, padding_mode, where), ((0, 0),) * rank
    leading = x.shape[: -rank - 1]
    x = x if len(leading) == 1 else x.reshape(-1, *x.shape[-rank - 1 :])
    out = one_batch_axis(x, weight, stride, pads, dilation, groups)
    out = out if len(leading) == 1 else out.reshape(*leading, *out.shape[1:])
    return add_bias(out, bias, weight, where)


def one_batch_axis(
    x: jax.Array, weight: jax.Array, stride: Axes, pads: Pairs, dilation: Axes, groups: int
) -> jax.Array:
    """The convolution of (batch, *spatial, in) in the form that is fast on the backend at hand."""
    form = choice.conv if on_one_cpu(x) else choice.conv_on_mesh if on_cores(x) else plain.conv
    return form(x, weight, stride, pads, dilation, groups)


def add_bias(out: jax.Array, bias: ArrayLike | None, weight: jax.Array, where: str) -> jax.Array:
    """`out` plus a bias per channel, checked against the weight."""
    if bias is None:
        return out
    bias = to_weight_dtype(bias, weight, f"{where} bias")
    if bias.shape != weight.shape[-1:]:
        raise ValueError(
            f"{where}: bias has shape {bias.shape}, expected {weight.shape[-1:]} for a weight of shape {weight.shape}"
        )
    return out + jnp.broadcast_to(bias, out.shape)
