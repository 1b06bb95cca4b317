"""Transposed convolution: the gradient of a convolution with respect to its input, as a layer of its own."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fnet.functional.convolution import plain
from fnet.functional.convolution.arguments import IntPerAxis, check_rank, check_shapes, per_axis
from fnet.functional.convolution.conv import add_bias
from fnet.functional.convolution.cpu import choice
from fnet.functional.convolution.padding import pairs_of
from fnet.functional.dtypes import to_weight_dtype
from fnet.functional.platform import on_one_cpu


def conv_transpose(
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: IntPerAxis = 1,
    padding: IntPerAxis = 0,
    output_padding: IntPerAxis = 0,
    groups: int = 1,
    dilation: IntPerAxis = 1,
) -> jax.Array:
    """The convolution of `x`, spread out by `stride` with zeros between, plus `bias`: it enlarges by `stride`.

    Shapes: x (..., *spatial, in), weight (*kernel, in / groups, out), bias (out,) -> (..., *spatial', out); dtypes as
    in `conv`. The arguments and their order are PyTorch's. Per axis,

        spatial' = (spatial - 1) * stride - 2 * padding + dilation * (kernel - 1) + output_padding + 1

    Layout of the weight: that of every convolution here, the kernel that slides over the spread input. PyTorch holds
    the kernel of the convolution whose gradient this is, (in, out / groups, *kernel): the same numbers, mirrored in
    every spatial axis. From its `w`, for two axes:

        w.reshape(groups, in // groups, out // groups, kh, kw).transpose(3, 4, 1, 0, 2)
         .reshape(kh, kw, in // groups, out)[::-1, ::-1]

    which with one group is w.transpose(2, 3, 0, 1)[::-1, ::-1].

    Raises TypeError for integer `x` with a float weight; ValueError for shapes that do not fit and for an
    output_padding that is not smaller than the stride or the dilation of its axis, which no convolution has.

    Source: Zeiler et al. 2010; Dumoulin and Visin 2016 (arXiv:1603.07285), section 4.

    >>> conv_transpose(jnp.ones((8, 7, 7, 16)), jnp.ones((4, 4, 16, 3)), stride=2, padding=1).shape
    (8, 14, 14, 3)
    """
    return _conv_transpose(x, weight, bias, stride, padding, output_padding, groups, dilation, "conv_transpose")


def conv_transpose1d(
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: IntPerAxis = 1,
    padding: IntPerAxis = 0,
    output_padding: IntPerAxis = 0,
    groups: int = 1,
    dilation: IntPerAxis = 1,
) -> jax.Array:
    """`conv_transpose` over one spatial axis. Raises ValueError for a weight of another rank.

    >>> conv_transpose1d(jnp.ones((8, 50, 16)), jnp.ones((2, 16, 3)), stride=2).shape
    (8, 100, 3)
    """
    check_rank(jnp.asarray(weight), 1, "conv_transpose1d")
    return _conv_transpose(x, weight, bias, stride, padding, output_padding, groups, dilation, "conv_transpose1d")


def conv_transpose2d(
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: IntPerAxis = 1,
    padding: IntPerAxis = 0,
    output_padding: IntPerAxis = 0,
    groups: int = 1,
    dilation: IntPerAxis = 1,
) -> jax.Array:
    """`conv_transpose` over two spatial axes. Raises ValueError for a weight of another rank.

    >>> conv_transpose2d(jnp.ones((8, 7, 7, 16)), jnp.ones((2, 2, 16, 3)), stride=2).shape
    (8, 14, 14, 3)
    """
    check_rank(jnp.asarray(weight), 2, "conv_transpose2d")
    return _conv_transpose(x, weight, bias, stride, padding, output_padding, groups, dilation, "conv_transpose2d")


def conv_transpose3d(
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: IntPerAxis = 1,
    padding: IntPerAxis = 0,
    output_padding: IntPerAxis = 0,
    groups: int = 1,
    dilation: IntPerAxis = 1,
) -> jax.Array:
    """`conv_transpose` over three spatial axes. Raises ValueError for a weight of another rank.

    >>> conv_transpose3d(jnp.ones((2, 4, 4, 4, 8)), jnp.ones((2, 2, 2, 8, 3)), stride=2).shape
    (2, 8, 8, 8, 3)
    """
    check_rank(jnp.asarray(weight), 3, "conv_transpose3d")
    return _conv_transpose(x, weight, bias, stride, padding, output_padding, groups, dilation, "conv_transpose3d")


def _conv_transpose(
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None,
    stride: Any,
    padding: Any,
    output_padding: Any,
    groups: int,
    dilation: Any,
    where: str,
) -> jax.Array:
    weight = jnp.asarray(weight)
    x = to_weight_dtype(x, weight, where)
    check_shapes(x, weight, groups, where)
    rank = weight.ndim - 2
    kernel, size = weight.shape[:rank], x.shape[-rank - 1 : -1]
    stride = per_axis(stride, rank, "stride", where)
    dilation = per_axis(dilation, rank, "dilation", where)
    extra = per_axis(output_padding, rank, "output_padding", where, least=0)
    if any(e >= max(s, d) for e, s, d in zip(extra, stride, dilation, strict=True)):
        raise ValueError(
            f"{where}: output_padding={output_padding!r} must be smaller than the stride {stride} or the dilation "
            f"{dilation} of its axis"
        )
    reach = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    cuts = pairs_of(padding, rank, where)
    pads = tuple((r - low, r - high + e) for r, (low, high), e in zip(reach, cuts, extra, strict=True))
    out_size = [(n - 1) * s + 1 + sum(pair) - r for n, s, pair, r in zip(size, stride, pads, reach, strict=True)]
    if min(out_size) < 1:
        raise ValueError(
            f"{where}: the output would have the spatial axes {tuple(out_size)}: padding={padding!r} takes away more "
            f"than the kernel {kernel} makes of the spatial axes {size} of the input {x.shape}"
        )
    leading = x.shape[: -rank - 1]
    x = x if len(leading) == 1 else x.reshape(-1, *x.shape[-rank - 1 :])
    if on_one_cpu(x):
        out = choice.conv_transpose(x, weight, stride, pads, dilation, groups)
    else:
        out = plain.conv(x, weight, (1,) * rank, pads, dilation, groups, input_dilation=stride)
    out = out if len(leading) == 1 else out.reshape(*leading, *out.shape[1:])
    return add_bias(out, bias, weight, where)
