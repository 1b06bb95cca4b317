"""Grids of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fnet.plot.canvas import canvas

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

    ``images`` is an array ``(n, height, width[, channels])`` of integers 0–255 or floats 0–1, or a dataset of
    ``(image, label)`` samples, of which the first ``rows × columns`` are shown; ``labels`` and ``predictions`` are
    class numbers. Raises ImportError naming the extra when matplotlib is not installed.

    >>> from fnet import data, plot
    >>> figure = plot.images(data.digits()[1], rows=2, columns=5)
    >>> len(figure.axes)
    10
    """
    if isinstance(images, list | tuple):
        images = np.stack([np.asarray(image) for image in images])
    if not hasattr(images, "shape"):
        samples = [images[index] for index in range(min(len(images), rows * columns))]
        classes = classes if classes is not None else getattr(images, "classes", None)
        labels = [label for _, label in samples] if labels is None else labels
        images = np.stack([np.asarray(image) for image, _ in samples])
    pictures = np.asarray(images)[: rows * columns]
    if pictures.ndim not in (3, 4) or (pictures.ndim == 4 and pictures.shape[-1] not in (1, 3, 4)):
        raise ValueError(f"plot.images takes (n, height, width[, 1, 3 or 4 channels]), got shape {pictures.shape}")
    figure = canvas(1.3 * columns, 1.5 * rows)
    for index, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        axes.axis("off")
        if index < len(pictures):
            grey = pictures.ndim == 3 or pictures.shape[-1] == 1
            high = 255 if pictures.dtype.kind in "ui" else 1.0
            picture = pictures[index].reshape(pictures.shape[1:3]) if grey else pictures[index]
            axes.imshow(picture, cmap="gray_r" if grey else None, vmin=0, vmax=high)
            axes.set_title(*_caption(index, labels, predictions, classes))
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
