"""Connectionist temporal classification: the likelihood of a label sequence under every alignment with the input."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from fnet.functional.dtypes import at_least_float32
from fnet.functional.ids import in_range, integer_ids, is_concrete
from fnet.functional.loss.arguments import demand
from fnet.functional.reduction import leading_mask, or_nan, reduce


def ctc_loss(
    log_probs: ArrayLike,
    targets: ArrayLike,
    input_lengths: ArrayLike,
    target_lengths: ArrayLike,
    blank: int = 0,
    *,
    reduction: str = "mean",
    zero_infinity: bool = False,
    mask: ArrayLike | None = None,
) -> jax.Array:
    """-log of the probability that the frames spell `targets`, over all alignments; repeats merge, blanks vanish.

    Shapes, as in PyTorch: log_probs (time, batch, classes), from log_softmax; targets (batch, longest), padded with
    anything, or all in one row (sum of target_lengths,); input_lengths and target_lengths (batch,) -> (batch,)
    unreduced. Without a batch: (time, classes), (longest,), () and () -> (). "mean" divides each loss by its target's
    length (at least 1) and averages over the batch. A target that needs more frames than there are costs inf, with
    gradient 0; `zero_infinity` makes that 0. Under jit pad the targets: one row of them is computed as wide as it is
    long for every example.

    Raises ValueError for labels out of range or equal to `blank`, and for lengths beyond the arrays (NaN under jit).
    Source: Graves et al. 2006 (Connectionist Temporal Classification), equations 5 to 8, in logarithms.

    >>> log_probs = jnp.log(jnp.full((3, 1, 2), 0.5))
    >>> ctc_loss(log_probs, jnp.array([[1]]), jnp.array([3]), jnp.array([1]), reduction="sum")  # -log(6 / 8)
    Array(0.2876..., dtype=float32)
    """
    where = "ctc_loss"
    scores = at_least_float32(log_probs, f"{where} log_probs")
    single = scores.ndim == 2
    if single:
        scores, targets = scores[:, None], jnp.asarray(targets)[None]
        input_lengths, target_lengths = jnp.reshape(input_lengths, -1), jnp.reshape(target_lengths, -1)
        mask = None if mask is None else jnp.reshape(mask, -1)
    _check_shapes(scores, targets, input_lengths, target_lengths, blank)
    batch = scores.shape[1]
    if mask is not None:
        mask = leading_mask(mask, (batch,), where)
        scores = jnp.where(mask[None, :, None], scores, 0)
        input_lengths, target_lengths = (jnp.where(mask, length, 0) for length in (input_lengths, target_lengths))
    targets, fits = _padded(targets, target_lengths)
    frames, labels = (integer_ids(length, f"{where} lengths") for length in (input_lengths, target_lengths))
    valid = fits & _lengths(frames, scores.shape[0], "input_lengths")
    valid &= _lengths(labels, jnp.shape(targets)[1], "target_lengths")
    labels = jnp.where(valid, labels, 0)  # any length that there is, for the NaN of or_nan to have a gradient to spoil
    read = jnp.arange(jnp.shape(targets)[1])[None] < labels[:, None]
    blanks = jnp.asarray(targets) == blank
    fix = f"; class {blank} is the blank, and target_lengths= says where each target ends"
    valid &= in_range(targets, scores.shape[2], f"{where} targets", counted=read, fix=fix).all(-1)
    valid &= demand(~(blanks & read), targets, where, f"targets must not be the blank {blank}", None, fix[2:]).all(-1)

    loss = -_log_likelihood(scores, jnp.where(read & ~blanks, targets, blank), frames, labels, blank)
    if zero_infinity:
        loss = jnp.where(loss == jnp.inf, 0, loss)
    if reduction == "mean":
        loss = loss / jnp.maximum(labels, 1).astype(loss.dtype)
    loss = or_nan(loss, valid)
    return reduce(loss[0] if single else loss, reduction, mask[0] if single and mask is not None else mask)


def _log_likelihood(
    scores: jax.Array, targets: jax.Array, frames: jax.Array, labels: jax.Array, blank: int
) -> jax.Array:
    """log p(targets | scores) of each example, by the forward recursion over the frames.

    The states are the labels with blanks between and around: blank, y1, blank, y2, …, blank.
    """
    batch, longest = targets.shape
    states = jnp.full((batch, 2 * longest + 1), blank, targets.dtype).at[:, 1::2].set(targets)
    emit = jnp.take_along_axis(scores, states[None].astype(jnp.int32), axis=2)  # (time, batch, states)
    # From two states back one may come to a label, past the blank, unless the label repeats.
    skip = jnp.concatenate([jnp.zeros((batch, 2), bool), states[:, 2:] != states[:, :-2]], axis=1)
    index = jnp.arange(states.shape[1])[None]

    def step(alpha: jax.Array, frame: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        emitted, time = frame
        one = jnp.pad(alpha, ((0, 0), (1, 0)), constant_values=-jnp.inf)[:, :-1]
        two = jnp.pad(alpha, ((0, 0), (2, 0)), constant_values=-jnp.inf)[:, : alpha.shape[1]]
        new = _log_sum(jnp.stack([alpha, one, jnp.where(skip, two, -jnp.inf)])) + emitted
        return jnp.where((time < frames)[:, None], new, alpha), None

    # Before the first frame all stand in front of state 0, from where one step leads to states 0 and 1.
    start = jnp.where(index <= 0, 0.0, -jnp.inf).astype(scores.dtype)
    alpha = jnp.broadcast_to(start, states.shape)
    first = jnp.where(index <= 1, emit[0], -jnp.inf) if scores.shape[0] else alpha
    alpha = jnp.where((frames > 0)[:, None], first, alpha)
    alpha, _ = jax.lax.scan(step, alpha, (emit[1:], jnp.arange(1, max(scores.shape[0], 1))))
    last = 2 * labels[:, None]
    # It ends in the last label or in the blank after it.
    return _log_sum(jnp.where((index == last) | ((index == last - 1) & (labels[:, None] > 0)), alpha, -jnp.inf).T)


def _log_sum(x: jax.Array) -> jax.Array:
    """log sum exp over the first axis, whose gradient is 0 and not NaN where all are -inf."""
    top = jax.lax.stop_gradient(x.max(0, keepdims=True))
    top = jnp.where(top == -jnp.inf, 0, top)
    total = jnp.exp(x - top).sum(0)
    some = total > 0
    return jnp.where(some, jnp.log(jnp.where(some, total, 1)) + top[0], -jnp.inf)


def _padded(targets: ArrayLike, target_lengths: ArrayLike) -> tuple[ArrayLike, jax.Array]:
    """Targets as (batch, longest), and whether the lengths fit in what was given."""
    if jnp.ndim(targets) == 2:
        return targets, jnp.asarray(True)
    total = jnp.shape(targets)[0]
    lengths = jnp.asarray(target_lengths)
    longest = total
    if is_concrete(target_lengths):
        longest = int(np.max(np.asarray(target_lengths), initial=0))
        if int(np.asarray(target_lengths).sum()) != total:
            raise ValueError(
                f"ctc_loss: target_lengths sum to {int(np.asarray(target_lengths).sum())}, and targets in one row have "
                f"{total} labels; for padded targets pass shape (batch, longest)"
            )
    index = (jnp.cumulative_sum(lengths) - lengths)[:, None] + jnp.arange(longest)[None]
    row = jnp.asarray(targets)
    padded = row[jnp.clip(index, 0, max(total - 1, 0))] if total else jnp.zeros(index.shape, row.dtype)
    return padded, lengths.sum() == total


def _lengths(lengths: jax.Array, most: int, name: str) -> jax.Array:
    valid = (lengths >= 0) & (lengths <= most)
    return demand(valid, lengths, "ctc_loss", f"{name} must be from 0 to {most}, the size of their axis", None, "")


def _check_shapes(
    scores: jax.Array, targets: ArrayLike, input_lengths: ArrayLike, target_lengths: ArrayLike, blank: int
) -> None:
    if scores.ndim != 3:
        raise ValueError(
            f"ctc_loss: log_probs have shape {scores.shape}, expected (time, batch, classes) or (time, classes)"
        )
    time, batch, classes = scores.shape
    given = jnp.shape(targets)
    if len(given) not in (1, 2) or (len(given) == 2 and given[0] != batch):
        hint = ""
        if given[:1] == (time,):
            hint = "; the frames come first, as in PyTorch: jnp.swapaxes(log_probs, 0, 1)"
        raise ValueError(f"ctc_loss: targets have shape {given}, expected ({batch}, longest) or one row of all{hint}")
    for name, lengths in (("input_lengths", input_lengths), ("target_lengths", target_lengths)):
        if jnp.shape(lengths) != (batch,):
            raise ValueError(f"ctc_loss: {name} has shape {jnp.shape(lengths)}, expected one per example: ({batch},)")
    if not 0 <= blank < classes:
        raise ValueError(f"ctc_loss: blank={blank} is not one of the {classes} classes")
