"""`fit`: the training loop, thin enough that you could have written it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from typing import Any

import numpy as np

from fnet.train.evaluation import scalar
from fnet.train.history import History
from fnet.train.state import TrainState

NAN_HINT = (
    "labels out of range give NaN under jit (the loss called without jit names them), as do too high a learning "
    "rate and NaN in the data"
)


class Stop(Exception):
    """Raised by a callback to end `fit` after the step at hand."""


def fit(
    step: Callable[[TrainState, Any], tuple[TrainState, Mapping[str, Any]]],
    run: TrainState,
    loader: Any,
    *,
    epochs: int | None = None,
    steps: int | None = None,
    every: int | None = None,
    evaluate: Callable[[TrainState], Mapping[str, float]] | None = None,
    callbacks: Iterable[Callable[[TrainState, dict[str, float]], TrainState | None]] = (),
    progress: bool = True,
) -> tuple[TrainState, History]:
    """Train until the run has seen ``epochs`` epochs of the loader, or ``steps`` steps, in all.

    The totals count from the run's step 0, and a batch depends on its step alone, so a run that was saved and
    restored goes on exactly where it stopped. After every ``every`` steps (by default each epoch) and at the end,
    ``evaluate(run)`` is measured, whose scalars go into the history, and each callback is called with the run and the
    latest metrics; it may return another run of the same step to go on with, or raise `Stop`. A callback with a method
    ``due(step) -> bool``, as `fnet.io.Checkpoints` has, is asked after each step, and called in between with that
    step's own metrics. Metrics are read one step late, so that the device never waits. A loss that becomes NaN, and a
    run that has reached the total already, give a warning. Returns the run and its `History`; so do `Stop` and Ctrl-C,
    with what was reached.

    >>> import jax, numpy as np
    >>> from fnet import data, functional as F, nn, optim, train
    >>> points = data.ArrayDataset(np.eye(4, dtype="float32"), np.arange(4))
    >>> loader = data.DataLoader(points, batch_size=2, shuffle=True)
    >>> model, opt = nn.Linear(4), optim.sgd(1.0)
    >>> run = train.start(model, opt, jax.random.key(0), np.eye(4, dtype="float32"))
    >>> step = train.make_step(train.supervised(model, F.cross_entropy), opt)
    >>> run, history = train.fit(step, run, loader, epochs=10, progress=False)
    >>> int(run.step), bool(history["loss"][-1] < history["loss"][0])
    (20, True)
    """
    if not callable(step) or not hasattr(run, "step"):
        raise TypeError(f"fit takes (step, run, loader), got ({type(step).__name__}, {type(run).__name__}, …)")
    per_epoch = _steps_per_epoch(loader)
    total = _total(epochs, steps, per_epoch)
    begin = int(run.step)
    if begin >= total > 0:
        warnings.warn(
            f"fit has nothing to do: the run is at step {begin}, and epochs={epochs}, steps={steps} end at step "
            f"{total} of the whole run; give a larger total to train on",
            stacklevel=2,
        )
    every = per_epoch if every is None else every
    if not isinstance(every, int) or every < 1:
        raise ValueError(f"fit: every is a number of steps, at least 1, got {every!r}")
    if evaluate is not None and not callable(evaluate):
        raise TypeError(
            f"fit: evaluate is a function of the run, got {type(evaluate).__name__}; to score a loader, give "
            "lambda run: train.evaluate(loss, run, test_loader)"
        )
    callbacks = list(callbacks)
    history = History()
    pending: tuple[int, Mapping[str, Any]] | None = None

    def read() -> dict[str, float]:
        nonlocal pending
        if pending is not None:
            at, metrics = pending
            pending = None
            values = {name: scalar(name, value) for name, value in metrics.items()}
            if math.isnan(values.get("loss", 0.0)) and not math.isnan(history.last().get("loss", 0.0)):
                warnings.warn(f"the loss of step {at} is NaN; {NAN_HINT}", RuntimeWarning, stacklevel=3)
            history.add(at, values)
        return history.last()

    with _Bar(begin, total, progress) as bar, closing(iter(loader.stream(start=begin))) as batches:
        try:
            for number in range(begin + 1, total + 1):
                run, metrics = step(run, next(batches))
                latest = read()  # of the step before, while this one runs
                pending = (number, metrics)
                bar.advance(latest, epoch=(number - 1) // per_epoch, epochs=epochs)
                if number % every == 0 or number == total:
                    latest = read()
                    if evaluate is not None:
                        scores = evaluate(run)
                        scalars = {name: value for name, value in scores.items() if np.ndim(value) == 0}
                        history.add(number, {f"eval_{name}": scalar(name, value) for name, value in scalars.items()})
                        latest = history.last()
                    bar.show(latest)
                    for callback in callbacks:
                        run = _next(run, callback(run, dict(latest)), callback)
                elif urgent := [callback for callback in callbacks if _is_due(callback, number)]:
                    latest = read()
                    own = {name: latest[name] for name in metrics}
                    for callback in urgent:
                        run = _next(run, callback(run, dict(own)), callback)
        except (Stop, KeyboardInterrupt):
            read()
    return run, history


def _is_due(callback: Any, number: int) -> bool:
    due = getattr(callback, "due", None)
    return due is not None and due(number)


def _next(run: TrainState, changed: Any, callback: Any) -> TrainState:
    if changed is None:
        return run
    if not isinstance(changed, TrainState):
        raise TypeError(f"the callback {callback!r} returned {type(changed).__name__}, expected a run or None")
    if int(changed.step) != int(run.step):
        raise ValueError(
            f"the callback {callback!r} returned a run of step {int(changed.step)} at step {int(run.step)}; to go "
            "back, raise train.Stop and call fit with that run"
        )
    return changed


def _steps_per_epoch(loader: Any) -> int:
    if not hasattr(loader, "stream") or not hasattr(loader, "__len__"):
        raise TypeError(
            f"fit takes a loader with stream(start) and len, got {type(loader).__name__}; wrap your data: "
            "data.DataLoader(data.ArrayDataset(x, y), batch_size=128, shuffle=True)"
        )
    return len(loader)


def _total(epochs: int | None, steps: int | None, per_epoch: int) -> int:
    if (epochs is None) == (steps is None):
        raise ValueError(f"fit needs either epochs or steps, got epochs={epochs}, steps={steps}")
    given = steps if steps is not None else epochs
    if not isinstance(given, int) or given < 0:
        raise ValueError(f"fit takes a whole number, not negative, of epochs or steps; got {given!r}")
    return given if steps is not None else given * per_epoch


class _Bar:
    """A tqdm bar for terminal and notebook, or nothing at all."""

    def __init__(self, begin: int, total: int, shown: bool):
        self._tqdm: Any = None
        if shown:
            from tqdm.auto import tqdm

            self._tqdm = tqdm(total=total, initial=min(begin, total), unit="step", dynamic_ncols=True)

    def advance(self, latest: Mapping[str, float], epoch: int, epochs: int | None) -> None:
        if self._tqdm is not None:
            if self._tqdm.update():  # True when it is time to draw
                self.show(latest)
            self._tqdm.set_description(f"epoch {epoch + 1}" + (f"/{epochs}" if epochs else ""), refresh=False)

    def show(self, latest: Mapping[str, float]) -> None:
        if self._tqdm is not None:
            self._tqdm.set_postfix({name: f"{value:.4g}" for name, value in latest.items()}, refresh=True)

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *error: object) -> None:
        if self._tqdm is not None:
            self._tqdm.close()
