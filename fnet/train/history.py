"""`History`: what a training run measured, as a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np


class History:
    """Rows of measurements by step; a name is a column.

    Training metrics are there for every step, those of an evaluation, under ``eval_…``, where it ran.

    >>> history = History()
    >>> history.add(1, {"loss": 2.0})
    >>> history.add(2, {"loss": 1.5, "eval_loss": 1.6})
    >>> history["loss"], history.steps("eval_loss")
    (array([2. , 1.5]), array([2]))
    """

    def __init__(self) -> None:
        self._columns: dict[str, tuple[list[int], list[float]]] = {}

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Add measurements made after ``step`` steps."""
        for name, value in values.items():
            steps, column = self._columns.setdefault(name, ([], []))
            steps.append(step)
            column.append(value)

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

    def to_dict(self) -> dict[str, dict[str, list]]:
        """Plain lists: ``{name: {"step": […], "value": […]}}``, ready for JSON."""
        return {name: {"step": list(steps), "value": list(values)} for name, (steps, values) in self._columns.items()}

    def __contains__(self, name: object) -> bool:
        return name in self._columns

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return max((steps[-1] for steps, _ in self._columns.values()), default=0)

    def __repr__(self) -> str:
        latest = ", ".join(f"{name} {value:.4g}" for name, value in self.last().items())
        return f"<History to step {len(self)}: {latest or 'empty'}>"

    def _column(self, name: str) -> tuple[list[int], list[float]]:
        if name not in self._columns:
            raise KeyError(f"the history has no {name!r}; it has {', '.join(self._columns) or 'nothing yet'}")
        return self._columns[name]
