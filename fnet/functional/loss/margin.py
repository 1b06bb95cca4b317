"""Hinge losses: nothing is lost beyond a margin."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fnet.functional.dtypes import at_least_float32
from fnet.functional.ids import LABEL_FIX, in_range, integer_ids
from fnet.functional.loss.arguments import aligned, hinge, signs
from fnet.functional.reduction import leading_mask, or_nan, reduce


def hinge_embedding_loss(
    input: ArrayLike, target: ArrayLike, margin: float = 1.0, *, reduction: str = "mean", mask: ArrayLike | None = None
) -> jax.Array:
    """`input` where target is 1, max(0, margin - input) where it is -1; the input is a distance.

    The shapes must be equal. Raises ValueError for other targets (NaN under jit).

    >>> hinge_embedding_loss(jnp.array([0.5, 0.25]), jnp.array([1, -1]), reduction="none")
    Array([0.5 , 0.75], dtype=float32)
    """
    valid = signs(target, "hinge_embedding_loss", mask)
    (x, y), mask = aligned("hinge_embedding_loss", mask, input=input, target=target)
    return reduce(or_nan(jnp.where(y > 0, x, hinge(margin - x)), valid), reduction, mask)


def margin_ranking_loss(
    input1: ArrayLike,
    input2: ArrayLike,
    target: ArrayLike,
    margin: float = 0.0,
    *,
    reduction: str = "mean",
    mask: ArrayLike | None = None,
) -> jax.Array:
    """max(0, -target * (input1 - input2) + margin): target 1 says that input1 ranks higher, -1 that input2 does.

    The shapes must be equal. Raises ValueError for other targets (NaN under jit).

    >>> margin_ranking_loss(jnp.array([1.0, 1.0]), jnp.array([0.0, 3.0]), jnp.array([1, 1]), reduction="none")
    Array([0., 2.], dtype=float32)
    """
    where = "margin_ranking_loss"
    valid = signs(target, where, mask)
    (a, b, y), mask = aligned(where, mask, input1=input1, input2=input2, target=target)
    return reduce(or_nan(hinge(-y * (a - b) + margin), valid), reduction, mask)


def multi_margin_loss(
    input: ArrayLike,
    target: ArrayLike,
    p: int = 1,
    margin: float = 1.0,
    weight: ArrayLike | None = None,
    *,
    reduction: str = "mean",
    mask: ArrayLike | None = None,
) -> jax.Array:
    """The hinge of each wrong class i against the right one y: the sum of max(0, margin - x_y + x_i)^p / classes.

    Shapes: input (..., classes), target (...) of any integer dtype; `weight` (classes,) scales each example by its
    label's; the mean divides by the number of examples. `p` is 1 or 2. Raises ValueError for another, and for labels
    out of range (NaN under jit). Source: Crammer and Singer 2001.

    >>> multi_margin_loss(jnp.array([[0.0, 0.5]]), jnp.array([1]))
    Array(0.25, dtype=float32)
    """
    where = "multi_margin_loss"
    if p not in (1, 2):
        raise ValueError(f"{where}: p={p}, expected 1 or 2")
    x = at_least_float32(input, where)
    if x.ndim == 0 or x.shape[-1] == 0 or jnp.shape(target) != x.shape[:-1]:
        raise ValueError(
            f"{where}: input has shape {x.shape} and target {jnp.shape(target)}; expected (..., classes) and (...)"
        )
    if weight is not None and jnp.shape(weight) != x.shape[-1:]:
        raise ValueError(f"{where}: weight has shape {jnp.shape(weight)}, expected one per class: {x.shape[-1:]}")
    if mask is not None:
        mask = leading_mask(mask, x.shape[:-1], where)
        x = jnp.where(mask[..., None], x, 0)
    valid = in_range(target, x.shape[-1], f"{where} target", counted=mask, fix=LABEL_FIX)
    ids = jnp.where(valid, integer_ids(target, where), 0)
    label = ids[..., None] == jax.lax.broadcasted_iota(ids.dtype, x.shape, x.ndim - 1)
    right = jnp.where(label, x, 0).sum(-1, keepdims=True)
    loss = jnp.where(label, 0, jax.nn.relu(margin - right + x) ** p).mean(-1)
    if weight is not None:
        loss = loss * jnp.where(label, jnp.broadcast_to(jnp.asarray(weight, x.dtype), x.shape), 0).sum(-1)
    return reduce(or_nan(loss, valid), reduction, mask)


def multilabel_margin_loss(
    input: ArrayLike, target: ArrayLike, *, reduction: str = "mean", mask: ArrayLike | None = None
) -> jax.Array:
    """The hinge of every wrong class against every right one: sum of max(0, 1 - x_right + x_wrong) / classes.

    Shapes: input and target (..., classes) -> (...) unreduced. Each row of target lists the right classes as integers
    and then -1; what comes after the first -1 is not read. Raises ValueError for other labels out of range (NaN under
    jit).

    >>> multilabel_margin_loss(jnp.array([[0.0, 0.5, 0.0]]), jnp.array([[1, -1, -1]]))
    Array(0.33333334, dtype=float32)
    """
    where = "multilabel_margin_loss"
    ids = integer_ids(target, f"{where} target")
    listed = jnp.cumulative_sum(ids == -1, axis=-1) == 0 if ids.ndim else ids
    (x,), kept = aligned(where, mask, True, input=input)
    if ids.shape != x.shape:
        raise ValueError(f"{where}: input has shape {x.shape} and target {ids.shape}; they must be equal")
    counted = listed if kept is None else listed & kept[..., None]
    classes = x.shape[-1]
    valid = in_range(target, classes, f"{where} target", counted=counted, fix="; end the list of classes with -1")
    # right[..., j, c]: entry j of the list is class c
    every = jax.lax.broadcasted_iota(ids.dtype, (*ids.shape, classes), ids.ndim)
    right = (ids[..., None] == every) & counted[..., None]
    scores = (jnp.where(right, x[..., None, :], 0)).sum(-1)  # of each entry of the list
    wrong = ~right.any(-2)
    excess = jax.nn.relu(1 - scores[..., :, None] + x[..., None, :])
    loss = jnp.where(counted[..., :, None] & wrong[..., None, :], excess, 0).sum((-2, -1)) / classes
    return reduce(or_nan(loss, valid.all(-1)), reduction, kept)
