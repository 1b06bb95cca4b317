"""Dropout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax

from fnet import functional as F
from fnet.nn.core import Layer


@dataclass(frozen=True, repr=False)
class Dropout(Layer):
    """In training, each value is zero with probability ``p`` and else divided by ``1 - p``; otherwise the identity.

    Needs a key in training: a model gives each of its parts one of its own. Source: Srivastava et al. 2014.

    >>> import jax, jax.numpy as jnp
    >>> from fnet import nn
    >>> y, _ = nn.Dropout(0.5).apply({}, {}, jnp.ones(1000), key=jax.random.key(0), train=True)
    >>> sorted(set(y.tolist()))
    [0.0, 2.0]
    """

    p: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.p <= 1.0:
            raise ValueError(f"Dropout's p is a probability between 0 and 1, got {self.p!r}")

    def apply(self, params: dict, state: dict, x: Any, key: Any = None, train: bool = False) -> tuple[jax.Array, dict]:
        return F.dropout(x, self.p, train, key=key), state
