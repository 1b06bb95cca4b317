"""Where a `History` is kept: JSON lines, CSV, TensorBoard."""

from __future__ import annotations

import csv
import io as text
import json
import math
import os
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from fnet.io.writing import replacing, write_all

Row = tuple[int, dict[str, float]]  # what was measured after so many steps


class Sink(Protocol):
    """What `History` asks of a place to be kept in."""

    def read(self) -> list[Row] | None:
        """The rows that are there; None from a place that cannot be read."""

    def write(self, rows: list[Row]) -> None:
        """Add rows; when it returns, they outlive the process."""

    def rewind(self, step: float) -> None:
        """Take away the rows after a step."""

    def close(self) -> None:
        """Let go of what is open."""


class _File:
    """A file of rows, which is opened for the length of a write only. Rewound rows go to ``<path>.dropped.jsonl``."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)

    def read(self) -> list[Row]:
        """The rows of the file; raises ValueError naming the line that is none."""
        return self._whole()[0]

    def rewind(self, step: float) -> None:
        """Take away the rows after a step, and what a killed process wrote of a line, into the file beside."""
        rows, torn = self._whole()
        dropped = [_to_json(row) for row in rows if row[0] > step]
        if not dropped and not torn:
            return
        with open(f"{self.path}.dropped.jsonl", "a", encoding="utf-8") as aside:
            aside.writelines(line + "\n" for line in [*dropped, *([json.dumps(torn)] if torn else [])])
        self._replace([row for row in rows if row[0] <= step])

    def close(self) -> None:
        """Nothing is open."""

    def _whole(self) -> tuple[list[Row], str]:
        """The rows in whole lines, and what stands after the last of them."""
        try:
            with open(self.path, encoding="utf-8", errors="replace", newline="") as file:
                lines, _, torn = ("\n" + file.read()).rpartition("\n")
        except FileNotFoundError:
            return [], ""
        return self._parse(lines[1:] + "\n" if lines else ""), torn

    def _parse(self, lines: str) -> list[Row]:
        raise NotImplementedError

    def _format(self, rows: list[Row]) -> str:
        raise NotImplementedError

    def _append(self, rows: list[Row]) -> None:
        os.makedirs(os.path.dirname(self.path) or ".", exist_ok=True)
        with open(self.path, "a", encoding="utf-8", newline="") as file:
            file.write(self._format(rows))

    def _replace(self, rows: list[Row]) -> None:
        with replacing(self.path) as fd:
            write_all(fd, memoryview(self._format(rows).encode()))

    def _refuse(self, number: int, line: Any) -> ValueError:
        told = f"{self.path}, line {number}, is no row of a history: {line!r:.60}"
        return ValueError(f"{told}; mend it, or give another path")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.path!r})"


class JSONLines(_File):
    """A history in a file with a JSON object a line: ``{"step": 3, "loss": 0.5}``.

    A number that JSON lacks is the text "NaN", "Infinity" or "-Infinity". Rows that `History.rewind` takes away are
    kept in ``<path>.dropped.jsonl``.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from fnet import train
    >>> path = tempfile.mkdtemp() + "/history.jsonl"
    >>> with train.History(train.JSONLines(path)) as history:
    ...     history.add(1, {"loss": 0.5})
    >>> print(Path(path).read_text(), end="")
    {"step": 1, "loss": 0.5}
    """

    def write(self, rows: list[Row]) -> None:
        """Append a line for each row."""
        self._append(rows)

    def _format(self, rows: list[Row]) -> str:
        return "".join(_to_json(row) + "\n" for row in rows)

    def _parse(self, lines: str) -> list[Row]:
        rows = []
        for number, line in enumerate(lines.split("\n")[:-1], 1):
            try:
                row = json.loads(line)
                rows.append((int(row.pop("step")), {name: float(value) for name, value in row.items()}))
            except (ValueError, KeyError, TypeError, AttributeError):
                raise self._refuse(number, line) from None
        return rows


class CSV(_File):
    """A history in a file of comma-separated values: a header, and a line for each step.

    What was not measured is empty. A new name adds a column, for which the file is written anew. Rows that
    `History.rewind` takes away are kept in ``<path>.dropped.jsonl``.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from fnet import train
    >>> path = tempfile.mkdtemp() + "/history.csv"
    >>> with train.History(train.CSV(path)) as history:
    ...     history.add(1, {"loss": 0.5})
    ...     history.add(2, {"loss": 0.25, "eval_loss": 0.5})
    >>> print(Path(path).read_text(), end="")
    step,loss,eval_loss
    1,0.5,
    2,0.25,0.5
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path)
        self._header: list[str] = []  # of the file, once it was read

    def write(self, rows: list[Row]) -> None:
        """Append a line for each row, or write the file anew where one has a new name."""
        if not self._header:
            self.read()
        if set(_names(rows)) <= set(self._header):
            self._append(rows)
        else:
            os.makedirs(os.path.dirname(self.path) or ".", exist_ok=True)
            self._replace([*self.read(), *rows])

    def _replace(self, rows: list[Row]) -> None:
        self._header = _names(rows)
        with replacing(self.path) as fd:
            whole = ",".join(["step", *map(_quoted, self._header)]) + "\n" + self._format(rows)
            write_all(fd, memoryview(whole.encode()))

    def _format(self, rows: list[Row]) -> str:
        lines = text.StringIO()
        csv.writer(lines, lineterminator="\n").writerows(
            [step, *(repr(values[name]) if name in values else "" for name in self._header)] for step, values in rows
        )
        return lines.getvalue()

    def _parse(self, lines: str) -> list[Row]:
        header, *body = list(csv.reader(text.StringIO(lines))) or [["step"]]
        if header[:1] != ["step"]:
            raise self._refuse(1, ",".join(header))
        self._header = header[1:]
        rows = []
        for number, line in enumerate(body, 2):
            try:
                step, *cells = line
                named = zip(header[1:], cells, strict=True)
                rows.append((int(step), {name: float(cell) for name, cell in named if cell}))
            except ValueError:
                raise self._refuse(number, ",".join(line)) from None
        return rows


class TensorBoard:
    """A history in a folder that TensorBoard shows, which needs the ``tensorboard`` extra.

    It cannot be read back: give it beside `JSONLines` for a run that goes on after it was killed. What
    `History.rewind` takes away stays in the folder, and TensorBoard leaves it out.

        history = train.History(train.JSONLines("runs/a/history.jsonl"), train.TensorBoard("runs/a"))

    Raises ImportError naming the extra when tensorboardX is not installed.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise ImportError("train.TensorBoard needs tensorboardX: pip install 'fnet[tensorboard]'") from error
        self.folder = os.fspath(folder)
        self._make, self._last = SummaryWriter, math.inf
        self._writer: Any = None
        self._purge: int | None = None
        self._files = 0

    def read(self) -> None:
        """Nothing: TensorBoard's files are for TensorBoard."""

    def write(self, rows: list[Row]) -> None:
        """Add the rows as scalars."""
        if self._writer is None:
            self._files += 1  # tensorboardX names files by the second, and would overwrite one of the same second
            suffix = f".{os.getpid()}.{self._files}"
            self._writer = self._make(self.folder, purge_step=self._purge, filename_suffix=suffix)
        for step, values in rows:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)
            self._last = step
        self._writer.flush()

    def rewind(self, step: float) -> None:
        """Have TensorBoard leave out what comes after a step."""
        if step < self._last and step < math.inf:
            self.close()
            self._purge = int(step) + 1

    def close(self) -> None:
        """Close the file of events; a later write opens another."""
        if self._writer is not None:
            self._writer.close()
            self._writer, self._last = None, math.inf


def _to_json(row: Row) -> str:
    step, values = row
    return json.dumps({"step": step, **{name: _finite(value) for name, value in values.items()}})


def _finite(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _names(rows: Iterable[tuple[int, Mapping[str, float]]]) -> list[str]:
    return list(dict.fromkeys(name for _, values in rows for name in values))


def _quoted(name: str) -> str:
    line = text.StringIO()
    csv.writer(line, lineterminator="").writerow([name])
    return line.getvalue()
