"""Strides without YNNPACK: the stride of the last spatial axis as channels, which with channels last is a reshape.

XLA gives a strided convolution to YNNPACK, whose kernel takes up to twice as long as Eigen's where channels are not
many. With stride 1 along an axis there is a way around it (`choice`). The kernel is filled up with zeros to whole
strides; as in `widened`, an infinity that meets one of these makes a NaN of a neighbouring output.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fnet.functional.convolution.arguments import Axes
from fnet.functional.convolution.cpu.windows import output_size
from fnet.functional.convolution.padding import Pairs

Conv = Callable[[jax.Array, jax.Array, Axes, Pairs, Axes], jax.Array]


def fits(x: jax.Array, weight: jax.Array, stride: Axes, dilation: Axes) -> bool:
    """Whether the last axis can be folded, and is worth the zeros: YNNPACK is fast with many channels, and on a narrow
    image the way around it costs more."""
    if len(stride) != 2 or not dilation[-1] == 1 < stride[-1] < weight.shape[-3] or x.shape[-2] % stride[-1]:
        return False
    channels = stride[-1] * x.shape[-1]
    return x.shape[-2] >= 16 * stride[-1] and x.shape[-1] <= 64 and max(channels, weight.shape[-1]) > 16


def conv(x: jax.Array, weight: jax.Array, stride: Axes, pads: Pairs, dilation: Axes, conv: Conv) -> jax.Array:
    """`plain.conv` by a `conv` whose last stride is 1."""
    rank, step, (low, _) = len(stride), stride[-1], pads[-1]
    width = output_size(x.shape[1:-1], weight.shape[:rank], stride, pads, dilation)[-1]
    before = -(-low // step)  # the padding in folded positions
    front = before * step - low  # zeros before the kernel, so that its window begins at one
    taps = -(-(front + weight.shape[rank - 1]) // step)
    back = taps * step - front - weight.shape[rank - 1]
    zeros = [(0, 0, 0)] * (rank - 1) + [(front, back, 0), (0, 0, 0), (0, 0, 0)]
    kernel = jax.lax.pad(weight, jnp.zeros((), weight.dtype), zeros)
    kernel = kernel.reshape(*weight.shape[: rank - 1], taps, step * x.shape[-1], weight.shape[-1])
    x = x.reshape(*x.shape[:-2], x.shape[-2] // step, step * x.shape[-1])
    after = width - 1 + taps - x.shape[-2] - before
    return conv(x, kernel, (*stride[:-1], 1), (*pads[:-1], (before, after)), dilation)
