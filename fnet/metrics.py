"""Metrics: functions of a batch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fnet.functional.dtypes import at_least_float32
from fnet.functional.ids import LABEL_FIX, in_range, integer_ids
from fnet.functional.reduction import leading_mask, reduce


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
    scores = at_least_float32(logits, "accuracy logits")
    if scores.ndim == 0 or scores.shape[-1] == 0 or jnp.shape(labels) != scores.shape[:-1]:
        raise ValueError(
            f"accuracy: logits have shape {scores.shape}, expected (..., classes), and labels {jnp.shape(labels)}, "
            f"expected {scores.shape[:-1]}, one integer for each example; for one-hot labels pass labels.argmax(-1)"
        )
    ids = integer_ids(labels, "accuracy labels")
    counted = None if mask is None else leading_mask(mask, ids.shape, "accuracy")
    valid = in_range(labels, scores.shape[-1], "accuracy labels", counted=counted, fix=LABEL_FIX)
    hits = jnp.where(valid, scores.argmax(-1) == ids, jnp.nan).astype(scores.dtype)
    return reduce(hits, "mean", counted)
