"""Activations that have weights; the others are functions, such as `F.relu`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax

from fnet import functional as F
from fnet import init
from fnet.nn.core import Layer, Param


@dataclass(frozen=True, repr=False)
class PReLU(Layer):
    """``x`` where it is positive, else ``weight * x``, with one learned slope or one per channel of the last axis.

    ``weight`` is ``(num_parameters,)``, all ``start`` at first (PyTorch's ``init``). Source: He et al. 2015
    (arXiv:1502.01852).

    >>> import jax, jax.numpy as jnp
    >>> from fnet import nn
    >>> params, _ = nn.PReLU().init(jax.random.key(0), jnp.ones((2, 3)))
    >>> nn.PReLU()(params, jnp.array([-1.0, 2.0]))
    Array([-0.25,  2.  ], dtype=float32)
    """

    keyless = True

    num_parameters: int = 1
    start: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_parameters < 1:
            raise ValueError(f"PReLU needs num_parameters of at least 1, got {self.num_parameters!r}")

    def spec(self, x: Any) -> dict[str, Param]:
        if self.num_parameters != 1 and x.shape[-1:] != (self.num_parameters,):
            raise ValueError(
                f"PReLU({self.num_parameters}) takes inputs of {self.num_parameters} channels on the last axis, "
                f"got {tuple(x.shape)}"
            )
        return {"weight": Param((self.num_parameters,), init.constant(self.start))}

    def apply(self, params: dict, state: dict, x: Any, key: Any = None, train: bool = False) -> tuple[jax.Array, dict]:
        return F.prelu(x, params["weight"]), state
