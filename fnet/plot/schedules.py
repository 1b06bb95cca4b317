"""Schedules by step, before they are used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

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
