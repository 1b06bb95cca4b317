"""Figures, through matplotlib (the ``plot`` extra); each function returns a `matplotlib.figure.Figure`."""

from fnet.plot.curves import history
from fnet.plot.grids import images
from fnet.plot.schedules import schedule

__all__ = ["history", "images", "schedule"]
