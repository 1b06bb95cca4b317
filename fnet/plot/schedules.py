"""Schedules by step, before they are used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from fnet.plot.canvas import canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def schedule(schedule: Callable[[Any], Any] | Mapping[str, Callable[[Any], Any]], steps: int) -> Figure:
    """The values of a schedule, or of several by label, at the first ``steps`` updates.

    >>> from fnet import optim, plot
    >>> figure = plot.schedule(optim.warmup(optim.cosine(3e-4, steps=900), steps=100), steps=1000)
    >>> figure.axes[0].get_xlabel()
    'step'
    """
    if steps < 1:
        raise ValueError(f"plot.schedule: steps must be at least 1, got {steps!r}")
    curves = schedule if isinstance(schedule, Mapping) else {"": schedule}
    figure = canvas(5.0, 3.2)
    axes = figure.subplots()
    at = jnp.arange(steps)
    for label, curve in curves.items():
        axes.plot(at, jax.vmap(lambda step, curve=curve: jnp.asarray(curve(step)))(at), linewidth=1.2, label=label)
    axes.set_xlabel("step")
    axes.set_ylabel("value")
    if isinstance(schedule, Mapping):
        axes.legend()
    return figure


def learning_rates(rates: Any, losses: Any, best: float | None = None) -> Figure:
    """The curve of a learning-rate finder: the loss at each rate, on a logarithmic axis; ``best`` is marked.

    >>> from fnet import plot
    >>> plot.learning_rates([1e-4, 1e-3, 1e-2], [2.0, 1.0, 5.0], best=1e-3).axes[0].get_xscale()
    'log'
    """
    x, y = np.asarray(rates, np.float64), np.asarray(losses, np.float64)
    if x.ndim != 1 or x.shape != y.shape or not len(x):
        raise ValueError(f"plot.learning_rates takes a loss for each rate, got shapes {x.shape} and {y.shape}")
    figure = canvas(5.0, 3.2)
    axes = figure.subplots()
    axes.plot(x, y, linewidth=1.2)
    axes.set_xscale("log")
    finite = y[np.isfinite(y)]
    if len(finite) and finite[0] > finite.min():  # the divergence at the end would flatten the rest
        axes.set_ylim(finite.min() - 0.1 * (finite[0] - finite.min()), finite[0] + 0.5 * (finite[0] - finite.min()))
    if best is not None:
        axes.axvline(best, color="tab:red", linewidth=1, label=f"{best:.3g}")
        axes.legend()
    axes.set_xlabel("learning rate")
    axes.set_ylabel("loss")
    return figure
