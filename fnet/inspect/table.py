"""A small table of text, as lines for the terminal and as HTML for Jupyter."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

Row = Sequence[str]


def table_text(header: Row, rows: Sequence[Row], footer: Sequence[str] = ()) -> str:
    """Columns padded to their widest cell; the first three to the left, the rest, numbers, to the right."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]

    def line(row: Row) -> str:
        cells = [cell.ljust(w) if i < 3 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))]
        return "  ".join(cells).rstrip()

    rule = "─" * (sum(widths) + 2 * (len(widths) - 1))
    return "\n".join([line(header), rule, *map(line, rows), rule, *footer])


def table_html(header: Row, rows: Sequence[Row], footer: Sequence[str] = ()) -> str:
    """The same table as HTML."""
    head = "".join(f"<th style='text-align: left'>{escape(cell)}</th>" for cell in header)
    body = "".join(f"<tr>{''.join(map(_cell, range(len(row)), row))}</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>" + "".join(f"<div>{escape(line)}</div>" for line in footer)


def _cell(column: int, text: str) -> str:
    return f"<td style='text-align: {'left' if column < 3 else 'right'}'>{escape(text)}</td>"


def size_text(nbytes: int) -> str:
    """A number of bytes in the unit that suits it."""
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if nbytes >= factor:
            return f"{nbytes / factor:.1f} {unit}"
    return f"{nbytes} bytes"


def amount(count: int) -> str:
    """A large number to four digits with its prefix, a small one as it is."""
    for prefix, factor in (("P", 10**15), ("T", 10**12), ("G", 10**9), ("M", 10**6)):
        if count >= factor:
            return f"{count / factor:.4g} {prefix}"
    return f"{count:,}"
