"""`History`: what a training run measured, as a table."""

from __future__ import annotations

import bisect
import math
import os
import time
from collections.abc import Iterator, Mapping

import numpy as np

from fnet.train.evaluation import scalar
from fnet.train.sinks import CSV, JSONLines, Row, Sink

FLUSH = 1.0  # seconds that rows wait for others before they go to a file


class History:
    """Rows of measurements by step; a name is a column.

    Training metrics are there for every step, those of an evaluation, under ``eval_…``, where it ran. With ``sinks``
    (`JSONLines`, `CSV`, `TensorBoard`) it is kept in files as well: it begins with the rows that the first readable
    one has, and `fit` goes on from there. `History.read` reads a file without writing to it.

    >>> history = History()
    >>> history.add(1, {"loss": 2.0})
    >>> history.add(2, {"loss": 1.5, "eval_loss": 1.6})
    >>> history["loss"], history.steps("eval_loss")
    (array([2. , 1.5]), array([2]))
    >>> history
    step   loss  eval_loss
       1      2
       2    1.5        1.6
    """

    def __init__(self, *sinks: Sink) -> None:
        self._columns: dict[str, tuple[list[int], list[float]]] = {}
        self._sinks, self._waiting, self._flushed = sinks, list[Row](), time.monotonic()
        for sink in sinks:
            if not hasattr(sink, "rewind"):
                raise TypeError(
                    f"History takes sinks, as train.JSONLines(path), got {sink!r}; train.History.read(path) reads one"
                )
            sink.rewind(math.inf)  # away with half a line of a process that was killed
        for rows in (rows for sink in sinks if (rows := sink.read()) is not None):
            for step, values in rows:
                self._add(step, values)
            break

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> History:
        """The history in a file of `JSONLines`, or of `CSV` where its name ends in ``.csv``.

        Raises FileNotFoundError, and ValueError naming a line that is no row.

        >>> import tempfile
        >>> path = tempfile.mkdtemp() + "/history.csv"
        >>> with History(CSV(path)) as history:
        ...     history.add(1, {"loss": float("inf")})
        >>> History.read(path)["loss"]
        array([inf])
        """
        os.stat(path)
        history = cls()
        for step, values in (CSV if os.fspath(path).endswith(".csv") else JSONLines)(path).read():
            history._add(step, values)
        return history

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Add measurements made after ``step`` steps: floats, or what `float` takes, as the scalars of a step."""
        values = {name: x if type(x) is float else scalar(name, x) for name, x in values.items()}
        self._add(step, values)
        if self._sinks:
            if self._waiting and self._waiting[-1][0] == step:
                self._waiting[-1][1].update(values)
                return
            if time.monotonic() - self._flushed > FLUSH:  # whole rows only: what is split depends on no clock
                self.flush()
            self._waiting.append((step, values))

    def _add(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            column = self._columns.get(name)
            if column is None:
                column = self._columns[name] = ([], [])
            column[0].append(step)
            column[1].append(value)

    def flush(self) -> None:
        """Write what was added to the sinks, so that it outlives the process."""
        if self._waiting:
            for sink in self._sinks:
                sink.write(self._waiting)
            self._waiting = []
        self._flushed = time.monotonic()

    def rewind(self, step: int) -> None:
        """Take away the rows after a step, as `fit` does where it begins; a file's are kept in another beside it.

        >>> history = History()
        >>> for step in (1, 2, 3): history.add(step, {"loss": 1 / step})
        >>> history.rewind(2)
        >>> history["loss"]
        array([1. , 0.5])
        """
        self.flush()
        for sink in self._sinks:
            sink.rewind(step)
        for name, (steps, values) in list(self._columns.items()):
            kept = bisect.bisect_right(steps, step)
            del steps[kept:], values[kept:]
            if not kept:
                del self._columns[name]

    def close(self) -> None:
        """Flush, and close the sinks; ends a ``with``."""
        self.flush()
        for sink in self._sinks:
            sink.close()

    def __enter__(self) -> History:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def names(self) -> list[str]:
        """The names of the columns."""
        return list(self._columns)

    def __getitem__(self, name: str) -> np.ndarray:
        return np.asarray(self._column(name)[1], np.float64)

    def steps(self, name: str) -> np.ndarray:
        """The steps at which a column was measured."""
        return np.asarray(self._column(name)[0], np.int64)

    def last(self) -> dict[str, float]:
        """The latest value of every column."""
        return {name: column[-1] for name, (_, column) in self._columns.items()}

    def latest(self, name: str, default: float) -> float:
        """The latest value of one column, or the default where there is none."""
        column = self._columns.get(name)
        return column[1][-1] if column else default

    def to_dict(self) -> dict[str, dict[str, list]]:
        """Plain lists: ``{name: {"step": […], "value": […]}}``, ready for JSON."""
        return {name: {"step": list(steps), "value": list(values)} for name, (steps, values) in self._columns.items()}

    def to_numpy(self) -> dict[str, np.ndarray]:
        """Arrays of one length: ``"step"`` (int64), and each column (float64) with NaN where it was not measured.

        ``pandas.DataFrame(history.to_numpy())`` is a data frame.

        >>> history = History()
        >>> history.add(1, {"loss": 2.0})
        >>> history.add(2, {"loss": 1.5, "eval_loss": 1.6})
        >>> history.to_numpy()
        {'step': array([1, 2]), 'loss': array([2. , 1.5]), 'eval_loss': array([nan, 1.6])}
        """
        every = np.unique([step for steps, _ in self._columns.values() for step in steps]).astype(np.int64)
        table = {"step": every}
        for name, (steps, values) in self._columns.items():
            table[name] = np.full(len(every), np.nan)
            table[name][np.searchsorted(every, steps)] = values
        return table

    def __contains__(self, name: object) -> bool:
        return name in self._columns

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return max((steps[-1] for steps, _ in self._columns.values()), default=0)

    def __repr__(self) -> str:
        if not self._columns:
            return "<History: empty>"
        table = self.to_numpy()
        measured = {name: set(steps) for name, (steps, _) in self._columns.items()}
        count = len(table["step"])
        shown = range(count) if count <= 10 else [*range(3), *range(count - 6, count)]
        lines = [["step", *self._columns]]
        for row in shown:
            at = int(table["step"][row])
            cells = [f"{table[name][row]:.4g}" if at in measured[name] else "" for name in self._columns]
            lines.append([str(at), *cells])
        if count > 10:
            lines.insert(4, ["…"] * len(lines[0]))
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join("  ".join(map(str.rjust, line, widths)).rstrip() for line in lines)

    def _column(self, name: str) -> tuple[list[int], list[float]]:
        if name not in self._columns:
            raise KeyError(f"the history has no {name!r}; it has {', '.join(self._columns) or 'nothing yet'}")
        return self._columns[name]
