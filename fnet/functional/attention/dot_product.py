"""The public function: its contract and its checks."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fnet.functional.attention.cudnn import attend_cudnn, cudnn_refusal
from fnet.functional.attention.masks import Visibility, check_window, full_rank, split_mask
from fnet.functional.attention.xla import attend_whole, attend_xla
from fnet.functional.dropout import MissingKey

WHERE = "scaled_dot_product_attention"


def scaled_dot_product_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    attn_mask: ArrayLike | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    bias: ArrayLike | None = None,
    window: int | tuple[int, int] | None = None,
    key_lengths: ArrayLike | None = None,
    query_offset: ArrayLike = 0,
    dropout_key: jax.Array | None = None,
    return_weights: bool = False,
    implementation: str | None = None,
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """softmax(query keyᵀ · scale + mask) value, for each head.

    Shapes are JAX's, with the heads after the length, where PyTorch has them before it: query (…, L, H, D), key
    (…, S, H, D), value (…, S, H, Dv) -> (…, L, H, Dv). All three have one floating dtype, which is the result's; the
    softmax is computed in at least float32. `scale` is 1 / √D by default.

    What attends to what; all that is given applies together, and a query that may attend to nothing gets 0 and no
    gradient, never NaN:

        attn_mask     broadcast against the weights (…, H, L, S), a mask with fewer axes from the right: bool, True
                      where a query takes a key in, or floats, which are added to the scores. A mask (batch, S)
                      of keys is passed as `mask[:, None, None, :]`, a mask (batch, L, S) as `mask[:, None]`
        is_causal     query i sees the keys up to position `query_offset` + i. With the default offset of 0 the first
                      query meets the first key, as in PyTorch; S - L aligns the last ones, and decoding with a cache
                      passes the number of tokens before. `query_offset` is an integer or integers (…), one a row
        window        (left, right): keys at most so many positions before and after the query's own; an integer is
                      both. A model described as attending to the last W tokens has `window=W - 1` with is_causal
        key_lengths   integers (…): the keys from this length on are padding
        bias          floats added to the scores, broadcast as a mask is (see `alibi_bias`)

    With `enable_gqa` key and value have fewer heads, a divisor of H, each serving a group of neighbouring query heads
    (Ainslie et al. 2023, arXiv:2305.13245); with 1 it is multi-query attention. `dropout_p` drops weights, and takes a
    `dropout_key` (`key` being the keys). `return_weights` gives (output, weights (…, H, L, S) before dropout).

    `implementation`: None uses cuDNN's flash attention on a GPU where a static check of backend, dtype and shapes
    admits it, and elsewhere matmuls that XLA compiles for any backend; "xla" and "cudnn" insist. cuDNN's form has
    no `jax.jvp` and no second derivatives: pass "xla" for these.

    Raises TypeError for dtypes, ValueError for shapes, MissingKey for dropout without a key.
    Source: Vaswani et al. 2017 (arXiv:1706.03762), equation 1.

    >>> q, k, v = jnp.ones((3, 2, 5, 4, 8))  # batch 2, length 5, 4 heads of 8
    >>> scaled_dot_product_attention(q, k, v, is_causal=True).shape
    (2, 5, 4, 8)
    """
    query, key, value = (jnp.asarray(x) for x in (query, key, value))
    _check_inputs(query, key, value, enable_gqa)
    _check_dropout(dropout_p, dropout_key)
    *leading, length, heads, width = query.shape
    weights_shape = (*leading, heads, length, key.shape[-3])
    keep, added = split_mask(attn_mask, weights_shape, WHERE)
    if bias is not None:
        bias = jnp.asarray(bias)
        if not jnp.issubdtype(bias.dtype, jnp.floating):
            raise TypeError(f"{WHERE}: bias is {bias.dtype}, expected floats to add to the scores; bools are attn_mask")
        bias = full_rank(bias, weights_shape, f"{WHERE}: bias")
        added = bias if added is None else added + bias
    visible = Visibility(keep, is_causal, check_window(window, WHERE), key_lengths, query_offset)
    visible.check(weights_shape, WHERE)
    scale = 1 / math.sqrt(max(width, 1)) if scale is None else scale
    refusal = cudnn_refusal(query, key, value, visible, added, dropout_p, return_weights)
    if implementation not in (None, "xla", "cudnn"):
        raise ValueError(f'{WHERE}: implementation={implementation!r}, expected None, "xla" or "cudnn"')
    if implementation == "cudnn" and refusal:
        raise ValueError(f"{WHERE}: cuDNN's form does not apply: {refusal}; leave implementation=None to fall back")
    if implementation != "xla" and not refusal:
        return attend_cudnn(query, key, value, visible, added, scale)
    if return_weights:
        return attend_whole(query, key, value, visible, added, scale, dropout_p, dropout_key)
    return attend_xla(query, key, value, visible, added, scale, dropout_p, dropout_key)


def _check_inputs(query: jax.Array, key: jax.Array, value: jax.Array, enable_gqa: bool) -> None:
    shapes = f"query {query.shape}, key {key.shape}, value {value.shape}"
    dtypes = {x.dtype for x in (query, key, value)}
    if len(dtypes) > 1 or not jnp.issubdtype(query.dtype, jnp.floating):
        raise TypeError(
            f"{WHERE}: got query {query.dtype}, key {key.dtype}, value {value.dtype}, expected one floating dtype "
            "for the three"
        )
    if query.ndim < 3 or not query.ndim == key.ndim == value.ndim:
        raise ValueError(f"{WHERE}: got {shapes}, expected each to be (…, length, heads, head_dim), of one rank")
    if not query.shape[:-3] == key.shape[:-3] == value.shape[:-3]:
        raise ValueError(f"{WHERE}: got {shapes}, expected the same batch axes (all but the last three)")
    if key.shape[-3:-1] != value.shape[-3:-1]:
        raise ValueError(f"{WHERE}: got {shapes}, expected key and value to agree in length and heads")
    if query.shape[-1] != key.shape[-1]:
        raise ValueError(f"{WHERE}: got {shapes}, expected query and key to have the same head_dim (the last axis)")
    heads, kv_heads = query.shape[-2], key.shape[-2]
    if heads != kv_heads and not enable_gqa:
        raise ValueError(
            f"{WHERE}: got {shapes}, {heads} heads of queries and {kv_heads} of keys, expected the same number. The "
            "layout is (…, length, heads, head_dim), with x.swapaxes(-3, -2) from PyTorch's; for groups of query "
            "heads that share keys pass enable_gqa=True"
        )
    if kv_heads == 0 or heads % kv_heads:
        raise ValueError(
            f"{WHERE}: got {shapes}, {heads} heads of queries and {kv_heads} of keys, expected the latter to divide "
            "the former"
        )


def _check_dropout(dropout_p: float, dropout_key: jax.Array | None) -> None:
    known = not isinstance(dropout_p, jax.core.Tracer)
    if known and not 0 <= dropout_p <= 1:
        raise ValueError(f"{WHERE}: dropout_p={dropout_p} is not a probability, expected a number from 0 to 1")
    if not (known and dropout_p == 0) and dropout_key is None:
        raise MissingKey(f"{WHERE}: dropout_p={dropout_p} drops weights and has no key: pass dropout_key=")
