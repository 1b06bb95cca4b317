"""Stochastic gradient descent with momentum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from fnet.optim.core import State
from fnet.optim.hyper import Rate
from fnet.optim.leaves import PyTree
from fnet.optim.rule import Now, Rule, l2


@dataclass(frozen=True, repr=False)
class sgd(Rule):
    """Stochastic gradient descent, ``p - lr · g``, or ``p - lr · b`` with a momentum buffer ``b``.

    As torch.optim.SGD: the learning rate stays outside the buffer, the first gradient enters it undamped, and
    ``weight_decay`` is added to the gradient. ``nesterov`` (Sutskever et al. 2013, in the form that needs no
    look-ahead gradient) needs momentum and no dampening. Each hyperparameter is a float or a schedule
    step -> value. Slot: "momentum". Raises ValueError for values out of range.

    >>> import jax.numpy as jnp
    >>> opt = sgd(0.1, momentum=0.9)
    >>> params = {"w": jnp.ones(2)}
    >>> params, opt_state = opt.update({"w": jnp.ones(2)}, opt.init(params), params)
    >>> params["w"]
    Array([0.9, 0.9], dtype=float32)
    """

    lr: Rate = 1e-3
    momentum: Rate = 0.0
    dampening: Rate = 0.0
    weight_decay: Rate = 0.0
    nesterov: bool = False

    decays = ("dampening",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nesterov and (not self.momentum or self.dampening):
            raise ValueError("sgd: nesterov needs momentum > 0 and dampening = 0")

    @property
    def slots(self) -> tuple[str, ...]:
        return ("momentum",) if self.momentum else ()

    def hyper(self) -> dict[str, Rate | None]:
        momentum = self.momentum or None
        return {
            "lr": self.lr,
            "momentum": momentum,
            "dampening": (momentum and self.dampening) or None,
            "weight_decay": self.weight_decay or None,
        }

    def rule(self, now: Now, params: PyTree, grads: PyTree, memory: State) -> tuple[PyTree, State]:
        """``b_t = momentum · b_{t-1} + (1 - dampening) · g_t``, ``b_1 = g_1``."""
        damp = now.hyper.dampening
        gain = None if damp is None else jnp.where(now.t == 1, 1, damp.rest)

        def leaf(h: Any, p: Any, g: Any, slots: State) -> tuple[Any, State]:
            g = l2(h, p, g)
            if not self.momentum:
                return p - h.lr * g, {}
            b = h.momentum * slots["momentum"] + (g if h.gain is None else h.gain * g)
            return p - h.lr * (g + h.momentum * b if self.nesterov else b), {"momentum": b}

        return now.each(leaf, params, grads, memory, gain=gain)
