"""One input channel a group: sums over the kernel of shifted input times weight, which XLA fuses into one loop."""

from __future__ import annotations

import math
from functools import partial, reduce
from operator import add

import jax
import jax.numpy as jnp

from fnet.functional.convolution.arguments import Axes
from fnet.functional.convolution.cpu.bilinear import with_gradients
from fnet.functional.convolution.cpu.windows import gradient_pads, shifted, spread
from fnet.functional.convolution.padding import Pairs, pad_axes


def conv(x: jax.Array, weight: jax.Array, stride: Axes, pads: Pairs, dilation: Axes) -> jax.Array:
    """`plain.conv` for a weight (*kernel, 1, channels * multiplier)."""
    channels, kernel = x.shape[-1], weight.shape[:-2]
    ones = (1,) * len(stride)
    back = gradient_pads(x.shape[1:-1], kernel, stride, pads, dilation)

    def form(x: jax.Array, w: jax.Array) -> jax.Array:
        return shift_multiply_add(x, w, stride, pads, dilation)

    def input_gradient(dy: jax.Array, w: jax.Array) -> jax.Array:
        mirrored = jnp.flip(w, tuple(range(len(kernel))))
        return shift_multiply_add(spread(dy, stride, back), mirrored, ones, ((0, 0),) * len(ones), dilation)

    def weight_gradient(x: jax.Array, dy: jax.Array) -> jax.Array:
        @partial(jax.checkpoint, prevent_cse=False)  # else the views of all examples are kept
        def add_one_example(total: jax.Array, example: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
            # A whole batch in one reduction falls out of the cache: 27 ms where this takes 6 (16x32x32x128).
            dy, x = example
            views = [view for _, view in shifted(x[None], kernel, stride, dilation)]
            return total + jnp.stack([(view[0] * dy).sum(range(len(kernel))) for view in views]), None

        padded = pad_axes(x, pads, "zeros", "conv")
        zero = jnp.zeros((math.prod(kernel), channels), x.dtype)
        return jax.lax.scan(add_one_example, zero, (dy, padded))[0].reshape(*kernel, channels)

    multiplier = weight.shape[-1] // channels
    factors = weight.reshape(*kernel, channels, multiplier)
    outs = [
        with_gradients(form, input_gradient, weight_gradient, x, factors[..., m]) for m in range(multiplier)
    ]
    return outs[0] if multiplier == 1 else jnp.stack(outs, -1).reshape(*outs[0].shape[:-1], weight.shape[-1])


def shift_multiply_add(x: jax.Array, w: jax.Array, stride: Axes, pads: Pairs, dilation: Axes) -> jax.Array:
    """(batch, *spatial, channels) with (*kernel, channels)."""
    views = shifted(pad_axes(x, pads, "zeros", "conv"), w.shape[:-1], stride, dilation)
    return reduce(add, (view * jax.lax.broadcast(w[position], view.shape[:-1]) for position, view in views))
