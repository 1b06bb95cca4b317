"""The convolution as XLA has it, which GPU and TPU get."""

from __future__ import annotations

import jax

from fnet.functional.convolution.arguments import Axes
from fnet.functional.convolution.padding import Pairs


def conv(
    x: jax.Array,
    weight: jax.Array,
    stride: Axes,
    pads: Pairs,
    dilation: Axes,
    groups: int = 1,
    input_dilation: Axes | None = None,
) -> jax.Array:
    """(batch, *spatial, in) with (*kernel, in / groups, out) to (batch, *spatial', out)."""
    rank = weight.ndim - 2
    batch_first = (0, rank + 1, *range(1, rank + 1))
    layout = jax.lax.ConvDimensionNumbers(batch_first, (rank + 1, rank, *range(rank)), batch_first)
    return jax.lax.conv_general_dilated(
        x, weight, stride, pads, input_dilation, dilation, layout, feature_group_count=groups
    )
