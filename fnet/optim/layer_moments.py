"""Adam with one second moment a layer: NovoGrad."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from fnet.optim.core import State
from fnet.optim.hyper import Rate
from fnet.optim.leaves import PyTree, full
from fnet.optim.moments import Moments
from fnet.optim.rule import Now, l2
from fnet.optim.stacked import PerLayer


@dataclass(frozen=True, repr=False)
class novograd(PerLayer, Moments):
    """NovoGrad (Ginsburg et al. 2019, Algorithm 1): momentum over gradients divided by the norm of their layer.

    The paper's rule and optax.novograd's: both moments begin at their first value, the momentum sums what comes in,
    and ``weight_decay`` enters it, ``m = β1 m + (g / (√v + ε) + weight_decay · p)``. ``grad_averaging`` weighs what
    comes in by ``1 - β1``, as NVIDIA's code does on request. For parameters that stack layers give
    ``stacked="blocks.*"``. Each hyperparameter is a float or a schedule step -> value. Slots: "mu", and "nu", a number
    a layer. Raises ValueError for values out of range.

    >>> import jax.numpy as jnp
    >>> opt = novograd(0.5)
    >>> params = {"w": jnp.ones(2)}
    >>> params, opt_state = opt.update({"w": jnp.array([3.0, 4.0])}, opt.init(params), params)
    >>> params["w"], opt_state["nu"]["w"]
    (Array([0.7, 0.6], dtype=float32), Array(25., dtype=float32))
    """

    lr: Rate = 1e-2
    betas: tuple[Rate, ...] = (0.95, 0.98)
    grad_averaging: bool = False

    def memory(self, params: PyTree) -> State:
        return {"mu": full(params), "nu": self.slot(params, lambda shape: ())}

    def rule(self, now: Now, params: PyTree, grads: PyTree, memory: State) -> tuple[PyTree, State]:
        """``v_t = β2 v_{t-1} + (1 - β2) ‖g_t‖²``, ``m_t = β1 m_{t-1} + g_t / (√v_t + ε) + d p``, ``p - lr · m_t``."""

        def leaf(h: Any, p: Any, g: Any, slots: State) -> tuple[Any, State]:
            square = jnp.sum(g * g)
            nu = jnp.where(h.first > 0, square, h.b2.mix(slots["nu"], square))
            u = g / (jnp.sqrt(nu) + h.eps)
            u = l2(h, p, u)
            mu = h.b1.mix(slots["mu"], u) if self.grad_averaging else h.b1.keep * slots["mu"] + u
            return p - h.lr * mu, {"mu": mu, "nu": nu}

        return self.by_layer(now, leaf, params, grads, memory, first=now.t == 1)
