"""Strides without the zeros between: every `stride`-th position is a phase, and phases become channels."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fnet.functional.convolution.arguments import Axes
from fnet.functional.convolution.cpu.windows import output_size
from fnet.functional.convolution.padding import Pairs

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
