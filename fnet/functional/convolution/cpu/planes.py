"""Three axes by convolutions of planes, which Eigen has kernels for, and sums over the first axis of the kernel."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from operator import add

import jax
import jax.numpy as jnp

from fnet.functional.convolution.arguments import Axes
from fnet.functional.convolution.padding import Pairs, pad_axes

Conv = Callable[[jax.Array, jax.Array, Axes, Pairs, Axes], jax.Array]
WeightGradient = Callable[[jax.Array, jax.Array, Axes, Axes, Pairs, Axes], jax.Array]


def conv(x: jax.Array, weight: jax.Array, pads: Pairs, dilation: Axes, conv: Conv) -> jax.Array:
    """`plain.conv` with stride 1: one convolution makes the outputs of all positions of the first axis as channels, so
    that windows are gathered once."""
    taps, channels = weight.shape[0], weight.shape[-1]
    wide = jnp.moveaxis(weight, 0, -2).reshape(*weight.shape[1:-1], taps * channels)
    y = conv(x.reshape(-1, *x.shape[2:]), wide, (1, 1), pads[1:], dilation[1:])
    y = y.reshape(*x.shape[:2], *y.shape[1:3], taps * channels)
    y = pad_axes(y, (pads[0], (0, 0), (0, 0)), "zeros", "conv")
    depth = y.shape[1] - dilation[0] * (taps - 1)

    def of_tap(i: int) -> jax.Array:
        part = jax.lax.slice_in_dim(y, i * dilation[0], i * dilation[0] + depth, axis=1)
        return jax.lax.slice_in_dim(part, i * channels, (i + 1) * channels, axis=-1)

    return reduce(add, map(of_tap, range(taps)))


def summed(x: jax.Array, weight: jax.Array, stride: Axes, pads: Pairs, dilation: Axes, conv: Conv) -> jax.Array:
    """`plain.conv` as the sum of a convolution for each position of the first axis, with any stride."""
    views = _planes(x, weight.shape[0], stride, pads, dilation)
    parts = (conv(planes, weight[i], stride[1:], pads[1:], dilation[1:]) for i, planes in enumerate(views))
    total = reduce(add, parts)
    return total.reshape(x.shape[0], -1, *total.shape[1:])


def weight_gradient(
    x: jax.Array, dy: jax.Array, shape: Axes, stride: Axes, pads: Pairs, dilation: Axes, gradient: WeightGradient
) -> jax.Array:
    """The gradient of the weight of this `shape`, from that of a convolution of planes for each position."""
    dy = dy.reshape(-1, *dy.shape[2:])
    views = _planes(x, shape[0], stride, pads, dilation)
    return jnp.stack([gradient(planes, dy, shape[1:], stride[1:], pads[1:], dilation[1:]) for planes in views])


def _planes(x: jax.Array, taps: int, stride: Axes, pads: Pairs, dilation: Axes) -> list[jax.Array]:
    """For each position of the kernel along the first axis the planes that it meets, as examples."""
    x = pad_axes(x, (pads[0], (0, 0), (0, 0)), "zeros", "conv")
    reach = (x.shape[1] - dilation[0] * (taps - 1) - 1) // stride[0] * stride[0] + 1
    starts = [i * dilation[0] for i in range(taps)]
    views = [jax.lax.slice_in_dim(x, start, start + reach, stride[0], 1) for start in starts]
    return [view.reshape(-1, *view.shape[2:]) for view in views]
