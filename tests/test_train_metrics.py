"""Streaming metrics through the loss, the step, micro-batches and evaluate."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import fnet.functional as F
from fnet import data, metrics, nn, optim, train

rng = np.random.default_rng(0)
X = rng.normal(size=(103, 5)).astype("float32")
Y = rng.integers(0, 3, 103).astype("int32")
SCORES = {
    "accuracy": metrics.accuracy,
    "f1": metrics.F1(3),
    "auc": metrics.ROCAUC(3),
    "table": metrics.ConfusionMatrix(3),
}


@pytest.fixture(scope="module")
def trained():
    model, opt = nn.Linear(3), optim.sgd(0.1)
    return model, opt, train.start(model, opt, jax.random.key(0), X), train.supervised(model, F.cross_entropy, SCORES)


@pytest.mark.parametrize("last", ["keep", "pad"])
def test_evaluate_merges_what_a_mean_over_batches_would_get_wrong(trained, last):
    model, _, run, loss = trained
    loader = data.DataLoader(data.ArrayDataset(X, Y), batch_size=16, last=last)
    scores = train.evaluate(loss, run, loader)
    logits = model(run.params, X)
    for name in ("accuracy", "f1", "auc"):
        assert isinstance(scores[name], float)
        np.testing.assert_allclose(scores[name], SCORES[name](logits, Y), rtol=1e-5)
    np.testing.assert_array_equal(scores["table"], SCORES["table"](logits, Y))
    assert scores["table"].sum() == 103
    parts = [float(metrics.F1(3)(logits[i : i + 16], Y[i : i + 16])) for i in range(0, 103, 16)]
    assert abs(np.mean(parts) - scores["f1"]) > 1e-3


def test_the_step_gives_scalars_of_its_batch_also_from_slices(trained):
    model, opt, run, loss = trained
    batch = (X[:96], Y[:96])
    whole, sliced = (train.make_step(loss, opt, microbatches=k)(run, batch)[1] for k in (1, 4))
    assert set(whole) == {"loss", "accuracy", "f1", "auc"}
    logits = model(run.params, X[:96])
    for name in ("accuracy", "f1", "auc"):
        np.testing.assert_allclose(whole[name], SCORES[name](logits, Y[:96]), rtol=1e-5)
        np.testing.assert_allclose(sliced[name], whole[name], rtol=1e-5)


def test_fit_records_the_scalars_of_both(trained):
    model, opt, run, loss = trained
    loader = data.DataLoader(data.ArrayDataset(X, Y), batch_size=32, shuffle=True, last="drop")
    _, history = train.fit(
        train.make_step(loss, opt), run, loader, epochs=1, progress=False,
        evaluate=lambda run: train.evaluate(loss, run, loader),
    )  # fmt: skip
    assert {"f1", "eval_f1", "auc", "eval_auc"} <= set(history) and "eval_table" not in history


def test_a_masked_loss_passes_its_mask_to_streaming_metrics(trained):
    model, _, run, loss = trained
    mask = np.arange(103) < 50
    bad = np.where(mask, Y, -1)
    _, (_, scores) = loss(run.params, run.state, (X, bad, mask))
    assert int(scores["table"].compute().sum()) == 50
