"""Rules that change one line of Adam: NAdam, RAdam, Adamax, AdaBelief, Yogi and ADOPT."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from fnet.optim.checks import not_negative
from fnet.optim.core import State
from fnet.optim.hyper import Decay, Rate, strong
from fnet.optim.leaves import PyTree, full
from fnet.optim.moments import Moments, shrink
from fnet.optim.rule import Now, l2


@dataclass(frozen=True, repr=False)
class nadam(Moments):
    """NAdam (Dozat 2016, Algorithm 2): Adam with Nesterov momentum, whose weight rises with the step.

    As torch.optim.NAdam, with the paper's schedule ``μ_t = β1 (1 - 0.96^(t · momentum_decay) / 2)``;
    ``momentum_decay=None`` keeps ``μ_t = β1``, as optax.nadam does. ``weight_decay`` is added to the gradient, or with
    ``decoupled_weight_decay`` taken from the parameter as in `adamw`. Each hyperparameter is a float or a schedule
    step -> value. Slots: "mu" and "nu"; beside them "mu_product", the product of all μ so far. Raises ValueError for
    values out of range.

    >>> import jax.numpy as jnp
    >>> opt = nadam(0.1, momentum_decay=None)
    >>> params = {"w": jnp.ones(2)}
    >>> params, opt_state = opt.update({"w": jnp.ones(2)}, opt.init(params), params)
    >>> params["w"].round(4)
    Array([0.8526, 0.8526], dtype=float32)
    """

    lr: Rate = 2e-3
    momentum_decay: Rate | None = 4e-3
    decoupled_weight_decay: bool = False

    extras = ("mu_product",)

    def hyper(self) -> dict[str, Rate | None]:
        return {**super().hyper(), "momentum_decay": self.momentum_decay}

    def memory(self, params: PyTree) -> State:
        return {**super().memory(params), "mu_product": strong(1.0)}

    def rule(self, now: Now, params: PyTree, grads: PyTree, memory: State) -> tuple[PyTree, State]:
        """``p - lr · (μ_{t+1} m / (1 - Πμ_{≤t+1}) + (1 - μ_t) g / (1 - Πμ_{≤t})) / (√v̂ + ε)``."""
        h, t = now.hyper, now.t

        def momentum(t: jax.Array) -> jax.Array:
            psi = h.momentum_decay
            return h.b1.keep if psi is None else h.b1.keep * (1 - 0.5 * 0.96 ** (t * psi))

        product = (memory["mu_product"] * momentum(t)).astype(memory["mu_product"].dtype)
        of_g = h.lr * (1 - momentum(t)) / (1 - product)
        of_mu = h.lr * momentum(t + 1) / (1 - product * momentum(t + 1))
        scale = h.b2.root_scale(t)

        def leaf(h: Any, p: Any, g: Any, slots: State) -> tuple[Any, State]:
            p, g = (shrink(h, p), g) if self.decoupled_weight_decay else (p, l2(h, p, g))
            mu = h.b1.mix(slots["mu"], g)
            nu = h.b2.mix(slots["nu"], g * g)
            return p - (h.of_g * g + h.of_mu * mu) / (jnp.sqrt(nu) * h.scale + h.eps), {"mu": mu, "nu": nu}

        slots = {name: memory[name] for name in self.slots}
        params, slots = now.each(leaf, params, grads, slots, of_g=of_g, of_mu=of_mu, scale=scale)
        return params, {**slots, "mu_product": product}


@dataclass(frozen=True, repr=False)
class radam(Moments):
    """RAdam (Liu et al. 2020, Algorithm 2): momentum alone until the second moment has seen enough, then Adam.

    As torch.optim.RAdam: it divides where the variance is tractable, ρ_t > 5, and ε is added to √v, not to √v̂
    (optax adds it to √v̂). ``weight_decay`` is added to the gradient, or with ``decoupled_weight_decay`` taken from
    the parameter as in `adamw`. Each hyperparameter is a float or a schedule step -> value. Slots: "mu" and "nu".
    Raises ValueError for values out of range.

    >>> import jax.numpy as jnp
    >>> opt = radam(0.1)
    >>> params = {"w": jnp.ones(2)}
    >>> params, opt_state = opt.update({"w": jnp.full(2, 3.0)}, opt.init(params), params)
    >>> params["w"].round(4)
    Array([0.7, 0.7], dtype=float32)
    """

    decoupled_weight_decay: bool = False

    def rule(self, now: Now, params: PyTree, grads: PyTree, memory: State) -> tuple[PyTree, State]:
        """``p - lr · r_t · m̂ · √(1 - β2^t) / (√v + ε)`` if ρ_t > 5, else ``p - lr · m̂``."""
        h, t = now.hyper, now.t
        length = average_length(h.b2, t)
        tractable = length > 5
        # The value where it is not tractable is discarded, and so that it is no NaN either:
        rho, limit = jnp.maximum(length, 5), jnp.maximum(2 / h.b2.rest - 1, 5)
        rectifier = jnp.sqrt((rho - 4) * (rho - 2) * limit / ((limit - 4) * (limit - 2) * rho))
        rate = h.lr / h.b1.correction(t)
        scale = rectifier * jnp.sqrt(h.b2.correction(t))

        def leaf(h: Any, p: Any, g: Any, slots: State) -> tuple[Any, State]:
            p, g = (shrink(h, p), g) if self.decoupled_weight_decay else (p, l2(h, p, g))
            mu = h.b1.mix(slots["mu"], g)
            nu = h.b2.mix(slots["nu"], g * g)
            adaptive = jnp.where(h.tractable > 0, h.scale / (jnp.sqrt(nu) + h.eps), 1)
            return p - h.rate * mu * adaptive, {"mu": mu, "nu": nu}

        return now.each(leaf, params, grads, memory, rate=rate, scale=scale, tractable=tractable)


def average_length(decay: Decay, t: jax.Array) -> jax.Array:
    """RAdam's ``ρ_t = 2 / (1 - β) - 1 - 2 t β^t / (1 - β^t)``: how many values a running average stands for.

    The plain form cancels: for β = 0.9999 it is off by 2e-3 in float32, more than lies between ρ_5 and the threshold.
    With ``c = -log β`` and ``w(x) = 2 / x - 2 / (e^x - 1)`` the same number is ``1 + t w(t c) - w(c)``.
    """

    def w(x: jax.Array) -> jax.Array:
        small, large = jnp.minimum(x, 0.25), jnp.maximum(x, 0.25)
        series = 1 - small / 6 + small**3 / 360 - small**5 / 15120 + small**7 / 604800
        return jnp.where(x < 0.25, series, 2 / large - 2 / jnp.expm1(large))

    c = -jnp.log1p(-decay.rest)
    return 1 + t * w(t * c) - w(c)


@dataclass(frozen=True, repr=False)
class adamax(Moments):
    """Adamax (Kingma & Ba 2015, Algorithm 2): divide by the largest gradient of late instead of a root mean square.

    As torch.optim.Adamax: ε is added to |g| inside the maximum, ``weight_decay`` to the gradient. Each
    hyperparameter is a float or a schedule step -> value. Slots: "mu", and "nu", the decaying maximum. Raises
    ValueError for values out of range.

    >>> import jax.numpy as jnp
    >>> opt = adamax(0.1)
    >>> params = {"w": jnp.ones(2)}
    >>> params, opt_state = opt.update({"w": jnp.full(2, 3.0)}, opt.init(params), params)
    >>> params["w"].round(4)
    Array([0.9, 0.9], dtype=float32)
    """

    lr: Rate = 2e-3

    def rule(self, now: Now, params: PyTree, grads: PyTree, memory: State) -> tuple[PyTree, State]:
        """``u_t = max(β2 u_{t-1}, |g_t| + ε)``, ``p - lr · m̂ / u_t``."""
        rate = now.hyper.lr / now.hyper.b1.correction(now.t)

        def leaf(h: Any, p: Any, g: Any, slots: State) -> tuple[Any, State]:
            g = l2(h, p, g)
            mu = h.b1.mix(slots["mu"], g)
            nu = jnp.maximum(h.b2.keep * slots["nu"], jnp.abs(g) + h.eps)
            return p - h.rate * mu / nu, {"mu": mu, "nu": nu}

        return now.each(leaf, params, grads, memory, rate=rate)


@dataclass(frozen=True, repr=False)
class adabelief(Moments):
    """AdaBelief (Zhuang et al. 2020, Algorithm 2): divide by how far the gradient lies from its average.

    The paper's rule: ε is added to the second moment at each step, and to its root; optax.adabelief with both its
    epsilons at ``eps`` is the same. ``weight_decay`` is decoupled as in `adamw`. Each hyperparameter is a float or a
    schedule step -> value. Slots: "mu", and "nu", the average of (g - mu)² + ε. Raises ValueError for values out of
    range.

    >>> import jax.numpy as jnp
    >>> opt = adabelief(0.1)
    >>> params = {"w": jnp.ones(2)}
    >>> params, opt_state = opt.update({"w": jnp.ones(2)}, opt.init(params), params)
    >>> params["w"].round(4)
    Array([0.8889, 0.8889], dtype=float32)
    """

    eps: Rate = 1e-16

    def rule(self, now: Now, params: PyTree, grads: PyTree, memory: State) -> tuple[PyTree, State]:
        """``s_t = β2 s_{t-1} + (1 - β2) (g_t - m_t)² + ε``, ``p - lr · m̂ / (√ŝ + ε)``."""
        rate = now.hyper.lr / now.hyper.b1.correction(now.t)
        scale = now.hyper.b2.root_scale(now.t)

        def leaf(h: Any, p: Any, g: Any, slots: State) -> tuple[Any, State]:
            mu = h.b1.mix(slots["mu"], g)
            nu = h.b2.mix(slots["nu"], (g - mu) ** 2) + h.eps
            return shrink(h, p) - h.rate * mu / (jnp.sqrt(nu) * h.scale + h.eps), {"mu": mu, "nu": nu}

        return now.each(leaf, params, grads, memory, rate=rate, scale=scale)


@dataclass(frozen=True, repr=False)
class yogi(Moments):
    """Yogi (Zaheer et al. 2018, Algorithm 2): the second moment moves by ``(1 - β2) g²``, up or down, and no faster.

    The moments are corrected for bias as in Adam, which the paper leaves out of its listings to keep them short and
    optax.yogi does too; ``bias_correction=False`` is Algorithm 2 as printed. nu begins at
    ``initial_accumulator_value`` (where optax begins mu as well). ``weight_decay`` is decoupled as in `adamw`. Each
    hyperparameter but the initial value is a float or a schedule step -> value. Slots: "mu" and "nu". Raises
    ValueError for values out of range.

    >>> import jax.numpy as jnp
    >>> opt = yogi(0.1)
    >>> params = {"w": jnp.ones(2)}
    >>> params, opt_state = opt.update({"w": jnp.ones(2)}, opt.init(params), params)
    >>> params["w"].round(4)
    Array([0.9001, 0.9001], dtype=float32)
    """

    lr: Rate = 1e-2
    eps: Rate = 1e-3
    initial_accumulator_value: float = 1e-6
    bias_correction: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        not_negative("yogi", "initial_accumulator_value", self.initial_accumulator_value)

    def memory(self, params: PyTree) -> State:
        return {"mu": full(params), "nu": full(params, self.initial_accumulator_value)}

    def rule(self, now: Now, params: PyTree, grads: PyTree, memory: State) -> tuple[PyTree, State]:
        """``v_t = v_{t-1} - (1 - β2) sign(v_{t-1} - g²) g²``, ``p - lr · m̂ / (√v̂ + ε)``."""
        rate, scale = now.hyper.lr, jnp.ones(())
        if self.bias_correction:
            rate = rate / now.hyper.b1.correction(now.t)
            scale = now.hyper.b2.root_scale(now.t)

        def leaf(h: Any, p: Any, g: Any, slots: State) -> tuple[Any, State]:
            mu = h.b1.mix(slots["mu"], g)
            nu = slots["nu"] - h.b2.rest * jnp.sign(slots["nu"] - g * g) * g * g
            return shrink(h, p) - h.rate * mu / (jnp.sqrt(nu) * h.scale + h.eps), {"mu": mu, "nu": nu}

        return now.each(leaf, params, grads, memory, rate=rate, scale=scale)


@dataclass(frozen=True, repr=False)
class adopt(Moments):
    """ADOPT (Taniguchi et al. 2024, Algorithm 2): each gradient is divided by the second moment of those before it.

    As the authors' code and optax.contrib.adopt: the first update only initialises the second moment and moves no
    parameter; then the divided gradients are clipped to ``±(t - 1)^(1/4)`` on their way into the momentum, which
    ``clip=False`` leaves out (Algorithm 1). ``weight_decay`` is decoupled as in `adamw`. Each hyperparameter is a
    float or a schedule step -> value. Slots: "mu" and "nu". Raises ValueError for values out of range.

    >>> import jax.numpy as jnp
    >>> opt = adopt(1.0)
    >>> params = {"w": jnp.ones(2)}
    >>> params, opt_state = opt.update({"w": jnp.ones(2)}, opt.init(params), params)
    >>> params, opt_state = opt.update({"w": jnp.ones(2)}, opt_state, params)
    >>> params["w"].round(4)
    Array([0.9, 0.9], dtype=float32)
    """

    betas: tuple[Rate, ...] = (0.9, 0.9999)
    eps: Rate = 1e-6
    clip: bool = True

    def rule(self, now: Now, params: PyTree, grads: PyTree, memory: State) -> tuple[PyTree, State]:
        """``m_t = β1 m_{t-1} + (1 - β1) clip(g_t / max(√v_{t-1}, ε), ±c_t)``, ``p - lr · m_t``, then v_t."""
        first, bound = now.t == 1, (now.t - 1) ** 0.25

        def leaf(h: Any, p: Any, g: Any, slots: State) -> tuple[Any, State]:
            ratio = g / jnp.maximum(jnp.sqrt(slots["nu"]), h.eps)
            mu = h.b1.mix(slots["mu"], jnp.clip(ratio, -h.bound, h.bound) if self.clip else ratio)
            later = shrink(h, p) - h.lr * mu, mu, h.b2.mix(slots["nu"], g * g)
            p, mu, nu = (jnp.where(h.first > 0, a, b) for a, b in zip((p, slots["mu"], g * g), later, strict=True))
            return p, {"mu": mu, "nu": nu}

        return now.each(leaf, params, grads, memory, first=first, bound=bound)
