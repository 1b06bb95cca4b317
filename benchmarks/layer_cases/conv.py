"""Convolutions: ordinary, strided, 1x1, depthwise, grouped, of few channels, transposed, over 1 to 3 axes."""

from __future__ import annotations

import equinox as eqx
import torch
from flax import nnx

from fnet import nn
from layer_cases import Case


def conv(
    name: str,
    batch: int,
    size: tuple[int, ...],
    n_in: int,
    n_out: int,
    kernel: int,
    stride: int = 1,
    padding: int | None = None,
    dilation: int = 1,
    groups: int = 1,
) -> Case:
    rank = len(size)
    padding = dilation * (kernel // 2) if padding is None else padding
    arguments = (kernel, stride, padding, dilation, groups)
    ranked = f"Conv{rank}d"
    return Case(
        f"{name}: {batch}x{'x'.join(map(str, size))}, {n_in} to {n_out}",
        inputs=((batch, *size, n_in),),
        fnet=lambda: nn.Conv(n_out, *arguments),
        torch=lambda: getattr(torch.nn, ranked)(n_in, n_out, *arguments),
        flax=lambda rngs: nnx.Conv(
            n_in, n_out, (kernel,) * rank, strides=stride, padding=[(padding, padding)] * rank,
            kernel_dilation=dilation, feature_group_count=groups, rngs=rngs,
        ),
        equinox=lambda key: getattr(eqx.nn, ranked)(n_in, n_out, *arguments, key=key),
        channels_first=True,
    )  # fmt: skip


def transposed(batch: int, size: int, n_in: int, n_out: int, kernel: int, stride: int, padding: int) -> Case:
    after = kernel - 1 - padding  # Flax counts the padding of the spread input
    return Case(
        f"transposed {kernel}x{kernel}, stride {stride}: {batch}x{size}x{size}, {n_in} to {n_out}",
        inputs=((batch, size, size, n_in),),
        fnet=lambda: nn.ConvTranspose(n_out, kernel, stride, padding),
        torch=lambda: torch.nn.ConvTranspose2d(n_in, n_out, kernel, stride, padding),
        flax=lambda rngs: nnx.ConvTranspose(
            n_in, n_out, (kernel, kernel), strides=(stride, stride), padding=[(after, after)] * 2, rngs=rngs
        ),
        equinox=lambda key: eqx.nn.ConvTranspose2d(n_in, n_out, kernel, stride, padding=padding, key=key),
        channels_first=True,
    )


CASES = [
    conv("3x3", 64, (32, 32), 16, 16, 3),
    conv("3x3", 64, (16, 16), 32, 32, 3),
    conv("3x3", 64, (8, 8), 64, 64, 3),
    conv("3x3, stride 2", 64, (32, 32), 16, 32, 3, stride=2),
    conv("3x3, stride 2", 64, (16, 16), 32, 64, 3, stride=2),
    conv("3x3", 8, (32, 32), 64, 64, 3),
    conv("3x3 of RGB", 64, (32, 32), 3, 16, 3),
    conv("5x5 of 1 channel", 128, (28, 28), 1, 6, 5),
    conv("5x5 of 6 channels", 128, (14, 14), 6, 16, 5, padding=0),
    conv("patches 4x4", 64, (32, 32), 3, 192, 4, stride=4, padding=0),
    conv("1x1", 32, (16, 16), 64, 256, 1),
    conv("1x1, stride 2", 64, (32, 32), 16, 32, 1, stride=2),
    conv("depthwise 3x3", 16, (32, 32), 128, 128, 3, groups=128),
    conv("depthwise 7x7", 16, (16, 16), 96, 96, 7, groups=96),
    conv("4 groups 3x3", 16, (32, 32), 64, 64, 3, groups=4),
    conv("32 groups 3x3", 16, (16, 16), 128, 128, 3, groups=32),
    conv("dilated 3x3", 16, (32, 32), 32, 32, 3, dilation=2),
    conv("1-D, 5", 32, (256,), 64, 64, 5),
    conv("3-D, 3x3x3", 4, (16, 16, 16), 16, 16, 3),
    transposed(32, 16, 32, 16, 2, 2, 0),
    transposed(32, 16, 32, 16, 4, 2, 1),
]
