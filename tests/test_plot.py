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
    with pytest.raises(TypeError, match="takes a train.History, got dict"):
        plot.history({"loss": [1.0]})


def test_a_confusion_matrix_shows_its_counts_or_shares():
    counts = np.array([[8, 2, 0], [1, 9, 0], [0, 0, 0]])
    axes = plot.confusion(counts, ["a", "b", "c"]).axes[0]
    np.testing.assert_array_equal(axes.images[0].get_array(), counts)
    assert [text.get_text() for text in axes.texts] == ["8", "2", "0", "1", "9", "0", "0", "0", "0"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b", "c"]
    shares = plot.confusion(counts, normalize=True).axes[0].images[0].get_array()
    np.testing.assert_allclose(shares, [[0.8, 0.2, 0], [0.1, 0.9, 0], [0, 0, 0]])
    with pytest.raises(ValueError, match=r"square matrix .*got shape \(2, 3\)"):
        plot.confusion(counts[:2])
    with pytest.raises(ValueError, match="2 names for a matrix of 3"):
        plot.confusion(counts, ["a", "b"])


def test_attention_has_a_panel_for_each_head_on_one_scale():
    maps = np.random.default_rng(0).random((5, 2, 3))
    figure = plot.attention(maps, ["q0", "q1"], ["k0", "k1", "k2"])
    pictures = [axes.images[0] for axes in figure.axes if axes.images]
    assert len(pictures) == 5 and len({picture.get_clim() for picture in pictures}) == 1
    np.testing.assert_array_equal(pictures[4].get_array(), maps[4])
    assert len([axes for axes in plot.attention(maps[0]).axes if axes.images]) == 1
    with pytest.raises(ValueError, match="3 names for 2 queries"):
        plot.attention(maps, ["a", "b", "c"])
    with pytest.raises(ValueError, match=r"got shape \(1, 5, 2, 3\)"):
        plot.attention(maps[None])


def test_histograms_count_each_leaf_at_each_step():
    seen = {step: {"a": np.full(10, float(step)), "b": {"c": np.array([np.nan, 1.0, np.inf])}} for step in (10, 0, 20)}
    figure = plot.histograms(seen)
    a, c = figure.axes[:2]
    assert (a.get_title(), c.get_title()) == ("a", "b.c")
    counts = np.asarray(a.collections[0].get_array()).reshape(60, 3)
    assert [int(np.argmax(column)) for column in counts.T] == sorted(np.argmax(counts, 0)) and counts.max() == 1
    np.testing.assert_array_equal(a.collections[0].get_coordinates()[0, :, 0], [-5, 5, 15, 25])
    assert [axes.get_title() for axes in plot.histograms(seen, "b.*").axes] == ["b.c"]
    assert plot.histograms({0: {"w": np.zeros(3)}})._repr_png_()
    with pytest.raises(ValueError, match="at least one step"):
        plot.histograms({})
    for mistaken in ({"w": np.zeros(3)}, [{"w": np.zeros(3)}]):
        with pytest.raises(TypeError, match=r"of one tree, give \{0: params\}"):
            plot.histograms(mistaken)


def test_samples_are_a_row_for_each_step():
    rows = {step: np.full((2, 4, 4, 3), step / 200) for step in (200, 100)}
    figure = plot.samples(rows, columns=3)
    assert [axes.get_ylabel() for axes in figure.axes] == ["step 100", "", "step 200", ""]
    np.testing.assert_array_equal(figure.axes[2].images[0].get_array(), rows[200][0])
    with pytest.raises(ValueError, match=r"step 7 is no \(n, height"):
        plot.samples({7: np.zeros(3)})
    with pytest.raises(ValueError, match="at least one step"):
        plot.samples({})


def test_learning_rates_mark_the_best_and_keep_the_divergence_out():
    axes = plot.learning_rates([1e-3, 1e-2, 1e-1, 1], [2.0, 1.0, 3.0, 1e9], best=1e-2).axes[0]
    np.testing.assert_array_equal(axes.lines[0].get_xdata(), [1e-3, 1e-2, 1e-1, 1])
    assert axes.get_ylim()[1] == pytest.approx(2.5) and axes.lines[1].get_xdata()[0] == 1e-2
    with pytest.raises(ValueError, match="a loss for each rate"):
        plot.learning_rates([1, 2], [1])


def test_without_matplotlib_the_extra_is_named():
    code = (
        "import sys; sys.modules['matplotlib'] = None; sys.modules['matplotlib.figure'] = None\n"
        "import numpy as np; from fnet import plot\n"
        "try: plot.images(np.zeros((1, 2, 2)))\n"
        "except ImportError as error: print(error)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "pip install 'fnet[plot]'" in out


def test_graph_draws_every_node_and_refuses_what_no_page_shows():
    import jax.numpy as jnp

    from fnet import autograd

    found = autograd.graph(lambda x: jnp.tanh(x) + x, jnp.ones(3))
    (axes,) = plot.graph(found).axes
    assert [text.get_text().split("\n")[0] for text in axes.texts] == ["0", "tanh", "add", "result"]
    heights = [text.get_position()[1] for text in axes.texts]
    assert heights == [0, -1, -2, -3] and len(axes.lines) == 4
    with pytest.raises(ValueError, match="from 1 to 400 nodes, got 500"):
        plot.graph(found.nodes[:1] * 500)
    for mistaken in (jnp.tanh, [1.0]):
        with pytest.raises(TypeError, match=r"takes what autograd\.graph\(f, \*args\) found"):
            plot.graph(mistaken)
