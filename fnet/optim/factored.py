"""Adafactor: second moments kept as row and column averages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnet.optim.core import State
from fnet.optim.hyper import Rate
from fnet.optim.leaves import PyTree
from fnet.optim.rule import Now
from fnet.optim.stacked import PerLayer, Shape


@dataclass(frozen=True, repr=False)
class adafactor(PerLayer):
    """Adafactor (Shazeer & Stern 2018, Algorithm 4 and 5): memory for n + m instead of n · m second moments.

    A gradient is divided by the root of its second moment, which for two axes and more is the outer product of the
    row and column averages of g² over their mean; bounded to an RMS of ``d`` (None: unbounded); and multiplied by
    ``lr_t · max(eps[1], RMS(p))`` (``scale_parameter=False``: by ``lr_t``). The averages keep ``1 - t^beta2_decay``.

    ``semantics="torch"`` is torch.optim.Adafactor: the last two axes are always factored; ``lr_t = min(lr, 1/√t)``;
    ``eps[0]`` bounds the divisor from below (None: the dtype's eps); decay is ``p · (1 - lr · weight_decay)``.
    ``semantics="optax"`` is optax.adafactor, T5's: the two largest axes are factored; ``lr_t = lr``; ``eps[0]`` is
    added to g² (None: 1e-30); ``p · (1 - weight_decay)``, not times lr. Axes are factored where both have at least
    ``min_dim_size_to_factor`` elements (None: 0 for torch, 128 for optax). For parameters that stack layers give
    ``stacked="blocks.*"``, so that each has its own RMS.

    ``beta1`` averages the updates, without bias correction, at the price of a slot "mu". Slots: "row" and "col", or
    "nu" where nothing is factored. ``lr``, ``eps``, ``d``, ``weight_decay`` and ``beta1`` are floats or schedules
    step -> value. Raises ValueError for values out of range.

    >>> import jax.numpy as jnp
    >>> opt_state = adafactor(0.01).init({"w": jnp.ones((4, 3)), "b": jnp.ones(3)})
    >>> opt_state["row"]["w"].shape, opt_state["col"]["w"].shape, opt_state["nu"]
    ((4,), (3,), {'b': Array([0., 0., 0.], dtype=float32), 'w': HOLE})
    """

    lr: Rate = 1e-2
    beta2_decay: float = -0.8
    eps: tuple[Rate | None, Rate] = (None, 1e-3)
    d: Rate | None = 1.0
    weight_decay: Rate = 0.0
    beta1: Rate = 0.0
    semantics: str = "torch"
    scale_parameter: bool = True
    min_dim_size_to_factor: int | None = None

    decays = ("beta1",)

    def __post_init__(self) -> None:
        if not isinstance(self.eps, tuple | list) or len(self.eps) != 2:
            raise TypeError(f"adafactor: eps must be a pair such as (None, 1e-3), got {self.eps!r}")
        object.__setattr__(self, "eps", tuple(self.eps))
        super().__post_init__()
        if self.semantics not in ("torch", "optax"):
            raise ValueError(f'adafactor: semantics must be "torch" or "optax", got {self.semantics!r}')
        if not self.beta2_decay <= 0:
            raise ValueError(f"adafactor: beta2_decay must not be above 0, got {self.beta2_decay!r}")
        if self.d is not None and not callable(self.d) and not self.d > 0:
            raise ValueError(f"adafactor: d must be above 0, or None for no bound, got {self.d!r}")

    @property
    def slots(self) -> tuple[str, ...]:
        return "row", "col", "nu", *(("mu",) if self.beta1 else ())

    def hyper(self) -> dict[str, Rate | None]:
        eps1, eps2 = self.eps
        eps1 = 1e-30 if eps1 is None and self.semantics == "optax" else eps1
        off = {"weight_decay": self.weight_decay or None, "beta1": self.beta1 or None}
        return {"lr": self.lr, "eps1": eps1, "eps2": eps2 if self.scale_parameter else None, "d": self.d, **off}

    def axes(self, shape: Shape) -> tuple[int, int] | None:
        """The axes along which the averages that give "row" and "col" are taken; None: not factored."""
        if len(shape) < 2 or 0 in shape:
            return None
        least = self.min_dim_size_to_factor
        if self.semantics == "torch":
            col, row, least = len(shape) - 2, len(shape) - 1, 0 if least is None else least
        else:
            (col, row), least = map(int, np.argsort(shape)[-2:]), 128 if least is None else least
        return (row, col) if min(shape[row], shape[col]) >= least else None

    def memory(self, params: PyTree) -> State:
        def average(side: int) -> PyTree:
            def shape(s: Shape) -> Shape | None:
                axes = self.axes(s)
                return None if axes is None else (*s[: axes[side]], *s[axes[side] + 1 :])

            return self.slot(params, shape)

        whole = self.slot(params, lambda s: s if self.axes(s) is None else None)
        mu = {"mu": self.slot(params, lambda s: s)} if self.beta1 else {}
        return {"row": average(0), "col": average(1), "nu": whole, **mu}

    def rule(self, now: Now, params: PyTree, grads: PyTree, memory: State) -> tuple[PyTree, State]:
        """``U = G / √V̂``, ``p - lr_t · max(eps2, RMS(p)) · U / max(1, RMS(U) / d)``."""
        torch = self.semantics == "torch"
        lr, fresh = now.hyper.lr, now.t**self.beta2_decay
        rate = jnp.minimum(lr, 1 / jnp.sqrt(now.t)) if torch else lr
        shrink = None if now.hyper.weight_decay is None else now.hyper.weight_decay * (lr if torch else 1)

        def leaf(h: Any, p: Any, g: Any, slots: State) -> tuple[Any, State]:
            eps1 = jnp.finfo(p.dtype).eps if h.eps1 is None else h.eps1
            new, v = self.moments(g * g if torch else g * g + eps1, slots, h.fresh, eps1)
            u = g / jnp.sqrt(jnp.maximum(v, eps1 * eps1)) if torch else g / jnp.sqrt(v)
            u = u if h.d is None else u / jnp.maximum(1, rms(u) / h.d)
            u = u * h.rate * (1 if h.eps2 is None else jnp.maximum(h.eps2, rms(p)))
            if h.beta1 is not None:
                u = new["mu"] = h.beta1.mix(slots["mu"], u)
            return (p if h.shrink is None else (1 - h.shrink) * p) - u, new

        return self.by_layer(now, leaf, params, grads, memory, rate=rate, fresh=fresh, shrink=shrink)

    def moments(self, square: jax.Array, slots: State, fresh: Any, eps1: Any) -> tuple[State, jax.Array]:
        """The slots with this square of the gradient averaged in, and the second moment that they stand for."""
        axes = self.axes(square.shape)
        if axes is None:
            nu = slots["nu"] + fresh * (square - slots["nu"])
            return {"row": None, "col": None, "nu": nu}, nu
        pairs = ((axes[0], slots["row"]), (axes[1], slots["col"]))
        row, col = (old + fresh * (jnp.mean(square, a) - old) for a, old in pairs)
        wide_row, wide_col = jnp.expand_dims(row, axes[0]), jnp.expand_dims(col, axes[1])
        mean = jnp.mean(wide_row, axes[1], keepdims=True)
        mean = jnp.maximum(mean, eps1) if self.semantics == "torch" else mean
        return {"row": row, "col": col, "nu": None}, wide_row / mean * wide_col


def rms(x: jax.Array) -> jax.Array:
    """The root of the mean of squares; 0 for an array without elements."""
    return jnp.sqrt(jnp.sum(x * x) / max(x.size, 1))
