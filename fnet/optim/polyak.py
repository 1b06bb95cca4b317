"""Gradient descent that ships the average of its iterates: ASGD."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from fnet.optim.core import State
from fnet.optim.hyper import Rate
from fnet.optim.leaves import PyTree, fill
from fnet.optim.rule import Now, Rule, l2
from fnet.optim.vectors import copies, like


@dataclass(frozen=True, repr=False)
class asgd(Rule):
    """Averaged SGD (Polyak & Juditsky 1992; the rates of Bottou 2012): descend with a falling rate, ship the average.

    As torch.optim.ASGD: the rate is ``lr / (1 + lambd · lr · (t - 1))^alpha``, ``lambd`` decays the parameters,
    ``weight_decay`` is added to the gradient. The average begins at update ``t0 + 2``; until then it is the
    parameters themselves. `eval_params` gives it, where PyTorch leaves it in the state. Each hyperparameter is a float
    or a schedule step -> value. Slot: "ax", the average. Raises ValueError for values out of range.

    >>> import jax.numpy as jnp
    >>> opt = asgd(0.5, lambd=0.0, t0=0.0)
    >>> params = {"w": jnp.ones(2)}
    >>> opt_state = opt.init(params)
    >>> for _ in range(3):
    ...     params, opt_state = opt.update({"w": jnp.ones(2)}, opt_state, params)
    >>> params["w"], opt.eval_params(opt_state, params)["w"]
    (Array([-0.5, -0.5], dtype=float32), Array([-0.25, -0.25], dtype=float32))
    """

    lr: Rate = 1e-2
    lambd: Rate = 1e-4
    alpha: Rate = 0.75
    t0: Rate = 1e6
    weight_decay: Rate = 0.0

    @property
    def slots(self) -> tuple[str, ...]:
        return ("ax",)

    def hyper(self) -> dict[str, Rate | None]:
        off = {"weight_decay": self.weight_decay or None}
        return {"lr": self.lr, "lambd": self.lambd, "alpha": self.alpha, "t0": self.t0, **off}

    def memory(self, params: PyTree) -> State:
        return {"ax": copies(params)}

    def rule(self, now: Now, params: PyTree, grads: PyTree, memory: State) -> tuple[PyTree, State]:
        """``p_t = (1 - λ η_t) p_{t-1} - η_t g_t``, ``a_t = a_{t-1} + μ_t (p_t - a_{t-1})``."""
        h, past = now.hyper, now.t - 1
        eta = h.lr / (1 + h.lambd * h.lr * past) ** h.alpha
        share = 1 / jnp.maximum(1, past - h.t0)  # μ_t

        def leaf(h: Any, p: Any, g: Any, slots: State) -> tuple[Any, State]:
            p = (1 - h.lambd * h.eta) * p - h.eta * l2(h, p, g)
            ax = slots["ax"]
            return p, {"ax": jnp.where(h.share == 1, p, ax + h.share * (p - ax))}

        return now.each(leaf, params, grads, memory, eta=eta, share=share)

    def eval_params(self, opt_state: State, params: PyTree) -> PyTree:
        return fill(like(opt_state["ax"], self.trainable(params)), params)
