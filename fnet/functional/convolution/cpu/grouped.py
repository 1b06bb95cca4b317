"""Groups of few channels: for each channel of a group a depthwise sum, with that channel repeated for its outputs.

As many convolutions as groups, which is what else is done, gather windows of a few numbers each.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce
from operator import add

import jax
import jax.numpy as jnp

from fnet.functional.convolution.arguments import Axes
from fnet.functional.convolution.cpu import depthwise
from fnet.functional.convolution.cpu.bilinear import with_gradients
from fnet.functional.convolution.cpu.windows import gradient_pads, spread
from fnet.functional.convolution.padding import Pairs

WeightGradient = Callable[[jax.Array, jax.Array, Axes, Axes, Pairs, Axes], jax.Array]


def fits(weight: jax.Array, groups: int) -> bool:
    """Whether a group has few channels, so that few terms are to be summed, in the gradient too."""
    channels = max(weight.shape[-2], weight.shape[-1] // groups)
    return groups > 1 and channels <= 4 and channels * math.prod(weight.shape[:-2]) <= 64


def conv(
    x: jax.Array, weight: jax.Array, stride: Axes, pads: Pairs, dilation: Axes, groups: int, gradient: WeightGradient
) -> jax.Array:
    """`plain.conv`; `gradient` is that of the weight of one group."""
    ones, none = (1,) * len(stride), ((0, 0),) * len(stride)
    back = gradient_pads(x.shape[1:-1], weight.shape[:-2], stride, pads, dilation)

    def weight_gradient(x: jax.Array, dy: jax.Array) -> jax.Array:
        shape = (*weight.shape[:-1], weight.shape[-1] // groups)
        pairs = zip(jnp.split(x, groups, -1), jnp.split(dy, groups, -1), strict=True)
        return jnp.concatenate([gradient(x, dy, shape, stride, pads, dilation) for x, dy in pairs], -1)

    return with_gradients(
        lambda x, w: _sum(x, w, stride, pads, dilation, groups),
        lambda dy, w: _sum(spread(dy, stride, back), _mirrored(w, groups), ones, none, dilation, groups),
        weight_gradient,
        x,
        weight,
    )


def _sum(x: jax.Array, weight: jax.Array, stride: Axes, pads: Pairs, dilation: Axes, groups: int) -> jax.Array:
    channels = x.reshape(*x.shape[:-1], groups, weight.shape[-2])

    def of_channel(i: int) -> jax.Array:
        repeated = jnp.repeat(channels[..., i], weight.shape[-1] // groups, -1)
        return depthwise.shift_multiply_add(repeated, weight[..., i, :], stride, pads, dilation)

    return reduce(add, map(of_channel, range(weight.shape[-2])))


def _mirrored(weight: jax.Array, groups: int) -> jax.Array:
    """`windows.mirrored` for each group: (*kernel, out / groups, in)."""
    kernel = weight.shape[:-2]
    split = jnp.flip(weight, tuple(range(len(kernel)))).reshape(*kernel, weight.shape[-2], groups, -1)
    return split.swapaxes(-1, -3).reshape(*kernel, split.shape[-1], -1)
