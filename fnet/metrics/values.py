"""Measures of predicted numbers: errors, explained variance, correlation; perplexity; calibration."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fnet.functional.dtypes import at_least_float32
from fnet.functional.loss import cross_entropy
from fnet.functional.reduction import leading_mask
from fnet.metrics.core import Metric, State, integers, ratio
from fnet.metrics.labels import check_labels, check_scores


class Averaged(Metric):
    """The mean over all batches of one value for each element of the targets."""

    def values(self, outputs: ArrayLike, targets: ArrayLike, mask: jax.Array) -> jax.Array:
        """One value for each element of the targets, of which those that the mask keeps are averaged."""
        raise NotImplementedError(f"{type(self).__name__} must define values(outputs, targets, mask)")

    def init(self) -> State:
        return {"sum": jnp.zeros(()), "count": jnp.zeros((), integers())}

    def update(
        self, state: State, outputs: ArrayLike, targets: ArrayLike, *, mask: ArrayLike | None = None
    ) -> State:
        counted = _counted(targets, mask, type(self).__name__)
        values = jnp.where(counted, self.values(outputs, targets, counted), 0)
        return self.merge(state, {"sum": values.sum(), "count": counted.sum(dtype=integers())})

    def compute(self, state: State) -> jax.Array:
        return ratio(state["sum"], state["count"])


@dataclass(frozen=True)
class MSE(Averaged):
    """The mean of squared errors over all elements; outputs and targets have one shape.

    >>> import jax.numpy as jnp
    >>> float(MSE()(jnp.array([1.0, 2.0]), jnp.array([0.0, 0.0])))
    2.5
    """

    def values(self, outputs: ArrayLike, targets: ArrayLike, mask: jax.Array) -> jax.Array:
        return jnp.square(_difference(outputs, targets, type(self).__name__))


@dataclass(frozen=True)
class MAE(Averaged):
    """The mean of absolute errors over all elements; outputs and targets have one shape.

    >>> import jax.numpy as jnp
    >>> float(MAE()(jnp.array([1.0, 2.0]), jnp.array([0.0, 0.0])))
    1.5
    """

    def values(self, outputs: ArrayLike, targets: ArrayLike, mask: jax.Array) -> jax.Array:
        return jnp.abs(_difference(outputs, targets, type(self).__name__))


@dataclass(frozen=True)
class Perplexity(Averaged):
    """exp of the mean cross entropy of the labels, over all batches; logits (..., classes), labels (...).

    >>> import jax.numpy as jnp
    >>> round(float(Perplexity()(jnp.zeros((2, 5)), jnp.array([0, 3]))), 4)
    5.0
    """

    def values(self, outputs: ArrayLike, targets: ArrayLike, mask: jax.Array) -> jax.Array:
        return cross_entropy(check_scores(outputs, targets, "Perplexity"), targets, reduction="none", mask=mask)

    def compute(self, state: State) -> jax.Array:
        return jnp.exp(super().compute(state))


class Moments(Metric):
    """The first two moments of outputs and targets, added up in the stable form of Chan et al. (1979), eq. 2.1."""

    def init(self) -> State:
        return {name: jnp.zeros(()) for name in ("count", "x", "y", "xx", "xy", "yy", "squared_error")}

    def update(
        self, state: State, outputs: ArrayLike, targets: ArrayLike, *, mask: ArrayLike | None = None
    ) -> State:
        error = _difference(outputs, targets, type(self).__name__)
        counted = _counted(targets, mask, type(self).__name__)
        x, y, error = (jnp.where(counted, jnp.asarray(v, error.dtype), 0) for v in (outputs, targets, error))
        count = counted.sum().astype(error.dtype)
        mean_x, mean_y = ratio(x.sum(), count), ratio(y.sum(), count)
        dx, dy = (jnp.where(counted, v - mean, 0) for v, mean in ((x, mean_x), (y, mean_y)))
        sums = {"xx": (dx * dx).sum(), "xy": (dx * dy).sum(), "yy": (dy * dy).sum()}
        return self.merge(
            state, {"count": count, "x": mean_x, "y": mean_y, **sums, "squared_error": jnp.square(error).sum()}
        )

    def merge(self, *states: State) -> State:
        return reduce(_merged_moments, states)


def _merged_moments(a: State, b: State) -> State:
    count = a["count"] + b["count"]
    share = ratio(b["count"], count)
    gap = {name: b[name] - a[name] for name in "xy"}
    between = a["count"] * share
    means = {name: a[name] + gap[name] * share for name in "xy"}
    sums = {name: a[name] + b[name] + gap[name[0]] * gap[name[1]] * between for name in ("xx", "xy", "yy")}
    return {"count": count, **means, **sums, "squared_error": a["squared_error"] + b["squared_error"]}


@dataclass(frozen=True)
class R2(Moments):
    """The explained share of the targets' variance, 1 - Σ (y - ŷ)² / Σ (y - ȳ)², over all elements alike.

    As sklearn.metrics.r2_score: targets that do not vary give 1 when they are met and 0 when they are not.

    >>> import jax.numpy as jnp
    >>> round(float(R2()(jnp.array([2.5, 0.0, 2.0, 8.0]), jnp.array([3.0, -0.5, 2.0, 7.0]))), 4)
    0.9486
    """

    def compute(self, state: State) -> jax.Array:
        missed, total = state["squared_error"], state["yy"]
        return jnp.where(total == 0, jnp.where(missed == 0, 1.0, 0.0), 1 - missed / jnp.where(total == 0, 1, total))


@dataclass(frozen=True)
class Correlation(Moments):
    """Pearson's correlation of outputs and targets over all elements; NaN where one of them does not vary.

    >>> import jax.numpy as jnp
    >>> round(float(Correlation()(jnp.array([1.0, 2.0, 3.0]), jnp.array([2.0, 4.0, 6.5]))), 4)
    0.9979
    """

    def compute(self, state: State) -> jax.Array:
        return state["xy"] / (jnp.sqrt(state["xx"]) * jnp.sqrt(state["yy"]))


@dataclass(frozen=True)
class CalibrationError(Metric):
    """The expected gap between confidence and accuracy (ECE; Naeini et al. 2015, Guo et al. 2017, eq. 3).

    The largest softmax of logits (..., classes) falls into one of ``bins`` equal intervals of (0, 1]; the gaps of the
    bins are averaged by their numbers of examples. Labels (...) are integers.

    >>> import jax.numpy as jnp
    >>> round(float(CalibrationError()(jnp.zeros((4, 2)), jnp.array([0, 1, 0, 0]))), 4)
    0.25
    """

    bins: int = 15

    def __post_init__(self) -> None:
        if not isinstance(self.bins, int) or self.bins < 1:
            raise ValueError(f"CalibrationError: bins={self.bins!r}, expected at least 1")

    def init(self) -> State:
        zeros = jnp.zeros(self.bins)
        return {"count": zeros.astype(integers()), "confidence": zeros, "hits": zeros.astype(integers())}

    def update(
        self, state: State, outputs: ArrayLike, targets: ArrayLike, *, mask: ArrayLike | None = None
    ) -> State:
        scores = check_scores(outputs, targets, "CalibrationError")
        ids, counted, valid = check_labels(targets, scores.shape[-1], mask, "CalibrationError")
        confidence = jnp.where(valid, jax.nn.softmax(scores, -1).max(-1), jnp.nan)
        index = jnp.clip(jnp.ceil(confidence * self.bins).astype(int) - 1, 0, self.bins - 1).ravel()
        index = jnp.where(counted.ravel(), index, self.bins)
        new = {"count": jnp.ones_like(ids), "confidence": confidence, "hits": scores.argmax(-1) == ids}
        added = {
            name: jnp.zeros(self.bins + 1, state[name].dtype).at[index].add(x.ravel().astype(state[name].dtype))[:-1]
            for name, x in new.items()
        }
        return self.merge(state, added)

    def compute(self, state: State) -> jax.Array:
        return ratio(jnp.abs(state["hits"] - state["confidence"]).sum(), state["count"].sum())


def _counted(targets: ArrayLike, mask: ArrayLike | None, where: str) -> jax.Array:
    shape = jnp.shape(targets)
    return jnp.ones(shape, bool) if mask is None else leading_mask(mask, shape, where)


def _difference(outputs: ArrayLike, targets: ArrayLike, where: str) -> jax.Array:
    if jnp.shape(outputs) != jnp.shape(targets):
        raise ValueError(
            f"{where}: outputs have shape {jnp.shape(outputs)} and targets {jnp.shape(targets)}; they must be equal, "
            "reshape one"
        )
    return at_least_float32(outputs, where) - at_least_float32(targets, where)
