"""Callbacks of `fit`: functions of (run, latest metrics), which remember nothing.

What a callback must know of the past it reads from the `History`, which is rewound with the run. So a run that was
killed and restored stops, and lowers its learning rate, where it would have.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fnet import optim
from fnet.io.checkpoints import better
from fnet.optim.checks import whole
from fnet.train.history import History
from fnet.train.state import TrainState

Callback = Callable[[TrainState, dict[str, float]], TrainState | None]


class Stop(Exception):
    """Raised by a callback to end `fit` after the step at hand; the callbacks after it are not called."""


def early_stopping(
    history: History, name: str, patience: int = 10, *, mode: str | None = None, min_delta: float = 0.0
) -> Callback:
    """End the training when the last ``patience`` values of a metric were none better than the best before.

    Better is lower or higher by more than ``min_delta``: ``mode`` "min" or "max", which is needed where the name does
    not tell. NaN is never better. ``history`` is the one that `fit` is given. A run that had been stopped is not
    trained on when it is restored, unless patience has grown. `io.Checkpoints` with ``best=name`` keeps the best run.

    Raises ValueError for a wrong setting; when it is called, KeyError if nothing has that name.

    >>> from fnet import train
    >>> history = train.History()
    >>> stop = train.early_stopping(history, "eval_loss", patience=2)
    >>> for step, loss in enumerate([3.0, 2.0, 2.5], 1): history.add(step, {"eval_loss": loss})
    >>> stop(None, history.last())  # no Stop yet
    >>> history.add(4, {"eval_loss": 2.0})
    >>> stop.over()
    True
    """
    whole("early_stopping", "patience", patience, 1)
    _delta("early_stopping", "min_delta", min_delta)
    return _EarlyStopping(history, name, patience, better("early_stopping", name, mode), min_delta)


@dataclass(frozen=True)
class _EarlyStopping:
    history: History
    name: str
    patience: int
    sign: int
    min_delta: float

    def over(self) -> bool:
        """Whether the history says that this run has ended; `fit` asks before its first step."""
        if self.name not in self.history:
            return False
        bad = 0
        for improved in _improvements(self.sign * self.history[self.name], self.min_delta):
            bad = 0 if improved else bad + 1
            if bad >= self.patience:
                return True
        return False

    def __call__(self, run: TrainState, latest: Mapping[str, float]) -> None:
        _check_given("early_stopping", self.history, self.name, latest)
        if self.over():
            raise Stop


def reduce_on_plateau(
    history: History,
    name: str,
    factor: float = 0.1,
    patience: int = 10,
    *,
    mode: str | None = None,
    min_delta: float = 0.0,
    min_lr: float = 0.0,
    group: int | str | None = None,
) -> Callback:
    """Multiply the learning rate by ``factor`` when a metric was not better more than ``patience`` times in a row.

    As torch.optim.lr_scheduler.ReduceLROnPlateau with an absolute threshold: counting begins anew after a reduction,
    and the best value stays. The metric is one of the evaluation; the learning rate must be a number, not a schedule,
    and ``group`` says which where there are `optim.groups`. To follow the training loss instead, use
    `optim.reduce_on_plateau`, which needs no history.

    Raises ValueError for a wrong setting; when it is called, KeyError if nothing has that name.

    >>> import jax, jax.numpy as jnp
    >>> from fnet import nn, optim, train
    >>> run = train.start(nn.Linear(3), optim.sgd(1.0), jax.random.key(0), jnp.ones((8, 5)))
    >>> history = train.History()
    >>> reduce = train.reduce_on_plateau(history, "eval_loss", factor=0.5, patience=1)
    >>> for loss in (3.0, 3.0, 3.0):
    ...     run = run._replace(step=run.step + 1)
    ...     history.add(int(run.step), {"eval_loss": loss})
    ...     run = reduce(run, history.last()) or run
    >>> float(optim.get_hyper(run.opt_state, "lr"))
    0.5
    """
    if not 0 < factor < 1:
        raise ValueError(f"reduce_on_plateau: factor must be between 0 and 1, got {factor!r}")
    whole("reduce_on_plateau", "patience", patience, 0)
    _delta("reduce_on_plateau", "min_delta", min_delta)
    _delta("reduce_on_plateau", "min_lr", min_lr)
    sign = better("reduce_on_plateau", name, mode)

    def reduce(run: TrainState, latest: Mapping[str, float]) -> TrainState | None:
        _check_given("reduce_on_plateau", history, name, latest)
        if history.steps(name)[-1] != int(run.step):
            return None  # not measured after this step
        bad, due = 0, False
        for improved in _improvements(sign * history[name], min_delta):
            bad = 0 if improved or due else bad
            bad += not improved
            due = bad > patience
        if not due:
            return None
        lr = max(float(optim.get_hyper(run.opt_state, "lr", group)) * factor, min_lr)
        return run._replace(opt_state=optim.set_hyper(run.opt_state, group, lr=lr))

    return reduce


def _improvements(values: np.ndarray, min_delta: float) -> Iterator[bool]:
    """Whether each of the values is lower than the best before."""
    best = math.inf
    for value in values:
        improved = value < best - min_delta or (best == math.inf and value == value)
        best = value if improved else best
        yield improved


def stop_on_nan(history: History, name: str = "loss") -> Callback:
    """End the training when a metric of a step is NaN or infinite, which is seen one step later.

    No checkpoint is saved then: `io.Checkpoints` is called last. Go back to one, and let `inspect.find_nan` say where
    it came from.

    >>> from fnet import train
    >>> history = train.History()
    >>> stop = train.stop_on_nan(history)
    >>> history.add(7, {"loss": float("nan")})
    >>> stop.due(8)
    True
    """
    return _StopOnNaN(history, name)


@dataclass(frozen=True)
class _StopOnNaN:
    history: History
    name: str

    def due(self, step: int) -> bool:
        """Whether the last value read is not finite; `fit` asks after each step."""
        return not math.isfinite(self.history.latest(self.name, 0.0))

    def __call__(self, run: TrainState, latest: Mapping[str, float]) -> None:
        _check_given("stop_on_nan", self.history, self.name, latest)
        if not np.isfinite(self.history[self.name][-2:]).all():  # the step at hand was read meanwhile
            raise Stop


def time_limit(*, hours: float = 0.0, minutes: float = 0.0, seconds: float = 0.0) -> Callback:
    """End the training after this time, counted from this call, so that the run can be saved before a job's end.

    >>> from fnet import train
    >>> stop = train.time_limit(hours=1)
    >>> stop.due(1)
    False
    """
    limit = 3600 * hours + 60 * minutes + seconds
    if not limit > 0:
        raise ValueError(f"time_limit: hours, minutes and seconds must be more than 0 in all, got {limit!r} seconds")
    return _TimeLimit(time.monotonic() + limit)


@dataclass(frozen=True)
class _TimeLimit:
    end: float

    def due(self, step: int) -> bool:
        """Whether the time is over; `fit` asks after each step."""
        return time.monotonic() >= self.end

    def __call__(self, run: TrainState, latest: Mapping[str, float]) -> None:
        if self.due(0):
            raise Stop


def every(n: int, callback: Callback) -> Callback:
    """Call ``callback`` after each n-th step of the run, counted from its step 0, and at no other.

    >>> from fnet import train
    >>> show = train.every(100, lambda run, latest: print(int(run.step), latest))
    >>> show.due(100), show.due(150)
    (True, False)
    """
    if not callable(callback):
        raise TypeError(f"every takes a function (run, latest) -> run or None, got {callback!r}")
    whole("every", "n", n, 1)
    return _Every(n, callback)


@dataclass(frozen=True)
class _Every:
    n: int
    callback: Callback

    def due(self, step: int) -> bool:
        """Whether it is an n-th step; `fit` asks after each step."""
        return step % self.n == 0

    def __call__(self, run: TrainState, latest: dict[str, float]) -> TrainState | None:
        return self.callback(run, latest) if self.due(int(run.step)) else None


def print_samples(n: int, sample: Callable[[TrainState], Any]) -> Callback:
    """Print ``sample(run)`` after each n-th step, above the progress bar.

    >>> import jax, jax.numpy as jnp
    >>> from fnet import nn, optim, train
    >>> run = train.start(nn.Linear(1), optim.sgd(0.1), jax.random.key(0), jnp.ones((1, 2)))
    >>> show = train.print_samples(100, lambda run: f"step {run.step}")
    >>> show(run, {})
    step 0
    """
    from tqdm.auto import tqdm

    return every(n, lambda run, latest: tqdm.write(str(sample(run))))


def averaged(opt: Any, run: TrainState) -> TrainState:
    """The run with the parameters to evaluate: the average, around `optim.ema` and its kind.

    ``fit(…, evaluate=lambda run: train.evaluate(loss, train.averaged(opt, run), test_loader))``. Statistics of
    BatchNorm stay those of the parameters that are trained.

    >>> import jax, jax.numpy as jnp
    >>> from fnet import nn, optim, train
    >>> opt = optim.ema(optim.sgd(0.1), decay=0.9)
    >>> run = train.start(nn.Linear(3), opt, jax.random.key(0), jnp.ones((8, 5)))
    >>> train.averaged(opt, run).params["weight"].shape
    (5, 3)
    """
    return run._replace(params=opt.eval_params(run.opt_state, run.params))


def _check_given(owner: str, history: History, name: str, latest: Mapping[str, float]) -> None:
    """Raise where the history has nothing of that name: ValueError if it is not the one that fit writes to."""
    if name in latest and name not in history:
        raise ValueError(f"{owner}: {name!r} was measured, but not into this history; give it to fit: history=history")
    history.steps(name)  # raises KeyError naming what there is


def _delta(owner: str, name: str, value: float) -> None:
    if not 0 <= value < math.inf:
        raise ValueError(f"{owner}: {name} must be finite and not negative, got {value!r}")
