"""Attention as two batched matmuls and a softmax between them, for every backend."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fnet.functional.dropout import dropout


def attend_xla(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: jax.Array | None,
    bias: jax.Array | None,
    scale: float,
    dropout_p: float,
    dropout_key: jax.Array | None,
) -> tuple[jax.Array, Callable[[], jax.Array]]:
    """The output (…, L, H, Dv), and a function that gives the weights (…, H, L, S).

    The division by the softmax's sum comes after the second matmul, on L x D numbers in place of L x S, so the
    gradient needs no second pass over the scores (as in FlashAttention-2, Dao 2023, arXiv:2307.08691).
    """
    wide = jnp.promote_types(query.dtype, jnp.float32)
    scores = _scores(query, key, scale, wide)
    if bias is not None:
        scores = scores + jnp.broadcast_to(bias, scores.shape).astype(wide)
    if mask is not None:
        scores = jnp.where(mask, scores, -jnp.inf)
    top = jax.lax.stop_gradient(scores.max(-1, keepdims=True, initial=-jnp.inf))
    exps = jnp.exp(scores - jnp.where(top == -jnp.inf, 0, top))  # all masked: exp(-inf), and no inf - inf
    total = exps.sum(-1, keepdims=True)
    total = jnp.where(total == 0, 1, total)
    kept = dropout(exps, dropout_p, key=dropout_key)
    mixed = _mix(kept.astype(value.dtype), value, wide) / total
    return mixed.swapaxes(-3, -2).astype(value.dtype), lambda: (exps / total).astype(query.dtype)


def _scores(query: jax.Array, key: jax.Array, scale: float, wide: jnp.dtype) -> jax.Array:
    """query keyᵀ · scale as (…, H, L, S). The query heads of a group are rows of one matmul with their shared key."""
    *leading, length, heads, width = query.shape
    kv_heads = key.shape[-2]
    if query.dtype == wide:  # in 16 bits the product would be rounded, so there the scores are scaled
        query = query * scale
    rows = query.swapaxes(-3, -2).reshape(*leading, kv_heads, heads // kv_heads * length, width)
    columns = jnp.moveaxis(key, -3, -1)
    scores = jnp.matmul(rows, columns, preferred_element_type=wide)
    scores = scores.reshape(*leading, heads, length, key.shape[-3])
    return scores if query.dtype == wide else scores * scale


def _mix(weights: jax.Array, value: jax.Array, wide: jnp.dtype) -> jax.Array:
    """weights value, (…, H, L, S) and (…, S, H or fewer, Dv) -> (…, H, L, Dv)."""
    *leading, heads, length, keys = weights.shape
    kv_heads = value.shape[-2]
    rows = weights.reshape(*leading, kv_heads, heads // kv_heads * length, keys)
    mixed = jnp.matmul(rows, value.swapaxes(-3, -2), preferred_element_type=wide)
    return mixed.reshape(*leading, heads, length, value.shape[-1])
