"""Schedule-free learning: an average of the iterates in place of a falling learning rate."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from fnet.optim.core import State
from fnet.optim.hyper import Rate, strong
from fnet.optim.leaves import PyTree, fill, full, wide
from fnet.optim.moments import rates
from fnet.optim.rule import Now, Rule, l2
from fnet.optim.vectors import copies
from fnet.tree import HOLE, is_hole


@dataclass(frozen=True, repr=False)
class ScheduleFree(Rule):
    """What both rules share: the three points of Defazio et al. 2024 (arXiv 2405.15682, eq. 2–4).

    The parameters in training are y, where gradients are taken; z is a slot; `eval_params` gives x, the average, to
    evaluate and to ship. x is recovered from y and z, so their mixture β1 is fixed when the optimizer is built;
    only for parameters of 16 bits, where y is too coarse for that, is x a slot as well.
    """

    r: float = field(default=0.0, kw_only=True)
    weight_lr_power: float = field(default=2.0, kw_only=True)

    extras = ("weight_sum", "lr_max")

    @property
    def mixture(self) -> float:
        """β1: the share of x in y."""
        raise NotImplementedError(f"{type(self).__name__} must define mixture")

    def direction(self, h: Any, y: Any, g: Any, slots: State) -> tuple[Any, State]:
        """What z moves against, and the slots that this needs."""
        raise NotImplementedError(f"{type(self).__name__} must define direction(h, y, g, slots)")

    def __post_init__(self) -> None:
        super().__post_init__()
        b1, name = self.mixture, type(self).__name__
        if isinstance(b1, bool) or not isinstance(b1, int | float) or not 0 < b1 < 1:
            raise ValueError(f"{name}: the momentum β1 must be a number between 0 and 1, got {b1!r}; it is no schedule")
        for field_name in ("r", "weight_lr_power"):
            power = getattr(self, field_name)
            if isinstance(power, bool) or not isinstance(power, int | float) or not power >= 0:
                raise ValueError(f"{name}: {field_name} must be a number of at least 0, got {power!r}")

    def memory(self, params: PyTree) -> State:
        narrow = jax.tree.map(lambda p: p if wide(jnp.result_type(p)) != jnp.result_type(p) else HOLE, params)
        own = {name: full(params) for name in self.slots if name not in ("z", "x")}
        return {"z": copies(params), "x": copies(narrow), **own, "weight_sum": strong(0.0), "lr_max": strong(0.0)}

    def rule(self, now: Now, params: PyTree, grads: PyTree, memory: State) -> tuple[PyTree, State]:
        """``z' = z - γ u``, ``x' = (1 - c) x + c z'``, ``y' = (1 - β1) z' + β1 x'``; x if y is too coarse."""
        b1 = self.mixture
        lr_max = jnp.maximum(memory["lr_max"], now.hyper.lr)
        weight = now.t**self.r * lr_max**self.weight_lr_power
        weight_sum = memory["weight_sum"] + weight
        c = jnp.where(weight_sum > 0, weight / jnp.where(weight_sum > 0, weight_sum, 1), 0)

        def leaf(h: Any, y: Any, g: Any, slots: State) -> tuple[Any, State]:
            z, x = slots["z"], slots["x"]
            u, own = self.direction(h, y, g, slots)
            new_z = z - h.lr * u
            if x is None:
                new_y = y + h.c * (z - y) - h.lr * (1 - b1 * (1 - h.c)) * u
            else:
                x = x + h.c * (new_z - x)
                new_y = new_z + b1 * (x - new_z)
            return new_y, {"z": new_z, "x": x, **own}

        slots = {name: memory[name] for name in self.slots}
        params, slots = now.each(leaf, params, grads, slots, c=c, **self.shared(now))
        return params, {**slots, "weight_sum": weight_sum, "lr_max": lr_max}

    def shared(self, now: Now) -> dict[str, Any]:
        """Scalars for `direction`, computed once a step."""
        return {}

    def eval_params(self, opt_state: State, params: PyTree) -> PyTree:
        """x, the average of the iterates: evaluate and ship these, in the dtypes of ``params``."""
        live, b1 = self.trainable(params), self.mixture
        self._check(opt_state, live)

        def average(y: Any, z: Any, x: Any) -> Any:
            if is_hole(y):
                return HOLE
            x = z + (jnp.asarray(y, z.dtype) - z) / b1 if is_hole(x) else x
            return x.astype(jnp.result_type(y))

        return fill(jax.tree.map(average, live, opt_state["z"], opt_state["x"], is_leaf=is_hole), params)


@dataclass(frozen=True, repr=False)
class schedule_free_sgd(ScheduleFree):
    """Schedule-free SGD (Defazio et al. 2024, arXiv 2405.15682, eq. 2–4), as the authors' SGDScheduleFree.

    Train with the parameters that ``update`` returns; evaluate and ship ``opt.eval_params(opt_state, params)``.
    Let ``lr`` be constant, or `warmup` of a constant. ``momentum`` is β1. An iterate's weight in the average is
    ``t^r · (largest lr so far)^weight_lr_power``. ``weight_decay`` is added to the gradient, taken at y.

    Slots: "z" and, for parameters of 16 bits, "x"; beside them the scalars "weight_sum" and "lr_max". Raises
    ValueError for values out of range.

    >>> import jax.numpy as jnp
    >>> opt = schedule_free_sgd(0.5)
    >>> params = {"w": jnp.ones(2)}
    >>> opt_state = opt.init(params)
    >>> for _ in range(20):
    ...     params, opt_state = opt.update(params, opt_state, params)  # the gradient of ‖w‖²/2 is w
    >>> bool(jnp.abs(opt.eval_params(opt_state, params)["w"]).max() < 0.1)
    True
    """

    lr: Rate = 1.0
    momentum: float = 0.9
    weight_decay: Rate = 0.0

    @property
    def slots(self) -> tuple[str, ...]:
        return ("z", "x")

    @property
    def mixture(self) -> float:
        return self.momentum

    def hyper(self) -> dict[str, Rate | None]:
        return {"lr": self.lr, "weight_decay": self.weight_decay or None}

    def direction(self, h: Any, y: Any, g: Any, slots: State) -> tuple[Any, State]:
        return l2(h, y, g), {}


@dataclass(frozen=True, repr=False)
class schedule_free_adamw(ScheduleFree):
    """Schedule-free AdamW (Defazio et al. 2024, arXiv 2405.15682, Algorithm 1), as the authors' AdamWScheduleFree.

    Train with the parameters that ``update`` returns; evaluate and ship ``opt.eval_params(opt_state, params)``.
    Let ``lr`` be constant, or `warmup` of a constant, and larger than AdamW's. β1, the first of ``betas``, is the
    share of the average in the point where gradients are taken, and fixed. An iterate's weight in the average is
    ``t^r · (largest lr so far)^weight_lr_power``. ``weight_decay`` is decoupled, taken at y.

    Slots: "z", "nu" and, for parameters of 16 bits, "x"; beside them the scalars "weight_sum" and "lr_max". Raises
    ValueError for values out of range.

    >>> import jax.numpy as jnp
    >>> opt = schedule_free_adamw(0.3)
    >>> params = {"w": jnp.ones(2)}
    >>> opt_state = opt.init(params)
    >>> for _ in range(50):
    ...     params, opt_state = opt.update(params, opt_state, params)  # the gradient of ‖w‖²/2 is w
    >>> bool(jnp.abs(opt.eval_params(opt_state, params)["w"]).max() < 0.2)
    True
    """

    lr: Rate = 0.0025
    betas: tuple[float, Rate] = (0.9, 0.999)
    eps: Rate = 1e-8
    weight_decay: Rate = 0.0

    decays = ("b2",)

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", rates(self, "betas", self.betas, 2))
        super().__post_init__()

    @property
    def slots(self) -> tuple[str, ...]:
        return ("z", "nu", "x")

    @property
    def mixture(self) -> float:
        return self.betas[0]

    def hyper(self) -> dict[str, Rate | None]:
        return {"lr": self.lr, "b2": self.betas[1], "eps": self.eps, "weight_decay": self.weight_decay or None}

    def shared(self, now: Now) -> dict[str, Any]:
        return {"scale": now.hyper.b2.root_scale(now.t)}

    def direction(self, h: Any, y: Any, g: Any, slots: State) -> tuple[Any, State]:
        nu = h.b2.mix(slots["nu"], g * g)
        return l2(h, y, g / (jnp.sqrt(nu) * h.scale + h.eps)), {"nu": nu}
