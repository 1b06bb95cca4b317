"""MobileNetV2 (Sandler et al. 2018, arXiv:1801.04381), with torchvision's names and numbers."""

from __future__ import annotations

from typing import Any

import jax

from fnet import functional as F
from fnet import nn

# Expansion, width, repeats and first stride of each group of blocks: table 2 of the paper.
BLOCKS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def inverted_residual(x: Any, conv: Any, shortcut: bool) -> jax.Array:
    return x + conv(x) if shortcut else conv(x)


def _conv_norm(width: int, size: int = 1, stride: int = 1, groups: int = 1) -> nn.Model:
    conv = nn.Conv(width, size, stride, padding=size // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm(), F.relu6)


def _block(width_in: int, width: int, stride: int, expansion: int) -> nn.Model:
    hidden = width_in * expansion
    layers = [
        *([_conv_norm(hidden)] if expansion != 1 else []),
        _conv_norm(hidden, 3, stride, groups=hidden),
        nn.Conv(width, 1, bias=False),
        nn.BatchNorm(),
    ]
    return nn.Model(inverted_residual, conv=nn.Sequential(*layers), shortcut=stride == 1 and width_in == width)


def _rounded(width: float) -> int:
    """The nearest multiple of 8 that is no more than a tenth smaller."""
    nearest = max(8, int(width + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * width else nearest


def mobilenet_v2(num_classes: int = 1000, width_mult: float = 1.0, dropout: float = 0.2) -> nn.Model:
    """MobileNetV2: images (batch, height, width, 3), 224×224 as a rule, -> (batch, num_classes).

    ``io.from_torch(models.mobilenet_v2(), "mobilenet_v2.pth", x)`` loads torchvision's weights.

    >>> import jax
    >>> import fnet
    >>> from fnet import models
    >>> x = jax.ShapeDtypeStruct((1, 224, 224, 3), "float32")
    >>> fnet.count(jax.eval_shape(models.mobilenet_v2().init, jax.random.key(0), x)[0])
    3504872
    """
    width = _rounded(32 * width_mult)
    features = [_conv_norm(width, 3, 2)]
    for expansion, base, repeats, stride in BLOCKS:
        for i in range(repeats):
            wider = _rounded(base * width_mult)
            features.append(_block(width, wider, stride if i == 0 else 1, expansion))
            width = wider
    features.append(_conv_norm(_rounded(1280 * max(1.0, width_mult))))
    classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(num_classes))
    return nn.Sequential(features=nn.Sequential(*features), pool=nn.GlobalAvgPool(), classifier=classifier)
