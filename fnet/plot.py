"""Figures, through matplotlib (the ``plot`` extra); each function returns a `matplotlib.figure.Figure`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def images(
    images: Any,
    labels: Any = None,
    predictions: Any = None,
    *,
    classes: Sequence[str] | None = None,
    rows: int = 3,
    columns: int = 3,
) -> Figure:
    """A grid of images with their labels; with ``predictions``, wrong ones are red and say what was right.

    ``images`` is an array ``(n, height, width[, channels])`` of uint8 0–255 or floats 0–1, or a dataset of
    ``(image, label)`` samples, of which the first ``rows × columns`` are shown; ``labels`` and ``predictions`` are
    class numbers. Raises ImportError naming the extra when matplotlib is not installed.

    >>> from fnet import data, plot
    >>> figure = plot.images(data.digits()[1], rows=2, columns=5)
    >>> len(figure.axes)
    10
    """
    if hasattr(images, "__getitem__") and not hasattr(images, "shape"):
        samples = [images[index] for index in range(min(len(images), rows * columns))]
        classes = classes if classes is not None else getattr(images, "classes", None)
        labels = [label for _, label in samples] if labels is None else labels
        images = np.stack([np.asarray(image) for image, _ in samples])
    pictures = np.asarray(images)[: rows * columns]
    if pictures.ndim not in (3, 4) or (pictures.ndim == 4 and pictures.shape[-1] not in (1, 3, 4)):
        raise ValueError(f"plot.images takes (n, height, width[, 1, 3 or 4 channels]), got shape {pictures.shape}")
    figure = _figure(1.3 * columns, 1.5 * rows)
    for index, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        axes.axis("off")
        if index < len(pictures):
            grey = pictures.ndim == 3 or pictures.shape[-1] == 1
            high = 255 if pictures.dtype == np.uint8 else 1.0
            picture = pictures[index].squeeze() if grey else pictures[index]
            axes.imshow(picture, cmap="gray_r" if grey else None, vmin=0, vmax=high)
            axes.set_title(*_caption(index, labels, predictions, classes))
    return figure


def history(history: Any, names: Sequence[str] | None = None) -> Figure:
    """The curves of a `train.History` by step, an evaluation's ``eval_x`` in one panel with ``x``.

    ``names`` chooses the panels; all by default.

    >>> from fnet import plot, train
    >>> measured = train.History()
    >>> measured.add(1, {"loss": 2.0, "eval_loss": 2.1})
    >>> [axes.get_ylabel() for axes in plot.history(measured).axes]
    ['loss']
    """
    panels = list(dict.fromkeys(name.removeprefix("eval_") for name in (names or history.names)))
    if not panels:
        raise ValueError("plot.history: the history is empty")
    figure = _figure(4.5 * len(panels), 3.2)
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False).flat, panels, strict=True):
        for name, label, style in ((panel, "training", "-"), (f"eval_{panel}", "evaluation", "o-")):
            if name in history:
                axes.plot(history.steps(name), history[name], style, markersize=3, linewidth=1, label=label)
        axes.set_xlabel("step")
        axes.set_ylabel(panel)
        axes.legend()
    return figure


def _caption(index: int, labels: Any, predictions: Any, classes: Sequence[str] | None) -> tuple[str, dict[str, Any]]:
    def name(values: Any) -> str:
        value = int(values[index])
        return str(classes[value]) if classes is not None else str(value)

    if predictions is None:
        return "" if labels is None else name(labels), {"fontsize": 8}
    if labels is None or name(labels) == name(predictions):
        return name(predictions), {"fontsize": 8}
    return f"{name(predictions)}, not {name(labels)}", {"fontsize": 8, "color": "red"}


def _figure(width: float, height: float) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("fnet.plot needs matplotlib: pip install 'fnet[plot]'") from error
    if "ipykernel" in sys.modules:  # pyplot is what makes figures show in a notebook
        import matplotlib.pyplot  # noqa: F401
    return Figure(figsize=(width, height), layout="constrained")
