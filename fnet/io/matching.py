"""Compare what a file holds with a template, and say everything that does not fit in one message."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from fnet.io.leaves import SCALARS, is_array, is_key
from fnet.selectors import near

MAX_LINES = 20
MAX_HINTS, NEAR_TO = 5, 200  # hints given, and names searched for each: the search is slow


@dataclass(frozen=True)
class Match:
    """How a template and a file fit: the names that do, and the report about those that do not (empty: all fit)."""

    fitting: list[str]
    report: list[str]


def match(file: dict[str, Any], template: dict[str, Any]) -> Match:
    """Compare the leaves of a file, abstract, with those of a template, by name."""
    missing = [name for name in template if name not in file]
    extra = [name for name in file if name not in template]
    different = [name for name in template if name in file and not same_kind(file[name], template[name])]
    report = _listing("in the tree, missing from the file", _hinted(missing, extra), len(missing))
    joined = [", ".join(extra[:MAX_LINES]) + _more(extra)] if extra else []
    report += _listing("in the file, not in the tree", joined, len(extra))
    lines = [f"{name}: file {_words(file[name])}, tree {_words(template[name])}" for name in different[:MAX_LINES]]
    lines += ["…" + _more(different)] if len(different) > MAX_LINES else []
    report += _listing("different shape or dtype", lines, len(different))
    return Match([name for name in template if name in file and name not in set(different)], report)


def same_kind(file: Any, template: Any) -> bool:
    """Whether a leaf of the file can take the place of a leaf of the template."""
    if not _has_shape(file) or not _has_shape(template):
        return type(file) is type(template)
    if tuple(file.shape) != tuple(template.shape):
        return False
    if is_key(file) or is_key(template):
        return file.dtype == template.dtype
    native = np.dtype(template.dtype).newbyteorder("=")  # what big-endian arrays come back as
    return np.dtype(file.dtype) == native or narrows(file, template)


def narrows(file: Any, template: Any) -> bool:
    """Whether the file has 64-bit integers where JAX without x64 has 32-bit ones; then the values decide."""
    if is_key(file) or is_key(template) or not isinstance(template, jax.Array | jax.ShapeDtypeStruct):
        return False
    return np.dtype(file.dtype).kind in "iu" and jax.dtypes.canonicalize_dtype(file.dtype) == template.dtype


def _has_shape(leaf: Any) -> bool:
    return is_array(leaf) or isinstance(leaf, jax.ShapeDtypeStruct)


def _words(leaf: Any) -> str:
    if _has_shape(leaf):
        return f"{leaf.dtype}{list(leaf.shape)}"
    return f"a Python {type(leaf).__name__}" if type(leaf) in SCALARS else f"a {type(leaf).__name__}"


def _hinted(missing: list[str], extra: list[str]) -> list[str]:
    lines = []
    for number, name in enumerate(missing[:MAX_LINES]):
        close = near(name, extra[:NEAR_TO], 1) if number < MAX_HINTS else []
        lines.append(f"{name}   (file has {close[0]!r}?)" if close else name)
    return lines + (["…" + _more(missing)] if len(missing) > MAX_LINES else [])


def _more(names: list[str]) -> str:
    return f" and {len(names) - MAX_LINES} more" if len(names) > MAX_LINES else ""


def _listing(title: str, lines: list[str], total: int) -> list[str]:
    return [f"  {title} ({total}):", *(f"    {line}" for line in lines)] if lines else []
