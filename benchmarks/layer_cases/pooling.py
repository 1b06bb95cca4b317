"""Pooling: windows side by side, overlapping windows, global and adaptive pooling."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import flax.linen
import torch

from fnet import nn
from layer_cases import Case


def pool(kind: str, shape: tuple[int, ...], size: int, stride: int, padding: int = 0) -> Case:
    ours, theirs, rival, flax_pool = {
        "max": (nn.MaxPool, torch.nn.MaxPool2d, eqx.nn.MaxPool2d, flax.linen.max_pool),
        "mean": (nn.AvgPool, torch.nn.AvgPool2d, eqx.nn.AvgPool2d, flax.linen.avg_pool),
    }[kind]
    sides = ((padding, padding), (padding, padding))
    return Case(
        f"{kind} {size}x{size}, stride {stride}, {'x'.join(map(str, shape))}",
        inputs=(shape,),
        fnet=lambda: ours(size, stride, padding),
        torch=lambda: theirs(size, stride, padding),
        flax=lambda rngs: lambda x: flax_pool(x, (size, size), (stride, stride), sides),
        equinox=lambda key: rival(size, stride, padding),
        channels_first=True,
    )


def whole(name: str, layer: Any, theirs: Any, rival: Any, flax_form: Any) -> Case:
    return Case(
        f"{name} 64x14x14x256",
        inputs=((64, 14, 14, 256),),
        fnet=layer,
        torch=theirs,
        flax=flax_form,
        equinox=rival,
        channels_first=True,
    )


CASES = [
    pool("max", (128, 28, 28, 16), 2, 2),
    pool("max", (32, 32, 32, 64), 2, 2),
    pool("max", (16, 56, 56, 64), 3, 2, 1),
    pool("max", (32, 28, 28, 32), 3, 1, 1),
    pool("mean", (128, 28, 28, 16), 2, 2),
    pool("mean", (32, 28, 28, 32), 3, 1, 1),
    whole("global mean", nn.GlobalAvgPool, lambda: torch.nn.AdaptiveAvgPool2d(1),
          lambda key: eqx.nn.AdaptiveAvgPool2d(1), lambda rngs: lambda x: x.mean((1, 2))),
    whole("global max", nn.GlobalMaxPool, lambda: torch.nn.AdaptiveMaxPool2d(1),
          lambda key: eqx.nn.AdaptiveMaxPool2d(1), lambda rngs: lambda x: x.max((1, 2))),
    whole("adaptive mean to 3", lambda: nn.AdaptiveAvgPool(3), lambda: torch.nn.AdaptiveAvgPool2d(3),
          lambda key: eqx.nn.AdaptiveAvgPool2d(3), None),
]  # fmt: skip
