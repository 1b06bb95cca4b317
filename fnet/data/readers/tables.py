"""Tables: CSV and JSON lines, read to a dict of arrays, one a column."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .text_files import read_text

MISSING = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "None")
_INTEGER = re.compile(r"[+-]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[+-]?(((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)(e[+-]?[0-9]+)?|inf|infinity)", re.IGNORECASE)
_BOOLS = {"true": True, "false": False}

Cell = tuple[int, Any]  # the line in the file, and the value (None where it is missing)


def read_csv(
    path: str | Path,
    *,
    header: bool = True,
    delimiter: str = ",",
    types: Mapping[str | int, str] | None = None,
    missing: Sequence[str] = MISSING,
    fill: Mapping[str, Any] | None = None,
    encoding: str = "utf-8",
) -> dict[str, np.ndarray]:
    """Read a table of comma-separated values (RFC 4180: quoted fields may hold delimiters and line ends).

    The first value of a column that is not missing decides what it is: true or false a bool, digits an int64 (widened
    to float64 by a later float), another number a float64, anything else text (an object array of str; numbers with
    leading zeros are text). A later value that does not fit is an error and never a silent change of the whole column.

    Args:
        path: the file.
        header: whether the first line holds the names of the columns; without, they are "0", "1", …
        delimiter: one character.
        types: the type of some columns, by name or number: "str", or a numpy dtype such as "int32" or "float32".
        missing: what stands for a missing value. It becomes NaN in a float column and makes one of an int or bool
            column; in text it becomes "".
        fill: by column, a value to take for missing ones instead.
        encoding: of the file.

    Returns:
        {column: array (rows,)}, ready for `ArrayDataset(table)`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line has more or fewer fields than the first, a value does not fit, or another delimiter would
            split every line of a table of one column alike. It names line and column, or that delimiter.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = (Path(folder) / "a.csv").write_text("name,age\\nAda,36\\nKurt,\\n")
    ...     table = read_csv(Path(folder) / "a.csv")
    >>> table["name"].tolist(), table["age"]
    (['Ada', 'Kurt'], array([36., nan]))
    """
    lines = re.split(r"(?<=\n)", read_text(path, encoding))
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    rows: list[tuple[int, list[str]]] = []
    try:
        begins = 1
        for fields in reader:
            if fields:  # a line with nothing in it is no row
                rows.append((begins, fields))
            begins = reader.line_num + 1
    except csv.Error as error:
        _check_delimiter(path, lines, delimiter)
        raise ValueError(f"{path}: line {begins}: {error}") from error
    if not rows:
        raise ValueError(f"{path}: has no line")
    names = rows.pop(0)[1] if header else [str(k) for k in range(len(rows[0][1]))]
    if len(set(names)) != len(names):
        raise ValueError(f"{path}: line 1: a column name is there more than once: {', '.join(names)}")
    if header and len(names) == 1 and rows and delimiter == ",":  # another was asked for
        _check_delimiter(path, lines, delimiter)
    for line, fields in rows:
        if len(fields) != len(names):
            raise ValueError(f"{path}: line {line} has {len(fields)} fields, expected {len(names)}")
    nothing = set(missing)
    columns = {
        name: [(line, None if fields[k] in nothing else fields[k]) for line, fields in rows]
        for k, name in enumerate(names)
    }
    return _arrays(path, columns, types or {}, fill or {}, from_text=True)


def _check_delimiter(path: str | Path, lines: list[str], delimiter: str) -> None:
    """Raise ValueError where another delimiter splits every line into as many fields as the first, two or more."""
    for other in (found for found in (";", "\t", ",", "|") if found != delimiter):
        records = (fields for fields in csv.reader(lines, delimiter=other, strict=True) if fields)
        try:
            names = next(records, [])
            widths = {len(fields) for fields in records} if len(names) > 1 else set()  # no need to read on otherwise
        except csv.Error:
            continue
        if widths == {len(names)}:
            raise ValueError(
                f"{path}: is no table with delimiter={delimiter!r}, but with delimiter={other!r} each line has "
                f"{len(names)} fields: {', '.join(names):.200}"
            )


def read_jsonl(
    path: str | Path,
    *,
    types: Mapping[str | int, str] | None = None,
    fill: Mapping[str, Any] | None = None,
    encoding: str = "utf-8",
) -> dict[str, np.ndarray]:
    """Read JSON lines: one object a line; objects inside become columns with dotted names.

    Columns are typed as by `read_csv`, from JSON's own types; a list of numbers becomes a row of a column (rows, …),
    whose shapes must agree. A key that a line lacks, or null, is a missing value.

    Args, result and errors are those of `read_csv`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = (Path(folder) / "a.jsonl").write_text('{"x": [1, 2], "y": {"z": true}}\\n{"x": [3, 4]}\\n')
    ...     read_jsonl(Path(folder) / "a.jsonl", fill={"y.z": False})
    {'x': array([[1, 2],
           [3, 4]]), 'y.z': array([ True, False])}
    """
    rows: list[tuple[int, dict[str, Any]]] = []
    for line, text in enumerate(read_text(path, encoding).split("\n"), 1):
        if not text.strip():
            continue
        try:
            value = json.loads(text)
        except ValueError as error:
            raise ValueError(f"{path}: line {line} is not JSON: {error}") from error
        if not isinstance(value, dict):
            raise ValueError(f"{path}: line {line} is not an object {{…}} but a {type(value).__name__}")
        rows.append((line, _flat(value)))
    if not rows:
        raise ValueError(f"{path}: has no line")
    names = dict.fromkeys(name for _, row in rows for name in row)
    columns = {name: [(line, row.get(name)) for line, row in rows] for name in names}
    return _arrays(path, columns, types or {}, fill or {}, from_text=False)


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, child in value.items():
        if isinstance(child, dict):
            flat |= _flat(child, f"{prefix}{key}.")
        else:
            flat[prefix + key] = child
    return flat


def _arrays(
    path: str | Path, columns: dict[str, list[Cell]], types: Mapping, fill: Mapping, from_text: bool
) -> dict[str, np.ndarray]:
    names = list(columns)
    wanted = {names[key] if isinstance(key, int) and key < len(names) else key: dtype for key, dtype in types.items()}
    for name in [*wanted, *fill]:
        if name not in columns:
            raise ValueError(f"{path}: has no column {name!r}; its columns are {', '.join(names)}")
    arrays = {}
    for name, cells in columns.items():
        where = f"{path}: column {name!r}"
        if name in wanted:
            arrays[name] = _declared(where, cells, wanted[name], fill.get(name), from_text)
        else:
            arrays[name] = _inferred(where, cells, fill.get(name), from_text)
    return arrays


def _declared(where: str, cells: list[Cell], type_name: str, fill: Any, from_text: bool) -> np.ndarray:
    if type_name == "str":
        return _objects([_text(value, fill) for _, value in cells])
    dtype = np.dtype(type_name)
    values = []
    for line, value in cells:
        if value is None:
            value = fill if fill is not None else np.nan if dtype.kind == "f" else None
            if value is None:
                raise ValueError(f"{where}: line {line} has no value, which {dtype} cannot say; give fill={{…: …}}")
        elif from_text:
            value = _parse(value)
        try:
            exact = np.asarray(value).astype(dtype)
            if isinstance(value, str) or (dtype.kind != "f" and (exact != np.asarray(value)).any()):
                raise ValueError
        except (ValueError, OverflowError, TypeError):
            raise ValueError(f"{where}: line {line}: {value!r} does not fit in {dtype}") from None
        values.append(exact)
    return np.array(values, dtype)


def _inferred(where: str, cells: list[Cell], fill: Any, from_text: bool) -> np.ndarray:
    first = next(((line, value) for line, value in cells if value is not None), None)
    if first is None:
        return np.full(len(cells), np.nan if fill is None else fill)
    if isinstance(first[1], list):
        return _lists(where, cells)
    kind = _kind(first[1], from_text)
    values: list[Any] = []
    for line, value in cells:
        if value is None:
            values.append(fill)
            continue
        own = _kind(value, from_text)
        if kind == "int" and own == "float":
            kind = "float"
        if own != kind and not (kind == "float" and own == "int") and not (kind == "text" and from_text):
            raise ValueError(
                f"{where}: line {line}: {value!r} is {_a(own)}, and line {first[0]} has {_a(kind)}: {first[1]!r}. "
                f'If the column is text, declare types={{…: "str"}}'
            )
        values.append(_parse(value) if from_text and kind != "text" else value)
    if kind == "text":
        return _objects([_text(value, "") for value in values])
    if None in values:
        return np.array([np.nan if value is None else value for value in values], np.float64)
    try:
        return np.array(values, {"bool": np.bool_, "int": np.int64, "float": np.float64}[kind])
    except OverflowError:
        line = next(line for (line, _), value in zip(cells, values, strict=True) if not -(2**63) <= value < 2**63)
        raise ValueError(f"{where}: line {line} has an integer beyond 64 bits; declare it float64 or str") from None


def _lists(where: str, cells: list[Cell]) -> np.ndarray:
    rows, shape = [], None
    for line, value in cells:
        try:
            row = np.array(value)
        except ValueError:  # lists of different lengths inside
            row = np.array(None)
        if row.dtype.kind not in "bif" or (shape is not None and row.shape != shape):
            expected = "numbers in one shape" if shape is None else f"numbers of shape {list(shape)}, as above"
            raise ValueError(f"{where}: line {line}: expected a list of {expected}, got {value!r:.60}")
        shape = row.shape
        rows.append(row)
    return np.stack(rows)


def _kind(value: Any, from_text: bool) -> str:
    if not from_text:
        kinds = {bool: "bool", int: "int", float: "float", str: "text"}
        return kinds.get(type(value), "list")
    if value.lower() in _BOOLS:
        return "bool"
    return "int" if _INTEGER.fullmatch(value) else "float" if _FLOAT.fullmatch(value) else "text"


def _parse(value: str) -> Any:
    kind = _kind(value, True)
    if kind == "bool":
        return _BOOLS[value.lower()]
    return int(value) if kind == "int" else float(value) if kind == "float" else value


def _a(kind: str) -> str:
    return {"bool": "true or false", "int": "an integer", "float": "a number", "text": "text", "list": "a list"}[kind]


def _text(value: Any, fill: Any) -> str:
    return ("" if fill is None else str(fill)) if value is None else str(value)


def _objects(values: list[str]) -> np.ndarray:
    array = np.empty(len(values), object)
    array[:] = values
    return array
