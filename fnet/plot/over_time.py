"""What changes in the course of a run: distributions of weights or gradients, and samples."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from fnet import tree
from fnet.plot.canvas import canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def histograms(trees: Mapping[int, Any], selector: Any = "*", *, bins: int = 60) -> Figure:
    """The distribution of every leaf of ``{step: params}``, or of gradients, over time: a panel for each name.

    Each column of a panel is the histogram of one step, dark where many values are, between the 0.1st and the 99.9th
    percentile of all steps; values beyond and non-finite ones are left out. ``selector`` chooses the leaves by name.
    Collect with a callback: ``train.every(100, lambda run, latest: seen.update({int(run.step): run.params}))``.

    >>> import numpy as np
    >>> from fnet import plot
    >>> rng = np.random.default_rng(0)
    >>> figure = plot.histograms({step: {"fc": {"weight": rng.normal(0, step, 1000)}} for step in (1, 2, 3)})
    >>> [axes.get_title() for axes in figure.axes]
    ['fc.weight']
    """
    if not isinstance(trees, Mapping) or not all(isinstance(step, int | np.integer) for step in trees):
        raise TypeError("plot.histograms takes trees by step, {step: tree}; of one tree, give {0: params}")
    if not trees:
        raise ValueError("plot.histograms takes {step: tree} with at least one step, got none")
    steps = sorted(trees)
    names = list(tree.select(trees[steps[0]], selector))
    leaves = [dict(tree.named(trees[step])) for step in steps]
    columns = min(4, len(names))
    rows = math.ceil(len(names) / columns)
    figure = canvas(3.2 * columns, 2.2 * rows)
    for index, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        if index >= len(names):
            axes.axis("off")
            continue
        values = [_finite(at[names[index]]) for at in leaves]
        every = np.concatenate(values)
        low, high = np.percentile(every, [0.1, 99.9]) if len(every) else (0.0, 0.0)
        low, high = (low, high) if high > low else (low - 0.5, high + 0.5)
        counts = np.stack([np.histogram(one, bins, (low, high))[0] / max(len(one), 1) for one in values], axis=1)
        axes.pcolormesh(_edges(steps), np.linspace(low, high, bins + 1), counts, cmap="Blues", rasterized=True)
        axes.set_title(names[index], fontsize=8)
        axes.set_xlabel("step", fontsize=7)
        axes.tick_params(labelsize=7)
    return figure


def samples(images: Mapping[int, Any], *, columns: int = 8) -> Figure:
    """What a generative model drew in the course of its training: ``{step: images}``, a row for each step.

    Images are as those of `plot.images`, ``(n, height, width[, channels])``, of which ``columns`` are shown. Give the
    sampler the same key at each step, so that a column shows one sample becoming better.

    >>> import numpy as np
    >>> from fnet import plot
    >>> figure = plot.samples({step: np.zeros((4, 8, 8, 1), "uint8") for step in (0, 100)})
    >>> [axes.get_ylabel() for axes in figure.axes[::4]]
    ['step 0', 'step 100']
    """
    if not images:
        raise ValueError("plot.samples takes {step: images} with at least one step, got none")
    pictures = {step: np.asarray(images[step]) for step in sorted(images)}
    for step, row in pictures.items():
        if row.ndim not in (3, 4) or (row.ndim == 4 and row.shape[-1] not in (1, 3, 4)):
            raise ValueError(f"plot.samples: step {step} is no (n, height, width[, 1, 3 or 4]), but {row.shape}")
    columns = min(columns, max(len(row) for row in pictures.values()))
    figure = canvas(1.1 * columns + 0.6, 1.2 * len(pictures))
    panels = figure.subplots(len(pictures), columns, squeeze=False)
    for axes_of_row, (step, row) in zip(panels, pictures.items(), strict=True):
        axes_of_row[0].set_ylabel(f"step {step}", fontsize=8)
        for index, axes in enumerate(axes_of_row):
            axes.set_xticks([])
            axes.set_yticks([])
            if index < len(row):
                grey = row.ndim == 3 or row.shape[-1] == 1
                picture = row[index].reshape(row.shape[1:3]) if grey else row[index]
                high = 255 if row.dtype.kind in "ui" else 1.0
                axes.imshow(picture if grey else np.clip(picture, 0, high), cmap="gray_r" if grey else None,
                            vmin=0, vmax=high)  # fmt: skip
    return figure


def _finite(leaf: Any) -> np.ndarray:
    flat = np.asarray(leaf).astype(np.float64).ravel()
    return flat[np.isfinite(flat)]


def _edges(steps: list[int]) -> np.ndarray:
    """Where the columns of steps begin and end: half way to their neighbours."""
    if len(steps) == 1:
        return np.array([steps[0] - 0.5, steps[0] + 0.5])
    at = np.asarray(steps, np.float64)
    middle = (at[1:] + at[:-1]) / 2
    return np.array([2 * at[0] - middle[0], *middle, 2 * at[-1] - middle[-1]])
