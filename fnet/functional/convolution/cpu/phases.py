"""Strides and dilations without the zeros between: every `stride`-th position is a phase. Of strides the phases become
channels, of dilations examples."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fnet.functional.convolution.arguments import Axes
from fnet.functional.convolution.cpu.windows import output_size
from fnet.functional.convolution.padding import Pairs, pad_axes

Conv = Callable[[jax.Array, jax.Array, Pairs], jax.Array]  # stride and dilation are 1


def conv_transpose(x: jax.Array, weight: jax.Array, stride: Axes, pads: Pairs, conv: Conv) -> jax.Array:
    """The convolution of `x` spread out by `stride`, as one of `x` itself that makes all phases of the output.

    Where the kernel meets zeros, nothing is computed. Source: Shi et al. 2016 (arXiv:1609.07009).
    """
    rank, out_channels = len(stride), weight.shape[-1]
    size, kernel = x.shape[1:-1], weight.shape[:rank]
    spread = tuple((n - 1) * s + 1 for n, s in zip(size, stride, strict=True))
    out = output_size(spread, kernel, (1,) * rank, pads, (1,) * rank)
    skip = [(s - 1 - low) % s for s, (low, _) in zip(stride, pads, strict=True)]  # so that all phases begin together
    taps = [-(-k // s) for k, s in zip(kernel, stride, strict=True)]
    before = [(low + h) // s for s, (low, _), h in zip(stride, pads, skip, strict=True)]
    count = [-(-(o + h) // s) for o, h, s in zip(out, skip, stride, strict=True)]
    after = [c - n + t - 1 - b for c, n, t, b in zip(count, size, taps, before, strict=True)]

    split = _split(weight, taps, stride, 0)  # (tap, phase) for each axis, in, out
    split = jnp.flip(split, tuple(range(1, 2 * rank, 2)))
    order = [*range(0, 2 * rank, 2), 2 * rank, *range(1, 2 * rank, 2), 2 * rank + 1]
    kernels = split.transpose(order).reshape(*taps, weight.shape[-2], -1)

    y = conv(x, kernels, tuple(zip(before, after, strict=True)))
    y = y.reshape(y.shape[0], *count, *stride, out_channels)
    order = [0] + [axis for i in range(rank) for axis in (1 + i, 1 + rank + i)] + [1 + 2 * rank]
    y = y.transpose(order).reshape(y.shape[0], *(c * s for c, s in zip(count, stride, strict=True)), out_channels)
    return y[(slice(None), *(slice(h, h + o) for h, o in zip(skip, out, strict=True)))]


def conv_dilated(x: jax.Array, weight: jax.Array, pads: Pairs, dilation: Axes, conv: Conv) -> jax.Array:
    """A dilated convolution as a plain one of the phases of its input, of which it never puts two together."""
    rank = len(dilation)
    x = pad_axes(x, pads, "zeros", "conv")
    size, kernel = x.shape[1:-1], weight.shape[:rank]
    out = output_size(size, kernel, (1,) * rank, ((0, 0),) * rank, dilation)
    counts = [-(-n // d) for n, d in zip(size, dilation, strict=True)]
    split = _split(x, counts, dilation, 1)  # (count, phase) for each axis
    apart, inside = range(2, 2 * rank + 2, 2), range(1, 2 * rank + 1, 2)
    split = split.transpose(0, *apart, *inside, 2 * rank + 1)
    y = conv(split.reshape(-1, *counts, x.shape[-1]), weight, ((0, 0),) * rank)
    y = y.reshape(x.shape[0], *dilation, *y.shape[1:])
    order = [axis for i in range(rank) for axis in (1 + rank + i, 1 + i)]
    y = y.transpose(0, *order, 2 * rank + 1)
    y = y.reshape(x.shape[0], *(y.shape[1 + 2 * i] * d for i, d in enumerate(dilation)), y.shape[-1])
    return y[(slice(None), *(slice(o) for o in out))]


def _split(x: jax.Array, counts: list[int], stride: Axes, first: int) -> jax.Array:
    """Each spatial axis, padded to count * stride, as (count, stride)."""
    rank = len(stride)
    full = [c * s for c, s in zip(counts, stride, strict=True)]
    missing = [(0, f - n) for f, n in zip(full, x.shape[first : first + rank], strict=True)]
    width = [(0, 0)] * first + missing + [(0, 0)] * (x.ndim - first - rank)
    if any(high for _, high in width):
        x = jnp.pad(x, width)
    split = [axis for pair in zip(counts, stride, strict=True) for axis in pair]
    return x.reshape(*x.shape[:first], *split, *x.shape[first + rank :])
