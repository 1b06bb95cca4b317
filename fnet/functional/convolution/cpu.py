"""Forms of the convolution that XLA's CPU backend runs faster than its own, chosen by the shapes at trace time.

All are sums of products in another order, so gradients of any order follow from them, and each is faster in its
gradients too. benchmarks/layers.py measures them; docs/performance.md holds the numbers and what did not win.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp

from fnet.functional.convolution import plain
from fnet.functional.convolution.arguments import Axes
from fnet.functional.convolution.padding import Pairs, pad_axes


def applies(x: jax.Array) -> bool:
    """Whether `x` is computed on one CPU. Arrays on a mesh are left to XLA, which knows how they are sharded."""
    return x.size > 0 and jax.default_backend() == "cpu" and jax.typeof(x).sharding.mesh.empty


def conv(x: jax.Array, weight: jax.Array, stride: Axes, pads: Pairs, dilation: Axes, groups: int) -> jax.Array:
    """`plain.conv`, in the form that is fast for these shapes."""
    per_group = weight.shape[-2]
    if math.prod(weight.shape[:-2]) == 1:
        return _pointwise(x, weight, stride, pads, groups)
    if per_group == 1 and groups > 1:
        return _depthwise(x, weight, stride, pads, dilation, groups)
    if groups > 1:
        return _grouped(x, weight, stride, pads, dilation, groups)
    if per_group <= 4:
        return _patches(x, weight, stride, pads, dilation)
    return plain.conv(x, weight, stride, pads, dilation)


def _pointwise(x: jax.Array, weight: jax.Array, stride: Axes, pads: Pairs, groups: int) -> jax.Array:
    """A kernel of one position is a matmul of the channels, over rows in two axes as in `linear`."""
    x = pad_axes(x, pads, "zeros", "conv")[(slice(None), *(slice(None, None, s) for s in stride))]
    rows, matrix = x.reshape(-1, groups, weight.shape[-2]), weight.reshape(weight.shape[-2], groups, -1)
    parts = [rows[:, g] @ matrix[:, g] for g in range(groups)]
    return jnp.concatenate(parts, -1).reshape(*x.shape[:-1], weight.shape[-1])


def _depthwise(x: jax.Array, weight: jax.Array, stride: Axes, pads: Pairs, dilation: Axes, groups: int) -> jax.Array:
    """One input channel a group: a sum over the kernel of shifted input times weight, which fuses into one loop."""
    kernel, multiplier = weight.shape[:-2], weight.shape[-1] // groups
    factors = weight.reshape(*kernel, groups, multiplier)
    out: jax.Array | None = None
    for position, view in _shifted(pad_axes(x, pads, "zeros", "conv"), kernel, stride, dilation):
        term = view[..., None] * jax.lax.broadcast(factors[position], view.shape[:-1])
        out = term if out is None else out + term
    assert out is not None
    return out.reshape(*out.shape[:-2], weight.shape[-1])


def _grouped(x: jax.Array, weight: jax.Array, stride: Axes, pads: Pairs, dilation: Axes, groups: int) -> jax.Array:
    """A convolution for each group: XLA's own loop over groups leaves Eigen's kernels."""
    inputs, weights = jnp.split(x, groups, -1), jnp.split(weight, groups, -1)
    parts = [conv(x, w, stride, pads, dilation, 1) for x, w in zip(inputs, weights, strict=True)]
    return jnp.concatenate(parts, -1)


def _patches(x: jax.Array, weight: jax.Array, stride: Axes, pads: Pairs, dilation: Axes) -> jax.Array:
    """Every window as a row, times the weight as a matrix (im2col)."""
    kernel = weight.shape[:-2]
    views = [view for _, view in _shifted(pad_axes(x, pads, "zeros", "conv"), kernel, stride, dilation)]
    rows = jnp.concatenate(views, -1)
    out = rows.reshape(-1, rows.shape[-1]) @ weight.reshape(-1, weight.shape[-1])
    return out.reshape(*rows.shape[:-1], weight.shape[-1])


def _shifted(x: jax.Array, kernel: Axes, stride: Axes, dilation: Axes) -> Iterator[tuple[Axes, jax.Array]]:
    """For each position of the kernel, what of the padded `x` it meets: (batch, *spatial', channels)."""
    size = x.shape[1:-1]
    reach = [(n - d * (k - 1) - 1) // s * s + 1 for n, k, s, d in zip(size, kernel, stride, dilation, strict=True)]
    for position in itertools.product(*map(range, kernel)):
        start = [p * d for p, d in zip(position, dilation, strict=True)]
        stop = [a + r for a, r in zip(start, reach, strict=True)]
        view = jax.lax.slice(x, (0, *start, 0), (x.shape[0], *stop, x.shape[-1]), (1, *stride, 1))
        yield position, view


def conv_transpose(
    x: jax.Array, weight: jax.Array, stride: Axes, pads: Pairs, dilation: Axes, groups: int
) -> jax.Array:
    """`plain.conv` of `x` dilated by `stride`."""
    rank = len(stride)
    if max(stride) == 1:
        return conv(x, weight, stride, pads, dilation, groups)
    config = [(0, 0, 0)] + [(0, 0, s - 1) for s in stride] + [(0, 0, 0)]
    spread = jax.lax.pad(x, jnp.zeros((), x.dtype), config)
    return conv(spread, weight, (1,) * rank, pads, dilation, groups)
