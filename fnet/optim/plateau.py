"""A learning rate that falls when the loss no longer does."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from fnet.optim.checks import not_negative, whole
from fnet.optim.core import State, Wrapper
from fnet.optim.leaves import PyTree


@dataclass(frozen=True)
class reduce_on_plateau(Wrapper):
    """Multiply the learning rate by ``factor`` when the loss has not improved for more than ``patience`` looks.

    As torch's ReduceLROnPlateau: an improvement passes the best value by ``threshold`` ("rel": of itself, "abs": as it
    is); for ``cooldown`` looks after a reduction nothing counts against it; the rate stays above ``min_lr``, and a
    reduction of at most ``eps`` is not made. A look is at the mean of the losses of ``interval`` calls of `update`,
    whether they are applied or not, so the number of batches in an epoch gives torch's usual use; a NaN among them
    makes a bad look, as in torch. With ``interval=None`` updates look at nothing: give it a loss,
    that of the validation for instance, with ``opt_state = opt.observe(opt_state, value)``.

    It changes ``hyper.lr`` in the state, of every group, where it can be read and set; the reduced rate counts from the
    next update on. In the state: "plateau", a dict of scalars. Raises ValueError for numbers out of range, and at
    ``init`` when the learning rate follows a schedule.

    >>> import jax.numpy as jnp
    >>> from fnet import optim
    >>> opt = reduce_on_plateau(optim.sgd(1.0), factor=0.5, patience=2)
    >>> params = {"w": jnp.array(0.0)}
    >>> opt_state = opt.init(params)
    >>> for _ in range(4):
    ...     params, opt_state = opt.update({"w": jnp.array(0.0)}, opt_state, params, loss=3.0)
    >>> float(optim.get_hyper(opt_state, "lr"))
    0.5
    """

    factor: float = 0.1
    patience: int = 10
    threshold: float = 1e-4
    threshold_mode: str = "rel"
    cooldown: int = 0
    min_lr: float = 0.0
    eps: float = 1e-8
    mode: str = "min"
    interval: int | None = 1

    keys = ("plateau",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.factor < 1:
            raise ValueError(f"reduce_on_plateau: factor must be between 0 and 1, got {self.factor!r}")
        for name, choices in (("mode", ("min", "max")), ("threshold_mode", ("rel", "abs"))):
            if getattr(self, name) not in choices:
                raise ValueError(f"reduce_on_plateau: {name} must be one of {choices}, got {getattr(self, name)!r}")
        whole("reduce_on_plateau", "patience", self.patience, 0)
        whole("reduce_on_plateau", "cooldown", self.cooldown, 0)
        if self.interval is not None:
            whole("reduce_on_plateau", "interval", self.interval, 1)
        for name in ("threshold", "min_lr", "eps"):
            not_negative("reduce_on_plateau", name, getattr(self, name))

    def init(self, params: PyTree) -> State:
        inner = self.inner.init(params)
        if not _rates(inner["hyper"]):
            raise ValueError(f"reduce_on_plateau: {self.inner!r} has no hyperparameter lr to reduce")
        if _rates(inner.get("scheduled", {})):
            raise ValueError(
                f"reduce_on_plateau: lr follows a schedule in {self.inner!r}, which would undo each reduction; build "
                f"it with a float"
            )
        zero, count = jnp.asarray(0.0, jnp.result_type(float)), jnp.asarray(0, jnp.int32)
        worst = jnp.full_like(zero, math.inf if self.mode == "min" else -math.inf)
        return self.beside(
            inner, plateau={"best": worst, "bad": count, "cooldown": count, "sum": zero, "count": count}
        )  # fmt: skip

    def update(
        self, grads: PyTree, opt_state: State, params: PyTree, *, loss: Any = None, **more: Any
    ) -> tuple[PyTree, State]:
        inner, own = self.apart(opt_state)
        params, inner = self.inner.update(grads, inner, params, loss=loss, **more)
        opt_state = self.beside(inner, **own)
        if self.interval is None:
            return params, opt_state
        if loss is None:
            raise ValueError("reduce_on_plateau looks at the loss: update needs loss=, which train.make_step passes")
        seen = own["plateau"]
        total, count = seen["sum"] + jnp.asarray(loss, seen["sum"].dtype), seen["count"] + 1
        full = count == self.interval
        looked = self.observe(opt_state, total / self.interval)
        opt_state = jax.tree.map(lambda new, old: jnp.where(full, new, old), _part(looked), _part(opt_state)) | {
            key: value for key, value in opt_state.items() if key not in ("hyper", "plateau")
        }
        empty = {"sum": jnp.where(full, 0, total).astype(total.dtype), "count": jnp.where(full, 0, count)}
        return params, {**opt_state, "plateau": {**opt_state["plateau"], **empty}}

    def observe(self, opt_state: State, value: Any) -> State:
        """The state after a look at ``value``, a scalar loss (or a score, with ``mode="max"``); pure and jittable."""
        old = self.apart(opt_state)[1]["plateau"]
        value = jnp.asarray(value, old["best"].dtype)
        better = self._better(value, old["best"])
        bad = jnp.where((old["cooldown"] > 0) | better, 0, old["bad"] + 1)
        cooldown = jnp.maximum(old["cooldown"] - 1, 0)
        reduce = bad > self.patience
        seen = {
            **old,
            "best": jnp.where(better, value, old["best"]),
            "bad": jnp.where(reduce, 0, bad),
            "cooldown": jnp.where(reduce, self.cooldown, cooldown).astype(jnp.int32),
        }

        def lower(lr: jax.Array) -> jax.Array:
            new = jnp.maximum(lr * self.factor, self.min_lr)
            return jnp.where(reduce & (lr - new > self.eps), new, lr).astype(lr.dtype)

        return {**opt_state, "hyper": _each_rate(opt_state["hyper"], lower), "plateau": seen}

    def _better(self, value: jax.Array, best: jax.Array) -> jax.Array:
        sign = -1 if self.mode == "min" else 1
        if self.threshold_mode == "rel":
            bound = best * (1 + sign * self.threshold)
        else:
            bound = best + sign * self.threshold
        return sign * value > sign * bound


def _part(opt_state: State) -> State:
    return {"hyper": opt_state["hyper"], "plateau": opt_state["plateau"]}


def _each_rate(hyper: Mapping[str, Any], f: Any) -> dict[str, Any]:
    """The hyperparameters with ``f`` applied to each "lr", in every group."""
    return {
        name: _each_rate(value, f) if isinstance(value, Mapping) else f(value) if name == "lr" else value
        for name, value in hyper.items()
    }


def _rates(hyper: Mapping[str, Any]) -> list[str]:
    """Where there is an "lr", in any group."""
    inside = [rate for value in hyper.values() if isinstance(value, Mapping) for rate in _rates(value)]
    return inside + [name for name in hyper if name == "lr"]
