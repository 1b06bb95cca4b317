"""ConvNeXt (Liu et al. 2022, arXiv:2201.03545), with torchvision's names and numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

from fnet import functional as F
from fnet import init, nn


def convnext_block(x: Any, block: dict[str, Any], layer_scale: Any, stochastic_depth: Any) -> jax.Array:
    """A depthwise convolution, then a perceptron at each position, in a residual sum; block: torchvision's numbers."""
    h = block["2"](block["0"](x))
    h = block["5"](F.gelu(block["3"](h)))
    return x + stochastic_depth(layer_scale * h)


def _block(width: int, drop: float) -> nn.Model:
    parts = {
        "0": nn.Conv(width, 7, padding=3, groups=width),
        "2": nn.LayerNorm(1e-6),
        "3": nn.Linear(4 * width),
        "5": nn.Linear(width),
    }
    scale = nn.Param((width,), init.constant(1e-6), torch_shape=(width, 1, 1))
    return nn.Model(convnext_block, block=parts, layer_scale=scale, stochastic_depth=nn.DropPath(drop))


def convnext(
    depths: Sequence[int], widths: Sequence[int], num_classes: int = 1000, drop_path: float = 0.1
) -> nn.Model:
    """A ConvNeXt of any size: images (batch, height, width, channels) -> (batch, num_classes).

    ``depths`` are the blocks of each stage, ``widths`` their channels; each stage has half the size of the one before,
    the first a quarter of the image's. ``drop_path`` is the rate of the last block, from 0 at the first.

    >>> import jax, jax.numpy as jnp
    >>> model, x = convnext((1, 1), (8, 16), 10), jnp.ones((2, 32, 32, 3))
    >>> model(model.init(jax.random.key(0), x)[0], x).shape
    (2, 10)
    """
    features: list[Any] = [nn.Sequential(nn.Conv(widths[0], 4, stride=4), nn.LayerNorm(1e-6))]
    total, done = sum(depths), 0
    for stage, (depth, width) in enumerate(zip(depths, widths, strict=True)):
        if stage:
            features.append(nn.Sequential(nn.LayerNorm(1e-6), nn.Conv(width, 2, stride=2)))
        rates = [drop_path * (done + i) / max(1, total - 1) for i in range(depth)]
        features.append(nn.Sequential(*(_block(width, rate) for rate in rates)))
        done += depth
    classifier = nn.Sequential(nn.LayerNorm(1e-6), nn.Flatten(), nn.Linear(num_classes))
    return nn.Sequential(features=nn.Sequential(*features), pool=nn.GlobalAvgPool(), classifier=classifier)


def convnext_tiny(num_classes: int = 1000, drop_path: float = 0.1) -> nn.Model:
    """ConvNeXt-Tiny: images (batch, height, width, 3), 224×224 as a rule, -> (batch, num_classes).

    ``io.from_torch(models.convnext_tiny(), "convnext_tiny.pth", x)`` loads torchvision's weights.

    >>> import jax
    >>> import fnet
    >>> from fnet import models
    >>> x = jax.ShapeDtypeStruct((1, 224, 224, 3), "float32")
    >>> fnet.count(jax.eval_shape(models.convnext_tiny().init, jax.random.key(0), x)[0])
    28589128
    """
    return convnext((3, 3, 9, 3), (96, 192, 384, 768), num_classes, drop_path)
