"""Rules that estimate the learning rate: from the distance to the solution, as far as the gradients reveal it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from fnet.optim.checks import positive
from fnet.optim.clip import global_norm
from fnet.optim.core import State
from fnet.optim.hyper import Rate, strong
from fnet.optim.leaves import PyTree, full
from fnet.optim.moments import Moments
from fnet.optim.rule import Now, Rule, l2
from fnet.optim.vectors import copies, dot, l1_norm, plus, widened


def _grown(d: jax.Array, numerator: jax.Array, denominator: jax.Array) -> jax.Array:
    """The larger of the estimate so far and ``numerator / denominator``, which says nothing while that is 0/0."""
    known = denominator > 0
    return jnp.where(known, jnp.maximum(d, numerator / jnp.where(known, denominator, 1)), d)


@dataclass(frozen=True, repr=False)
class _AdamWithoutRate(Moments):
    """What Prodigy and D-Adaptation of Adam share: ``lr`` is a multiple of the estimate."""

    lr: Rate = 1.0
    use_bias_correction: bool = False
    d0: float = 1e-6

    extras = ("d", "numerator")

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(type(self).__name__, "d0, the first estimate,", self.d0)

    def rate(self, now: Now, memory: State) -> jax.Array:
        """``d_k · γ_k``, with Adam's two bias corrections where they are asked for."""
        h = now.hyper
        bias = jnp.sqrt(h.b2.correction(now.t)) / h.b1.correction(now.t) if self.use_bias_correction else 1.0
        return memory["d"] * h.lr * bias


@dataclass(frozen=True, repr=False)
class prodigy(_AdamWithoutRate):
    """Prodigy: Adam that finds its learning rate (Mishchenko & Defazio 2023, arXiv 2306.06101, Algorithm 4).

    As the authors' package prodigyopt, in its names and defaults: no bias correction, decoupled ``weight_decay``,
    the new estimate beside ε. ``use_bias_correction=True`` is optax.contrib.prodigy. ``lr`` multiplies the estimate:
    leave it at 1.0 or give a schedule whose peak is 1.0. ``beta3=None`` is ``√β2``; ``d_coef`` makes all estimates
    larger or smaller; ``safeguard_warmup`` keeps lr out of the denominator during a long warm-up. In groups each
    has its own estimate.

    Slots: "mu", "nu", "grad_sum", and "start", the initial parameters; beside them the scalars "d", the estimate,
    and "numerator". Raises ValueError for values out of range.

    >>> import jax, jax.numpy as jnp
    >>> opt = prodigy()
    >>> params = {"w": jnp.array([3.0, -2.0])}
    >>> opt_state = opt.init(params)
    >>> for _ in range(100):
    ...     params, opt_state = opt.update(params, opt_state, params)  # the gradient of ‖w‖²/2 is w
    >>> bool(jnp.abs(params["w"]).max() < 0.5), bool(opt_state["d"] > 0.1)
    (True, True)
    """

    beta3: Rate | None = None
    safeguard_warmup: bool = False
    d_coef: Rate = 1.0

    @property
    def slots(self) -> tuple[str, ...]:
        return ("mu", "nu", "grad_sum", "start")

    def hyper(self) -> dict[str, Rate | None]:
        return {**super().hyper(), "b3": self.beta3, "d_coef": self.d_coef}

    def memory(self, params: PyTree) -> State:
        averages = {name: full(params) for name in ("mu", "nu", "grad_sum")}
        return {**averages, "start": copies(params), "d": strong(self.d0), "numerator": strong(0.0)}

    def rule(self, now: Now, params: PyTree, grads: PyTree, memory: State) -> tuple[PyTree, State]:
        """Algorithm 4, its sums divided by ``1 - β3``, which cancels in their ratio, and by d0, against underflow."""
        h, d, rate = now.hyper, memory["d"], self.rate(now, memory)
        b3 = jnp.sqrt(h.b2.keep) if h.b3 is None else h.b3
        weight = d / self.d0 * (d if self.safeguard_warmup else rate)

        def averages(h: Any, p: Any, g: Any, slots: State) -> tuple[Any, State]:
            mu = h.b1.mix(slots["mu"], h.d * g)
            nu = h.b2.mix(slots["nu"], (h.d * g) ** 2)
            return p, {"mu": mu, "nu": nu, "grad_sum": h.beta3 * slots["grad_sum"] + h.weight * g}

        def leaf(h: Any, p: Any, g: Any, slots: State) -> tuple[Any, State]:
            u = slots["mu"] / (jnp.sqrt(slots["nu"]) + h.d * h.eps)
            return p - h.rate * l2(h, p, u), slots

        start = memory["start"]
        slots = {name: memory[name] for name in ("mu", "nu", "grad_sum")}
        _, slots = now.each(averages, params, grads, slots, d=d, weight=weight, beta3=b3)
        gain = d / self.d0 * rate * dot(grads, plus(start, -1, params))  # <g, x0 - x>
        numerator = b3 * memory["numerator"] + gain
        d = _grown(d, h.d_coef * numerator, l1_norm(slots["grad_sum"]))
        params, slots = now.each(leaf, params, grads, slots, d=d, rate=rate)
        return params, {**slots, "start": start, "d": d, "numerator": numerator}


@dataclass(frozen=True, repr=False)
class dadapt_adamw(_AdamWithoutRate):
    """AdamW that finds its learning rate by D-Adaptation (Defazio & Mishchenko 2023, arXiv 2301.07733, Algorithm 5).

    As DAdaptAdam of the authors' package with decoupled decay: no bias correction. ``use_bias_correction=True`` is
    optax.contrib.dadapt_adamw. ``lr`` multiplies the estimate: leave it at 1.0 or give a schedule whose peak is
    1.0. `prodigy` is the successor, and grows its estimate faster. In groups each has its own estimate.

    Slots: "mu" (of steps, rates included), "nu", "grad_sum"; beside them the scalars "d", the estimate, and
    "numerator". Raises ValueError for values out of range.

    >>> import jax, jax.numpy as jnp
    >>> opt = dadapt_adamw()
    >>> params = {"w": jnp.array([3.0, -2.0])}
    >>> opt_state = opt.init(params)
    >>> for _ in range(100):
    ...     params, opt_state = opt.update(params, opt_state, params)  # the gradient of ‖w‖²/2 is w
    >>> bool(jnp.abs(params["w"]).max() < 0.5), bool(opt_state["d"] > 1e-3)
    (True, True)
    """

    @property
    def slots(self) -> tuple[str, ...]:
        return ("mu", "nu", "grad_sum")

    def memory(self, params: PyTree) -> State:
        return {**{name: full(params) for name in self.slots}, "d": strong(self.d0), "numerator": strong(0.0)}

    def rule(self, now: Now, params: PyTree, grads: PyTree, memory: State) -> tuple[PyTree, State]:
        """Algorithm 5; the inner product is taken in the metric of the gradients before this one."""
        h, rate = now.hyper, self.rate(now, memory)
        root = jnp.sqrt(h.b2.keep)
        rest = h.b2.rest / (1 + root)  # 1 - √β2

        def leaf(h: Any, p: Any, g: Any, slots: State) -> tuple[Any, State]:
            mu = h.b1.mix(slots["mu"], h.rate * g)
            nu = h.b2.mix(slots["nu"], g * g)
            total = h.root * slots["grad_sum"] + h.rest * h.rate * g
            p = p if h.weight_decay is None else (1 - h.rate * h.weight_decay) * p
            return p - mu / (jnp.sqrt(nu) + h.eps), {"mu": mu, "nu": nu, "grad_sum": total}

        scaled = jax.tree.map(lambda s, v: s / (jnp.sqrt(v) + h.eps), memory["grad_sum"], memory["nu"])
        numerator = root * memory["numerator"] + rest * rate * dot(grads, scaled)
        slots = {name: memory[name] for name in self.slots}
        params, slots = now.each(leaf, params, grads, slots, rate=rate, root=root, rest=rest)
        d = _grown(memory["d"], numerator, rest * l1_norm(slots["grad_sum"]))
        return params, {**slots, "d": d, "numerator": numerator}


@dataclass(frozen=True, repr=False)
class dadapt_sgd(Rule):
    """SGD that finds its learning rate by D-Adaptation (Defazio & Mishchenko 2023, arXiv 2301.07733, Algorithm 4).

    As DAdaptSGD of the authors' package: steps are divided by the norm of the first gradient that is not zero,
    momentum is an average of the iterates, ``weight_decay`` is added to the gradient. ``lr`` multiplies the
    estimate: leave it at 1.0 or give a schedule whose peak is 1.0. In groups each has its own estimate.

    Slots: "grad_sum", and with momentum "z", the iterates before averaging; beside them the scalars "d", the
    estimate, "numerator" and "first_norm". Raises ValueError for values out of range.

    >>> import jax, jax.numpy as jnp
    >>> opt = dadapt_sgd()
    >>> params = {"w": jnp.array([3.0, -2.0])}
    >>> opt_state = opt.init(params)
    >>> for _ in range(100):
    ...     params, opt_state = opt.update(params, opt_state, params)  # the gradient of ‖w‖²/2 is w
    >>> bool(jnp.abs(params["w"]).max() < 0.1)
    True
    """

    lr: Rate = 1.0
    momentum: Rate = 0.0
    weight_decay: Rate = 0.0
    d0: float = 1e-6

    decays = ("momentum",)
    extras = ("d", "numerator", "first_norm")

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(type(self).__name__, "d0, the first estimate,", self.d0)

    @property
    def slots(self) -> tuple[str, ...]:
        return ("grad_sum", "z") if self.momentum else ("grad_sum",)

    def hyper(self) -> dict[str, Rate | None]:
        return {"lr": self.lr, "momentum": self.momentum or None, "weight_decay": self.weight_decay or None}

    def memory(self, params: PyTree) -> State:
        slots = {"grad_sum": full(params), **({"z": copies(params)} if self.momentum else {})}
        return {**slots, "d": strong(self.d0), "numerator": strong(0.0), "first_norm": strong(0.0)}

    def rule(self, now: Now, params: PyTree, grads: PyTree, memory: State) -> tuple[PyTree, State]:
        """Algorithm 4, ``λ = d γ / G``: ``s + λ g``, ``z - λ g``, ``x = β x + (1 - β) z``."""
        h, d, norm = now.hyper, memory["d"], memory["first_norm"]
        norm = jnp.where(norm > 0, norm, global_norm(grads))
        rate = jnp.where(norm > 0, d * h.lr / jnp.where(norm > 0, norm, 1), 0)
        if h.weight_decay is not None:
            grads = plus(widened(grads), h.weight_decay, params)

        def leaf(h: Any, p: Any, g: Any, slots: State) -> tuple[Any, State]:
            total = slots["grad_sum"] + h.rate * g
            if not self.momentum:
                return p - h.rate * g, {"grad_sum": total}
            z = slots["z"] - h.rate * g
            return p + h.momentum.rest * (z - p), {"grad_sum": total, "z": z}

        numerator = memory["numerator"] + rate * dot(grads, memory["grad_sum"])
        params, slots = now.each(leaf, params, grads, {name: memory[name] for name in self.slots}, rate=rate)
        d = _grown(d, 2 * numerator, global_norm(slots["grad_sum"]))
        return params, {**slots, "d": d, "numerator": numerator, "first_norm": norm}
