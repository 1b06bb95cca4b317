"""`lr_finder`: the learning-rate range test."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from fnet import optim
from fnet.inspect.replays import check_loader


class RateTest(NamedTuple):
    """What `lr_finder` measured: steps, rates and losses as arrays; the ``suggestion`` is None where there is none."""

    steps: np.ndarray
    rates: np.ndarray
    losses: np.ndarray
    smoothed: np.ndarray
    suggestion: float | None

    def __repr__(self) -> str:
        if np.isnan(self.smoothed).all():
            return f"<RateTest of {len(self.steps)} steps: no suggestion; the loss is NaN from the first step on>"
        best = int(np.nanargmin(self.smoothed))
        found = "no suggestion" if self.suggestion is None else f"try {self.suggestion:.2g}"
        return f"<RateTest of {len(self.steps)} steps: {found}; the loss is lowest at {self.rates[best]:.2g}>"


def lr_finder(
    step: Callable[..., Any],
    run: Any,
    loader: Any,
    *,
    lowest: float = 1e-7,
    highest: float = 10.0,
    steps: int = 100,
    smoothing: float = 0.9,
    group: str | None = None,
) -> RateTest:
    """Train for some steps with a learning rate that grows geometrically, and suggest one where the loss falls fastest.

    The range test of Smith 2017 (arXiv:1506.01186). The run that is passed stays as it is, the batches are those from
    its step on, and the rate is a value in the optimizer's state, so that nothing is compiled again; with a schedule,
    or without a hyperparameter "lr", `optim.set_hyper` raises. The losses are smoothed by a running average with bias
    correction; the test ends where that is no number or above four times its best, and the suggestion is where it
    falls most steeply over the logarithm of the rate, before its minimum. ``group`` is that of `optim.set_hyper`.

    >>> import jax, numpy as np
    >>> from fnet import data, functional as F, nn, optim, train
    >>> points = data.ArrayDataset(np.eye(4, dtype="float32"), np.arange(4))
    >>> loader = data.DataLoader(points, batch_size=4)
    >>> model, opt = nn.Linear(4), optim.sgd(0.1)
    >>> run = train.start(model, opt, jax.random.key(0), np.eye(4, dtype="float32"))
    >>> step = train.make_step(train.supervised(model, F.cross_entropy), opt)
    >>> found = lr_finder(step, run, loader, lowest=1e-3, highest=1e3, steps=30)
    >>> 1e-3 < found.suggestion < 1e3, int(run.step)
    (True, 0)
    """
    if not 0 < lowest < highest or steps < 2:
        raise ValueError(f"lr_finder needs 0 < lowest < highest and 2 steps, got {lowest}, {highest}, {steps}")
    if not 0 <= smoothing < 1:
        raise ValueError(f"lr_finder: smoothing is in [0, 1), got {smoothing}")
    check_loader(loader, "lr_finder")
    options = {} if group is None else {"group": group}
    run = jax.tree.map(jax.numpy.copy, run)  # a step that donates would take the caller's
    begin, average, best = int(run.step), 0.0, math.inf
    rates, losses, smoothed = [], [], []
    for index in range(steps):
        rate = lowest * (highest / lowest) ** (index / (steps - 1))
        run = run._replace(opt_state=optim.set_hyper(run.opt_state, lr=rate, **options))
        run, metrics = step(run, loader.batch(begin + index))
        rates.append(rate)
        losses.append(float(metrics["loss"]))
        average = smoothing * average + (1 - smoothing) * losses[-1]
        smoothed.append(average / (1 - smoothing ** (index + 1)))
        best = min(best, smoothed[-1])
        if not math.isfinite(losses[-1]) or (index and smoothed[-1] > 4 * abs(best) + 1e-12):
            break
    numbers = np.arange(begin, begin + len(rates))
    return RateTest(numbers, np.array(rates), np.array(losses), np.array(smoothed), _suggest(rates, smoothed))


def _suggest(rates: list[float], smoothed: list[float]) -> float | None:
    """The rate of the steepest descent before the minimum; None where the loss never falls."""
    finite = [value if math.isfinite(value) else math.inf for value in smoothed]
    end = int(np.argmin(finite)) + 1
    if end < 3:
        return None
    slopes = np.gradient(np.array(smoothed[:end]), np.log(rates[:end]))
    at = int(np.argmin(slopes))
    return float(rates[at]) if slopes[at] < 0 else None
