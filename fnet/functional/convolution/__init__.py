"""Convolutions, their transposes, and what is made of the same windows: padding, unfold and fold."""

from fnet.functional.convolution.conv import conv, conv1d, conv2d, conv3d
from fnet.functional.convolution.fold import fold, unfold
from fnet.functional.convolution.padding import pad
from fnet.functional.convolution.transpose import (
    conv_transpose,
    conv_transpose1d,
    conv_transpose2d,
    conv_transpose3d,
)

__all__ = [
    "conv", "conv1d", "conv2d", "conv3d", "conv_transpose", "conv_transpose1d", "conv_transpose2d",
    "conv_transpose3d", "fold", "pad", "unfold",
]  # fmt: skip
