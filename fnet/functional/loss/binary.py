"""Losses of yes-or-no labels, one or several for each example."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fnet.functional.loss.arguments import aligned, broadcast, power, probabilities, signs
from fnet.functional.reduction import or_nan, reduce
from fnet.functional.softplus import softpluses


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
    valid = probabilities(targets, where, "targets", mask)
    (x, t), mask = aligned(where, mask, input=logits, target=targets)
    positive = t if pos_weight is None else t * broadcast(pos_weight, x, where, "pos_weight")
    loss = _entropy(x, positive, 1 - t)
    if weight is not None:
        loss = loss * broadcast(weight, x, where, "weight")
    return reduce(or_nan(loss, valid), reduction, mask, work="much")


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
    valid = probabilities(targets, where, "targets", mask) & probabilities(probs, where, "probs", mask)
    (p, t), mask = aligned(where, mask, input=probs, target=targets)
    loss = _clipped_entropy(p, t)
    if weight is not None:
        loss = loss * broadcast(weight, p, where, "weight")
    return reduce(or_nan(loss, valid), reduction, mask, work="much")


def soft_margin_loss(
    input: ArrayLike, target: ArrayLike, *, reduction: str = "mean", mask: ArrayLike | None = None
) -> jax.Array:
    """log(1 + exp(-target * input)), exact for an `input` of any size; targets are 1 or -1.

    The shapes must be equal. Raises ValueError for other targets (NaN under jit).

    >>> soft_margin_loss(jnp.array([0.0, 100.0]), jnp.array([1, -1]), reduction="none")
    Array([  0.6931472, 100.       ], dtype=float32)
    """
    valid = signs(target, "soft_margin_loss", mask)
    (x, y), mask = aligned("soft_margin_loss", mask, input=input, target=target)
    return reduce(or_nan(softpluses(y * x)[1], valid), reduction, mask, work="much")


def multilabel_soft_margin_loss(
    input: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    reduction: str = "mean",
    mask: ArrayLike | None = None,
) -> jax.Array:
    """binary_cross_entropy_with_logits averaged over the classes: one value per example.

    Shapes: input and target (..., classes), targets in [0, 1] -> (...) unreduced. `weight` broadcasts to the input
    and scales each term. Raises ValueError for other targets (NaN under jit).

    >>> multilabel_soft_margin_loss(jnp.zeros((1, 2)), jnp.array([[0, 1]]))
    Array(0.6931472, dtype=float32)
    """
    where = "multilabel_soft_margin_loss"
    valid = probabilities(target, where, "targets", mask)
    (x, t), mask = aligned(where, mask, True, input=input, target=target)
    loss = _entropy(x, t, 1 - t)
    if weight is not None:
        loss = loss * broadcast(weight, x, where, "weight")
    return reduce(or_nan(loss, valid).mean(-1), reduction, mask)


def sigmoid_focal_loss(
    inputs: ArrayLike,
    targets: ArrayLike,
    alpha: float = 0.25,
    gamma: float = 2.0,
    reduction: str = "none",
    *,
    mask: ArrayLike | None = None,
) -> jax.Array:
    """Binary cross-entropy of logits with the easy elements scaled down: alpha_t (1 - p_t)^gamma * -log p_t.

    p_t is the probability given to the right answer; alpha_t is `alpha` for positives and 1 - alpha for negatives, and
    1 where `alpha` is negative. Arguments and defaults are torchvision.ops.sigmoid_focal_loss's, its
    `reduction="none"` too. The shapes must be equal; targets are in [0, 1], else a ValueError (NaN under jit).
    Source: Lin et al. 2017 (arXiv:1708.02002), equation 5.

    >>> sigmoid_focal_loss(jnp.array([0.0]), jnp.array([1.0]))
    Array([0.0433217], dtype=float32)
    """
    where = "sigmoid_focal_loss"
    valid = probabilities(targets, where, "targets", mask)
    (x, t), mask = aligned(where, mask, input=inputs, target=targets)
    entropy = _entropy(x, t, 1 - t)
    # sigmoid(-x) and not 1 - sigmoid(x), which is 0 long before the logit is large.
    loss = entropy * power(t * jax.nn.sigmoid(-x) + (1 - t) * jax.nn.sigmoid(x), gamma)
    if alpha >= 0:
        loss = loss * (alpha * t + (1 - alpha) * (1 - t))
    return reduce(or_nan(loss, valid), reduction, mask, work="much")


def _entropy(x: jax.Array, one: jax.Array, zero: jax.Array) -> jax.Array:
    """-log of the probability of each answer under logits x, weighted by how much of each is true."""
    of_zero, of_one = softpluses(x)
    return one * of_one + zero * of_zero


@jax.custom_jvp
def _clipped_entropy(p: jax.Array, t: jax.Array) -> jax.Array:
    return -(t * jnp.maximum(jnp.log(p), -100) + (1 - t) * jnp.maximum(jnp.log1p(-p), -100))


@_clipped_entropy.defjvp
def _clipped_entropy_jvp(primals, tangents):
    # PyTorch's derivative: the true one, its denominator kept from 0 (the cut-off value has none at p = 0 and 1).
    (p, t), (dp, dt) = primals, tangents
    slope = jnp.maximum(jnp.log1p(-p), -100) - jnp.maximum(jnp.log(p), -100)
    return _clipped_entropy(p, t), (p - t) / jnp.maximum((1 - p) * p, 1e-12) * dp + slope * dt
