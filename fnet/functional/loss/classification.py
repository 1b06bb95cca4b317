"""Losses of one right class among many, for logits and log-probabilities with the classes on the last axis."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from fnet.functional.dtypes import at_least_float32
from fnet.functional.ids import LABEL_FIX, equals, in_range, integer_ids, is_concrete
from fnet.functional.loss.arguments import power
from fnet.functional.platform import on_one_cpu
from fnet.functional.reduction import leading_mask, or_nan, reduce


def cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    mask: ArrayLike | None = None,
) -> jax.Array:
    """-log softmax(logits)[label], in nats.

    Shapes: logits (..., classes); labels (...) of any integer dtype, or soft labels (..., classes) of floats, which are
    probabilities. `weight` (classes,) scales each class; with integer labels the mean is then the weighted mean,
    with soft labels it divides by the number of examples. `label_smoothing` e mixes the labels with the uniform
    distribution, (1 - e) * label + e / classes. Examples whose integer label is `ignore_index` count for nothing.

    Raises TypeError or ValueError for labels of a wrong dtype, shape or range. Label smoothing: Szegedy et al. 2015
    (arXiv:1512.00567).

    >>> cross_entropy(jnp.zeros((2, 4)), jnp.array([0, 3]))
    Array(1.3862944, dtype=float32)
    """
    scores = at_least_float32(logits, "cross_entropy logits")
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"cross_entropy: label_smoothing={label_smoothing}, expected a number from 0 to 1")
    _check_classes("cross_entropy", "logits", scores, weight)
    if mask is not None:
        mask = leading_mask(mask, scores.shape[:-1], "cross_entropy")
        scores = jnp.where(mask[..., None], scores, 0)
    top, log_total = _log_sum_exp(scores)
    if jnp.issubdtype(jnp.result_type(labels), jnp.floating):
        if ignore_index >= 0:
            raise ValueError(
                f"cross_entropy: ignore_index={ignore_index} has no meaning for soft labels; use mask= instead"
            )
        return _soft_entropy(scores - top[..., None], log_total, labels, weight, label_smoothing, reduction, mask)
    return _class_entropy(
        scores, top, log_total, labels, weight, ignore_index, label_smoothing, reduction, mask, "cross_entropy"
    )


def nll_loss(
    log_probs: ArrayLike,
    labels: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    mask: ArrayLike | None = None,
) -> jax.Array:
    """-log_probs[label]: cross_entropy of log-probabilities that log_softmax has made already.

    Shapes: log_probs (..., classes), labels (...) of any integer dtype; the other arguments are cross_entropy's.

    >>> nll_loss(jnp.log(jnp.array([[0.5, 0.5]])), jnp.array([1]))
    Array(0.6931472, dtype=float32)
    """
    scores = at_least_float32(log_probs, "nll_loss log_probs")
    _check_classes("nll_loss", "log_probs", scores, weight)
    if mask is not None:
        mask = leading_mask(mask, scores.shape[:-1], "nll_loss")
        scores = jnp.where(mask[..., None], scores, 0)
    zero = jnp.zeros(scores.shape[:-1], scores.dtype)
    return _class_entropy(scores, zero, zero, labels, weight, ignore_index, 0.0, reduction, mask, "nll_loss")


def softmax_focal_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    weight: ArrayLike | None = None,
    gamma: float = 2.0,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    mask: ArrayLike | None = None,
) -> jax.Array:
    """Cross-entropy with the easy examples scaled down: (1 - p)^gamma * -log p, p being the label's softmax.

    Shapes: logits (..., classes), labels (...) of any integer dtype. `weight` (classes,) is the paper's alpha, and the
    mean is then the weighted mean; with `gamma=0` this is cross_entropy, whose other arguments it takes.
    Source: Lin et al. 2017 (arXiv:1708.02002), section 3, for softmax.

    >>> softmax_focal_loss(jnp.zeros((1, 2)), jnp.array([0]))
    Array(0.1732868, dtype=float32)
    """
    where = "softmax_focal_loss"
    scores = at_least_float32(logits, f"{where} logits")
    _check_classes(where, "logits", scores, weight)
    if gamma < 0:
        raise ValueError(f"{where}: gamma={gamma}, expected 0 or more")
    if mask is not None:
        mask = leading_mask(mask, scores.shape[:-1], where)
        scores = jnp.where(mask[..., None], scores, 0)
    counted, valid, ids = _labels(scores, labels, ignore_index, mask, where)
    log_probs = jax.nn.log_softmax(scores)
    log_prob = _pick(log_probs, ids)
    others = jnp.where(_is_label(scores, ids), 0, jnp.exp(log_probs)).sum(-1)  # 1 - p, without its cancellation
    loss = power(others, gamma) * -log_prob
    row_weight = None
    if weight is not None:
        row_weight = _pick(jnp.broadcast_to(jnp.asarray(weight, scores.dtype), scores.shape), ids)
        loss = loss * row_weight
    return reduce(or_nan(loss, valid), reduction, counted, row_weight)


def _class_entropy(
    scores: jax.Array,
    top: jax.Array,
    log_total: jax.Array,
    labels: ArrayLike,
    weight: ArrayLike | None,
    ignore_index: int,
    smoothing: float,
    reduction: str,
    mask: jax.Array | None,
    where: str,
) -> jax.Array:
    """The loss of integer labels, for log-probabilities `scores - top - log_total`."""
    counted, valid, ids = _labels(scores, labels, ignore_index, mask, where)
    # One score is looked up before `top` is subtracted: a gather of a difference would write out all of it.
    loss = log_total - (_pick(scores, ids) - top)
    row_weight = None
    if weight is not None:
        weight = jnp.broadcast_to(jnp.asarray(weight, scores.dtype), scores.shape)
        row_weight = _pick(weight, ids)
        loss = loss * row_weight
    if smoothing:
        loss = (1 - smoothing) * loss + smoothing / scores.shape[-1] * _total_entropy(
            scores - top[..., None], log_total, weight
        )
    return reduce(or_nan(loss, valid), reduction, counted, row_weight)


def _labels(
    scores: jax.Array, labels: ArrayLike, ignore_index: int, mask: jax.Array | None, where: str
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Which labels count, which are in range (or do not count), and ids to look up, which are all in range."""
    if jnp.shape(labels) != scores.shape[:-1]:
        raise ValueError(_label_shape_message(where, scores.shape, labels))
    ids = integer_ids(labels, f"{where} labels")
    counted = np.asarray(labels) != ignore_index if is_concrete(labels) else ~equals(ids, ignore_index)
    counted = counted if mask is None else counted & mask
    fix = f"{LABEL_FIX}, as does ignore_index="
    valid = in_range(labels, scores.shape[-1], f"{where} labels", counted=counted, fix=fix)
    # Any class will do for the others, for the NaN of or_nan to have a gradient to spoil.
    return jnp.asarray(counted), valid, jnp.where(valid & counted, ids, 0)


@jax.custom_jvp
def _log_sum_exp(scores: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The maximum of each row, without a derivative, and log sum exp(scores - maximum).

    Many scores go in blocks of rows that fit the cache, without a large temporary array: 3 times as fast on CPU.
    """
    blocks = _row_blocks(scores)
    if blocks == 1:
        return _log_sum_exp_whole(scores)
    found = jax.lax.map(_log_sum_exp_whole, scores.reshape(blocks, -1, scores.shape[-1]))
    return jax.tree.map(lambda part: part.reshape(scores.shape[:-1]), found)


@_log_sum_exp.defjvp
def _log_sum_exp_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> Any:
    return jax.jvp(_log_sum_exp_whole, primals, tangents)  # the gradient has all exponentials anyhow


def _log_sum_exp_whole(scores: jax.Array) -> tuple[jax.Array, jax.Array]:
    # Subtracting the maximum first keeps the digits that log-sum-exp minus score would cancel.
    top = jax.lax.stop_gradient(scores.max(-1))
    return top, jnp.log(jnp.exp(scores - top[..., None]).sum(-1))


def _row_blocks(scores: jax.Array) -> int:
    """Into how many blocks to cut the rows: on one CPU, above 2^23 scores, the fewest equal ones of up to 2^20."""
    rows, classes = math.prod(scores.shape[:-1]), scores.shape[-1]
    if rows * classes <= 2**23 or not on_one_cpu(scores):
        return 1
    fits = (n for n in range(2, rows + 1) if rows % n == 0 and 2**16 <= rows // n * classes <= 2**20)
    return next(fits, 1)


@jax.custom_jvp
def _pick(scores: jax.Array, ids: jax.Array) -> jax.Array:
    """scores[..., id] of each row: a gather, whose gradient is not the scatter of a gather's, which is slow."""
    return jnp.take_along_axis(scores, ids[..., None], -1, mode="clip")[..., 0]


@_pick.defjvp
def _pick_jvp(primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, Any]) -> tuple[jax.Array, jax.Array]:
    (scores, ids), (move, _) = primals, tangents
    # A comparison with every class, fused into the sum; transposed it is a select.
    return _pick(scores, ids), jnp.where(_is_label(scores, ids), move, 0).sum(-1)


def _is_label(scores: jax.Array, ids: jax.Array) -> jax.Array:
    return ids[..., None] == jax.lax.broadcasted_iota(ids.dtype, scores.shape, scores.ndim - 1)


def _total_entropy(scores: jax.Array, log_total: jax.Array, weight: jax.Array | None) -> jax.Array:
    """-sum over the classes of weight * log-probability; the weight has the shape of the scores."""
    if weight is None:
        return scores.shape[-1] * log_total - scores.sum(-1)
    return weight.sum(-1) * log_total - (weight * scores).sum(-1)


def _soft_entropy(
    scores: jax.Array,
    log_total: jax.Array,
    labels: ArrayLike,
    weight: ArrayLike | None,
    smoothing: float,
    reduction: str,
    mask: jax.Array | None,
) -> jax.Array:
    """The loss of labels that are probabilities."""
    if jnp.shape(labels) != scores.shape:
        raise ValueError(_label_shape_message("cross_entropy", scores.shape, labels))
    share = jnp.asarray(labels).astype(scores.dtype)
    if mask is not None:
        share = jnp.where(mask[..., None], share, 0)
    if smoothing:
        share = (1 - smoothing) * share + smoothing / scores.shape[-1]
    if weight is not None:
        share = share * jnp.broadcast_to(jnp.asarray(weight, scores.dtype), scores.shape)
    # A class ruled out by a logit of -inf costs nothing when its label is 0: 0 * inf would be NaN.
    log_probs = scores - log_total[..., None]
    log_probs = jnp.where((share == 0) & (log_probs == -jnp.inf), 0, log_probs)
    return reduce(-(share * log_probs).sum(-1), reduction, mask)


def _check_classes(where: str, name: str, scores: jax.Array, weight: ArrayLike | None) -> None:
    if scores.ndim == 0 or scores.shape[-1] == 0:
        raise ValueError(f"{where}: {name} have shape {scores.shape}, expected (..., classes)")
    if weight is not None and jnp.shape(weight) != scores.shape[-1:]:
        raise ValueError(f"{where}: weight has shape {jnp.shape(weight)}, expected one per class: {scores.shape[-1:]}")


def _label_shape_message(where: str, shape: tuple[int, ...], labels: ArrayLike) -> str:
    got, dtype = jnp.shape(labels), jnp.result_type(labels)
    message = f"{where}: labels are {dtype} of shape {got} for scores of shape {shape}; "
    message += f"integer labels have shape {shape[:-1]}"
    if where == "cross_entropy":
        message += f", soft labels are floats of shape {shape}"
    if got == shape:
        return message + ". For integer one-hot labels pass labels.argmax(-1), or cast them to float"
    if got == shape[:-1]:
        return message + ". Cast class indices with labels.astype(jnp.int32)"
    if got == (*shape[:-1], 1):
        return message + ". Drop the last axis: labels[..., 0]"
    if len(got) == len(shape) - 1 and len(shape) > 2 and got == (shape[0], *shape[2:]):
        return message + ". Classes are on the last axis here, on axis 1 in PyTorch: jnp.moveaxis(logits, 1, -1)"
    return message
