"""Feed-forward blocks with a gate: SwiGLU and GEGLU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax

from fnet import functional as F
from fnet.nn.core import Layer
from fnet.nn.core.param import Spec, Tree
from fnet.nn.linear import Linear


@dataclass(frozen=True, repr=False)
class _Gated(Layer):
    keyless = True

    hidden_features: int
    out_features: int | None = None
    bias: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        name, out = type(self).__name__, self.out_features
        if not isinstance(self.hidden_features, int) or self.hidden_features < 1:
            raise ValueError(f"{name} needs hidden_features of at least 1, got {self.hidden_features!r}")
        if out is not None and (not isinstance(out, int) or out < 1):
            raise ValueError(f"{name} needs out_features of at least 1 or None, for as many as come in; got {out!r}")

    def spec(self, x: Any) -> Spec:
        if len(x.shape) < 1:
            raise ValueError(f"{type(self).__name__} needs an input of at least one axis, (…, features); got a scalar")
        hidden = jax.ShapeDtypeStruct((*x.shape[:-1], self.hidden_features), x.dtype)
        wide = Linear(self.hidden_features, self.bias).spec(x)
        down = Linear(self.out_features or x.shape[-1], self.bias).spec(hidden)
        return {"gate_proj": wide, "up_proj": wide, "down_proj": down}

    def _gate(self, gate: jax.Array, up: jax.Array) -> jax.Array:
        raise NotImplementedError

    def apply(self, params: Tree, state: Tree, x: Any, key: Any = None, train: bool = False) -> tuple[jax.Array, Tree]:
        h = self._gate(*(F.linear(x, *self._weights(params[name])) for name in ("gate_proj", "up_proj")))
        return F.linear(h, *self._weights(params["down_proj"])), state

    def _weights(self, params: Tree) -> tuple[Any, ...]:
        return (params["weight"], params["bias"]) if self.bias else (params["weight"],)


@dataclass(frozen=True, repr=False)
class SwiGLU(_Gated):
    """``down_proj(silu(gate_proj(x)) * up_proj(x))``, the feed-forward block of Llama, with its names.

    Input ``(…, features)``, output ``(…, out_features)``, as many as come in where that is None; ``gate_proj.weight``
    and ``up_proj.weight`` are ``(features, hidden_features)``. Source: Shazeer 2020, "GLU Variants Improve
    Transformer", which takes 2/3 of the usual hidden width to keep the number of weights.

    >>> import jax, jax.numpy as jnp
    >>> from fnet import nn
    >>> params, _ = nn.SwiGLU(8).init(jax.random.key(0), jnp.ones((2, 3)))
    >>> list(params), nn.SwiGLU(8)(params, jnp.ones((2, 3))).shape
    (['gate_proj', 'up_proj', 'down_proj'], (2, 3))
    """

    def _gate(self, gate: jax.Array, up: jax.Array) -> jax.Array:
        return F.swiglu(gate, up)


@dataclass(frozen=True, repr=False)
class GEGLU(_Gated):
    """``down_proj(gelu(gate_proj(x)) * up_proj(x))``: `SwiGLU` with gelu, exact or, ``approximate="tanh"``, as in
    Gemma and T5 v1.1.

    >>> import jax, jax.numpy as jnp
    >>> from fnet import nn
    >>> params, _ = nn.GEGLU(8).init(jax.random.key(0), jnp.ones((2, 3)))
    >>> nn.GEGLU(8)(params, jnp.ones((2, 3))).shape
    (2, 3)
    """

    approximate: str = "none"

    def _gate(self, gate: jax.Array, up: jax.Array) -> jax.Array:
        return F.geglu(gate, up, self.approximate)
