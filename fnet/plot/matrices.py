"""Matrices as pictures: confusion matrices and attention maps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fnet.plot.canvas import canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def confusion(matrix: Any, classes: Sequence[str] | None = None, *, normalize: bool = False) -> Figure:
    """A confusion matrix, as `metrics.ConfusionMatrix` gives it: rows are labels, columns predictions.

    ``normalize`` divides each row by its sum, so that the diagonal is the recall of each class; a class without
    examples stays zero.

    >>> from fnet import plot
    >>> plot.confusion([[8, 2], [1, 9]], ["cat", "dog"]).axes[0].get_xlabel()
    'prediction'
    """
    counts = np.asarray(matrix)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1]:
        raise ValueError(f"plot.confusion takes a square matrix (labels, predictions), got shape {counts.shape}")
    if classes is not None and len(classes) != len(counts):
        raise ValueError(f"plot.confusion: {len(classes)} names for a matrix of {len(counts)} classes")
    if normalize:
        counts = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = max(3.0, 0.45 * len(counts) + 1.5)
    figure = canvas(side + 0.8, side)
    axes = figure.subplots()
    picture = axes.imshow(counts, cmap="Blues", vmin=0)
    figure.colorbar(picture, shrink=0.8)
    ticks = range(len(counts))
    axes.set_xticks(ticks, classes if classes is not None else [str(i) for i in ticks], rotation=45, ha="right")
    axes.set_yticks(ticks, classes if classes is not None else [str(i) for i in ticks])
    axes.set_xlabel("prediction")
    axes.set_ylabel("label")
    if len(counts) <= 20:
        for row, column in np.ndindex(*counts.shape):
            dark = counts[row, column] > counts.max() / 2
            shown = f"{counts[row, column]:.2f}" if normalize else f"{counts[row, column]:g}"
            axes.text(column, row, shown, ha="center", va="center", fontsize=7, color="white" if dark else "black")
    return figure


def attention(
    weights: Any, queries: Sequence[str] | None = None, keys: Sequence[str] | None = None, *, columns: int = 4
) -> Figure:
    """Attention maps, ``(queries, keys)`` or a panel for each head of ``(heads, queries, keys)``, with tokens as ticks.

    All panels have one scale, from 0 to the largest weight.

    >>> import numpy as np
    >>> from fnet import plot
    >>> figure = plot.attention(np.eye(3)[None].repeat(2, 0), ["the", "cat", "sat"], ["the", "cat", "sat"])
    >>> [axes.get_title() for axes in figure.axes[:2]]
    ['head 0', 'head 1']
    """
    maps = np.asarray(weights)
    maps = maps[None] if maps.ndim == 2 else maps
    if maps.ndim != 3:
        raise ValueError(f"plot.attention takes (heads, queries, keys) of one example, got shape {maps.shape}")
    for what, names, size in (("queries", queries, maps.shape[1]), ("keys", keys, maps.shape[2])):
        if names is not None and len(names) != size:
            raise ValueError(f"plot.attention: {len(names)} names for {size} {what}")
    columns = min(columns, len(maps))
    rows = math.ceil(len(maps) / columns)
    figure = canvas(2.6 * columns + 0.8, 2.6 * rows)
    panels = figure.subplots(rows, columns, squeeze=False)
    for head, axes in enumerate(panels.flat):
        if head >= len(maps):
            axes.axis("off")
            continue
        picture = axes.imshow(maps[head], cmap="viridis", vmin=0, vmax=float(maps.max()))
        if len(maps) > 1:
            axes.set_title(f"head {head}", fontsize=8)
        if keys is not None:
            axes.set_xticks(range(len(keys)), keys, rotation=90, fontsize=7)
        if queries is not None:
            axes.set_yticks(range(len(queries)), queries, fontsize=7)
    figure.colorbar(picture, ax=panels, shrink=0.8)
    return figure
