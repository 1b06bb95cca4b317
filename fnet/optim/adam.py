"""Adam and its family."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from fnet.optim.core import State
from fnet.optim.hyper import Rate
from fnet.optim.leaves import PyTree
from fnet.optim.rule import Now, Rule, l2


@dataclass(frozen=True, repr=False)
class adam(Rule):
    """Adam (Kingma & Ba 2015, Algorithm 1), ε outside the root; ``weight_decay`` is added to the gradient.

    As torch.optim.Adam; for decay that the second moment does not divide see `adamw`. Each hyperparameter is a
    float or a schedule step -> value; in the state the betas are "b1" and "b2". Slots: "mu" and "nu", the
    uncorrected averages of g and g². Raises ValueError for values out of range.

    >>> import jax.numpy as jnp
    >>> opt = adam(0.1)
    >>> params = {"w": jnp.ones(2)}
    >>> params, opt_state = opt.update({"w": jnp.ones(2)}, opt.init(params), params)
    >>> params["w"]
    Array([0.9, 0.9], dtype=float32)
    """

    lr: Rate = 1e-3
    betas: tuple[Rate, Rate] = (0.9, 0.999)
    eps: Rate = 1e-8
    weight_decay: Rate = 0.0

    decays = ("b1", "b2")

    def __post_init__(self) -> None:
        if not isinstance(self.betas, tuple | list) or len(self.betas) != 2:
            raise TypeError(f"{type(self).__name__}: betas must be a pair such as (0.9, 0.999), got {self.betas!r}")
        object.__setattr__(self, "betas", tuple(self.betas))
        super().__post_init__()

    @property
    def slots(self) -> tuple[str, ...]:
        return ("mu", "nu")

    def hyper(self) -> dict[str, Rate | None]:
        b1, b2 = self.betas
        return {"lr": self.lr, "b1": b1, "b2": b2, "eps": self.eps, "weight_decay": self.weight_decay or None}

    def rule(self, now: Now, params: PyTree, grads: PyTree, memory: State) -> tuple[PyTree, State]:
        """Algorithm 1, ``p - lr · m̂ / (√v̂ + ε)``, the bias corrections taken out of the leaves' loop (section 2)."""
        rate = now.hyper.lr / now.hyper.b1.correction(now.t)
        root = jnp.sqrt(now.hyper.b2.correction(now.t))

        def leaf(h: Any, p: Any, g: Any, slots: State) -> tuple[Any, State]:
            p, g = self.decay(h, p, g)
            mu = h.b1.mix(slots["mu"], g)
            nu = h.b2.mix(slots["nu"], g * g)
            return p - h.rate * mu / (jnp.sqrt(nu) / h.root + h.eps), {"mu": mu, "nu": nu}

        return now.each(leaf, params, grads, memory, rate=rate, root=root)

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
    adamw(lr=0.0003, betas=(0.9, 0.999), eps=1e-08, weight_decay=0.1)
    >>> sorted(opt.init({"w": jnp.ones(2)}))
    ['hyper', 'mu', 'nu', 'step']
    """

    weight_decay: Rate = 1e-2

    def decay(self, h: Any, p: Any, g: Any) -> tuple[Any, Any]:
        return (p if h.weight_decay is None else (1 - h.lr * h.weight_decay) * p), g
