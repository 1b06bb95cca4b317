"""Losses, with PyTorch's definitions; classes are on the last axis.

All compute in at least float32 and return that (float64 stays float64). Two arguments are common to all:

    reduction   "mean" (the default), "sum", or "none" for one value per element
    mask        bool: False takes an element out, whatever is in it (NaN, an impossible label): it adds nothing to the
                value, the mean's divisor or the gradient. Its shape is that of the unreduced loss or of its leading
                axes, so a mask (batch,) drops whole examples.

A mean over nothing (all masked, all ignored, an empty batch) is 0 with gradient 0, where PyTorch's is NaN: one
micro-batch of padding must not destroy a run. A label out of range is a ValueError where its value can be read, and
makes the loss and the gradient NaN where it cannot (under jit), never a number.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from fnet.functional.dtypes import at_least_float32
from fnet.functional.ids import LABEL_FIX, equals, in_range, integer_ids, is_concrete
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
    # Subtracting the maximum first keeps the digits that log-sum-exp minus score would cancel.
    scores = scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True))
    log_total = jnp.log(jnp.exp(scores).sum(-1))
    if jnp.issubdtype(jnp.result_type(labels), jnp.floating):
        if ignore_index >= 0:
            raise ValueError(
                f"cross_entropy: ignore_index={ignore_index} has no meaning for soft labels; use mask= instead"
            )
        return _soft_entropy(scores, log_total, labels, weight, label_smoothing, reduction, mask)
    return _class_entropy(
        scores, log_total, labels, weight, ignore_index, label_smoothing, reduction, mask, "cross_entropy"
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
    return _class_entropy(
        scores, jnp.zeros((), scores.dtype), labels, weight, ignore_index, 0.0, reduction, mask, "nll_loss"
    )


def mse_loss(
    input: ArrayLike, target: ArrayLike, *, reduction: str = "mean", mask: ArrayLike | None = None
) -> jax.Array:
    """(input - target)^2. The shapes must be equal: (n, 1) against (n,) is an error and not an (n, n) table.

    >>> mse_loss(jnp.array([1.0, 2.0]), jnp.array([0.0, 0.0]))
    Array(2.5, dtype=float32)
    """
    input, target, mask = _pair(input, target, mask, "mse_loss")
    return reduce(jnp.square(input - target), reduction, mask)


def l1_loss(
    input: ArrayLike, target: ArrayLike, *, reduction: str = "mean", mask: ArrayLike | None = None
) -> jax.Array:
    """|input - target|, with derivative 0 where they are equal. The shapes must be equal.

    >>> l1_loss(jnp.array([1.0, -2.0]), jnp.array([0.0, 0.0]))
    Array(1.5, dtype=float32)
    """
    input, target, mask = _pair(input, target, mask, "l1_loss")
    error = input - target
    return reduce(error * jnp.sign(error), reduction, mask)  # jnp.abs has derivative 1 at 0


def binary_cross_entropy_with_logits(
    logits: ArrayLike,
    targets: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    pos_weight: ArrayLike | None = None,
    reduction: str = "mean",
    mask: ArrayLike | None = None,
) -> jax.Array:
    """-(pos_weight * t * log sigmoid(x) + (1 - t) * log sigmoid(-x)), exact for logits `x` of any size.

    Shapes: logits and targets equal, any; targets are probabilities of any dtype, bool and integer 0/1 among them.
    `weight` and `pos_weight` broadcast to that shape; the mean divides by the number of elements, as PyTorch's
    does.

    Raises ValueError for unequal shapes and for targets outside [0, 1] (NaN under jit): a 0/255 mask is not a target.

    >>> binary_cross_entropy_with_logits(jnp.array([0.0, 100.0]), jnp.array([True, True]), reduction="none")
    Array([0.6931472, 0.       ], dtype=float32)
    """
    where = "binary_cross_entropy_with_logits"
    valid = _is_probability(targets, where, "targets", mask)
    x, t, mask = _pair(logits, targets, mask, where)
    positive = t if pos_weight is None else t * _broadcast(pos_weight, x, where, "pos_weight")
    loss = positive * jax.nn.softplus(-x) + (1 - t) * jax.nn.softplus(x)
    if weight is not None:
        loss = loss * _broadcast(weight, x, where, "weight")
    return reduce(or_nan(loss, valid), reduction, mask)


def binary_cross_entropy(
    probs: ArrayLike,
    targets: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    reduction: str = "mean",
    mask: ArrayLike | None = None,
) -> jax.Array:
    """-(t * log p + (1 - t) * log(1 - p)), with the logarithms cut off at -100 as in PyTorch.

    Prefer binary_cross_entropy_with_logits, which needs no cut. Shapes, targets and `weight` are as there; `probs`
    too must be in [0, 1].

    >>> binary_cross_entropy(jnp.array([0.5, 0.0]), jnp.array([1, 1]), reduction="none")
    Array([  0.6931472, 100.       ], dtype=float32)
    """
    where = "binary_cross_entropy"
    valid = _is_probability(targets, where, "targets", mask) & _is_probability(probs, where, "probs", mask)
    p, t, mask = _pair(probs, targets, mask, where)
    loss = _clipped_entropy(p, t)
    if weight is not None:
        loss = loss * _broadcast(weight, p, where, "weight")
    return reduce(or_nan(loss, valid), reduction, mask)


@jax.custom_jvp
def _clipped_entropy(p: jax.Array, t: jax.Array) -> jax.Array:
    return -(t * jnp.maximum(jnp.log(p), -100) + (1 - t) * jnp.maximum(jnp.log1p(-p), -100))


@_clipped_entropy.defjvp
def _clipped_entropy_jvp(primals, tangents):
    # PyTorch's derivative: the true one, its denominator kept from 0 (the cut-off value has none at p = 0 and 1).
    (p, t), (dp, dt) = primals, tangents
    slope = jnp.maximum(jnp.log1p(-p), -100) - jnp.maximum(jnp.log(p), -100)
    return _clipped_entropy(p, t), (p - t) / jnp.maximum((1 - p) * p, 1e-12) * dp + slope * dt


def _class_entropy(
    scores: jax.Array,
    log_total: jax.Array,
    labels: ArrayLike,
    weight: ArrayLike | None,
    ignore_index: int,
    smoothing: float,
    reduction: str,
    mask: jax.Array | None,
    where: str,
) -> jax.Array:
    """The loss of integer labels, for log-probabilities `scores - log_total`."""
    classes = scores.shape[-1]
    if jnp.shape(labels) != scores.shape[:-1]:
        raise ValueError(_label_shape_message(where, scores.shape, labels))
    ids = integer_ids(labels, f"{where} labels")
    counted = np.asarray(labels) != ignore_index if is_concrete(labels) else ~equals(ids, ignore_index)
    counted = counted if mask is None else counted & mask
    valid = in_range(labels, classes, f"{where} labels", counted=counted, fix=f"{LABEL_FIX}, as does ignore_index=")
    ids = jnp.where(valid, ids, 0)  # any class, for the NaN of or_nan to have a gradient to spoil
    # A comparison with every class, fused into the sum: its gradient is a select, where that of a gather is a scatter.
    hit = ids[..., None] == jax.lax.broadcasted_iota(ids.dtype, scores.shape, scores.ndim - 1)
    loss = log_total - jnp.where(hit, scores, 0).sum(-1)
    row_weight = None
    if weight is not None:
        weight = jnp.broadcast_to(jnp.asarray(weight, scores.dtype), scores.shape)
        row_weight = jnp.where(hit, weight, 0).sum(-1)
        loss = loss * row_weight
    if smoothing:
        loss = (1 - smoothing) * loss + smoothing / classes * _total_entropy(scores, log_total, weight)
    return reduce(or_nan(loss, valid), reduction, jnp.asarray(counted), row_weight)


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


def _pair(
    input: ArrayLike, target: ArrayLike, mask: ArrayLike | None, where: str
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Both arrays in the dtype of the loss, with what the mask takes out set to 0, and the mask in their shape."""
    a, b = at_least_float32(input, where), at_least_float32(target, where)
    if a.shape != b.shape:
        squeezed = tuple(n for n in a.shape if n != 1) == tuple(n for n in b.shape if n != 1)
        fix = f"reshape one: x.reshape({b.shape})" if squeezed else "use jnp.broadcast_to if you mean to repeat one"
        raise ValueError(f"{where}: input has shape {a.shape} and target {b.shape}; they must be equal, {fix}")
    dtype = jnp.promote_types(a.dtype, b.dtype)
    a, b = a.astype(dtype), b.astype(dtype)
    if mask is None:
        return a, b, None
    mask = leading_mask(mask, a.shape, where)
    return jnp.where(mask, a, 0), jnp.where(mask, b, 0), mask


def _is_probability(x: ArrayLike, where: str, name: str, mask: ArrayLike | None) -> jax.Array:
    """Which entries of `x` are in [0, 1]; a ValueError where they can be read, are not, and the mask keeps them.
    NaN passes, as NaN."""
    valid = ~((jnp.asarray(x) < 0) | (jnp.asarray(x) > 1))
    if mask is not None:
        valid |= ~leading_mask(mask, valid.shape, where)
    if is_concrete(valid) and not valid.all():
        values = np.asarray(x)[~np.asarray(valid)]
        raise ValueError(
            f"{where}: {name} must be in [0, 1]; {values.size} of {valid.size} are not, the first {values[0]} "
            f"(divide a 0/255 mask by 255; raw scores belong in binary_cross_entropy_with_logits)"
        )
    return valid


def _broadcast(weight: ArrayLike, x: jax.Array, where: str, name: str) -> jax.Array:
    try:
        return jnp.broadcast_to(jnp.asarray(weight, x.dtype), x.shape)
    except ValueError:
        raise ValueError(
            f"{where}: {name} has shape {jnp.shape(weight)}, which does not broadcast to {x.shape}"
        ) from None


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
