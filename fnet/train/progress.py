"""The progress bar of `fit`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from fnet.train.history import History

REDRAW = 0.1  # seconds


class Bar:
    """A tqdm bar for terminal and notebook, or nothing at all.

    Beside what tqdm shows (the step, the time left, steps a second) it has the epoch, the latest metrics, samples a
    second and, of a loader that measures it, the share of the time that was spent waiting for data.
    """

    def __init__(self, begin: int, total: int, epochs: int | None, per_epoch: int, batches: Any, shown: bool):
        self._tqdm: Any = None
        if shown:
            from tqdm.auto import tqdm

            # Drawn when this class says so: tqdm's own clock would be asked at every step, and draw without metrics.
            self._tqdm = tqdm(
                total=total, initial=min(begin, total), unit="step", dynamic_ncols=True, mininterval=0, miniters=1
            )
        self._epochs, self._per_epoch, self._batches = epochs, per_epoch, batches
        self._at, self._samples, self._since, self._next = begin, 0, time.perf_counter(), 0.0

    def advance(self, number: int, history: History, batch: Any, steps: int = 1) -> None:
        """Note that step ``number`` was begun, with a batch or a stack of them; draw when it is time."""
        if self._tqdm is not None:
            self._samples += examples(batch, steps)
            now = time.perf_counter()
            if now >= self._next:
                self._draw(number, history.last(), now)

    def show(self, number: int, history: History) -> None:
        """Draw now."""
        if self._tqdm is not None:
            self._draw(number, history.last(), time.perf_counter())

    def restart(self) -> None:
        """Begin to measure samples a second anew, after an evaluation."""
        self._samples, self._since = 0, time.perf_counter()

    def _draw(self, number: int, latest: Mapping[str, float], now: float) -> None:
        shown = {name: f"{value:.4g}" for name, value in latest.items()}
        if self._samples and now > self._since:
            shown["samples/s"] = f"{self._samples / (now - self._since):,.3g}"
        waiting = getattr(self._batches, "waiting", None)
        if waiting is not None:
            shown["input-bound"] = f"{100 * waiting:.0f}%"
        epoch = (max(number, 1) - 1) // self._per_epoch + 1
        self._tqdm.set_description(f"epoch {epoch}" + (f"/{self._epochs}" if self._epochs else ""), refresh=False)
        self._tqdm.set_postfix(shown, refresh=False)
        self._tqdm.update(number - self._at) if number > self._at else self._tqdm.refresh()
        self._at, self._next = number, time.perf_counter() + REDRAW

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._tqdm is not None:
            self._tqdm.close()


def examples(batch: Any, steps: int) -> int:
    """The examples of a batch, or of several that lie stacked: the length of the first array's leading axes."""
    while isinstance(batch, tuple | list) and batch:
        batch = batch[0]
    leaves = [batch] if isinstance(batch, np.ndarray | jax.Array) else jax.tree.leaves(batch)
    shape = next((np.shape(leaf) for leaf in leaves if np.ndim(leaf)), (0, 0))
    return shape[0] * (1 if steps == 1 else shape[1] if len(shape) > 1 else 1)
