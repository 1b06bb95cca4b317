"""Losses of numbers against numbers, element by element: distances, and likelihoods of counts and of normals."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fnet.functional.loss.arguments import aligned, broadcast, demand
from fnet.functional.reduction import Work, or_nan, reduce


def mse_loss(
    input: ArrayLike,
    target: ArrayLike,
    *,
    reduction: str = "mean",
    weight: ArrayLike | None = None,
    mask: ArrayLike | None = None,
) -> jax.Array:
    """(input - target)^2. The shapes must be equal: (n, 1) against (n,) is an error and not an (n, n) table.

    `weight` broadcasts to that shape; the mean is then the weighted mean.

    >>> mse_loss(jnp.array([1.0, 2.0]), jnp.array([0.0, 0.0]))
    Array(2.5, dtype=float32)
    """
    (input, target), mask = aligned("mse_loss", mask, input=input, target=target)
    return _weighted_mean("mse_loss", jnp.square(input - target), weight, reduction, mask, "little")


def l1_loss(
    input: ArrayLike,
    target: ArrayLike,
    *,
    reduction: str = "mean",
    weight: ArrayLike | None = None,
    mask: ArrayLike | None = None,
) -> jax.Array:
    """|input - target|, with derivative 0 where they are equal. Shapes and `weight` are mse_loss's.

    >>> l1_loss(jnp.array([1.0, -2.0]), jnp.array([0.0, 0.0]))
    Array(1.5, dtype=float32)
    """
    (input, target), mask = aligned("l1_loss", mask, input=input, target=target)
    return _weighted_mean("l1_loss", _size(input - target), weight, reduction, mask)


def smooth_l1_loss(
    input: ArrayLike,
    target: ArrayLike,
    *,
    reduction: str = "mean",
    beta: float = 1.0,
    mask: ArrayLike | None = None,
) -> jax.Array:
    """0.5 d^2 / beta where d = |input - target| is below `beta`, else d - 0.5 beta; l1_loss when `beta` is 0.

    The shapes must be equal. Raises ValueError for a negative `beta`. Source: Girshick 2015 (arXiv:1504.08083).

    >>> smooth_l1_loss(jnp.array([0.5, 3.0]), jnp.array([0.0, 0.0]), reduction="none")
    Array([0.125, 2.5  ], dtype=float32)
    """
    if beta < 0:
        raise ValueError(f"smooth_l1_loss: beta={beta}, expected 0 or more")
    if beta == 0:
        return l1_loss(input, target, reduction=reduction, mask=mask)
    (input, target), mask = aligned("smooth_l1_loss", mask, input=input, target=target)
    return reduce(_huber(input - target, beta) / beta, reduction, mask)


def huber_loss(
    input: ArrayLike,
    target: ArrayLike,
    *,
    reduction: str = "mean",
    delta: float = 1.0,
    weight: ArrayLike | None = None,
    mask: ArrayLike | None = None,
) -> jax.Array:
    """0.5 d^2 where d = |input - target| is up to `delta`, else delta (d - 0.5 delta).

    The shapes must be equal; `weight` broadcasts to them and, unlike mse_loss's, leaves the mean's divisor the number
    of elements, as in PyTorch. Raises ValueError for a `delta` that is not positive. Source: Huber 1964.

    >>> huber_loss(jnp.array([0.5, 3.0]), jnp.array([0.0, 0.0]), delta=2.0, reduction="none")
    Array([0.125, 4.   ], dtype=float32)
    """
    if delta <= 0:
        raise ValueError(f"huber_loss: delta={delta}, expected more than 0")
    (input, target), mask = aligned("huber_loss", mask, input=input, target=target)
    loss = _huber(input - target, delta)
    if weight is not None:
        loss = loss * broadcast(weight, loss, "huber_loss", "weight")
    return reduce(loss, reduction, mask)


def kl_div(
    input: ArrayLike,
    target: ArrayLike,
    *,
    reduction: str = "mean",
    log_target: bool = False,
    mask: ArrayLike | None = None,
) -> jax.Array:
    """target * (log target - input), elementwise, for log-probabilities `input`; with `log_target` those of the target.

    Summed over the classes this is the divergence KL(target || input) in nats. As in PyTorch "mean" divides by the
    number of elements; "batchmean" divides the sum by the length of the first axis (with a mask, by the examples of
    which something counts) and is the divergence. A target of 0 costs nothing. The shapes must be equal.

    Raises ValueError for targets below 0 (NaN under jit).

    >>> kl_div(jnp.log(jnp.array([[0.25, 0.75]])), jnp.array([[0.5, 0.5]]), reduction="batchmean")
    Array(0.14384..., dtype=float32)
    """
    valid = None
    if not log_target:
        fix = "probabilities belong here, or log-probabilities with log_target=True"
        valid = demand(~(jnp.asarray(target) < 0), target, "kl_div", "target must be 0 or more", mask, fix)
    (input, target), mask = aligned("kl_div", mask, input=input, target=target)
    if log_target:
        loss = jnp.exp(target) * (target - input)
    else:
        # Nothing is 0 * log 0, nor 0 times the -inf of an input that rules a class out.
        some = target != 0
        loss = jnp.where(some, target * (jnp.log(jnp.where(some, target, 1)) - jnp.where(some, input, 0)), 0)
    loss = loss if valid is None else or_nan(loss, valid)
    if reduction != "batchmean":
        return reduce(loss, reduction, mask)
    if loss.ndim == 0:
        raise ValueError('kl_div: reduction="batchmean" needs a batch axis, and the input is a scalar')
    counted = loss.shape[0] if mask is None else mask.reshape(mask.shape[0], -1).any(1).sum()
    return reduce(loss, "sum", mask) / jnp.maximum(counted, 1).astype(loss.dtype)


def poisson_nll_loss(
    input: ArrayLike,
    target: ArrayLike,
    log_input: bool = True,
    full: bool = False,
    *,
    eps: float = 1e-8,
    reduction: str = "mean",
    mask: ArrayLike | None = None,
) -> jax.Array:
    """Minus the log-likelihood of counts `target` under Poisson rates: exp(input) - target * input.

    With `log_input=False` the input is the rate itself: input - target * log(input + eps). `full` adds Stirling's
    approximation of log(target!) for targets above 1. The shapes must be equal.

    >>> poisson_nll_loss(jnp.array([0.0]), jnp.array([2.0]))
    Array(1., dtype=float32)
    """
    (input, target), mask = aligned("poisson_nll_loss", mask, input=input, target=target)
    loss = jnp.exp(input) - target * input if log_input else input - target * jnp.log(input + eps)
    if full:
        many = jnp.where(target > 1, target, 1)
        stirling = many * jnp.log(many) - many + 0.5 * jnp.log(2 * math.pi * many)
        loss = loss + jnp.where(target > 1, stirling, 0)
    return reduce(loss, reduction, mask)


def gaussian_nll_loss(
    input: ArrayLike,
    target: ArrayLike,
    var: ArrayLike,
    full: bool = False,
    *,
    eps: float = 1e-6,
    reduction: str = "mean",
    mask: ArrayLike | None = None,
) -> jax.Array:
    """Minus the log-likelihood of `target` under normals: 0.5 (log var + (input - target)^2 / var).

    Shapes: input and target equal; var the same, or with 1 for some axes, or without the last axis, or a scalar. A
    variance below `eps` counts as `eps`, and its gradient passes as if it were. `full` adds the constant 0.5 log 2 pi.
    Raises ValueError for a negative variance (NaN under jit). Source: Nix and Weigend 1994.

    >>> gaussian_nll_loss(jnp.array([1.0]), jnp.array([3.0]), jnp.array([1.0]))
    Array(2., dtype=float32)
    """
    where = "gaussian_nll_loss"
    shape = jnp.shape(input)
    var = jnp.asarray(var)
    if var.ndim and var.shape == shape[:-1]:
        var = var[..., None]
    try:
        var = jnp.broadcast_to(var, shape)
    except ValueError:
        raise ValueError(f"{where}: var has shape {var.shape}, which does not broadcast to the input {shape}") from None
    valid = demand(~(var < 0), var, where, "var must be 0 or more", mask, "pass exp of a log-variance")
    (input, target, var), mask = aligned(where, mask, input=input, target=target, var=var)
    var = var + jax.lax.stop_gradient(jnp.maximum(var, eps) - var)
    loss = 0.5 * (jnp.log(var) + jnp.square(input - target) / var)
    if full:
        loss = loss + 0.5 * math.log(2 * math.pi)
    return reduce(or_nan(loss, valid), reduction, mask)


def _size(x: jax.Array) -> jax.Array:
    return x * jnp.sign(x)  # jnp.abs has derivative 1 at 0


def _huber(error: jax.Array, delta: float) -> jax.Array:
    size = _size(error)
    return jnp.where(size < delta, 0.5 * jnp.square(error), delta * (size - 0.5 * delta))


def _weighted_mean(
    where: str,
    loss: jax.Array,
    weight: ArrayLike | None,
    reduction: str,
    mask: jax.Array | None,
    work: Work = "some",
) -> jax.Array:
    if weight is None:
        return reduce(loss, reduction, mask, work=work)
    weight = broadcast(weight, loss, where, "weight")
    return reduce(loss * weight, reduction, mask, weight, work)
