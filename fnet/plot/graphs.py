"""Computation graphs, drawn by matplotlib alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from fnet.autograd.graphs import Node
from fnet.plot.canvas import canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {"input": "#dbe9f6", "forward": "#e3f1df", "backward": "#fbe3d6", "output": "#eee6f5"}
LIMIT = 400


def graph(graph: Any) -> Figure:
    """Draw what `autograd.graph` found: inputs at the top, each operation below what it needs, coloured by its pass.

    Raises ValueError for more than 400 nodes, which no page shows: give ``graph.dot()`` to Graphviz, or draw a part.

    >>> import jax, jax.numpy as jnp
    >>> from fnet import autograd, plot
    >>> found = autograd.graph(jax.grad(lambda w, x: jnp.sum(jnp.tanh(x @ w))), jnp.ones((3, 2)), jnp.ones((4, 3)))
    >>> len(plot.graph(found).axes[0].texts) == len(found)
    True
    """
    nodes = tuple(graph) if isinstance(graph, Iterable) else (graph,)
    if not all(isinstance(node, Node) for node in nodes):
        raise TypeError(f"plot.graph takes what autograd.graph(f, *args) found, got {type(graph).__name__}")
    if not nodes or len(nodes) > LIMIT:
        raise ValueError(
            f"plot.graph draws from 1 to {LIMIT} nodes, got {len(nodes)}; graph.dot() is the text for Graphviz"
        )
    rows: list[list[int]] = []
    depth: list[int] = []
    for number, node in enumerate(nodes):
        depth.append(max((depth[i] + 1 for i in node.inputs), default=0))
        while len(rows) <= depth[number]:
            rows.append([])
        rows[depth[number]].append(number)
    place: dict[int, tuple[float, float]] = {}
    for level, row in enumerate(rows):  # under the mean of what each needs, so that lines cross little
        row.sort(key=lambda n: _mean([place[i][0] for i in nodes[n].inputs]))
        for index, number in enumerate(row):
            place[number] = (index - (len(row) - 1) / 2, -float(level))
    widest = max(map(len, rows))
    figure = canvas(max(4.0, 1.7 * widest), max(3.0, 0.75 * len(rows)))
    axes = figure.subplots()
    axes.axis("off")
    axes.set_xlim(-widest / 2, widest / 2)
    axes.set_ylim(-len(rows) + 0.5, 0.5)
    for number, node in enumerate(nodes):
        for source in node.inputs:
            (x, y), (to_x, to_y) = place[source], place[number]
            axes.plot([x, to_x], [y, to_y], color="0.7", linewidth=0.7, zorder=0)
        part = f"{node.part}: " if node.part else ""
        axes.text(
            *place[number], f"{part}{node.label}\n{node.result}", ha="center", va="center", fontsize=6,
            bbox={"boxstyle": "round,pad=0.3", "facecolor": COLOURS[node.kind], "edgecolor": "0.5", "linewidth": 0.5},
        )  # fmt: skip
    return figure


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0
