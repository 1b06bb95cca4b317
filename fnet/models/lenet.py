"""LeNet-5 (LeCun et al. 1998), with the ReLU, the maximum pooling and the linear head of today."""

from __future__ import annotations

from typing import Any

import jax

from fnet import functional as F
from fnet import nn


def forward(x: Any, conv1: Any, conv2: Any, fc1: Any, fc2: Any, fc3: Any) -> jax.Array:
    x = F.max_pool2d(F.relu(conv1(x)), 2)
    x = F.max_pool2d(F.relu(conv2(x)), 2)
    x = x.reshape(len(x), -1)
    return fc3(F.relu(fc2(F.relu(fc1(x)))))


def lenet(num_classes: int = 10) -> nn.Model:
    """LeNet-5: images (batch, 28, 28, channels) -> (batch, num_classes).

    >>> import jax, jax.numpy as jnp
    >>> from fnet import models
    >>> params, _ = models.lenet().init(jax.random.key(0), jnp.ones((2, 28, 28, 1)))
    >>> models.lenet()(params, jnp.ones((2, 28, 28, 1))).shape
    (2, 10)
    """
    return nn.Model(
        forward, conv1=nn.Conv(6, 5, padding=2), conv2=nn.Conv(16, 5), fc1=nn.Linear(120), fc2=nn.Linear(84),
        fc3=nn.Linear(num_classes),
    )  # fmt: skip
