"""Curves over the steps of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fnet.plot.canvas import canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def history(history: Any, names: Sequence[str] | None = None) -> Figure:
    """The curves of a `train.History` by step, an evaluation's ``eval_x`` in one panel with ``x``.

    ``names`` chooses the panels; all by default.

    >>> from fnet import plot, train
    >>> measured = train.History()
    >>> measured.add(1, {"loss": 2.0, "eval_loss": 2.1})
    >>> [axes.get_ylabel() for axes in plot.history(measured).axes]
    ['loss']
    """
    if not hasattr(history, "names"):
        raise TypeError(f"plot.history takes a train.History, got {type(history).__name__}")
    for name in names or ():
        history[name]  # raises KeyError naming those that there are
    panels = list(dict.fromkeys(name.removeprefix("eval_") for name in (names or history.names)))
    if not panels:
        raise ValueError("plot.history: the history is empty")
    figure = canvas(4.5 * len(panels), 3.2)
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False).flat, panels, strict=True):
        for name, label, style in ((panel, "training", "-"), (f"eval_{panel}", "evaluation", "o-")):
            if name in history:
                axes.plot(history.steps(name), history[name], style, markersize=3, linewidth=1, label=label)
        axes.set_xlabel("step")
        axes.set_ylabel(panel)
        axes.legend()
    return figure
