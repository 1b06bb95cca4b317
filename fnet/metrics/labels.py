"""From the outputs of a classifier and its labels to class numbers, with the checks that all metrics share."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fnet.functional.dtypes import at_least_float32
from fnet.functional.ids import LABEL_FIX, in_range, integer_ids
from fnet.functional.reduction import leading_mask


def check_scores(outputs: ArrayLike, labels: ArrayLike, where: str, classes: int | None = None) -> jax.Array:
    """Logits (..., classes) in at least float32, checked against the labels' shape."""
    scores = at_least_float32(outputs, f"{where} logits")
    wrong = scores.ndim == 0 or scores.shape[-1] == 0 or jnp.shape(labels) != scores.shape[:-1]
    if wrong or classes not in (None, scores.shape[-1]):
        raise ValueError(
            f"{where}: logits have shape {scores.shape}, expected (..., {classes or 'classes'}), and labels "
            f"{jnp.shape(labels)}, expected {scores.shape[:-1]}, one integer for each example; for one-hot labels pass "
            "labels.argmax(-1)"
        )
    return scores


def check_labels(
    labels: ArrayLike, classes: int, mask: ArrayLike | None, where: str
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """``(class numbers, which of them count, which are in range)``; ValueError for one that can be read and is not."""
    ids = integer_ids(labels, f"{where} labels")
    counted = jnp.ones(ids.shape, bool) if mask is None else leading_mask(mask, ids.shape, where)
    valid = in_range(labels, classes, f"{where} labels", counted=None if mask is None else counted, fix=LABEL_FIX)
    return ids, counted, valid


def predictions(
    outputs: ArrayLike, labels: ArrayLike, classes: int, counted: jax.Array, where: str
) -> tuple[jax.Array, jax.Array]:
    """``(class numbers, which are in range)`` from logits (..., classes), binary logits (...), or class numbers."""
    if jnp.shape(outputs) == jnp.shape(labels):
        if jnp.issubdtype(jnp.result_type(outputs), jnp.integer):
            return integer_ids(outputs, where), in_range(outputs, classes, f"{where} predictions", counted=counted)
        if classes == 2 and jnp.issubdtype(jnp.result_type(outputs), jnp.floating):
            return (jnp.asarray(outputs) > 0).astype(jnp.int32), jnp.asarray(True)
    return check_scores(outputs, labels, where, classes).argmax(-1), jnp.asarray(True)


def binary_scores(outputs: ArrayLike, labels: ArrayLike, where: str) -> jax.Array:
    """One score an example: binary logits or probabilities of the labels' shape, or those of class 1 among two."""
    if jnp.shape(outputs) == jnp.shape(labels):
        return at_least_float32(outputs, f"{where} scores")
    pair = check_scores(outputs, labels, where, 2)
    return pair[..., 1] - pair[..., 0]
