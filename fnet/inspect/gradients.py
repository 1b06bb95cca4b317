"""`gradient_table`: weights and their gradients side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from fnet import tree
from fnet.inspect.table import table_html, table_text


@dataclass(frozen=True)
class GradientRow:
    """One parameter: the norms of the weight and of its gradient, their ratio, shares of the gradient's elements."""

    name: str
    shape: tuple[int, ...]
    weight: float
    gradient: float
    ratio: float  # gradient / weight
    zeros: float
    nonfinite: float


@dataclass(frozen=True)
class GradientTable:
    """What `gradient_table` found; ``table["fc.weight"]`` is a row, and it prints as a table."""

    rows: tuple[GradientRow, ...]

    def __getitem__(self, name: str) -> GradientRow:
        for row in self.rows:
            if row.name == name:
                return row
        there = ", ".join(row.name for row in self.rows)
        raise KeyError(f"no gradient {name!r} in the table; it has {there or 'none'}")

    def _cells(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        header: tuple[str, ...] = ("name", "shape", "", "‖weight‖", "‖gradient‖", "ratio", "zeros", "not finite")
        cells: list[tuple[str, ...]] = [
            (
                row.name,
                str(list(row.shape)),
                _remark(row),
                f"{row.weight:.3e}",
                f"{row.gradient:.3e}",
                f"{row.ratio:.1e}",
                f"{row.zeros:.1%}",
                f"{row.nonfinite:.1%}",
            )
            for row in self.rows
        ]
        return header, cells

    def __str__(self) -> str:
        return table_text(*self._cells())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return table_html(*self._cells())


def _remark(row: GradientRow) -> str:
    if row.nonfinite:
        return "not finite"
    return "no gradient" if row.zeros == 1 else ""


def gradient_table(params: Any, grads: Any, model: Any = None) -> GradientTable:
    """Each parameter with the norm of its weight and of its gradient, and the shares of zeros and of NaN or infinity.

    ``grads`` is a tree like ``params``; holes, of leaves that are frozen, have no row. Norms are L2, over the finite
    elements, in float32 at least. A vanishing gradient shows in the ratio gradient / weight, a dead unit in the zeros.
    With ``model``, rows are in its order. Raises ValueError for a gradient of another shape or of an unknown name.

    >>> import jax.numpy as jnp
    >>> table = gradient_table({"w": jnp.array([3.0, 4.0])}, {"w": jnp.array([0.5, 0.0])})
    >>> table["w"].weight, table["w"].gradient, table["w"].ratio, table["w"].zeros
    (5.0, 0.5, 0.1, 0.5)
    """
    weights = dict(tree.named(params))
    rows = []
    for name, grad in tree.named(grads, model) if model is not None else tree.named(grads):
        if name not in weights or jnp.shape(weights[name]) != jnp.shape(grad):
            there = f"shape {jnp.shape(weights[name])}" if name in weights else "no such name"
            raise ValueError(f"gradient_table: the gradient {name!r} has shape {jnp.shape(grad)}, params has {there}")
        if jnp.issubdtype(jnp.result_type(grad), jnp.inexact):
            rows.append(GradientRow(name, jnp.shape(grad), *(float(x) for x in _measures(weights[name], grad))))
    return GradientTable(tuple(rows))


def _measures(weight: Any, grad: Any) -> tuple[float, ...]:
    wide = jnp.promote_types(jnp.result_type(grad), jnp.float32)
    w, g = (np.asarray(jnp.asarray(x, wide)).reshape(-1) for x in (weight, grad))
    finite = np.isfinite(g)
    norm_w, norm_g = float(np.linalg.norm(w[np.isfinite(w)])), float(np.linalg.norm(g[finite]))
    ratio = norm_g / norm_w if norm_w else (float("inf") if norm_g else 0.0)
    size = max(g.size, 1)
    return norm_w, norm_g, ratio, float(np.sum(g == 0)) / size, float(np.sum(~finite)) / size
