"""Losses of the overlap of regions, for segmentation."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fnet.functional.loss.arguments import aligned, probabilities
from fnet.functional.reduction import or_nan, reduce


def dice_loss(
    probs: ArrayLike,
    targets: ArrayLike,
    smooth: float = 1.0,
    *,
    reduction: str = "mean",
    mask: ArrayLike | None = None,
) -> jax.Array:
    """1 - (2 sum(p t) + smooth) / (sum(p) + sum(t) + smooth), for each example and class.

    Shapes: probs and targets equal (batch, ..., classes), sums over the axes between -> (batch, classes) unreduced.
    `probs` come from sigmoid or softmax; targets are in [0, 1], such as one_hot(labels, classes); use [..., 1:] of both
    to leave the background out. For masks without a class axis pass x[..., None]. `mask` is over the examples,
    (batch,), or over their pixels, (batch, ...); an example of which nothing is left does not count. `smooth` keeps the
    loss of a class that is absent from both at 0.

    Raises ValueError for unequal shapes and for values outside [0, 1] (NaN under jit).
    Source: Milletari et al. 2016 (arXiv:1606.04797), with sums for sums of squares.

    >>> target = jnp.array([[[1.0], [1.0], [0.0]]])
    >>> dice_loss(target, target), dice_loss(1 - target, target)
    (Array(0., dtype=float32), Array(0.75, dtype=float32))
    """
    where = "dice_loss"
    if jnp.ndim(probs) < 2:
        raise ValueError(f"{where}: probs has shape {jnp.shape(probs)}, expected (batch, ..., classes)")
    valid = probabilities(targets, where, "targets", mask) & probabilities(probs, where, "probs", mask)
    (p, t), mask = aligned(where, mask, True, probs=probs, targets=targets)
    between = tuple(range(1, p.ndim - 1))
    overlap = or_nan(p * t, valid).sum(between)
    loss = 1 - (2 * overlap + smooth) / (p.sum(between) + t.sum(between) + smooth)
    if mask is not None:
        mask = jnp.broadcast_to(mask.any(between)[:, None], loss.shape)
    return reduce(loss, reduction, mask)
