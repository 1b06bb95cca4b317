"""Rules that move by the sign of a gradient: Lion and Rprop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from fnet.optim.core import State
from fnet.optim.hyper import Rate, check
from fnet.optim.leaves import PyTree, full
from fnet.optim.moments import rates, shrink
from fnet.optim.rule import Now, Rule


@dataclass(frozen=True, repr=False)
class lion(Rule):
    """Lion (Chen et al. 2023, Algorithm 2): move by the sign of a mixture of momentum and gradient.

    As optax.lion and the authors' code; ``weight_decay`` is decoupled as in `adamw`. Every step has size lr, so lr
    is about a tenth of Adam's and the decay ten times its. Each hyperparameter is a float or a schedule step -> value.
    Slot: "mu". Raises ValueError for values out of range.

    >>> import jax.numpy as jnp
    >>> opt = lion(0.1)
    >>> params = {"w": jnp.ones(2)}
    >>> params, opt_state = opt.update({"w": jnp.array([3.0, -1e-3])}, opt.init(params), params)
    >>> params["w"].round(4)
    Array([0.9, 1.1], dtype=float32)
    """

    lr: Rate = 1e-4
    betas: tuple[Rate, ...] = (0.9, 0.99)
    weight_decay: Rate = 0.0

    decays = ("b1", "b2")

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", rates(self, "betas", self.betas, 2))
        super().__post_init__()

    @property
    def slots(self) -> tuple[str, ...]:
        return ("mu",)

    def hyper(self) -> dict[str, Rate | None]:
        b1, b2 = self.betas
        return {"lr": self.lr, "b1": b1, "b2": b2, "weight_decay": self.weight_decay or None}

    def rule(self, now: Now, params: PyTree, grads: PyTree, memory: State) -> tuple[PyTree, State]:
        """``p - lr · (sign(β1 m_{t-1} + (1 - β1) g) + weight_decay · p)``, ``m_t = β2 m_{t-1} + (1 - β2) g``."""

        def leaf(h: Any, p: Any, g: Any, slots: State) -> tuple[Any, State]:
            mu = slots["mu"]
            return shrink(h, p) - h.lr * jnp.sign(h.b1.mix(mu, g)), {"mu": h.b2.mix(mu, g)}

        return now.each(leaf, params, grads, memory)


@dataclass(frozen=True, repr=False)
class rprop(Rule):
    """Rprop (Riedmiller & Braun 1993, as Rprop- of Igel & Hüsken 2000): a step size of its own for each element.

    As torch.optim.Rprop. A step grows by ``etas[1]`` while the gradient keeps its sign and shrinks by ``etas[0]``
    when that changes, between the two ``step_sizes``; after a change of sign the element rests for one update.
    ``lr`` is the first step size, so it is a number fixed at `init` and no hyperparameter of the state; the others,
    in the state "etaminus", "etaplus", "step_size_min" and "step_size_max", are floats or schedules step -> value.
    For gradients of the whole data, not of batches. Slots: "step_size" and "previous", the sign of the last gradient.
    Raises TypeError for a schedule as ``lr`` and ValueError for values out of range.

    >>> import jax.numpy as jnp
    >>> opt = rprop(0.1)
    >>> params = {"w": jnp.ones(2)}
    >>> params, opt_state = opt.update({"w": jnp.array([3.0, -1e-3])}, opt.init(params), params)
    >>> params["w"].round(4)
    Array([0.9, 1.1], dtype=float32)
    """

    lr: float = 1e-2
    etas: tuple[Rate, ...] = (0.5, 1.2)
    step_sizes: tuple[Rate, ...] = (1e-6, 50.0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "etas", rates(self, "etas", self.etas, 2))
        object.__setattr__(self, "step_sizes", rates(self, "step_sizes", self.step_sizes, 2))
        super().__post_init__()
        if callable(self.lr):
            raise TypeError("rprop: lr is the first step size of each element, which then adapts; it is no schedule")
        check("rprop", "lr", self.lr, decay=False)
        low, high = self.etas
        if (not callable(low) and not 0 < low < 1) or (not callable(high) and not high > 1):
            raise ValueError(f"rprop: etas must be a factor below 1 and one above it, got {self.etas!r}")

    @property
    def slots(self) -> tuple[str, ...]:
        return ("step_size", "previous")

    def hyper(self) -> dict[str, Rate | None]:
        (etaminus, etaplus), (low, high) = self.etas, self.step_sizes
        return {"etaminus": etaminus, "etaplus": etaplus, "step_size_min": low, "step_size_max": high}

    def memory(self, params: PyTree) -> State:
        return {"step_size": full(params, self.lr), "previous": full(params)}

    def rule(self, now: Now, params: PyTree, grads: PyTree, memory: State) -> tuple[PyTree, State]:
        """``Δ_t = Δ_{t-1} · (η⁺ or η⁻ by the sign of g_t g_{t-1})``, ``p - Δ_t sign(g_t)``, g_t = 0 after a change."""

        def leaf(h: Any, p: Any, g: Any, slots: State) -> tuple[Any, State]:
            sign = jnp.sign(g)
            agree = sign * slots["previous"]
            factor = jnp.where(agree > 0, h.etaplus, jnp.where(agree < 0, h.etaminus, 1))
            size = jnp.clip(slots["step_size"] * factor, h.step_size_min, h.step_size_max)
            sign = jnp.where(agree < 0, 0, sign)
            return p - size * sign, {"step_size": size, "previous": sign}

        return now.each(leaf, params, grads, memory)
