"""Attention with its projections, causal and not, over other keys, with grouped heads, and a transformer's layer."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import torch
from flax import nnx

import fnet.functional as F
from fnet import nn
from layer_cases import Case, Pure


def attention(batch: int, length: int, heads: int, width: int, causal: bool) -> Case:
    mask = jnp.tril(jnp.ones((length, length), bool)) if causal else None

    def pytorch() -> Pure:
        module = torch.nn.MultiheadAttention(width, heads, batch_first=True)
        hidden = torch.nn.Transformer.generate_square_subsequent_mask(length) if causal else None
        run = lambda params, x: module(x, x, x, attn_mask=hidden, is_causal=causal, need_weights=False)[0]  # noqa: E731
        return Pure(run, list(module.parameters()))

    def flax(rngs: nnx.Rngs) -> Pure:
        module = nnx.MultiHeadAttention(heads, width, decode=False, deterministic=True, rngs=rngs)
        graph, params, rest = nnx.split(module, nnx.Param, ...)
        return Pure(lambda params, x: nnx.merge(graph, params, rest)(x, mask=mask), params)

    def equinox(key: jax.Array) -> Pure:
        bias = {f"use_{name}_bias": True for name in ("query", "key", "value", "output")}
        module = eqx.nn.MultiheadAttention(heads, width, **bias, key=key)
        params, static = eqx.partition(module, eqx.is_inexact_array)
        run = lambda params, x: jax.vmap(lambda x: eqx.combine(params, static)(x, x, x, mask=mask))(x)  # noqa: E731
        return Pure(run, params)

    return Case(
        f"{'causal' if causal else 'whole'}: {batch}x{length}, {heads} heads of {width // heads}",
        inputs=((batch, length, width),),
        fnet=lambda: nn.MultiheadAttention(heads, causal=causal),
        torch=pytorch,
        flax=flax,
        equinox=equinox,
    )


def product(batch: int, length: int, heads: int, kv_heads: int, width: int) -> Case:
    """The product alone, causal, without projections; PyTorch's and jax.nn's function of it."""

    def theirs(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        y = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=heads != kv_heads)
        return y.transpose(1, 2)

    return Case(
        f"product: {batch}x{length}, {heads} heads of {width}, {kv_heads} of keys",
        inputs=((batch, length, heads, width), *[(batch, length, kv_heads, width)] * 2),
        fnet=lambda: Pure(lambda params, *qkv: F.scaled_dot_product_attention(*qkv, is_causal=True, enable_gqa=True)),
        torch=lambda: theirs,
        flax=lambda rngs: lambda *qkv: jax.nn.dot_product_attention(*qkv, is_causal=True),
    )


def encoder_layer(batch: int, length: int, heads: int, width: int) -> Case:
    class Layer(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            self.attn = nnx.MultiHeadAttention(heads, width, decode=False, deterministic=True, rngs=rngs)
            self.linear1 = nnx.Linear(width, 4 * width, rngs=rngs)
            self.linear2 = nnx.Linear(4 * width, width, rngs=rngs)
            self.norm1, self.norm2 = nnx.LayerNorm(width, rngs=rngs), nnx.LayerNorm(width, rngs=rngs)

        def __call__(self, x: jax.Array) -> jax.Array:
            x = x + self.attn(self.norm1(x))
            return x + self.linear2(jax.nn.gelu(self.linear1(self.norm2(x)), approximate=False))

    return Case(
        f"encoder layer: {batch}x{length}, {heads} heads of {width // heads}",
        inputs=((batch, length, width),),
        fnet=lambda: nn.TransformerEncoderLayer(heads, 4 * width, 0.0, F.gelu, norm_first=True),
        torch=lambda: torch.nn.TransformerEncoderLayer(
            width, heads, 4 * width, 0.0, "gelu", norm_first=True, batch_first=True
        ),
        flax=Layer,
    )


CASES = [
    attention(16, 128, 4, 128, causal=True),
    attention(16, 128, 4, 128, causal=False),
    attention(4, 512, 8, 256, causal=True),
    attention(64, 16, 4, 64, causal=False),
    product(16, 128, 4, 4, 32),
    product(4, 512, 8, 2, 32),
    encoder_layer(16, 128, 4, 128),
    encoder_layer(32, 64, 4, 64),
]
