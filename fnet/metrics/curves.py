"""How well scores rank: ROC and precision-recall curves and the areas under them, exact, with ties."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from fnet.functional.reduction import leading_mask
from fnet.metrics.core import Metric, State, ratio
from fnet.metrics.labels import binary_scores, check_labels, check_scores


def roc_curve(
    scores: ArrayLike, labels: ArrayLike, *, mask: ArrayLike | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``(false positive rates, true positive rates, thresholds)`` for every threshold, from high to low.

    Shapes: scores (...) or logits of two classes (..., 2), labels (...) of 0 and 1. The first point is (0, 0) at the
    threshold inf, as in scikit-learn with ``drop_intermediate=False``. Numpy arrays of float64, computed on the host.
    A rate over nothing is NaN.

    >>> false, true, thresholds = roc_curve([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1])
    >>> false.tolist(), true.tolist()
    ([0.0, 0.0, 0.5, 0.5, 1.0], [0.0, 0.5, 0.5, 1.0, 1.0])
    """
    true, false, thresholds = _cumulated(scores, labels, mask, "roc_curve")
    with np.errstate(invalid="ignore"):
        fpr, tpr = (np.concatenate([[0], x]) / np.float64(x[-1] if x.size else 0) for x in (false, true))
    return fpr, tpr, np.concatenate([[np.inf], thresholds])


def precision_recall_curve(
    scores: ArrayLike, labels: ArrayLike, *, mask: ArrayLike | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``(precision, recall, thresholds)`` for every threshold, from low to high, with (1, 0) at the end.

    Arguments as in `roc_curve`; results as in scikit-learn.

    >>> precision, recall, thresholds = precision_recall_curve([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1])
    >>> recall.tolist()
    [1.0, 1.0, 0.5, 0.5, 0.0]
    """
    true, false, thresholds = _cumulated(scores, labels, mask, "precision_recall_curve")
    with np.errstate(invalid="ignore"):
        precision, recall = true / np.float64(true + false), true / np.float64(true[-1] if true.size else 0)
    return np.concatenate([precision[::-1], [1]]), np.concatenate([recall[::-1], [0]]), thresholds[::-1]


def _cumulated(
    scores: ArrayLike, labels: ArrayLike, mask: ArrayLike | None, where: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The numbers of true and false positives at each distinct threshold, from high to low."""
    values, truth = np.asarray(scores), np.asarray(labels)
    if values.shape != truth.shape:
        values = np.asarray(binary_scores(values, truth, where))
    check_labels(truth, 2, mask, where)
    if mask is not None:
        keep = np.asarray(leading_mask(mask, truth.shape, where))
        values, truth = values[keep], truth[keep]
    if np.isnan(values).any():
        raise ValueError(f"{where}: {int(np.isnan(values).sum())} of {values.size} scores are NaN")
    order = np.argsort(-values.ravel(), kind="stable")
    values, truth = values.ravel()[order], truth.ravel()[order]
    last = np.flatnonzero(np.diff(values, append=np.nan) != 0)  # of each run of equal scores
    return np.cumsum(truth, dtype=np.int64)[last], np.cumsum(1 - truth, dtype=np.int64)[last], values[last]


def roc_auc(scores: ArrayLike, labels: ArrayLike, *, mask: ArrayLike | None = None) -> jax.Array:
    """The area under the ROC curve: how often a positive example has a higher score than a negative one.

    Arguments as in `roc_curve`; equal scores count half. NaN where one class is missing or a score is NaN, and, under
    jit, for a label out of range.

    >>> roc_auc(jnp.array([0.1, 0.4, 0.35, 0.8]), jnp.array([0, 0, 1, 1]))
    Array(0.75, dtype=float32)
    """
    return ROCAUC()(scores, labels, mask=mask)


def average_precision(scores: ArrayLike, labels: ArrayLike, *, mask: ArrayLike | None = None) -> jax.Array:
    """The area under the precision-recall curve as a sum of steps: the mean over positives of the precision there.

    Arguments as in `roc_curve`. NaN where no example is positive or a score is NaN.

    >>> round(float(average_precision(jnp.array([0.1, 0.4, 0.35, 0.8]), jnp.array([0, 0, 1, 1]))), 4)
    0.8333
    """
    return AveragePrecision()(scores, labels, mask=mask)


@dataclass(frozen=True)
class Ranking(Metric):
    """A measure of a ranking. Its state keeps every score, which exactness needs: it grows with each update.

    With more than two classes, each class is ranked against the rest by its softmax, and the mean is taken.
    """

    num_classes: int = 2

    def area(self, scores: jax.Array, positive: jax.Array, counted: jax.Array) -> jax.Array:
        """The measure of scores (n,) of which those ``counted`` matter and some are ``positive``."""
        raise NotImplementedError(f"{type(self).__name__} must define area(scores, positive, counted)")

    def init(self) -> State:
        shape = (0,) if self.num_classes == 2 else (0, self.num_classes)
        return {"scores": jnp.zeros(shape), "labels": jnp.zeros(0, jnp.int32), "counted": jnp.zeros(0, bool)}

    def update(
        self, state: State, outputs: ArrayLike, targets: ArrayLike, *, mask: ArrayLike | None = None
    ) -> State:
        where = type(self).__name__
        if self.num_classes == 2:
            scores = binary_scores(outputs, targets, where).ravel()
        else:
            scores = jax.nn.softmax(check_scores(outputs, targets, where, self.num_classes), -1)
            scores = scores.reshape(-1, self.num_classes)
        ids, counted, valid = check_labels(targets, self.num_classes, mask, where)
        labels = jnp.where(valid, ids, -1).ravel().astype(jnp.int32)
        return self.merge(state, {"scores": scores, "labels": labels, "counted": counted.ravel()})

    def merge(self, *states: State) -> State:
        return {name: jnp.concatenate([state[name] for state in states]) for name in states[0]}

    def compute(self, state: State) -> jax.Array:
        scores, labels, counted = state["scores"], state["labels"], state["counted"]
        if self.num_classes == 2:
            value = self.area(scores, labels == 1, counted)
        else:
            each = [self.area(scores[:, c], labels == c, counted) for c in range(self.num_classes)]
            value = jnp.stack(each).mean()
        spoilt = jnp.isnan(scores).any(tuple(range(1, scores.ndim))) | (labels < 0)
        return jnp.where((spoilt & counted).any(), jnp.nan, value)


class ROCAUC(Ranking):
    """`roc_auc` over all batches; one against the rest, and the mean, for ``num_classes`` above 2.

    >>> import jax.numpy as jnp
    >>> float(ROCAUC()(jnp.array([0.1, 0.4, 0.35, 0.8]), jnp.array([0, 0, 1, 1])))
    0.75
    """

    def area(self, scores: jax.Array, positive: jax.Array, counted: jax.Array) -> jax.Array:
        below, equal = _negatives(scores, ~positive & counted)
        positive &= counted
        negatives = (~positive & counted).sum()
        wins = jnp.where(positive, (below + 0.5 * equal) / negatives, 0)
        return wins.sum() / positive.sum()


class AveragePrecision(Ranking):
    """`average_precision` over all batches; one against the rest, and the mean, for ``num_classes`` above 2.

    >>> import jax.numpy as jnp
    >>> round(float(AveragePrecision()(jnp.array([0.1, 0.4, 0.35, 0.8]), jnp.array([0, 0, 1, 1]))), 4)
    0.8333
    """

    def area(self, scores: jax.Array, positive: jax.Array, counted: jax.Array) -> jax.Array:
        positive &= counted
        below_all, _ = _negatives(scores, counted)
        below_true, _ = _negatives(scores, positive)
        precision = ratio(positive.sum() - below_true, counted.sum() - below_all)
        return jnp.where(positive, precision, 0).sum() / positive.sum()


def _negatives(scores: jax.Array, chosen: jax.Array) -> tuple[jax.Array, jax.Array]:
    """For each score, how many of the chosen scores are below it and how many are equal."""
    order = jnp.argsort(scores)
    total = jnp.concatenate([jnp.zeros(1, int), jnp.cumsum(chosen[order])])
    ranked = scores[order]
    low, high = (total[jnp.searchsorted(ranked, scores, side=side)] for side in ("left", "right"))
    return low, high - low
