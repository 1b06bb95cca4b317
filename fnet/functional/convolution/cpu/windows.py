"""What several forms share: the shifted views of an input, an input spread out, and the kernel of the gradient."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import jax
import jax.numpy as jnp

from fnet.functional.convolution.arguments import Axes
from fnet.functional.convolution.padding import Pairs


def shifted(x: jax.Array, kernel: Axes, stride: Axes, dilation: Axes) -> Iterator[tuple[Axes, jax.Array]]:
    """For each position of the kernel, what of the padded `x` it meets: (batch, *spatial', channels)."""
    size = x.shape[1:-1]
    reach = [(n - d * (k - 1) - 1) // s * s + 1 for n, k, s, d in zip(size, kernel, stride, dilation, strict=True)]
    for position in itertools.product(*map(range, kernel)):
        start = [p * d for p, d in zip(position, dilation, strict=True)]
        stop = [a + r for a, r in zip(start, reach, strict=True)]
        yield position, jax.lax.slice(x, (0, *start, 0), (x.shape[0], *stop, x.shape[-1]), (1, *stride, 1))


def spread(x: jax.Array, stride: Axes, pads: Pairs) -> jax.Array:
    """`x` with stride - 1 zeros between its positions, and padded."""
    config = [(low, high, s - 1) for s, (low, high) in zip(stride, pads, strict=True)]
    return jax.lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *config, (0, 0, 0)])


def output_size(size: Axes, kernel: Axes, stride: Axes, pads: Pairs, dilation: Axes) -> Axes:
    """The spatial axes of a convolution's output."""
    return tuple(
        (n + low + high - d * (k - 1) - 1) // s + 1
        for n, k, s, (low, high), d in zip(size, kernel, stride, pads, dilation, strict=True)
    )


def gradient_pads(size: Axes, kernel: Axes, stride: Axes, pads: Pairs, dilation: Axes) -> Pairs:
    """The padding of the spread output gradient, with which the mirrored kernel gives the gradient of the input."""
    out = output_size(size, kernel, stride, pads, dilation)
    reach = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    return tuple(
        (r - low, n + low - (o - 1) * s - 1)
        for n, o, s, r, (low, _) in zip(size, out, stride, reach, pads, strict=True)
    )


def mirrored(weight: jax.Array) -> jax.Array:
    """(*kernel, in, out) turned around in space, with in and out swapped."""
    return jnp.flip(weight, tuple(range(weight.ndim - 2))).swapaxes(-1, -2)
