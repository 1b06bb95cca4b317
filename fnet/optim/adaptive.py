"""Rules that divide by a root of squared gradients and correct no bias: RMSprop, Adagrad and Adadelta."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from fnet.optim.checks import not_negative
from fnet.optim.core import State
from fnet.optim.hyper import Rate
from fnet.optim.leaves import PyTree, full
from fnet.optim.rule import Now, Rule, l2


@dataclass(frozen=True, repr=False)
class rmsprop(Rule):
    """RMSprop (Hinton 2012, lecture 6e): divide by the root of a running average of squared gradients.

    As torch.optim.RMSprop: ε stands outside the root, the momentum buffer gathers the divided gradients,
    ``weight_decay`` is added to the gradient. ``centered`` (Graves 2013, eq. 38–45) divides by an estimate of the
    standard deviation; where rounding makes its square negative it is taken as 0 (PyTorch gives NaN). Each
    hyperparameter is a float or a schedule step -> value. Slots: "nu" (average of g²), with ``centered`` "mu" (of g),
    with momentum "momentum". Raises ValueError for values out of range.

    >>> import jax.numpy as jnp
    >>> opt = rmsprop(0.01)
    >>> params = {"w": jnp.ones(2)}
    >>> params, opt_state = opt.update({"w": jnp.ones(2)}, opt.init(params), params)
    >>> params["w"].round(4)
    Array([0.9, 0.9], dtype=float32)
    """

    lr: Rate = 1e-2
    alpha: Rate = 0.99
    eps: Rate = 1e-8
    weight_decay: Rate = 0.0
    momentum: Rate = 0.0
    centered: bool = False

    decays = ("alpha",)

    @property
    def slots(self) -> tuple[str, ...]:
        return "nu", *(("mu",) if self.centered else ()), *(("momentum",) if self.momentum else ())

    def hyper(self) -> dict[str, Rate | None]:
        off = {"weight_decay": self.weight_decay or None, "momentum": self.momentum or None}
        return {"lr": self.lr, "alpha": self.alpha, "eps": self.eps, **off}

    def rule(self, now: Now, params: PyTree, grads: PyTree, memory: State) -> tuple[PyTree, State]:
        """``u = g / (√v + ε)``, ``p - lr · u``."""

        def leaf(h: Any, p: Any, g: Any, slots: State) -> tuple[Any, State]:
            g = l2(h, p, g)
            nu = h.alpha.mix(slots["nu"], g * g)
            new, square = {"nu": nu}, nu
            if self.centered:
                mu = new["mu"] = h.alpha.mix(slots["mu"], g)
                square = jnp.maximum(nu - mu * mu, 0)
            u = g / (jnp.sqrt(square) + h.eps)
            if self.momentum:
                u = new["momentum"] = h.momentum * slots["momentum"] + u
            return p - h.lr * u, new

        return now.each(leaf, params, grads, memory)


@dataclass(frozen=True, repr=False)
class adagrad(Rule):
    """Adagrad (Duchi, Hazan & Singer 2011, figure 1, diagonal): divide by the root of the sum of squared gradients.

    As torch.optim.Adagrad: the sum starts at ``initial_accumulator_value`` (0; optax and Keras start at 0.1), ε
    stands outside the root, the learning rate falls as ``lr / (1 + (t - 1) lr_decay)``, ``weight_decay`` is added
    to the gradient. Each hyperparameter but the initial value is a float or a schedule step -> value. Slot: "sum".
    Raises ValueError for values out of range.

    >>> import jax.numpy as jnp
    >>> opt = adagrad(0.1)
    >>> params = {"w": jnp.ones(2)}
    >>> params, opt_state = opt.update({"w": jnp.ones(2)}, opt.init(params), params)
    >>> params["w"]
    Array([0.9, 0.9], dtype=float32)
    """

    lr: Rate = 1e-2
    lr_decay: Rate = 0.0
    weight_decay: Rate = 0.0
    initial_accumulator_value: float = 0.0
    eps: Rate = 1e-10

    def __post_init__(self) -> None:
        super().__post_init__()
        not_negative("adagrad", "initial_accumulator_value", self.initial_accumulator_value)

    @property
    def slots(self) -> tuple[str, ...]:
        return ("sum",)

    def hyper(self) -> dict[str, Rate | None]:
        off = {"lr_decay": self.lr_decay or None, "weight_decay": self.weight_decay or None}
        return {"lr": self.lr, "eps": self.eps, **off}

    def memory(self, params: PyTree) -> State:
        return {"sum": full(params, self.initial_accumulator_value)}

    def rule(self, now: Now, params: PyTree, grads: PyTree, memory: State) -> tuple[PyTree, State]:
        """``s_t = s_{t-1} + g²``, ``p - lr_t · g / (√s_t + ε)``."""
        h = now.hyper
        rate = h.lr if h.lr_decay is None else h.lr / (1 + (now.t - 1) * h.lr_decay)

        def leaf(h: Any, p: Any, g: Any, slots: State) -> tuple[Any, State]:
            g = l2(h, p, g)
            total = slots["sum"] + g * g
            return p - h.rate * g / (jnp.sqrt(total) + h.eps), {"sum": total}

        return now.each(leaf, params, grads, memory, rate=rate)


@dataclass(frozen=True, repr=False)
class adadelta(Rule):
    """Adadelta (Zeiler 2012, Algorithm 1): steps in the units of the parameters, from the root mean square of the last.

    As torch.optim.Adadelta and optax.adadelta: ε stands inside both roots, ``weight_decay`` is added to the gradient.
    Each hyperparameter is a float or a schedule step -> value. Slots: "nu" (average of g²) and "delta" (of the squared
    steps before lr). Raises ValueError for values out of range.

    >>> import jax.numpy as jnp
    >>> opt = adadelta()
    >>> params = {"w": jnp.ones(2)}
    >>> params, opt_state = opt.update({"w": jnp.ones(2)}, opt.init(params), params)
    >>> round(float(params["w"][0]), 4)
    0.9968
    """

    lr: Rate = 1.0
    rho: Rate = 0.9
    eps: Rate = 1e-6
    weight_decay: Rate = 0.0

    decays = ("rho",)

    @property
    def slots(self) -> tuple[str, ...]:
        return ("nu", "delta")

    def hyper(self) -> dict[str, Rate | None]:
        return {"lr": self.lr, "rho": self.rho, "eps": self.eps, "weight_decay": self.weight_decay or None}

    def rule(self, now: Now, params: PyTree, grads: PyTree, memory: State) -> tuple[PyTree, State]:
        """``Δ_t = g · √(E[Δ²]_{t-1} + ε) / √(E[g²]_t + ε)``, ``p - lr · Δ_t``."""

        def leaf(h: Any, p: Any, g: Any, slots: State) -> tuple[Any, State]:
            g = l2(h, p, g)
            nu = h.rho.mix(slots["nu"], g * g)
            delta = g * jnp.sqrt(slots["delta"] + h.eps) / jnp.sqrt(nu + h.eps)
            return p - h.lr * delta, {"nu": nu, "delta": h.rho.mix(slots["delta"], delta * delta)}

        return now.each(leaf, params, grads, memory)
