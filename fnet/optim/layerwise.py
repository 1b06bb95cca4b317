"""Rules that scale each layer's step by the norm of its weights: LARS and LAMB."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from fnet.optim.core import State
from fnet.optim.hyper import Rate
from fnet.optim.leaves import PyTree
from fnet.optim.moments import Moments
from fnet.optim.rule import Now, l2
from fnet.optim.stacked import PerLayer


def norm(x: jax.Array) -> jax.Array:
    """The Euclidean norm of all elements together, whatever the number of axes."""
    return jnp.sqrt(jnp.sum(x * x))


def trust(weight: jax.Array, update: jax.Array, factor: Any = 1.0, eps: Any = 0.0) -> jax.Array:
    """``factor · weight / (update + eps)``, or 1 where either norm is 0: a layer that starts at zero must leave it."""
    defined = (weight > 0) & (update > 0)
    return jnp.where(defined, factor * weight / (jnp.where(defined, update, 1) + eps), 1)


@dataclass(frozen=True, repr=False)
class lars(PerLayer):
    """LARS (You, Gitman & Ginsburg 2017, Algorithm 1): momentum over steps of a fixed size relative to the weights.

    Each layer's gradient is scaled by ``trust_coefficient · ‖p‖ / (‖g‖ + weight_decay · ‖p‖ + eps)``, or by 1 where
    ‖p‖ or the denominator is 0; the learning rate stays inside the momentum buffer. That is the paper's rule;
    ``joint_norm=True`` divides by ``‖g + weight_decay · p‖ + eps`` instead, as optax.lars. It is usual to leave biases
    and norms to another rule, through `groups`. For parameters that stack layers give ``stacked="blocks.*"``. Each
    hyperparameter is a float or a schedule step -> value. Slot: "momentum". Raises ValueError for values out of range.

    >>> import jax.numpy as jnp
    >>> opt = lars(1.0, trust_coefficient=0.1, momentum=0.0)
    >>> params = {"w": jnp.array([3.0, 4.0])}
    >>> params, opt_state = opt.update({"w": jnp.array([0.0, 9.0])}, opt.init(params), params)
    >>> params["w"]
    Array([3. , 3.5], dtype=float32)
    """

    lr: Rate = 0.1
    momentum: Rate = 0.9
    weight_decay: Rate = 0.0
    trust_coefficient: Rate = 0.001
    eps: Rate = 0.0
    nesterov: bool = False
    joint_norm: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nesterov and not self.momentum:
            raise ValueError("lars: nesterov needs momentum > 0")

    @property
    def slots(self) -> tuple[str, ...]:
        return ("momentum",) if self.momentum else ()

    def hyper(self) -> dict[str, Rate | None]:
        off = {"momentum": self.momentum or None, "weight_decay": self.weight_decay or None}
        return {"lr": self.lr, "trust_coefficient": self.trust_coefficient, "eps": self.eps, **off}

    def rule(self, now: Now, params: PyTree, grads: PyTree, memory: State) -> tuple[PyTree, State]:
        """``v_t = momentum · v_{t-1} + lr · λ (g + weight_decay · p)``, ``p - v_t``, λ the layer's local rate."""

        def leaf(h: Any, p: Any, g: Any, slots: State) -> tuple[Any, State]:
            decay = 0 if h.weight_decay is None else h.weight_decay
            step = g + decay * p
            below = norm(step) if self.joint_norm else norm(g) + decay * norm(p)
            step = h.lr * trust(norm(p), below, h.trust_coefficient, h.eps) * step
            if not self.momentum:
                return p - step, {}
            v = h.momentum * slots["momentum"] + step
            return p - (step + h.momentum * v if self.nesterov else v), {"momentum": v}

        return self.by_layer(now, leaf, params, grads, memory)


@dataclass(frozen=True, repr=False)
class lamb(PerLayer, Moments):
    """LAMB (You et al. 2020, Algorithm 2): Adam's step for each layer, scaled to the norm of the layer's weights.

    ``p - lr · ‖p‖ / ‖u + weight_decay · p‖ · (u + weight_decay · p)`` with Adam's corrected step ``u``; the ratio is 1
    where either norm is 0. As optax.lamb. For parameters that stack layers give ``stacked="blocks.*"``, so that each
    layer has a norm of its own. Each hyperparameter is a float or a schedule step -> value. Slots: "mu" and "nu", as
    in `adam`. Raises ValueError for values out of range.

    >>> import jax.numpy as jnp
    >>> opt = lamb(0.1)
    >>> params = {"w": jnp.array([3.0, 4.0])}
    >>> params, opt_state = opt.update({"w": jnp.array([0.0, 9.0])}, opt.init(params), params)
    >>> params["w"]
    Array([3. , 3.5], dtype=float32)
    """

    eps: Rate = 1e-6

    def rule(self, now: Now, params: PyTree, grads: PyTree, memory: State) -> tuple[PyTree, State]:
        first = 1 / now.hyper.b1.correction(now.t)
        scale = now.hyper.b2.root_scale(now.t)

        def leaf(h: Any, p: Any, g: Any, slots: State) -> tuple[Any, State]:
            mu = h.b1.mix(slots["mu"], g)
            nu = h.b2.mix(slots["nu"], g * g)
            u = h.first * mu / (jnp.sqrt(nu) * h.scale + h.eps)
            u = l2(h, p, u)
            return p - h.lr * trust(norm(p), norm(u)) * u, {"mu": mu, "nu": nu}

        return self.by_layer(now, leaf, params, grads, memory, first=first, scale=scale)
