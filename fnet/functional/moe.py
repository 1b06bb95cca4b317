"""Routing of tokens to experts: which expert takes which token, with what weight, and the losses that keep it even.

Names of shapes: N tokens, E experts, K choices a token, C places an expert has.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fnet.functional.dtypes import at_least_float32
from fnet.functional.reduction import leading_mask, reduce


class Routing(NamedTuple):
    """Where each choice of each token goes."""

    gates_nk: jax.Array  # the weight of the expert's output, float
    experts_nk: jax.Array  # the expert, int32
    places_nk: jax.Array  # its place among the E * C places of all experts; E * C where the expert was full


def route(
    logits: ArrayLike, top_k: int, capacity: int, renormalize: bool = True, mask: ArrayLike | None = None
) -> Routing:
    """The `top_k` likeliest experts of each token, and a place with each while it has fewer than `capacity` tokens.

    `logits` (N, E) are the router's, `mask` (N,) is False for tokens that take no place. Softmax is over all experts,
    in float32 at least; with `renormalize` the chosen probabilities are divided by their sum, which is a softmax over
    the chosen logits (GShard, Mixtral), else they stay as they are (Switch). All first choices are placed before any
    second one, each in the order of tokens; who finds no place is dropped by that expert and its gate is not shared
    out (GShard, algorithm 1). Source: Shazeer et al. 2017, Lepikhin et al. 2020, Fedus et al. 2021.

    Raises ValueError for logits that are not (N, E) and a top_k outside 1 .. E.

    >>> route(jnp.array([[2.0, 1.0], [2.0, 1.0], [0.0, 1.0]]), top_k=1, capacity=1).places_nk.ravel()
    Array([0, 2, 1], dtype=int32)
    """
    logits = at_least_float32(logits, "route")
    if logits.ndim != 2 or not 1 <= top_k <= logits.shape[1]:
        raise ValueError(
            f"route: logits have shape {logits.shape} and top_k is {top_k}, expected (tokens, experts) and a top_k "
            "between 1 and the number of experts"
        )
    tokens, experts = logits.shape
    gates, chosen = jax.lax.top_k(jax.nn.softmax(logits), top_k)
    if renormalize:
        gates = gates / gates.sum(-1, keepdims=True)
    takes = jax.nn.one_hot(chosen.T.reshape(-1), experts, dtype=jnp.int32)  # (K N, E), first choices first
    if mask is not None:
        takes = takes * jnp.tile(jnp.asarray(mask), top_k)[:, None]
    before = ((jnp.cumsum(takes, axis=0) - takes) * takes).sum(-1)  # how many came to this expert earlier
    placed = (takes.sum(-1) > 0) & (before < capacity)
    places = jnp.where(placed, chosen.T.reshape(-1) * capacity + before, experts * capacity)
    return Routing(gates, chosen, places.reshape(top_k, tokens).T)


def dispatch(x: jax.Array, places_nk: jax.Array, experts: int, capacity: int) -> jax.Array:
    """The tokens `x` (N, D) at their places with the experts, (E, C, D), zeros at places that nobody took.

    >>> dispatch(jnp.array([[1.0], [2.0]]), jnp.array([[2], [0]]), experts=2, capacity=2)[..., 0]
    Array([[2., 0.],
           [1., 0.]], dtype=float32)
    """
    tokens, top_k = places_nk.shape
    owner = jnp.full(experts * capacity, tokens).at[places_nk].set(jnp.arange(tokens)[:, None], mode="drop")
    return x.at[owner].get(mode="fill", fill_value=0).reshape(experts, capacity, -1)


def combine(y: jax.Array, routing: Routing) -> jax.Array:
    """What the experts made, `y` (E, C, D), back with the tokens (N, D): the sum over choices, weighted by the gates;
    zero for a choice without a place.

    >>> combine(jnp.ones((2, 1, 3)), route(jnp.zeros((2, 2)), top_k=2, capacity=1))
    Array([[1., 1., 1.],
           [0., 0., 0.]], dtype=float32)
    """
    y_nkd = y.reshape(-1, y.shape[-1]).at[routing.places_nk].get(mode="fill", fill_value=0)
    return jnp.einsum("nkd,nk->nd", y_nkd, routing.gates_nk.astype(y.dtype))


def load_balancing_loss(logits: ArrayLike, experts: ArrayLike, mask: ArrayLike | None = None) -> jax.Array:
    """E Σ_i f_i P_i, with f_i the share of choices that fell on expert i and P_i its mean probability; 1 when even.

    `logits` (N, E), `experts` (N, K) the chosen ones, `mask` (N,) of tokens that count -> scalar, at least float32. The
    gradient goes through P. Source: Fedus et al. 2021 (Switch), equations 4 to 6 without α, f over all K choices.

    >>> load_balancing_loss(jnp.zeros((4, 2)), jnp.array([[0], [1], [0], [1]]))
    Array(1., dtype=float32)
    """
    probs = jax.nn.softmax(at_least_float32(logits, "load_balancing_loss"))
    chosen = jax.nn.one_hot(jnp.asarray(experts), probs.shape[-1], dtype=probs.dtype).mean(1)
    shape = probs.shape[:1]
    counted = jnp.ones(shape, bool) if mask is None else leading_mask(mask, shape, "load_balancing_loss")
    total = jnp.maximum(counted.sum(), 1)
    f, p = (jnp.where(counted[:, None], a, 0).sum(0) / total for a in (chosen, probs))
    return probs.shape[-1] * jnp.vdot(f, p)


def router_z_loss(logits: ArrayLike, mask: ArrayLike | None = None) -> jax.Array:
    """The mean square of logsumexp of each token's `logits` (N, E), which keeps a router's logits small.

    `mask` (N,) of tokens that count -> scalar, at least float32. Source: Zoph et al. 2022 (ST-MoE), equation 5.

    >>> router_z_loss(jnp.zeros((4, 1)))
    Array(0., dtype=float32)
    """
    z = jax.nn.logsumexp(at_least_float32(logits, "router_z_loss"), axis=-1)
    return reduce(z**2, "mean", None if mask is None else leading_mask(mask, z.shape, "router_z_loss"))
