"""Streaming metrics against scikit-learn over all examples at once: in any batches, with masks, merged, under jit."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnet import metrics

SKLEARN = "comparisons with scikit-learn need the oracle extra: pip install fnet[oracle]"
N, CLASSES = 203, 4


def classified(classes: int = CLASSES, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits of a fair classifier, with ties; labels of which one class is rare; a mask."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(classes, N, p=np.r_[np.full(classes - 1, 0.97 / (classes - 1)), 0.03])
    logits = np.round(rng.normal(size=(N, classes)) + 1.5 * np.eye(classes)[labels], 1).astype("float32")
    return logits, labels, rng.random(N) < 0.7


def streamed(metric: metrics.Metric, outputs: np.ndarray, targets: np.ndarray, mask: np.ndarray) -> jax.Array:
    """The metric from uneven batches, the last padded with NaN and wrong labels, two halves merged."""
    outputs, targets, mask = (
        np.concatenate([a, np.full((5, *a.shape[1:]), fill, a.dtype)])
        for a, fill in ((outputs, np.nan if outputs.dtype.kind == "f" else -7), (targets, -7), (mask, False))
    )
    states = [metric.init(), metric.init()]
    for part, (begin, end) in enumerate([(0, 10), (10, 11), (11, 120), (120, 120), (120, N + 5)]):
        one = metric.update(states[part % 2], outputs[begin:end], targets[begin:end], mask=mask[begin:end])
        states[part % 2] = one
    return metric.compute(metric.merge(metric.merge(*states), metric.init()))


def by_class(name: str, classes: int, average: str | None) -> tuple[metrics.Metric, object]:
    sklearn = pytest.importorskip("sklearn.metrics", reason=SKLEARN)
    ours = {"precision": metrics.Precision, "recall": metrics.Recall, "f1": metrics.F1, "jaccard": metrics.IoU}[name]
    theirs = getattr(sklearn, f"{name}_score")
    labels = {"labels": list(range(classes))} if average is None else {}
    return ours(classes, average=average), lambda y, p: theirs(y, p, average=average, zero_division=0, **labels)


@pytest.mark.parametrize("average", ["micro", "macro", "weighted", None])
@pytest.mark.parametrize("name", ["precision", "recall", "f1", "jaccard"])
def test_scores_by_class_are_sklearns(name, average):
    metric, reference = by_class(name, CLASSES, average)
    for seed in range(3):
        logits, labels, mask = classified(seed=seed)
        expected = reference(labels[mask], logits[mask].argmax(-1))
        np.testing.assert_allclose(streamed(metric, logits, labels, mask), expected, rtol=1e-6)
    rare = labels < 2  # two classes never occur: the mean is over those that do
    few = np.where(np.arange(CLASSES) < 2, logits, -9)
    if average is not None:
        got = metric(few, labels, mask=rare)
        np.testing.assert_allclose(got, reference(labels[rare], few[rare].argmax(-1)), rtol=1e-6)


@pytest.mark.parametrize("name", ["precision", "recall", "f1", "jaccard"])
def test_binary_scores_take_logits_pairs_or_class_numbers(name):
    metric, reference = by_class(name, 2, "binary")
    logits, labels, mask = classified(2)
    margin = logits[:, 1] - logits[:, 0]
    expected = reference(labels[mask], margin[mask] > 0)
    for outputs in (logits, margin, (margin > 0).astype("int32")):
        np.testing.assert_allclose(streamed(metric, outputs, labels, mask), expected, rtol=1e-6)


def test_the_confusion_matrix_and_accuracies_are_sklearns():
    sklearn = pytest.importorskip("sklearn.metrics", reason=SKLEARN)
    logits, labels, mask = classified()
    exact = logits + 1e-3 * np.arange(CLASSES)[::-1]  # ties go to the first class, which sklearn's top k does not do
    table = streamed(metrics.ConfusionMatrix(CLASSES), logits, labels, mask)
    np.testing.assert_array_equal(table, sklearn.confusion_matrix(labels[mask], logits[mask].argmax(-1)))
    expected = sklearn.accuracy_score(labels[mask], logits[mask].argmax(-1))
    np.testing.assert_allclose(streamed(metrics.Accuracy(), logits, labels, mask), expected, rtol=1e-6)
    for k in (1, 2, 3):
        expected = sklearn.top_k_accuracy_score(labels[mask], exact[mask], k=k, labels=range(CLASSES))
        np.testing.assert_allclose(streamed(metrics.TopKAccuracy(k), logits, labels, mask), expected, rtol=1e-6)
        np.testing.assert_allclose(metrics.top_k_accuracy(logits, labels, k, mask=mask), expected, rtol=1e-6)


def test_curves_and_areas_are_sklearns():
    sklearn = pytest.importorskip("sklearn.metrics", reason=SKLEARN)
    logits, labels, mask = classified(2)
    margin = np.round(logits[:, 1] - logits[:, 0], 1)  # with many ties
    y, s = labels[mask], margin[mask]
    for ours, theirs in zip(
        metrics.roc_curve(margin, labels, mask=mask), sklearn.roc_curve(y, s, drop_intermediate=False), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)
    for ours, theirs in zip(
        metrics.precision_recall_curve(margin, labels, mask=mask), sklearn.precision_recall_curve(y, s), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)
    for metric, function, expected in (
        (metrics.ROCAUC(), metrics.roc_auc, sklearn.roc_auc_score(y, s)),
        (metrics.AveragePrecision(), metrics.average_precision, sklearn.average_precision_score(y, s)),
    ):
        np.testing.assert_allclose(streamed(metric, margin, labels, mask), expected, rtol=1e-5)
        np.testing.assert_allclose(jax.jit(function)(margin, labels, mask=mask), expected, rtol=1e-5)
    logits, labels, mask = classified()
    shares = np.asarray(jax.nn.softmax(logits, -1), "float64")
    shares /= shares.sum(-1, keepdims=True)
    expected = sklearn.roc_auc_score(labels[mask], shares[mask], multi_class="ovr")
    np.testing.assert_allclose(streamed(metrics.ROCAUC(CLASSES), logits, labels, mask), expected, rtol=1e-5)


def test_errors_of_regression_are_sklearns():
    sklearn = pytest.importorskip("sklearn.metrics", reason=SKLEARN)
    rng = np.random.default_rng(0)
    y = (rng.normal(size=N) + 1e3).astype("float32")  # a mean far from 0: naive sums of squares lose every digit
    x, mask = (y + rng.normal(size=N) / 2).astype("float32"), rng.random(N) < 0.7
    for metric, reference, rtol in (
        (metrics.MSE(), sklearn.mean_squared_error, 1e-5),
        (metrics.MAE(), sklearn.mean_absolute_error, 1e-5),
        (metrics.R2(), sklearn.r2_score, 1e-4),
        (metrics.Correlation(), lambda y, x: np.corrcoef(x.astype("float64"), y)[0, 1], 1e-4),
    ):
        np.testing.assert_allclose(streamed(metric, x, y, mask), reference(y[mask], x[mask]), rtol=rtol)
    assert float(metrics.R2()(jnp.ones(3), jnp.ones(3))) == 1 and float(metrics.R2()(jnp.zeros(3), jnp.ones(3))) == 0
    assert np.isnan(metrics.Correlation()(jnp.ones(3), jnp.arange(3.0)))


def test_perplexity_and_calibration_follow_their_formulas():
    logits, labels, mask = classified()
    shares = np.exp(logits.astype("float64"))
    shares /= shares.sum(-1, keepdims=True)
    own = shares[np.arange(N), labels][mask]
    np.testing.assert_allclose(
        streamed(metrics.Perplexity(), logits, labels, mask), np.exp(-np.log(own).mean()), rtol=1e-5
    )
    sure, right = shares.max(-1)[mask], (logits.argmax(-1) == labels)[mask]
    expected = 0.0
    for low in range(10):  # Guo et al. (2017), eq. 3: bins (low, high]
        inside = (sure > low / 10) & (sure <= (low + 1) / 10)
        expected += abs(right[inside].sum() - sure[inside].sum()) / mask.sum()
    np.testing.assert_allclose(streamed(metrics.CalibrationError(10), logits, labels, mask), expected, rtol=1e-4)


EVERY = [
    metrics.Accuracy(), metrics.TopKAccuracy(2), metrics.ConfusionMatrix(CLASSES), metrics.Precision(CLASSES),
    metrics.Recall(CLASSES), metrics.F1(CLASSES), metrics.IoU(CLASSES), metrics.Dice(CLASSES),
    metrics.CalibrationError(), metrics.Perplexity(), metrics.ROCAUC(CLASSES), metrics.AveragePrecision(CLASSES),
]  # fmt: skip


@pytest.mark.parametrize("metric", EVERY, ids=lambda m: type(m).__name__)
def test_every_metric_of_classes_runs_under_jit_and_makes_bad_labels_visible(metric):
    logits, labels, mask = classified()
    expected = metric(logits, labels, mask=mask)
    assert np.shape(metric.compute(metric.init())) == np.shape(expected)  # of nothing
    np.testing.assert_allclose(jax.jit(metric)(logits, labels, mask=mask), expected, rtol=1e-5)
    bad = np.where(np.arange(N) == 3, CLASSES, labels)
    with pytest.raises(ValueError, match=rf"{CLASSES} at index \(3,\) is out of range"):
        metric(logits, bad)
    np.testing.assert_allclose(metric(logits, bad, mask=mask & (bad < CLASSES)), expected, rtol=0.05)
    result = np.asarray(jax.jit(metric)(logits, bad))
    assert np.isnan(result).all() if result.dtype.kind == "f" else (result == -1).all()
    with pytest.raises(ValueError, match=f"logits have shape.*{type(metric).__name__}|{type(metric).__name__}: logits"):
        metric(logits[:-1], labels)


def test_nothing_counted_is_no_crash():
    logits, labels, mask = classified()
    for metric in EVERY[:9]:
        assert not np.any(metric.compute(metric.init())), "0 where nothing was seen"
    assert np.isnan(metrics.roc_auc(logits[:, 0], np.zeros(N, int)))
    assert np.isnan(metrics.average_precision(logits[:, 0], np.zeros(N, int)))
    assert np.isnan(metrics.roc_auc(np.where(labels == 1, np.nan, 0), labels % 2))


def test_wrong_settings_are_named():
    with pytest.raises(ValueError, match="expected at least 2"):
        metrics.ConfusionMatrix(1)
    with pytest.raises(ValueError, match="average='mean'"):
        metrics.F1(3, average="mean")
    with pytest.raises(ValueError, match="only for two classes"):
        metrics.F1(3, average="binary")
    with pytest.raises(ValueError, match="k=0"):
        metrics.TopKAccuracy(0)
    with pytest.raises(ValueError, match="k=4.*3 classes"):
        metrics.top_k_accuracy(jnp.ones((2, 3)), jnp.array([0, 1]), 4)
    with pytest.raises(ValueError, match=r"MSE: outputs have shape \(3, 1\) and targets \(3,\)"):
        metrics.MSE()(jnp.ones((3, 1)), jnp.ones(3))
    with pytest.raises(ValueError, match="roc_curve: 1 of 2 scores are NaN"):
        metrics.roc_curve([0.0, np.nan], [0, 1])
    with pytest.raises(ValueError, match="predictions: 5 at index"):
        metrics.ConfusionMatrix(2)(jnp.array([0, 5]), jnp.array([0, 1]))
    state = jax.jit(metrics.ConfusionMatrix(2).update)(
        metrics.ConfusionMatrix(2).init(), jnp.array([0, 1]), jnp.array([0, 2])
    )
    with pytest.raises(ValueError, match="1 labels or predictions were out of range, expected 0 to 1"):
        metrics.ConfusionMatrix(2).compute(state)
