"""Residual networks (He et al. 2016, arXiv:1512.03385): for ImageNet, with torchvision's names, and for CIFAR."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from fnet import functional as F
from fnet import init, nn

# The paper's initialisation, for ``model.init(key, x, init=models.RESNET_INIT)``.
RESNET_INIT = {("*conv?.weight", "*downsample.0.weight"): init.kaiming_normal(mode="fan_out", nonlinearity="relu")}


def basic(x: Any, conv1: Any, bn1: Any, conv2: Any, bn2: Any, downsample: Any) -> jax.Array:
    h = F.relu(bn1(conv1(x)))
    return F.relu(bn2(conv2(h)) + (downsample(x) if downsample else x))


def bottleneck(
    x: Any, conv1: Any, bn1: Any, conv2: Any, bn2: Any, conv3: Any, bn3: Any, downsample: Any
) -> jax.Array:
    h = F.relu(bn1(conv1(x)))
    h = F.relu(bn2(conv2(h)))
    return F.relu(bn3(conv3(h)) + (downsample(x) if downsample else x))


def resnet(
    x: Any, conv1: Any, bn1: Any, layer1: Any, layer2: Any, layer3: Any, layer4: Any, fc: Any
) -> jax.Array:
    """torchvision's ResNet: stem, four groups of blocks, mean over positions, linear head."""
    h = F.max_pool2d(F.relu(bn1(conv1(x))), 3, stride=2, padding=1)
    for block in [*layer1, *layer2, *layer3, *layer4]:
        h = block(h)
    return fc(h.mean((-3, -2)))


def _conv(width: int, size: int, stride: int = 1) -> nn.Conv:
    return nn.Conv(width, size, stride, padding=size // 2, bias=False)


def _basic(width: int, stride: int, project: bool) -> nn.Model:
    return nn.Model(
        basic, conv1=_conv(width, 3, stride), bn1=nn.BatchNorm(), conv2=_conv(width, 3), bn2=nn.BatchNorm(),
        downsample=nn.Sequential(_conv(width, 1, stride), nn.BatchNorm()) if project else None,
    )  # fmt: skip


def _bottleneck(width: int, stride: int, project: bool) -> nn.Model:
    # The stride is in the 3×3 convolution, as in torchvision; the paper has it in the first 1×1.
    return nn.Model(
        bottleneck, conv1=_conv(width, 1), bn1=nn.BatchNorm(), conv2=_conv(width, 3, stride), bn2=nn.BatchNorm(),
        conv3=_conv(4 * width, 1), bn3=nn.BatchNorm(),
        downsample=nn.Sequential(_conv(4 * width, 1, stride), nn.BatchNorm()) if project else None,
    )  # fmt: skip


def _imagenet(block: Any, depths: Sequence[int], num_classes: int) -> nn.Model:
    groups = {}
    for group, depth in enumerate(depths):
        width, stride = 64 * 2**group, 1 if group == 0 else 2
        wider = group > 0 or block is _bottleneck
        groups[f"layer{group + 1}"] = [
            block(width, stride if i == 0 else 1, project=i == 0 and wider) for i in range(depth)
        ]
    return nn.Model(
        resnet, conv1=nn.Conv(64, 7, 2, padding=3, bias=False), bn1=nn.BatchNorm(), **groups, fc=nn.Linear(num_classes)
    )


def resnet18(num_classes: int = 1000) -> nn.Model:
    """ResNet-18: images (batch, height, width, 3), 224×224 as a rule, -> (batch, num_classes).

    Names and numbers are torchvision's: ``io.from_torch(models.resnet18(), "resnet18.pth", x)`` loads its weights.

    >>> import jax
    >>> import fnet
    >>> from fnet import models
    >>> x = jax.ShapeDtypeStruct((1, 224, 224, 3), "float32")
    >>> params, state = jax.eval_shape(models.resnet18().init, jax.random.key(0), x)
    >>> fnet.count(params)
    11689512
    """
    return _imagenet(_basic, (2, 2, 2, 2), num_classes)


def resnet34(num_classes: int = 1000) -> nn.Model:
    """ResNet-34, otherwise as `resnet18`.

    >>> import jax, fnet
    >>> x = jax.ShapeDtypeStruct((1, 224, 224, 3), "float32")
    >>> fnet.count(jax.eval_shape(resnet34().init, jax.random.key(0), x)[0])
    21797672
    """
    return _imagenet(_basic, (3, 4, 6, 3), num_classes)


def resnet50(num_classes: int = 1000) -> nn.Model:
    """ResNet-50, of bottleneck blocks with the stride in the 3×3 convolution; otherwise as `resnet18`.

    >>> import jax, fnet
    >>> x = jax.ShapeDtypeStruct((1, 224, 224, 3), "float32")
    >>> fnet.count(jax.eval_shape(resnet50().init, jax.random.key(0), x)[0])
    25557032
    """
    return _imagenet(_bottleneck, (3, 4, 6, 3), num_classes)


def resnet101(num_classes: int = 1000) -> nn.Model:
    """ResNet-101, otherwise as `resnet50`.

    >>> import jax, fnet
    >>> x = jax.ShapeDtypeStruct((1, 224, 224, 3), "float32")
    >>> fnet.count(jax.eval_shape(resnet101().init, jax.random.key(0), x)[0])
    44549160
    """
    return _imagenet(_bottleneck, (3, 4, 23, 3), num_classes)


def cifar_block(x: Any, conv1: Any, bn1: Any, conv2: Any, bn2: Any) -> jax.Array:
    """The block of section 4.2: where it widens, the shortcut takes every second position, and zeros (option A)."""
    h = F.relu(bn1(conv1(x)))
    h = bn2(conv2(h))
    if h.shape != x.shape:
        x = x[..., ::2, ::2, :]
        x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, h.shape[-1] - x.shape[-1])])
    return F.relu(h + x)


def cifar_resnet(x: Any, conv1: Any, bn1: Any, layer1: Any, layer2: Any, layer3: Any, fc: Any) -> jax.Array:
    """The network of section 4.2: three groups of blocks at 32, 16 and 8 pixels."""
    h = F.relu(bn1(conv1(x)))
    for block in [*layer1, *layer2, *layer3]:
        h = block(h)
    return fc(h.mean((-3, -2)))


def _cifar(depth: int, num_classes: int, width: int) -> nn.Model:
    def group(width: int, stride: int) -> list[nn.Model]:
        return [
            nn.Model(
                cifar_block, conv1=_conv(width, 3, stride if i == 0 else 1), bn1=nn.BatchNorm(), conv2=_conv(width, 3),
                bn2=nn.BatchNorm(),
            )
            for i in range((depth - 2) // 6)
        ]  # fmt: skip

    return nn.Model(
        cifar_resnet, conv1=_conv(width, 3), bn1=nn.BatchNorm(), layer1=group(width, 1), layer2=group(2 * width, 2),
        layer3=group(4 * width, 2), fc=nn.Linear(num_classes),
    )  # fmt: skip


def resnet20(num_classes: int = 10, width: int = 16) -> nn.Model:
    """ResNet-20 for images of 32×32: (batch, 32, 32, channels) -> (batch, num_classes), 0.27 M parameters.

    >>> import jax, jax.numpy as jnp
    >>> import fnet
    >>> from fnet import models
    >>> params, state = jax.eval_shape(models.resnet20().init, jax.random.key(0), jnp.ones((1, 32, 32, 3)))
    >>> fnet.count(params)
    269722
    """
    return _cifar(20, num_classes, width)


def resnet32(num_classes: int = 10, width: int = 16) -> nn.Model:
    """ResNet-32, 0.46 M parameters; otherwise as `resnet20`.

    >>> import jax, fnet
    >>> x = jax.ShapeDtypeStruct((1, 32, 32, 3), "float32")
    >>> fnet.count(jax.eval_shape(resnet32().init, jax.random.key(0), x)[0])
    464154
    """
    return _cifar(32, num_classes, width)


def resnet56(num_classes: int = 10, width: int = 16) -> nn.Model:
    """ResNet-56, 0.85 M parameters; otherwise as `resnet20`.

    >>> import jax, fnet
    >>> x = jax.ShapeDtypeStruct((1, 32, 32, 3), "float32")
    >>> fnet.count(jax.eval_shape(resnet56().init, jax.random.key(0), x)[0])
    853018
    """
    return _cifar(56, num_classes, width)
