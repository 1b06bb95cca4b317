"""A layer as a tree: text for the terminal, HTML for Jupyter."""

from __future__ import annotations

from html import escape
from typing import Any

from fnet.nn.core.param import Param
from fnet.nn.core.values import text
from fnet.nn.core.walk import is_layer


def parts_of(value: Any) -> dict[str, Any]:
    """The named things inside a layer, or inside a list or dict of layers."""
    if isinstance(value, list | tuple):
        return {str(index): item for index, item in enumerate(value)}
    if isinstance(value, dict):
        return dict(value)
    return dict(value.parts) if is_layer(value) and hasattr(value, "with_parts") else {}


def holds_layers(value: Any) -> bool:
    """Whether a list, tuple or dict has a layer or a Param in it at any depth."""
    if isinstance(value, list | tuple | dict):
        return any(holds_layers(item) for item in parts_of(value).values())
    return isinstance(value, Param) or is_layer(value)


def _is_branch(value: Any) -> bool:
    return bool(parts_of(value)) and (not isinstance(value, list | tuple | dict) or holds_layers(value))


def title(value: Any) -> str:
    """One line for one node of the tree."""
    if not _is_branch(value):
        return text(value)
    if isinstance(value, list | tuple | dict):
        return f"{len(value)} parts"
    return value.title() if hasattr(value, "title") else type(value).__name__


def tree_text(value: Any) -> str:
    """The tree as lines; runs of equal siblings in a list are folded into one."""
    return "\n".join([title(value), *_lines(value)])


def _lines(value: Any, indent: str = "") -> list[str]:
    out = []
    rows = _folded(value) if _is_branch(value) else []
    for index, (name, part) in enumerate(rows):
        last = index == len(rows) - 1
        out.append(f"{indent}{'└─' if last else '├─'} {name}: {title(part)}")
        out += _lines(part, indent + ("   " if last else "│  "))
    return out


def _folded(value: Any) -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for name, part in parts_of(value).items():
        if isinstance(value, list | tuple) and rows and rows[-1][1] == part:
            rows[-1] = (f"{rows[-1][0].split(' … ')[0]} … {name}", part)
        else:
            rows.append((name, part))
    return rows


def tree_html(value: Any) -> str:
    """The tree as nested HTML ``details``, open at the first level."""
    return f'<div style="font-family: monospace; line-height: 1.5">{_html(value, "", 0)}</div>'


def _html(value: Any, name: str, depth: int) -> str:
    label = f"<b>{escape(name)}</b>: " if name else ""
    line = f"{label}{escape(title(value))}"
    if not _is_branch(value):
        return f'<div style="margin-left: 1.2em">{line}</div>'
    inside = "".join(_html(part, part_name, depth + 1) for part_name, part in _folded(value))
    opened = " open" if depth < 2 else ""
    return f'<details{opened} style="margin-left: {1.2 if depth else 0}em"><summary>{line}</summary>{inside}</details>'
