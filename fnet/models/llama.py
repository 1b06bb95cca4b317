"""Llama (Touvron et al. 2023, arXiv:2302.13971 and 2307.09288): RMSNorm, rotary positions, SwiGLU, grouped keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

from fnet import functional as F
from fnet import nn

# From the names of Hugging Face's LlamaForCausalLM to those here, for ``io.from_torch(…, rename=…)``.
LLAMA_NAMES = {r"^model\.": "", r"\.self_attn\.o_proj\.": ".self_attn.out_proj.", r"rotary_emb\.inv_freq": None}


def block(
    x: Any, key_mask: Any = None, *, input_layernorm: Any, self_attn: Any, post_attention_layernorm: Any, mlp: Any
) -> Any:
    x = x + self_attn(input_layernorm(x), key_mask=key_mask)
    return x + mlp(post_attention_layernorm(x))


def llama_forward(
    ids: Any, key_mask: Any = None, *, embed_tokens: Any, layers: Any, norm: Any, lm_head: Any
) -> jax.Array:
    x = norm(layers(embed_tokens(ids), key_mask))
    return F.linear(x, embed_tokens.params["weight"].T) if lm_head is None else lm_head(x)


def llama(
    vocab_size: int = 32000,
    num_layers: int = 32,
    num_heads: int = 32,
    width: int = 4096,
    hidden: int = 11008,
    num_kv_heads: int | None = None,
    rope_base: float = 10000.0,
    eps: float = 1e-5,
    tied: bool = False,
    cache: int | None = None,
    head_dim: int | None = None,
    rope_scaling: Mapping[str, Any] | None = None,
) -> nn.Model:
    """A GPT in Llama's style, of Llama-2 7B's sizes by default: ids (batch, length) -> logits (…, vocab_size).

    ``num_kv_heads`` groups the queries (Llama 3: 8), ``rope_base`` is rope_theta, ``tied`` uses the embedding as the
    head, ``head_dim`` is width / num_heads by default. ``rope_scaling`` is the dict of that name in config.json
    (rope_parameters in newer files), without which the logits of Llama 3.1 and later are wrong: of the kinds "linear"
    and "llama3", the others raise ValueError; a rope_theta in it goes before ``rope_base``. ``key_mask``, ``cache`` and
    initial values are those of `gpt`.

    ``io.from_torch(model, "model.safetensors", ids, rename=models.LLAMA_NAMES)`` loads Hugging Face's weights; where
    those of a tied model have a head, add ``{"lm_head": "embed_tokens"}``.

    >>> import jax
    >>> import fnet
    >>> from fnet import models
    >>> ids = jax.ShapeDtypeStruct((1, 8), "int32")
    >>> fnet.count(jax.eval_shape(models.llama().init, jax.random.key(0), ids)[0])
    6738415616
    """
    attention = nn.MultiheadAttention(
        num_heads, bias=False, causal=True, num_kv_heads=num_kv_heads, head_dim=head_dim,
        rope=_rope(rope_base, rope_scaling or {}), cache=cache,
    )  # fmt: skip
    layer = nn.Model(
        block, input_layernorm=nn.RMSNorm(eps), self_attn=attention, post_attention_layernorm=nn.RMSNorm(eps),
        mlp=nn.SwiGLU(hidden),
    )  # fmt: skip
    return nn.Model(
        llama_forward, embed_tokens=nn.Embedding(vocab_size, width), layers=nn.Stack(layer, num_layers),
        norm=nn.RMSNorm(eps), lm_head=None if tied else nn.Linear(vocab_size, bias=False),
    )  # fmt: skip


# What each kind of scaling takes in Hugging Face's config.json.
SCALINGS = {
    "default": set(),
    "linear": {"factor"},
    "llama3": {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"},
}


def _rope(base: float, scaling: Mapping[str, Any]) -> nn.RoPE:
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    options = {name: value for name, value in scaling.items() if name not in ("rope_type", "type", "rope_theta")}
    if kind not in SCALINGS or options.keys() != SCALINGS[kind]:
        known = "; ".join(f"{name!r}: {', '.join(sorted(SCALINGS[name])) or 'nothing'}" for name in SCALINGS)
        raise ValueError(f"llama: rope_scaling={dict(scaling)} is none of these kinds with what each takes: {known}")
    return nn.RoPE(scaling.get("rope_theta", base), **options)
