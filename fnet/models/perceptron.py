"""The multilayer perceptron."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax

from fnet import functional as F
from fnet import nn


def mlp(
    num_classes: int,
    hidden: Sequence[int] = (512, 512),
    activation: Callable[[jax.Array], jax.Array] = F.relu,
    dropout: float = 0.0,
) -> nn.Model:
    """Linear layers with an activation between them: (batch, …) -> (batch, num_classes); images are flattened.

    >>> import jax, jax.numpy as jnp
    >>> from fnet import models
    >>> model, x = models.mlp(10, (128,)), jnp.ones((2, 28, 28, 1))
    >>> params, _ = model.init(jax.random.key(0), x)
    >>> model(params, x).shape
    (2, 10)
    """

    layers: list[Any] = [nn.Flatten()]
    for width in hidden:
        layers += [nn.Linear(width), activation, *([nn.Dropout(dropout)] if dropout else [])]
    return nn.Sequential(*layers, nn.Linear(num_classes))
