"""How often a classifier is right: accuracy, and what follows from the confusion matrix."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fnet.functional.ids import is_concrete
from fnet.functional.reduction import reduce
from fnet.metrics.core import Metric, State, integers, ratio
from fnet.metrics.labels import check_labels, check_scores, predictions


def accuracy(logits: ArrayLike, labels: ArrayLike, *, mask: ArrayLike | None = None) -> jax.Array:
    """The fraction of examples whose largest logit is at the label; the first wins a tie.

    Shapes: logits (..., classes), labels (...) of any integer dtype, mask (...) of bools or over leading axes of
    that shape: False takes the example out. A float32 scalar (float64 for float64 logits), 0 where nothing is left
    to count.

    Raises TypeError for labels that are not integers, ValueError for shapes that do not fit and for a label out of
    range; under jit, where its value cannot be read, such a label makes the result NaN. Labels that mean "ignore"
    go through the mask: `accuracy(logits, labels, mask=labels != -100)`.

    >>> accuracy(jnp.array([[0.1, 0.9], [0.8, 0.2]]), jnp.array([1, 1]))
    Array(0.5, dtype=float32)
    """
    return _share(logits, labels, mask, 1, "accuracy")


def top_k_accuracy(logits: ArrayLike, labels: ArrayLike, k: int = 5, *, mask: ArrayLike | None = None) -> jax.Array:
    """The fraction of examples whose label is among the ``k`` largest logits; shapes and errors as `accuracy`.

    Of equal logits the first ones come first. Raises ValueError unless k is 1 to the number of classes.

    >>> top_k_accuracy(jnp.array([[0.1, 0.9, 0.5]]), jnp.array([2]), k=2)
    Array(1., dtype=float32)
    """
    return _share(logits, labels, mask, k, "top_k_accuracy")


def _share(logits: ArrayLike, labels: ArrayLike, mask: ArrayLike | None, k: int, where: str) -> jax.Array:
    hits, counted, valid = _hits(logits, labels, mask, k, where)
    return reduce(jnp.where(valid, hits, jnp.nan).astype(_float(logits)), "mean", counted)


def _float(logits: ArrayLike) -> jnp.dtype:
    return jnp.promote_types(jnp.result_type(logits), jnp.float32)


def _hits(
    logits: ArrayLike, labels: ArrayLike, mask: ArrayLike | None, k: int, where: str
) -> tuple[jax.Array, jax.Array, jax.Array]:
    scores = check_scores(logits, labels, where)
    ids, counted, valid = check_labels(labels, scores.shape[-1], mask, where)
    if k == 1:
        return scores.argmax(-1) == ids, counted, valid
    if not isinstance(k, int) or not 1 <= k <= scores.shape[-1]:
        raise ValueError(f"{where}: k={k!r}, expected 1 to the {scores.shape[-1]} classes of the logits")
    own = jnp.take_along_axis(scores, jnp.where(valid & counted, ids, 0)[..., None], -1)
    before = jnp.arange(scores.shape[-1]) < ids[..., None]
    rank = ((scores > own) | ((scores == own) & before)).sum(-1)
    return (rank < k) & ~jnp.isnan(scores).any(-1), counted, valid


@dataclass(frozen=True)
class Accuracy(Metric):
    """The share of right answers, of `accuracy` and, with ``k``, of `top_k_accuracy`, over all batches.

    >>> import jax.numpy as jnp
    >>> float(Accuracy()(jnp.array([[0.1, 0.9], [0.8, 0.2]]), jnp.array([1, 1])))
    0.5
    """

    k: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.k, int) or self.k < 1:
            raise ValueError(f"{type(self).__name__}: k={self.k!r}, expected an integer of at least 1")

    def init(self) -> State:
        return {name: jnp.zeros((), integers()) for name in ("hits", "count", "invalid")}

    def update(
        self, state: State, outputs: ArrayLike, targets: ArrayLike, *, mask: ArrayLike | None = None
    ) -> State:
        hits, counted, valid = _hits(outputs, targets, mask, self.k, type(self).__name__)
        new = {"hits": hits & counted & valid, "count": counted, "invalid": ~valid}
        return self.merge(state, {name: x.sum(dtype=integers()) for name, x in new.items()})

    def compute(self, state: State) -> jax.Array:
        return jnp.where(state["invalid"] > 0, jnp.nan, ratio(state["hits"], state["count"]))


@dataclass(frozen=True)
class TopKAccuracy(Accuracy):
    """`Accuracy` with a label right that is among the ``k`` largest logits.

    >>> import jax.numpy as jnp
    >>> float(TopKAccuracy(2)(jnp.array([[0.1, 0.9, 0.5]]), jnp.array([2])))
    1.0
    """

    k: int = 5


@dataclass(frozen=True)
class ConfusionMatrix(Metric):
    """How many examples of each class (row) were taken for each class (column): integers (classes, classes).

    Outputs are logits (..., classes), or binary logits (...) when there are two classes, or predicted class numbers;
    targets are integers (...). A label out of range is a ValueError where it can be read; under jit it is counted
    apart, and `compute` raises then, or gives -1 in every cell where it is traced itself.

    >>> import jax.numpy as jnp
    >>> ConfusionMatrix(2)(jnp.array([0, 1, 1]), jnp.array([0, 0, 1])).tolist()
    [[1, 1], [0, 1]]
    """

    num_classes: int

    def __post_init__(self) -> None:
        if not isinstance(self.num_classes, int) or self.num_classes < 2:
            raise ValueError(f"{type(self).__name__}: num_classes={self.num_classes!r}, expected at least 2")

    def init(self) -> State:
        shape = (self.num_classes, self.num_classes)
        return {"counts": jnp.zeros(shape, integers()), "invalid": jnp.zeros((), integers())}

    def update(
        self, state: State, outputs: ArrayLike, targets: ArrayLike, *, mask: ArrayLike | None = None
    ) -> State:
        where, n = type(self).__name__, self.num_classes
        ids, counted, valid = check_labels(targets, n, mask, where)
        guesses, possible = predictions(outputs, targets, n, counted, where)
        valid &= possible
        cell = jnp.where(valid & counted, ids * n + guesses, n * n)
        counts = jnp.zeros(n * n + 1, integers()).at[cell.ravel()].add(1)[:-1].reshape(n, n)
        return self.merge(state, {"counts": counts, "invalid": (~valid).sum(dtype=integers())})

    def compute(self, state: State) -> jax.Array:
        if is_concrete(state["invalid"]) and state["invalid"] > 0:
            raise ValueError(
                f"{type(self).__name__}: {int(state['invalid'])} labels or predictions were out of range, expected 0 "
                f"to {self.num_classes - 1}; labels count from 0, and mask= leaves examples out"
            )
        return jnp.where(state["invalid"] > 0, -1, state["counts"])


AVERAGES = ("micro", "macro", "weighted", "binary", None)


@dataclass(frozen=True)
class ByClass(ConfusionMatrix):
    """A score of each class from the confusion matrix, and its average, as scikit-learn forms it.

    ``average``: "macro", the mean over the classes that occur among labels or predictions; "weighted", that mean
    weighted by the number of labels; "micro", the score of all decisions together; "binary", that of class 1 of two;
    None, all of them, (classes,). A score with nothing to divide by is 0.
    """

    average: str | None = "macro"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.average not in AVERAGES or (self.average == "binary" and self.num_classes != 2):
            raise ValueError(
                f"{type(self).__name__}: average={self.average!r} for {self.num_classes} classes, expected one of "
                f'{AVERAGES}, "binary" only for two classes'
            )

    def score(self, hits: jax.Array, guessed: jax.Array, there: jax.Array) -> jax.Array:
        """The score from right decisions, predictions of the class, and labels of the class."""
        raise NotImplementedError(f"{type(self).__name__} must define score(hits, guessed, there)")

    def compute(self, state: State) -> jax.Array:
        table = super().compute(state)
        hits, guessed, there = jnp.diagonal(table), table.sum(0), table.sum(1)
        if self.average == "micro":
            scores = self.score(hits.sum(), guessed.sum(), there.sum())
        else:
            scores = self._averaged(self.score(hits, guessed, there), guessed, there)
        return jnp.where(state["invalid"] > 0, jnp.nan, scores)

    def _averaged(self, scores: jax.Array, guessed: jax.Array, there: jax.Array) -> jax.Array:
        if self.average == "binary":
            return scores[1]
        if self.average is None:
            return scores
        weight = there if self.average == "weighted" else (guessed + there > 0)
        return ratio((scores * weight).sum(), weight.sum())


class Precision(ByClass):
    """The share of the predictions of a class that are right; averages as in `ByClass`.

    >>> import jax.numpy as jnp
    >>> float(Precision(2, average="binary")(jnp.array([0, 1, 1]), jnp.array([0, 0, 1])))
    0.5
    """

    def score(self, hits: jax.Array, guessed: jax.Array, there: jax.Array) -> jax.Array:
        return ratio(hits, guessed)


class Recall(ByClass):
    """The share of a class that is found; averages as in `ByClass`.

    >>> import jax.numpy as jnp
    >>> float(Recall(2, average="binary")(jnp.array([0, 1, 1]), jnp.array([0, 0, 1])))
    1.0
    """

    def score(self, hits: jax.Array, guessed: jax.Array, there: jax.Array) -> jax.Array:
        return ratio(hits, there)


class F1(ByClass):
    """The harmonic mean of precision and recall, 2 · hits / (predicted + present); averages as in `ByClass`.

    >>> import jax.numpy as jnp
    >>> round(float(F1(2)(jnp.array([0, 1, 1]), jnp.array([0, 0, 1]))), 4)
    0.6667
    """

    def score(self, hits: jax.Array, guessed: jax.Array, there: jax.Array) -> jax.Array:
        return ratio(2 * hits, guessed + there)


class Dice(F1):
    """The overlap of regions, 2 |A ∩ B| / (|A| + |B|), which is `F1` of the pixels; averages as in `ByClass`.

    >>> import jax.numpy as jnp
    >>> round(float(Dice(2)(jnp.array([[0, 1, 1]]), jnp.array([[0, 0, 1]]))), 4)
    0.6667
    """


class IoU(ByClass):
    """The overlap of regions, |A ∩ B| / |A ∪ B| (Jaccard index), of pixels; averages as in `ByClass`.

    >>> import jax.numpy as jnp
    >>> IoU(2, average=None)(jnp.array([[0, 1, 1]]), jnp.array([[0, 0, 1]])).tolist()
    [0.5, 0.5]
    """

    def score(self, hits: jax.Array, guessed: jax.Array, there: jax.Array) -> jax.Array:
        return ratio(hits, guessed + there - hits)
