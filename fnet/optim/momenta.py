"""Adam with two momenta: Adan, which adds one of gradient differences, and AdEMAMix, which adds a slow one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from fnet.optim.core import State
from fnet.optim.hyper import Decay, Rate
from fnet.optim.leaves import PyTree
from fnet.optim.moments import Moments, shrink
from fnet.optim.rule import Now


@dataclass(frozen=True, repr=False)
class adan(Moments):
    """Adan (Xie et al. 2022, Algorithm 1): Nesterov momentum from an average of gradient differences.

    As the authors' code, whose ``betas`` are the shares kept (one minus the paper's) and whose averages are corrected
    for bias. ``weight_decay`` is decoupled: the proximal step ``p / (1 + lr · weight_decay)`` after the update, or
    with ``no_prox`` the factor ``1 - lr · weight_decay`` before it, as in `adamw`. (optax.adan weighs the differences
    by 1 - β2 of these betas, where the paper's formulas have β2.) Each hyperparameter is a float or a schedule
    step -> value. Slots: "mu" (average of g), "diff" (of g_t - g_{t-1}), "nu" (of
    the square of g with the difference) and "previous" (the last gradient). Raises ValueError for values out of range.

    >>> import jax.numpy as jnp
    >>> opt = adan(0.1)
    >>> params = {"w": jnp.ones(2)}
    >>> params, opt_state = opt.update({"w": jnp.ones(2)}, opt.init(params), params)
    >>> params["w"].round(4)
    Array([0.9, 0.9], dtype=float32)
    """

    betas: tuple[Rate, ...] = (0.98, 0.92, 0.99)
    no_prox: bool = False

    decays = ("b1", "b2", "b3")

    @property
    def slots(self) -> tuple[str, ...]:
        return ("mu", "diff", "nu", "previous")

    def rule(self, now: Now, params: PyTree, grads: PyTree, memory: State) -> tuple[PyTree, State]:
        """``p - lr · (m̂ + β2 d̂) / (√n̂ + ε)``, d the average of ``d_t = g_t - g_{t-1}``, n of ``(g_t + β2 d_t)²``."""
        h, t = now.hyper, now.t
        rate, of_diff = h.lr / h.b1.correction(t), h.b2.keep * h.lr / h.b2.correction(t)
        shared = {"rate": rate, "of_diff": of_diff, "scale": h.b3.root_scale(t), "first": t == 1}

        def leaf(h: Any, p: Any, g: Any, slots: State) -> tuple[Any, State]:
            difference = jnp.where(h.first > 0, 0, g - slots["previous"])
            mu = h.b1.mix(slots["mu"], g)
            diff = h.b2.mix(slots["diff"], difference)
            nu = h.b3.mix(slots["nu"], (g + h.b2.keep * difference) ** 2)
            step = (h.rate * mu + h.of_diff * diff) / (jnp.sqrt(nu) * h.scale + h.eps)
            if self.no_prox or h.weight_decay is None:
                p = shrink(h, p) - step
            else:
                p = (p - step) / (1 + h.lr * h.weight_decay)
            return p, {"mu": mu, "diff": diff, "nu": nu, "previous": g}

        return now.each(leaf, params, grads, memory, **shared)


@dataclass(frozen=True, repr=False)
class ademamix(Moments):
    """AdEMAMix (Pagliardini, Ablin & Grangier 2024, Algorithm 1): AdamW with a second, much slower momentum.

    As optax.contrib.ademamix and the authors' code; the slow average is not corrected for bias, so that it fills up.
    Over the first ``alpha_warmup`` updates ``alpha``, its weight, rises linearly from 0, and over the first
    ``beta3_warmup`` its half-life from that of β1 to that of β3; 0 is no warm-up, the paper's is the whole training.
    ``weight_decay`` is decoupled as in `adamw`. Each hyperparameter but the lengths is a float or a schedule
    step -> value. Slots: "mu", "mu_slow" and "nu". Raises ValueError for values out of range.

    >>> import jax.numpy as jnp
    >>> opt = ademamix(0.5, alpha_warmup=1000, beta3_warmup=1000)
    >>> params = {"w": jnp.ones(2)}
    >>> params, opt_state = opt.update({"w": jnp.ones(2)}, opt.init(params), params)
    >>> params["w"].round(3)
    Array([0.5, 0.5], dtype=float32)
    """

    betas: tuple[Rate, ...] = (0.9, 0.999, 0.9999)
    alpha: Rate = 5.0
    alpha_warmup: int = 0
    beta3_warmup: int = 0

    decays = ("b1", "b2", "b3")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("alpha_warmup", "beta3_warmup"):
            steps = getattr(self, name)
            if isinstance(steps, bool) or not isinstance(steps, int) or steps < 0:
                raise ValueError(f"ademamix: {name} must be a number of updates, 0 or more, got {steps!r}")

    @property
    def slots(self) -> tuple[str, ...]:
        return ("mu", "mu_slow", "nu")

    def hyper(self) -> dict[str, Rate | None]:
        return {**super().hyper(), "alpha": self.alpha}

    def rule(self, now: Now, params: PyTree, grads: PyTree, memory: State) -> tuple[PyTree, State]:
        """``p - lr · (m̂₁ + α m₂) / (√v̂ + ε)``, α and the decay of m₂ warmed up (section 3.1)."""
        h, t = now.hyper, now.t
        alpha = h.alpha * jnp.minimum(t / self.alpha_warmup, 1) if self.alpha_warmup else h.alpha
        slow = warmed(h.b3, h.b1, jnp.minimum(t / self.beta3_warmup, 1)) if self.beta3_warmup else h.b3
        of_fast = 1 / h.b1.correction(t)
        scale = h.b2.root_scale(t)

        def leaf(h: Any, p: Any, g: Any, slots: State) -> tuple[Any, State]:
            mu = h.b1.mix(slots["mu"], g)
            mu_slow = h.slow.mix(slots["mu_slow"], g)
            nu = h.b2.mix(slots["nu"], g * g)
            u = (h.of_fast * mu + h.mixed * mu_slow) / (jnp.sqrt(nu) * h.scale + h.eps)
            return shrink(h, p) - h.lr * u, {"mu": mu, "mu_slow": mu_slow, "nu": nu}

        return now.each(leaf, params, grads, memory, mixed=alpha, slow=slow, of_fast=of_fast, scale=scale)


def warmed(end: Decay, start: Decay, progress: jax.Array) -> Decay:
    """A decay on its way from ``start`` to ``end``: the half-life, -log 2 / log β, moves linearly (appendix A.1)."""
    log = 1 / ((1 - progress) / jnp.log1p(-start.rest) + progress / jnp.log1p(-end.rest))
    arrived = progress >= 1  # there the very numbers of ``end``
    return Decay(jnp.where(arrived, end.keep, jnp.exp(log)), jnp.where(arrived, end.rest, -jnp.expm1(log)))
