"""`fit`: the training loop, thin enough that you could have written it."""

from __future__ import annotations

import math
import signal
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any

import jax
import numpy as np

from fnet.train.callbacks import Callback, Stop
from fnet.train.dispatch import Step, calls, many_steps
from fnet.train.evaluation import scalar
from fnet.train.history import History
from fnet.train.progress import Bar
from fnet.train.state import TrainState

NAN_HINT = (
    "labels out of range give NaN under jit (the loss called without jit names them), as do too high a learning "
    "rate and NaN in the data"
)


def fit(
    step: Step,
    run: TrainState,
    loader: Any,
    *,
    epochs: int | None = None,
    steps: int | None = None,
    every: int | None = None,
    evaluate: Callable[[TrainState], Mapping[str, float]] | None = None,
    callbacks: Iterable[Callback] = (),
    history: History | None = None,
    steps_per_call: int = 1,
    progress: bool = True,
) -> tuple[TrainState, History]:
    """Train until the run has seen ``epochs`` epochs of the loader, or ``steps`` steps, in all.

    The totals count from the run's step 0, and a batch depends on its step alone, so a run that was saved and
    restored goes on exactly where it stopped. After every ``every`` steps (by default each epoch) and at the end,
    ``evaluate(run)`` is measured, whose scalars go into the history, and each callback is called with the run and the
    latest metrics; it may return another run of the same step to go on with, or raise `Stop`. Metrics are read one
    step late, so that the device never waits. A loss that becomes NaN, and a run that has reached the total already,
    give a warning. Returns the run and its `History`; so do `Stop` and Ctrl-C, which ends the step at hand first (a
    second Ctrl-C does not wait for it).

    ``history`` goes on from what it has, rewound to the run's step; one with a file, as
    ``train.History(train.JSONLines(path))``, is written before callbacks run, so a checkpoint is never ahead of it.

    A callback is a plain function. It may have a method ``due(step) -> bool``, as `train.every` and
    `fnet.io.Checkpoints` have: it is asked after each step, and the callback called in between with that step's own
    metrics. One with a method ``save``, as `fnet.io.Checkpoints`, is called after the others, so that what it saves
    has their changes. One with ``over() -> bool``, as `train.early_stopping`, is asked before the first step.

    ``steps_per_call=k`` takes k steps in one call where it can (see `many_steps`), each with its own metrics;
    evaluation and callbacks come at their steps as before. Best is a k that divides ``every``.

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
    every = per_epoch if every is None else every
    _check(every, evaluate, history, steps_per_call)
    begin = int(run.step)
    if begin >= total > 0:
        warnings.warn(
            f"fit has nothing to do: the run is at step {begin}, and epochs={epochs}, steps={steps} end at step "
            f"{total} of the whole run; give a larger total to train on",
            stacklevel=2,
        )
    history = History() if history is None else history
    history.rewind(begin)
    callbacks = sorted(_checked(callbacks), key=lambda callback: hasattr(callback, "save"))
    asked = [callback for callback in callbacks if hasattr(callback, "due")]
    if any(callback.over() for callback in callbacks if hasattr(callback, "over")):
        return run, history
    many = many_steps(step)
    pending: tuple[int, int, Mapping[str, Any]] = (begin, 0, {})

    def read() -> None:
        nonlocal pending
        (before, count, metrics), pending = pending, (begin, 0, {})
        _record(history, before, count, metrics)

    def reports(number: int) -> bool:
        return number % every == 0 or number == total

    def ends(number: int) -> bool:
        return reports(number) or any(callback.due(number) for callback in asked)

    with closing(iter(loader.stream(start=begin))) as batches, ctrl_c() as pressed:
        bar = Bar(begin, total, epochs, per_epoch, batches, progress)
        try:
            for before, count, batch in calls(batches, begin, total, steps_per_call, ends):
                run, metrics = step(run, batch) if count == 1 else many(run, batch)
                read()  # of the call before, while this one runs
                pending = (before, count, metrics)
                number = before + count
                bar.advance(number, history, batch, count)
                if reports(number):
                    read()
                    if evaluate is not None:
                        history.add(number, _scores(evaluate(run)))
                    bar.show(number, history)
                    for callback in callbacks:
                        history.flush()
                        run = _next(run, callback(run, history.last()), callback)
                    bar.restart()
                elif urgent := [callback for callback in asked if callback.due(number)]:
                    read()
                    own = {name: value for name, value in history.last().items() if name in metrics}
                    for callback in urgent:
                        history.flush()
                        run = _next(run, callback(run, dict(own)), callback)
                if pressed:
                    break
        except Stop:
            pass
        except KeyboardInterrupt:
            if any(leaf.is_deleted() for leaf in jax.tree.leaves(run) if isinstance(leaf, jax.Array)):
                raise  # it was donated to a step that did not return another
        finally:
            bar.close()
            history.flush()
        read()
        history.flush()
    return run, history


def _record(history: History, before: int, count: int, metrics: Mapping[str, Any]) -> None:
    """Add the metrics of ``count`` steps to the history; say when the loss becomes NaN."""
    if count > 1:
        metrics = {name: np.asarray(values) for name, values in metrics.items()}
    for index in range(count):
        number = before + index + 1
        values = {name: scalar(name, value[index] if count > 1 else value) for name, value in metrics.items()}
        if math.isnan(values.get("loss", 0.0)) and not math.isnan(history.latest("loss", 0.0)):
            warnings.warn(f"the loss of step {number} is NaN; {NAN_HINT}", RuntimeWarning, stacklevel=4)
        history.add(number, values)


def _scores(scores: Mapping[str, Any]) -> dict[str, float]:
    """What of an evaluation goes into the history: its scalars."""
    if not isinstance(scores, Mapping):
        raise TypeError(
            f"fit: evaluate must return {{name: value}}, as train.evaluate does, got {type(scores).__name__}"
        )
    return {f"eval_{name}": scalar(f"eval_{name}", value) for name, value in scores.items() if np.ndim(value) == 0}


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


@contextmanager
def ctrl_c() -> Iterator[list[bool]]:
    """A list that is no longer empty when Ctrl-C was pressed; pressed again, it raises KeyboardInterrupt as ever.

    An interrupt between a step's return and the assignment of its result would lose the run, if that was donated. Where
    somebody handles SIGINT already, or in another thread than the main one, nothing is changed.
    """
    pressed: list[bool] = []
    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield pressed
        return

    def press(number: int, frame: Any) -> None:
        if pressed:
            raise KeyboardInterrupt
        pressed.append(True)

    signal.signal(signal.SIGINT, press)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _check(every: Any, evaluate: Any, history: Any, steps_per_call: Any) -> None:
    for name, value in {"every": every, "steps_per_call": steps_per_call}.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"fit: {name} is a number of steps, at least 1, got {value!r}")
    if evaluate is not None and not callable(evaluate):
        raise TypeError(
            f"fit: evaluate is a function of the run, got {type(evaluate).__name__}; to score a loader, give "
            "lambda run: train.evaluate(loss, run, test_loader)"
        )
    if history is not None and not isinstance(history, History):
        raise TypeError(f"fit: history is a train.History, as train.History(train.JSONLines(path)), got {history!r}")


def _checked(callbacks: Any) -> list[Callback]:
    if callable(callbacks) or not isinstance(callbacks, Iterable):
        raise TypeError(f"fit: callbacks is a list of functions of (run, latest), got {callbacks!r}")
    callbacks = list(callbacks)
    for callback in callbacks:
        if not callable(callback):
            raise TypeError(f"fit: a callback is a function of (run, latest), got {callback!r}")
    return callbacks


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
