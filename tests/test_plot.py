"""Figures show what they were given."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from fnet import data, train

matplotlib = pytest.importorskip("matplotlib", reason="figures need the plot extra: pip install fnet[plot]")

from fnet import plot  # noqa: E402


def test_images_show_pictures_labels_and_mistakes():
    pictures = np.arange(4 * 5 * 6 * 1, dtype="uint8").reshape(4, 5, 6, 1)
    figure = plot.images(pictures, [0, 1, 2, 1], [0, 2, 2, 1], classes=["zero", "one", "two"], rows=2, columns=3)
    assert [axes.get_title() for axes in figure.axes] == ["zero", "two, not one", "two", "one", "", ""]
    assert figure.axes[1].title.get_color() == "red" != figure.axes[0].title.get_color()
    np.testing.assert_array_equal(figure.axes[2].images[0].get_array(), pictures[2, :, :, 0])
    assert not figure.axes[5].images
    colour = plot.images(np.random.default_rng(0).random((1, 4, 4, 3)), rows=1, columns=1)
    assert colour.axes[0].images[0].get_array().shape == (4, 4, 3)
    assert figure._repr_png_()[:4] == b"\x89PNG"
    with pytest.raises(ValueError, match=r"got shape \(4,\)"):
        plot.images(np.ones(4))


def test_images_of_a_dataset_use_its_labels_and_names():
    dataset = data.ArrayDataset(np.zeros((3, 2, 2, 1), "uint8"), np.array([1, 0, 1]), classes=["cat", "dog"])
    assert [axes.get_title() for axes in plot.images(dataset, rows=1, columns=4).axes] == ["dog", "cat", "dog", ""]


def test_history_puts_evaluation_beside_training():
    measured = train.History()
    for step in range(1, 5):
        measured.add(step, {"loss": 1 / step, "accuracy": 0.5})
    measured.add(4, {"eval_loss": 0.3})
    loss, accuracy = plot.history(measured).axes
    assert [line.get_label() for line in loss.lines] == ["training", "evaluation"] and len(accuracy.lines) == 1
    np.testing.assert_allclose(loss.lines[0].get_ydata(), [1, 1 / 2, 1 / 3, 1 / 4])
    assert len(plot.history(measured, ["loss"]).axes) == 1
    with pytest.raises(ValueError, match="empty"):
        plot.history(train.History())


def test_without_matplotlib_the_extra_is_named():
    code = (
        "import sys; sys.modules['matplotlib'] = None; sys.modules['matplotlib.figure'] = None\n"
        "import numpy as np; from fnet import plot\n"
        "try: plot.images(np.zeros((1, 2, 2)))\n"
        "except ImportError as error: print(error)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "pip install 'fnet[plot]'" in out
