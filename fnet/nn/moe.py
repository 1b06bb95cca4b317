"""A mixture of experts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from fnet import functional as F
from fnet import init
from fnet.functional.dtypes import at_least_float32
from fnet.functional.moe import combine, dispatch, route
from fnet.nn.combinators import stacked
from fnet.nn.core import Layer, Param
from fnet.nn.core.frame import PartScope
from fnet.nn.core.keys import fold_index
from fnet.nn.core.param import NoState, Spec, Tree
from fnet.nn.core.walk import is_layer, record, run, specs_of

LOSSES = ("load_balancing_loss", "router_z_loss")


@dataclass(frozen=True, repr=False)
class MoE(Layer):
    """A mixture of experts: a router sends each token to ``top_k`` of ``num_experts`` copies of the layer ``expert``.

    Input ``(…, features)``, each of the leading axes' entries a token; output ``(…, expert's features)``, the sum of
    the chosen experts' outputs weighted by the gates. Names: ``router.weight`` ``(features, num_experts)`` and
    ``experts.…``, the expert's own with a leading axis over experts, as `Ensemble`'s.

    - The router computes in float32 at least. Gates are the softmax over all experts, renormalised over the chosen
      ones (GShard, Mixtral); with ``top_k=1`` the probability itself, as Switch has it, since 1 would teach the router
      nothing. ``renormalize`` says it otherwise.
    - An expert takes ``ceil(capacity_factor * top_k * tokens / num_experts)`` tokens a call, first choices first and
      then in order; what comes later passes as zero (put the layer in `Residual`). ``capacity_factor=None``: no limit,
      for as much memory as if every token went to every expert.
    - ``mask``, bool of the leading axes: where False a token takes no place, gives zero and counts in no loss.
    - The state holds ``load_balancing_loss`` (Fedus et al. 2021, eq. 4–6, 1 when even) and ``router_z_loss`` (Zoph et
      al. 2022, eq. 5) of the last call, float32, without a coefficient. Add them to your loss, there they are
      differentiable, through `Stack` and `Remat` too: ``0.01 * state["moe"]["load_balancing_loss"].sum()``.

    Source: Shazeer et al. 2017, Lepikhin et al. 2020 (GShard), Fedus et al. 2021 (Switch), Jiang et al. 2024 (Mixtral).

    >>> import jax, jax.numpy as jnp
    >>> from fnet import nn
    >>> moe, x = nn.MoE(nn.SwiGLU(16), num_experts=4), jnp.ones((2, 5, 8))
    >>> params, state = moe.init(jax.random.key(0), x)
    >>> y, state = moe.apply(params, state, x)
    >>> y.shape, params["experts"]["up_proj"]["weight"].shape, sorted(state)
    ((2, 5, 8), (4, 8, 16), ['load_balancing_loss', 'router_z_loss'])
    """

    expert: Any
    num_experts: int
    top_k: int = 2
    capacity_factor: float | None = 1.25
    renormalize: bool | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not is_layer(self.expert):
            raise TypeError(f"MoE takes a layer first, the expert, got {self.expert!r}")
        if not isinstance(self.num_experts, int) or self.num_experts < 1:
            raise ValueError(f"MoE needs num_experts of at least 1, got {self.num_experts!r}")
        if not isinstance(self.top_k, int) or not 1 <= self.top_k <= self.num_experts:
            raise ValueError(f"MoE needs a top_k between 1 and its {self.num_experts} experts, got {self.top_k!r}")
        if self.capacity_factor is not None and self.capacity_factor <= 0:
            raise ValueError(f"MoE needs a capacity_factor above 0, or None for no limit; got {self.capacity_factor!r}")

    @property
    def parts(self) -> dict[str, Any]:
        return {"experts": self.expert}

    def with_parts(self, parts: Mapping[str, Any]) -> MoE:
        return replace(self, expert=parts["experts"])

    def title(self) -> str:
        """The first line of the printed tree."""
        return f"MoE({self.num_experts} experts, top_k={self.top_k})"

    def capacity(self, tokens: int) -> int:
        """How many of so many tokens one expert takes."""
        if self.capacity_factor is None:
            return tokens
        return min(tokens, math.ceil(self.capacity_factor * self.top_k * tokens / self.num_experts))

    def spec(self, *inputs: Any, **kwargs: Any) -> Spec:
        return specs_of(self, inputs, kwargs, False)

    def record_parts(
        self, inputs: tuple[Any, ...], kwargs: Mapping[str, Any], key: Any, train: bool
    ) -> tuple[Spec, Any]:
        """Walk one expert: its Params with a leading axis, and the router's."""
        return self._record(*inputs, **kwargs, key=key, train=train)

    def _record(self, x: Any, mask: Any = None, *, key: Any, train: bool) -> tuple[Spec, Any]:
        tokens, _ = self._tokens(x, mask)
        places = jnp.zeros((self.capacity(len(tokens)), tokens.shape[-1]), tokens.dtype)
        with PartScope("experts", self.expert, (places,)):
            specs, y = record(self.expert, (places,), {}, key, train)
        self._check_output(places, y)
        losses = {name: Param((), init.zeros, trainable=False) for name in LOSSES}
        router = {"weight": Param((tokens.shape[-1], self.num_experts), init.torch_uniform())}
        experts = {"experts": stacked(specs, self.num_experts)} if specs else {}
        return {"router": router, **experts, **losses}, jnp.zeros((*x.shape[:-1], y.shape[-1]), y.dtype)

    def apply(
        self, params: Tree, state: Tree, x: Any, mask: Any = None, *, key: Any = None, train: bool = False
    ) -> tuple[Any, Tree]:
        if isinstance(state, NoState):
            raise TypeError(NoState.message(repr(LOSSES[0])))
        tokens, mask = self._tokens(x, mask)
        capacity = self.capacity(len(tokens))
        weight = at_least_float32(params["router"]["weight"], "MoE")
        logits = F.linear(tokens, weight)
        renormalize = self.top_k > 1 if self.renormalize is None else self.renormalize
        routing = route(logits, self.top_k, capacity, renormalize, mask)

        def one(params: Tree, state: Tree, places: jax.Array, index: jax.Array) -> tuple[Any, Tree]:
            return run(self.expert, params, state, (places,), {}, fold_index(key, index), train)

        places = dispatch(tokens, routing.places_nk, self.num_experts, capacity)
        with PartScope("experts", self.expert, (places[0],)):
            inner = (params.get("experts", {}), state.get("experts", {}), places, jnp.arange(self.num_experts))
            y, own = jax.vmap(one)(*inner)
        self._check_output(places[0], y[0])
        new = {
            "load_balancing_loss": F.load_balancing_loss(logits, routing.experts_nk, mask),
            "router_z_loss": F.router_z_loss(logits, mask),
        }
        new = {name: loss.astype(state[name].dtype) for name, loss in new.items()}
        return combine(y, routing).reshape(*x.shape[:-1], -1), {**state, **new, **({"experts": own} if own else {})}

    def _tokens(self, x: Any, mask: Any) -> tuple[jax.Array, jax.Array | None]:
        x = jnp.asarray(x)
        if x.ndim < 2 or x.size == 0:
            raise ValueError(f"MoE needs an input (…, tokens, features) with tokens in it, got shape {x.shape}")
        if mask is not None:
            mask = jnp.asarray(mask)
            if mask.dtype != bool:
                raise TypeError(f"MoE: mask is {mask.dtype}, expected bool (True: a token); pass mask > 0")
            if mask.shape != x.shape[:-1]:
                raise ValueError(f"MoE: mask has shape {mask.shape}, expected {x.shape[:-1]}, one for each token")
            mask = mask.reshape(-1)
        return x.reshape(-1, x.shape[-1]), mask

    def _check_output(self, places: Any, y: Any) -> None:
        if not hasattr(y, "shape") or len(y.shape) != 2 or len(y) != len(places):
            raise ValueError(
                f"MoE needs an expert from (tokens, features) to (tokens, features); {tuple(places.shape)} went in, "
                f"{getattr(y, 'shape', y)} came out"
            )
