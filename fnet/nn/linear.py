"""Linear, and its form for two inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax

from fnet import functional as F
from fnet import init
from fnet.nn.core import Layer, Param


@dataclass(frozen=True, repr=False)
class Linear(Layer):
    """``y = x @ weight + bias`` over the last axis.

    Input ``(…, in_features)``, output ``(…, out_features)``; ``weight`` is ``(in_features, out_features)``, the
    transpose of PyTorch's. Initialised as PyTorch does, uniform in ±1/√in_features. Computes in the weight's dtype.

    >>> import jax, jax.numpy as jnp
    >>> from fnet import nn
    >>> params, state = nn.Linear(3).init(jax.random.key(0), jnp.ones((8, 5)))
    >>> params["weight"].shape, params["bias"].shape
    ((5, 3), (3,))
    """

    keyless = True

    out_features: int
    bias: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.out_features, int) or self.out_features < 1:
            raise ValueError(f"Linear needs out_features of at least 1, got {self.out_features!r}")
        if not isinstance(self.bias, bool):
            raise TypeError(
                f"Linear's bias is True or False, got {self.bias!r}; the input's width is read from the data, so "
                f"PyTorch's Linear(in, out) is Linear(out) here"
            )

    def spec(self, x: Any) -> dict[str, Param]:
        if len(x.shape) < 1:
            raise ValueError("Linear needs an input of at least one axis, (…, in_features); got a scalar")
        in_features = x.shape[-1]
        spec = {"weight": Param((in_features, self.out_features), init.torch_uniform())}
        return spec | {"bias": Param((self.out_features,), init.torch_uniform(in_features))} if self.bias else spec

    def apply(self, params: dict, state: dict, x: Any, key: Any = None, train: bool = False) -> tuple[jax.Array, dict]:
        return F.linear(x, params["weight"], params["bias"] if self.bias else None), state


@dataclass(frozen=True, repr=False)
class Bilinear(Layer):
    """``y_o = Σ x1_i weight_ijo x2_j + bias_o`` over the last axes of two inputs.

    Inputs ``(…, in1_features)`` and ``(…, in2_features)`` with equal leading axes, output ``(…, out_features)``;
    ``weight`` is ``(in1_features, in2_features, out_features)``, whose last axis is PyTorch's first. Initialised as
    PyTorch does, uniform in ±1/√in1_features.

    >>> import jax, jax.numpy as jnp
    >>> from fnet import nn
    >>> x1, x2 = jnp.ones((8, 5)), jnp.ones((8, 6))
    >>> params, state = nn.Bilinear(3).init(jax.random.key(0), x1, x2)
    >>> params["weight"].shape, nn.Bilinear(3)(params, x1, x2).shape
    ((5, 6, 3), (8, 3))
    """

    keyless = True

    out_features: int
    bias: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.out_features, int) or self.out_features < 1:
            raise ValueError(f"Bilinear needs out_features of at least 1, got {self.out_features!r}")
        if not isinstance(self.bias, bool):
            raise TypeError(
                f"Bilinear's bias is True or False, got {self.bias!r}; the inputs' widths are read from the data, so "
                f"PyTorch's Bilinear(in1, in2, out) is Bilinear(out) here"
            )

    def spec(self, x1: Any, x2: Any) -> dict[str, Param]:
        if len(x1.shape) < 1 or len(x2.shape) < 1:
            raise ValueError(f"Bilinear needs inputs (…, features), got {tuple(x1.shape)} and {tuple(x2.shape)}")
        in1 = x1.shape[-1]
        draw = init.torch_uniform(in1)
        spec = {"weight": Param((in1, x2.shape[-1], self.out_features), draw)}
        return spec | {"bias": Param((self.out_features,), draw)} if self.bias else spec

    def apply(
        self, params: dict, state: dict, x1: Any, x2: Any, key: Any = None, train: bool = False
    ) -> tuple[jax.Array, dict]:
        return F.bilinear(x1, x2, params["weight"], params["bias"] if self.bias else None), state
