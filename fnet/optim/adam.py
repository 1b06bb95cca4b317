"""Adam and AdamW."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from fnet.optim.core import State
from fnet.optim.hyper import Rate
from fnet.optim.leaves import PyTree
from fnet.optim.moments import Moments, shrink
from fnet.optim.rule import Now, l2


@dataclass(frozen=True, repr=False)
class adam(Moments):
    """Adam (Kingma & Ba 2015, Algorithm 1), ε outside the root; ``weight_decay`` is added to the gradient.

    As torch.optim.Adam; for decay that the second moment does not divide see `adamw`. ``amsgrad`` (Reddi, Kale &
    Kumar 2018, Algorithm 2) divides by the largest second moment so far: with True, as PyTorch, the largest v, its
    bias corrected afterwards; with ``"corrected"``, as optax.amsgrad, the largest v̂. Each hyperparameter is a float
    or a schedule step -> value; in the state the betas are "b1" and "b2". Slots: "mu" and "nu", the uncorrected
    averages of g and g², and with ``amsgrad`` "nu_max". Raises ValueError for values out of range.

    >>> import jax.numpy as jnp
    >>> opt = adam(0.1)
    >>> params = {"w": jnp.ones(2)}
    >>> params, opt_state = opt.update({"w": jnp.ones(2)}, opt.init(params), params)
    >>> params["w"]
    Array([0.9, 0.9], dtype=float32)
    """

    lr: Rate = 1e-3
    betas: tuple[Rate, ...] = (0.9, 0.999)
    eps: Rate = 1e-8
    weight_decay: Rate = 0.0
    amsgrad: bool | str = False

    def __post_init__(self) -> None:
        if not (isinstance(self.amsgrad, bool) or self.amsgrad == "corrected"):
            name = type(self).__name__
            raise ValueError(f'{name}: amsgrad must be False, True or "corrected", got {self.amsgrad!r}')
        super().__post_init__()

    @property
    def slots(self) -> tuple[str, ...]:
        return ("mu", "nu", "nu_max") if self.amsgrad else ("mu", "nu")

    def rule(self, now: Now, params: PyTree, grads: PyTree, memory: State) -> tuple[PyTree, State]:
        """Algorithm 1, ``p - lr · m̂ / (√v̂ + ε)``, the bias corrections taken out of the leaves' loop (section 2)."""
        rate = now.hyper.lr / now.hyper.b1.correction(now.t)
        scale = now.hyper.b2.root_scale(now.t)

        def leaf(h: Any, p: Any, g: Any, slots: State) -> tuple[Any, State]:
            p, g = self.decay(h, p, g)
            mu = h.b1.mix(slots["mu"], g)
            nu = h.b2.mix(slots["nu"], g * g)
            new, deviation = {"mu": mu, "nu": nu}, jnp.sqrt(nu) * h.scale
            if self.amsgrad == "corrected":
                new["nu_max"] = jnp.maximum(slots["nu_max"], nu * h.scale**2)
                deviation = jnp.sqrt(new["nu_max"])
            elif self.amsgrad:
                new["nu_max"] = jnp.maximum(slots["nu_max"], nu)
                deviation = jnp.sqrt(new["nu_max"]) * h.scale
            return p - h.rate * mu / (deviation + h.eps), new

        return now.each(leaf, params, grads, memory, rate=rate, scale=scale)

    def decay(self, h: Any, p: Any, g: Any) -> tuple[Any, Any]:
        """``(p, g)`` after weight decay."""
        return p, l2(h, p, g)


@dataclass(frozen=True, repr=False)
class adamw(adam):
    """AdamW: Adam with decoupled weight decay (Loshchilov & Hutter 2019, Algorithm 2).

    As torch.optim.AdamW, which multiplies the decay by the whole learning rate, ``p - lr (u + weight_decay · p)``,
    where the paper multiplies it by the schedule's factor only. The rest is as in `adam`.

    >>> import jax.numpy as jnp
    >>> opt = adamw(3e-4, weight_decay=0.1)
    >>> opt
    adamw(lr=0.0003, betas=(0.9, 0.999), eps=1e-08, weight_decay=0.1, amsgrad=False)
    >>> sorted(opt.init({"w": jnp.ones(2)}))
    ['hyper', 'mu', 'nu', 'step']
    """

    weight_decay: Rate = 1e-2

    def decay(self, h: Any, p: Any, g: Any) -> tuple[Any, Any]:
        return shrink(h, p), g
