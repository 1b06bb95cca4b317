"""The weight gradient as a matmul of the input, shifted along one axis, with the output's gradient, shifted along the
other.

XLA's form is a convolution with a whole image as its kernel, for which it gathers kernel * in numbers at each position
and multiplies them with only `out` columns. Here the positions of the kernel along the last axis stand beside the input
channels and those along the other beside the output channels: a matrix (pixels, width * in) and one (pixels,
height * out), with fewer numbers to copy and a product that is nearly square. With a stride along the other axis, both
are beside the input channels. A block of examples at a time, so that the two matrices stay in the cache.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from fnet.functional.convolution.arguments import Axes
from fnet.functional.convolution.cpu import blocks
from fnet.functional.convolution.cpu.windows import gradient_pads, shifted
from fnet.functional.convolution.padding import Pairs, pad_axes

LIMIT = 2**20  # elements of both matrices in a block


def fits(x: jax.Array, dy: jax.Array, kernel: Axes, stride: Axes) -> bool:
    """Whether the matrices of one example are small enough, and sums in this dtype exact enough; of one axis, XLA's
    form is as fast."""
    return len(kernel) == 2 and x.dtype in (jnp.float32, jnp.float64) and _elements(x, dy, kernel, stride) <= 4 * LIMIT


def weight_gradient(x: jax.Array, dy: jax.Array, kernel: Axes, stride: Axes, pads: Pairs, dilation: Axes) -> jax.Array:
    """The gradient (*kernel, in, out) of the weight of `plain.conv`."""
    rank, ones, none = len(kernel), (1,) * len(kernel), (0, 0)
    beside_in, beside_out = _sides(kernel, stride)
    back = gradient_pads(x.shape[1:-1], kernel, stride, pads, dilation)
    x_pads = tuple(none if k > 1 else pad for k, pad in zip(beside_out, pads, strict=True))
    dy_pads = tuple(pad if k > 1 else none for k, pad in zip(beside_out, back, strict=True))

    def block(dy: jax.Array, x: jax.Array) -> jax.Array:
        x, dy = pad_axes(x, x_pads, "zeros", "conv"), pad_axes(dy, dy_pads, "zeros", "conv")
        left = [view for _, view in shifted(x, beside_in, stride, dilation)]
        right = [view for _, view in shifted(dy, beside_out, ones, dilation)][::-1]
        rows = math.prod(left[0].shape[:-1])
        return jnp.concatenate(left, -1).reshape(rows, -1).T @ jnp.concatenate(right, -1).reshape(rows, -1)

    parts = blocks.count(len(x), _elements(x, dy, kernel, stride), LIMIT)
    product = blocks.total(block, parts, dy, x)
    product = product.reshape(*beside_in, x.shape[-1], *beside_out, dy.shape[-1])
    order = [axis for i in range(rank) for axis in (i, rank + 1 + i)]
    return product.transpose(*order, rank, 2 * rank + 1).reshape(*kernel, x.shape[-1], dy.shape[-1])


def _sides(kernel: Axes, stride: Axes) -> tuple[Axes, Axes]:
    """The positions of the kernel that stand beside the input channels, and those beside the output channels."""
    across = [s == 1 for s in stride[:-1]] + [False]
    beside_out = tuple(k if a else 1 for k, a in zip(kernel, across, strict=True))
    return tuple(k // out for k, out in zip(kernel, beside_out, strict=True)), beside_out


def _elements(x: jax.Array, dy: jax.Array, kernel: Axes, stride: Axes) -> int:
    """How many both matrices have for one example."""
    beside_in, beside_out = _sides(kernel, stride)
    sizes = zip(beside_out, x.shape[1:-1], dy.shape[1:-1], strict=True)
    rows = math.prod(n if k > 1 else o for k, n, o in sizes)
    return rows * (math.prod(beside_in) * x.shape[-1] + math.prod(beside_out) * dy.shape[-1])
