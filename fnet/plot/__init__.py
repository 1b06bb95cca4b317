"""Figures, through matplotlib (the ``plot`` extra); each function returns a `matplotlib.figure.Figure`."""

from fnet.plot.curves import history
from fnet.plot.graphs import graph
from fnet.plot.grids import images
from fnet.plot.matrices import attention, confusion
from fnet.plot.over_time import histograms, samples
from fnet.plot.schedules import learning_rates, schedule

__all__ = [
    "attention", "confusion", "graph", "histograms", "history", "images", "learning_rates", "samples", "schedule",
]  # fmt: skip
