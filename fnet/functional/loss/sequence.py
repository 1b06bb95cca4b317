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

MOST_CLASSES = 256  # up to which the gradient of the emissions is a product with one-hot rows


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
    emit = _emissions(scores, states.astype(jnp.int32))
    counted = jnp.arange(scores.shape[0])[:, None] < frames[None]
    emit = jnp.where(counted[..., None], emit, 0)
    # From two states back one may come to a label, past the blank, unless the label repeats.
    skip = jnp.concatenate([jnp.zeros((batch, 2), bool), states[:, 2:] != states[:, :-2]], axis=1)
    index = jnp.arange(states.shape[1])[None]
    # Of no frames only the empty target is spelt, which ends in state 0.
    alpha = jnp.broadcast_to(jnp.where(index == 0, 0.0, -jnp.inf).astype(scores.dtype), states.shape)
    if scores.shape[0]:
        reached = _last_forward(emit, jnp.where(skip, 0.0, -jnp.inf).astype(emit.dtype), frames)
        alpha = jnp.where((frames > 0)[:, None], reached, alpha)
    last = 2 * labels[:, None]
    # It ends in the last label or in the blank after it.
    return _log_sum(jnp.where((index == last) | ((index == last - 1) & (labels[:, None] > 0)), alpha, -jnp.inf))


@jax.custom_jvp
def _emissions(scores: jax.Array, states: jax.Array) -> jax.Array:
    """The score of each state's class: (time, batch, states)."""
    return jnp.take_along_axis(scores, states[None], axis=2)


@_emissions.defjvp
def _emissions_jvp(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    """Of few classes as a product, whose transpose is a product too: a gather's adds one number after the other."""
    (scores, states), (dscores, _) = primals, tangents
    if scores.shape[2] > MOST_CLASSES:
        return _emissions(scores, states), jnp.take_along_axis(dscores, states[None], axis=2)
    chosen = jax.nn.one_hot(states, scores.shape[2], dtype=scores.dtype)
    return _emissions(scores, states), jnp.einsum("tbc,bsc->tbs", dscores, chosen, precision="highest")


def _back(alpha: jax.Array, count: int, fill: float) -> jax.Array:
    """What stands `count` states before each state."""
    return jnp.pad(alpha, [(0, 0)] * (alpha.ndim - 1) + [(count, 0)], constant_values=fill)[..., : alpha.shape[-1]]


def _step(alpha: jax.Array, emitted: jax.Array, skip: jax.Array) -> jax.Array:
    one, two = _back(alpha, 1, -jnp.inf), _back(alpha, 2, -jnp.inf) + skip
    sources = jnp.stack([alpha, one, two])  # in one array: XLA on CPU makes faster loops of it than of the three
    top = sources.max(0)
    top = jnp.where(top == -jnp.inf, 0, top)
    return jnp.log(jnp.exp(sources - top[None]).sum(0)) + (top + emitted)


def _first(emitted: jax.Array, elsewhere: float) -> jax.Array:
    return jnp.where(jnp.arange(emitted.shape[1])[None] <= 1, emitted, elsewhere)


@jax.custom_jvp
def _last_forward(emit: jax.Array, skip: jax.Array, frames: jax.Array) -> jax.Array:
    """`_forward` at the last frame of each example, which without a derivative is all that is kept."""

    def step(alpha: jax.Array, frame: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        emitted, time = frame
        return jnp.where((time < frames)[:, None], _step(alpha, emitted, skip), alpha), None

    return jax.lax.scan(step, _first(emit[0], -jnp.inf), (emit[1:], jnp.arange(1, emit.shape[0])))[0]


@_last_forward.defjvp
def _last_forward_jvp(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    emit, skip, frames = primals
    end = jnp.clip(frames - 1, 0, emit.shape[0] - 1)[None, :, None]
    last = lambda emit: jnp.take_along_axis(_forward(emit, skip), end, 0)[0]  # noqa: E731
    return jax.jvp(last, (emit,), tangents[:1])


@jax.custom_jvp
def _forward(emit: jax.Array, skip: jax.Array) -> jax.Array:
    """log of the probability to be in each state after each frame, and to have emitted what came until then.

    `skip` is 0 where a state may be reached from two states back, else -inf.
    """

    def step(alpha: jax.Array, emitted: jax.Array) -> tuple[jax.Array, jax.Array]:
        new = _step(alpha, emitted, skip)
        return new, new

    first = _first(emit[0], -jnp.inf)
    return jnp.concatenate([first[None], jax.lax.scan(step, first, emit[1:])[1]])


@_forward.defjvp
def _forward_jvp(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    """The steps' derivatives are the shares of the three states that one comes from: those of all frames at once."""
    (emit, skip), (demit, _) = primals, tangents
    alpha = _forward(emit, skip)
    before, after = alpha[:-1], alpha[1:]
    dead = after == -jnp.inf
    rest = emit[1:] - jnp.where(dead, 0, after)
    sources = before, _back(before, 1, -jnp.inf), _back(before, 2, -jnp.inf) + skip[None]
    shares = jnp.stack([jnp.exp(jnp.where(dead, -jnp.inf, source + rest)) for source in sources], 1)

    def step(dalpha: jax.Array, frame: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        share, demitted = frame
        dnew = share[0] * dalpha + share[1] * _back(dalpha, 1, 0) + share[2] * _back(dalpha, 2, 0) + demitted
        return dnew, dnew

    first = _first(demit[0], 0)
    return alpha, jnp.concatenate([first[None], jax.lax.scan(step, first, (shares, demit[1:]))[1]])


def _log_sum(x: jax.Array) -> jax.Array:
    """log sum exp over the last axis, whose gradient is 0 and not NaN where all are -inf."""
    top = jax.lax.stop_gradient(x.max(-1, keepdims=True))
    top = jnp.where(top == -jnp.inf, 0, top)
    total = jnp.exp(x - top).sum(-1)
    some = total > 0
    return jnp.where(some, jnp.log(jnp.where(some, total, 1)) + top[..., 0], -jnp.inf)


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
