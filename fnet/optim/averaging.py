"""Wrappers that average parameters over time. All averages are kept in float32 or wider."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from fnet.optim.checks import whole
from fnet.optim.core import State, Wrapper, contains
from fnet.optim.hyper import Rate, check
from fnet.optim.leaves import PyTree, fill
from fnet.optim.schedule_free import ScheduleFree
from fnet.optim.vectors import copies, like, pick, widened


def _nearer(average: PyTree, share: Any, params: PyTree) -> PyTree:
    """``(1 - share) · average + share · params``; ``params`` exactly where the share is 1."""
    return jax.tree.map(
        lambda a, p: jnp.where(share == 1, p, a + jnp.asarray(share, a.dtype) * (p - a)), average, widened(params)
    )


@dataclass(frozen=True)
class _Averager(Wrapper):
    """A slot that follows the parameters and takes their place in `eval_params`."""

    slot = ""  # its name

    @property
    def slots(self) -> tuple[str, ...]:
        return (*self.inner.slots, self.slot)

    def _inner_step(
        self, grads: PyTree, opt_state: State, params: PyTree, more: dict[str, Any]
    ) -> tuple[PyTree, State, State, jax.Array]:
        """The inner optimizer's parameters and state, this wrapper's keys, and whether an update was applied."""
        inner, own = self.apart(opt_state)
        params, new = self.inner.update(grads, inner, params, **more)
        return params, new, own, new["step"] > inner["step"]

    def _shipped(self, inner_state: State, params: PyTree) -> PyTree:
        """What the inner optimizer would ship, trainable leaves only."""
        return self.trainable(self.inner.eval_params(inner_state, params))

    def eval_params(self, opt_state: State, params: PyTree) -> PyTree:
        """The averaged parameters, in the dtypes of ``params``."""
        _, own = self.apart(opt_state)
        return fill(like(own[self.slot], self.trainable(params)), params)


@dataclass(frozen=True)
class ema(_Averager):
    """An exponential moving average of the parameters, ``a ← decay · a + (1 - decay) · p``, for evaluation.

    ``opt.eval_params(opt_state, params)`` is the average; training goes on with the parameters themselves. It starts
    at the parameters after the first update, as torch.optim.swa_utils.AveragedModel with `get_ema_multi_avg_fn` has it.
    ``debias=True`` takes out the extra weight that this gives them, as Adam does (Kingma & Ba 2015, section 3), by
    which early averages forget the beginning. ``decay`` is a number in [0, 1) or a schedule of the updates before this
    one; calls that apply no update leave the average alone. Around a rule with points of its own for evaluation,
    such as `lookahead`, the average is over those. To average float32 masters, not the parameters rounded from them,
    put it inside: ``master_weights(ema(opt))``. BatchNorm's statistics are not averaged.

    Slot: "ema". Raises ValueError for a decay out of range, and where two would lie in one state.

    >>> import jax.numpy as jnp
    >>> from fnet import optim
    >>> opt = ema(optim.sgd(1.0), decay=0.5)
    >>> params = {"w": jnp.array(0.0)}
    >>> opt_state = opt.init(params)
    >>> for _ in range(2):
    ...     params, opt_state = opt.update({"w": jnp.array(-1.0)}, opt_state, params)
    >>> float(params["w"]), float(opt.eval_params(opt_state, params)["w"])
    (2.0, 1.5)
    """

    decay: Rate = 0.999
    debias: bool = False

    slot = "ema"
    keys = ("ema",)

    def __post_init__(self) -> None:
        super().__post_init__()
        check("ema", "decay", self.decay, decay=True)

    def init(self, params: PyTree) -> State:
        return self.beside(self.inner.init(params), ema=copies(self.trainable(params)))

    def update(self, grads: PyTree, opt_state: State, params: PyTree, **more: Any) -> tuple[PyTree, State]:
        params, inner, own, applied = self._inner_step(grads, opt_state, params, more)
        t = inner["step"].astype(float)
        rest = 1 - (self.decay(inner["step"] - 1) if callable(self.decay) else self.decay)
        share = rest / -jnp.expm1(t * jnp.log1p(-rest)) if self.debias else rest
        share = jnp.where(applied, jnp.where(t == 1, 1, share), 0)
        return params, self.beside(inner, ema=_nearer(own["ema"], share, self._shipped(inner, params)))


@dataclass(frozen=True)
class swa(_Averager):
    """Stochastic weight averaging: the plain mean of the parameters at certain updates (Izmailov et al. 2018).

    ``opt.eval_params(opt_state, params)`` is the mean over the parameters after the updates ``start``, ``start +
    every``, …, counted from 1 (``start=0``: after ``every``, ``2 every``, …), and before the first of them the
    parameters themselves. As torch.optim.swa_utils.AveragedModel; the learning rate from ``start`` on is the inner
    optimizer's affair (high and constant, or cyclic). BatchNorm's statistics are not averaged: before evaluating run
    the model over training batches with the averaged parameters.

    Slot: "swa"; beside it "swa_count", how many are averaged. Raises ValueError for values out of range, and where two
    would lie in one state.

    >>> import jax.numpy as jnp
    >>> from fnet import optim
    >>> opt = swa(optim.sgd(1.0), start=2)
    >>> params = {"w": jnp.array(0.0)}
    >>> opt_state = opt.init(params)
    >>> for _ in range(3):
    ...     params, opt_state = opt.update({"w": jnp.array(-1.0)}, opt_state, params)
    >>> float(params["w"]), float(opt.eval_params(opt_state, params)["w"])  # the mean of 2 and 3
    (3.0, 2.5)
    """

    start: int = 0
    every: int = 1

    slot = "swa"
    keys = ("swa", "swa_count")

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("swa", "start", self.start, 0)
        whole("swa", "every", self.every, 1)

    def init(self, params: PyTree) -> State:
        count = jnp.zeros((), jnp.int32)
        return self.beside(self.inner.init(params), swa=copies(self.trainable(params)), swa_count=count)

    def update(self, grads: PyTree, opt_state: State, params: PyTree, **more: Any) -> tuple[PyTree, State]:
        params, inner, own, applied = self._inner_step(grads, opt_state, params, more)
        since = inner["step"] - self.start
        due = applied & (since >= 0) & (since % self.every == 0)
        count = own["swa_count"] + due
        shipped = self._shipped(inner, params)
        share = jnp.where(due, 1 / jnp.maximum(count, 1).astype(float), 0)
        mean = pick(count > 0, _nearer(own["swa"], share, shipped), widened(shipped))
        return params, self.beside(inner, swa=mean, swa_count=count)


@dataclass(frozen=True)
class lookahead(_Averager):
    """Lookahead: ``k`` steps forward, one step back (Zhang et al. 2019, Algorithm 1).

    After every ``k`` updates the slow weights go the share ``alpha`` of the way to the parameters, which are then set
    to them. ``opt.eval_params(opt_state, params)`` is the slow weights, whatever the inner optimizer would evaluate
    (``ema(lookahead(opt))`` averages them). The inner optimizer keeps its state.

    Slot: "slow". Raises ValueError for values out of range, where two would lie in one state, and around a
    schedule-free rule, whose average would be wrong.

    >>> import jax.numpy as jnp
    >>> from fnet import optim
    >>> opt = lookahead(optim.sgd(1.0), k=2, alpha=0.5)
    >>> params = {"w": jnp.array(0.0)}
    >>> opt_state = opt.init(params)
    >>> for _ in range(3):
    ...     params, opt_state = opt.update({"w": jnp.array(-1.0)}, opt_state, params)
    >>> float(params["w"]), float(opt.eval_params(opt_state, params)["w"])  # 0, 1, 2 back to 1, 2
    (2.0, 1.0)
    """

    k: int = 5
    alpha: float = 0.5

    slot = "slow"
    keys = ("slow",)

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("lookahead", "k", self.k, 1)
        if isinstance(self.alpha, bool) or not isinstance(self.alpha, int | float) or not 0 < self.alpha <= 1:
            raise ValueError(f"lookahead: alpha must be a number above 0 and at most 1, got {self.alpha!r}")
        if contains(self.inner, ScheduleFree):
            raise ValueError(
                "lookahead moves the parameters, from which a schedule-free rule recovers its average: use one or the "
                "other; both average the iterates"
            )

    def init(self, params: PyTree) -> State:
        return self.beside(self.inner.init(params), slow=copies(self.trainable(params)))

    def update(self, grads: PyTree, opt_state: State, params: PyTree, **more: Any) -> tuple[PyTree, State]:
        params, inner, own, applied = self._inner_step(grads, opt_state, params, more)
        back = applied & (inner["step"] % self.k == 0)
        fast = self.trainable(params)
        slow = _nearer(own["slow"], jnp.where(back, self.alpha, 0), fast)
        return fill(pick(back, like(slow, fast), fast), params), self.beside(inner, slow=slow)
