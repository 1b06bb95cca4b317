"""Few channels: several neighbouring outputs along the last spatial axis, computed together as channels of one.

XLA's convolution gathers a window for every output and multiplies it with the kernel. With few channels it is the
gathering that takes the time. A window over `together` neighbours shares most of what they read, and the matrix that
it meets, the kernel at each of its places with zeros around, is wide enough for the matmul. Channels are last,
so the result is the output as it lies.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fnet.functional.convolution import plain
from fnet.functional.convolution.arguments import Axes
from fnet.functional.convolution.cpu.windows import output_size
from fnet.functional.convolution.padding import Pairs


def conv(x: jax.Array, weight: jax.Array, stride: Axes, pads: Pairs, dilation: Axes, together: int) -> jax.Array:
    """`plain.conv` with dilation 1 in the last spatial axis, `together` outputs of which at a time."""
    rank, step = len(stride), stride[-1]
    out = output_size(x.shape[1:-1], weight.shape[:rank], stride, pads, dilation)
    span = weight.shape[rank - 1] + (together - 1) * step

    def placed(i: int) -> jax.Array:
        config = [(0, 0, 0)] * (rank - 1) + [(i * step, (together - 1 - i) * step, 0), (0, 0, 0), (0, 0, 0)]
        return jax.lax.pad(weight, jnp.zeros((), weight.dtype), config)

    wide = jnp.stack([placed(i) for i in range(together)], -2)
    wide = wide.reshape(*wide.shape[:-2], together * weight.shape[-1])
    groups = -(-out[-1] // together)
    low = pads[-1][0]
    high = (groups - 1) * together * step + span - x.shape[-2] - low
    whole = plain.conv(x, wide, (*stride[:-1], together * step), (*pads[:-1], (low, high)), dilation)
    whole = whole.reshape(*whole.shape[:-2], groups * together, weight.shape[-1])
    return whole if groups * together == out[-1] else whole[..., : out[-1], :]
