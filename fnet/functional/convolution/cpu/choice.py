"""Which form for which shapes."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from fnet.functional.convolution import plain
from fnet.functional.convolution.arguments import Axes
from fnet.functional.convolution.cpu import crossed, depthwise, folded, grouped, phases, planes, widened, winograd
from fnet.functional.convolution.cpu.bilinear import with_gradients
from fnet.functional.convolution.cpu.windows import gradient_pads, mirrored, output_size, spread
from fnet.functional.convolution.padding import Pairs, pad_axes


@partial(jax.jit, static_argnums=(2, 3, 4, 5), inline=True)
def conv(x: jax.Array, weight: jax.Array, stride: Axes, pads: Pairs, dilation: Axes, groups: int) -> jax.Array:
    """`plain.conv` in the form that is fast for these shapes, gradients included."""
    if math.prod(weight.shape[:-2]) == 1:
        return _pointwise(x, weight, stride, pads, groups)
    if weight.shape[-2] == 1 and groups > 1:
        return depthwise.conv(x, weight, stride, pads, dilation)
    if grouped.fits(weight, groups):
        return grouped.conv(x, weight, stride, pads, dilation, groups, _weight_gradient)
    if groups > 1:  # XLA's own loop over groups leaves Eigen's kernels
        inputs, weights = jnp.split(x, groups, -1), jnp.split(weight, groups, -1)
        parts = [conv(x, w, stride, pads, dilation, 1) for x, w in zip(inputs, weights, strict=True)]
        return jnp.concatenate(parts, -1)
    if len(stride) == 3:
        return _three_axes(x, weight, stride, pads, dilation)
    if _phases_fit(x, weight.shape, stride, pads, dilation):
        ones = (1,) * len(stride)
        return phases.conv_dilated(x, weight, pads, dilation, lambda x, w, pads: conv(x, w, ones, pads, ones, 1))
    return _ungrouped(x, weight, stride, pads, dilation)


@partial(jax.jit, static_argnums=(2, 3, 4, 5), inline=True)
def conv_on_mesh(x: jax.Array, weight: jax.Array, stride: Axes, pads: Pairs, dilation: Axes, groups: int) -> jax.Array:
    """`plain.conv` where each device is one core, and XLA divides the batch between them.

    YNNPACK's convolution runs in one thread, at the full rate of a core and twice that of Eigen's. It takes more than
    16 channels; with fewer, neighbouring outputs are channels too. All axes but the last two are left as they lie.
    """
    channels = weight.shape[-2:]
    many = max(channels) > 16 and min(channels) > 8
    if many or groups > 1 or len(stride) != 2 or max(stride) > 1 or dilation[-1] > 1 or weight.shape[1] == 1:
        return plain.conv(x, weight, stride, pads, dilation, groups)
    together = 4 if min(channels) <= 8 else 2
    back = gradient_pads(x.shape[1:-1], weight.shape[:-2], stride, pads, dilation)
    return with_gradients(
        lambda x, w: widened.conv(x, w, stride, pads, dilation, together),
        lambda dy, w: widened.conv(dy, mirrored(w), stride, back, dilation, together),
        lambda x, dy: _plain_weight_gradient(x, dy, weight.shape, stride, pads, dilation),
        x,
        weight,
    )


@partial(jax.jit, static_argnums=(2, 3, 4, 5), inline=True)
def conv_transpose(
    x: jax.Array, weight: jax.Array, stride: Axes, pads: Pairs, dilation: Axes, groups: int
) -> jax.Array:
    """`plain.conv` of `x` spread out by `stride`."""
    ones, none = (1,) * len(stride), ((0, 0),) * len(stride)
    if max(stride) == 1:
        return conv(x, weight, stride, pads, dilation, groups)
    if groups > 1:
        inputs, weights = jnp.split(x, groups, -1), jnp.split(weight, groups, -1)
        parts = [conv_transpose(x, w, stride, pads, dilation, 1) for x, w in zip(inputs, weights, strict=True)]
        return jnp.concatenate(parts, -1)
    if max(dilation) > 1:
        return conv(spread(x, stride, none), weight, ones, pads, dilation, 1)
    kernel = weight.shape[:-2]
    if len(stride) > 2 or not _between(kernel, stride):
        return phases.conv_transpose(x, weight, stride, pads, lambda x, w, pads: conv(x, w, ones, pads, ones, 1))
    # The transpose of a strided convolution: its gradients are that convolution and its weight's gradient.
    back = tuple((k - 1 - low, k - 1 - high) for k, (low, high) in zip(kernel, pads, strict=True))
    shape = (*kernel, weight.shape[-1], weight.shape[-2])
    return with_gradients(
        lambda x, w: phases.conv_transpose(x, w, stride, pads, lambda x, w, pads: _forward(x, w, ones, pads, ones)),
        lambda dy, w: _forward(dy, mirrored(w), stride, back, ones),
        lambda x, dy: mirrored(_weight_gradient(dy, x, shape, stride, back, ones)),
        x,
        weight,
    )


def _ungrouped(x: jax.Array, weight: jax.Array, stride: Axes, pads: Pairs, dilation: Axes) -> jax.Array:
    back = gradient_pads(x.shape[1:-1], weight.shape[:-2], stride, pads, dilation)
    return with_gradients(
        lambda x, w: _forward(x, w, stride, pads, dilation),
        lambda dy, w: _forward_transpose(dy, mirrored(w), stride, back, dilation),
        lambda x, dy: _weight_gradient(x, dy, weight.shape, stride, pads, dilation),
        x,
        weight,
    )


def _forward(x: jax.Array, weight: jax.Array, stride: Axes, pads: Pairs, dilation: Axes) -> jax.Array:
    if _winograd(x, weight.shape, stride, pads, dilation):
        return winograd.conv(x, weight, pads)
    few = min(weight.shape[-2:]) <= 8
    strided = stride[-1] > 1 and weight.shape[-1] > 16  # neighbours share too little, and are many channels
    if few and not strided and dilation[-1] == 1 and weight.shape[-3] > stride[-1]:
        return widened.conv(x, weight, stride, pads, dilation, 4)
    if folded.fits(x, weight, stride, dilation):
        return folded.conv(x, weight, stride, pads, dilation, plain.conv if few else _direct)
    return _direct(x, weight, stride, pads, dilation)


def _direct(x: jax.Array, weight: jax.Array, stride: Axes, pads: Pairs, dilation: Axes) -> jax.Array:
    """`plain.conv`, with a column too many where XLA would else leave it to YNNPACK, which takes up to twice as long.

    YNNPACK takes none with 16 channels or fewer, and none whose output is larger than the input along an axis.
    """
    size = x.shape[1:-1]
    out = output_size(size, weight.shape[:-2], stride, pads, dilation)
    more = size[-1] + 1 - out[-1]
    taken = len(size) == 2 and max(weight.shape[-2:]) > 16 and all(o <= n for o, n in zip(out, size, strict=True))
    if not taken or stride[-1] > 1 or 7 * more > out[-1]:
        return plain.conv(x, weight, stride, pads, dilation)
    low, high = pads[-1]
    wider = plain.conv(x, weight, stride, (*pads[:-1], (low, high + more)), dilation)
    return jax.lax.slice_in_dim(wider, 0, out[-1], axis=-2)


def _forward_transpose(x: jax.Array, weight: jax.Array, stride: Axes, pads: Pairs, dilation: Axes) -> jax.Array:
    ones, none = (1,) * len(stride), ((0, 0),) * len(stride)
    if max(stride) == 1:
        return _forward(x, weight, stride, pads, dilation)
    if max(dilation) > 1:
        return _forward(spread(x, stride, none), weight, ones, pads, dilation)
    if min(weight.shape[-2:]) >= 32 and _between(weight.shape[:-2], stride):
        return plain.conv(x, weight, ones, pads, ones, input_dilation=stride)
    return phases.conv_transpose(x, weight, stride, pads, lambda x, w, pads: _forward(x, w, ones, pads, ones))


def _weight_gradient(x: jax.Array, dy: jax.Array, shape: Axes, stride: Axes, pads: Pairs, dilation: Axes) -> jax.Array:
    if _winograd(x, shape, stride, pads, dilation):
        return winograd.weight_gradient(x, dy, pads)
    if crossed.fits(x, dy, shape[:-2], stride):
        return crossed.weight_gradient(x, dy, shape[:-2], stride, pads, dilation)
    return _plain_weight_gradient(x, dy, shape, stride, pads, dilation)


def _plain_weight_gradient(
    x: jax.Array, dy: jax.Array, shape: Axes, stride: Axes, pads: Pairs, dilation: Axes
) -> jax.Array:
    none = ((0, 0),) * len(stride)
    if any(o > n for o, n in zip(dy.shape[1:-1], x.shape[1:-1], strict=True)):
        # XLA would swap the two, since this one is a kernel larger than its input, and then run naive loops.
        x, pads = pad_axes(x, pads, "zeros", "conv"), none
    weight = jax.ShapeDtypeStruct(shape, x.dtype)
    return jax.linear_transpose(lambda w: plain.conv(x, w, stride, pads, dilation), weight)(dy)[0]


def _between(kernel: Axes, stride: Axes) -> bool:
    """Whether the kernel's sides are between one and two strides: then a third or more of its phases are zeros."""
    return all(s < k < 2 * s for k, s in zip(kernel, stride, strict=True))


def _phases_fit(x: jax.Array, shape: Axes, stride: Axes, pads: Pairs, dilation: Axes) -> bool:
    """Whether the phases of a dilated convolution are convolutions for Winograd's tiles."""
    if max(dilation) == 1:
        return False
    sides = [-(-(n + sum(pad)) // d) for n, pad, d in zip(x.shape[1:-1], pads, dilation, strict=True)]
    phase = jax.ShapeDtypeStruct((1, *sides, x.shape[-1]), x.dtype)
    return _winograd(phase, shape, stride, ((0, 0),) * len(stride), (1,) * len(stride))


def _winograd(x: Any, shape: Axes, stride: Axes, pads: Pairs, dilation: Axes) -> bool:
    """Whether tiles of 2x2 outputs fit the shapes, are worth their transforms, and fit the memory."""
    if shape[:-2] != (3, 3) or max(stride + dilation) > 1 or x.dtype not in (jnp.float32, jnp.float64):
        return False
    out = output_size(x.shape[1:-1], (3, 3), stride, pads, dilation)
    enough = min(shape[-2:]) >= 32 and min(out) >= 4
    return enough and 4 * math.prod(out) * sum(shape[-2:]) <= winograd.LIMIT


def _pointwise(x: jax.Array, weight: jax.Array, stride: Axes, pads: Pairs, groups: int) -> jax.Array:
    """A kernel of one position is a matmul of the channels, over rows in two axes as in `linear`."""
    x = pad_axes(x, pads, "zeros", "conv")[(slice(None), *(slice(None, None, s) for s in stride))]
    rows, matrix = x.reshape(-1, groups, weight.shape[-2]), weight.reshape(weight.shape[-2], groups, -1)
    parts = [rows[:, g] @ matrix[:, g] for g in range(groups)]
    return jnp.concatenate(parts, -1).reshape(*x.shape[:-1], weight.shape[-1])


def _three_axes(x: jax.Array, weight: jax.Array, stride: Axes, pads: Pairs, dilation: Axes) -> jax.Array:
    if max(stride) > 1:
        return planes.summed(x, weight, stride, pads, dilation, lambda *given: conv(*given, 1))
    back = gradient_pads(x.shape[1:-1], weight.shape[:-2], stride, pads, dilation)

    def form(x: jax.Array, weight: jax.Array, pads: Pairs) -> jax.Array:
        if weight.shape[-2] <= 8:  # windows of few channels are not what takes the time
            return planes.summed(x, weight, stride, pads, dilation, _forward)
        return planes.conv(x, weight, pads, dilation, _forward)

    return with_gradients(
        lambda x, w: form(x, w, pads),
        lambda dy, w: form(dy, mirrored(w), back),
        lambda x, dy: planes.weight_gradient(x, dy, weight.shape, stride, pads, dilation, _weight_gradient),
        x,
        weight,
    )
