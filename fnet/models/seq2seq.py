"""The encoder–decoder transformer of "Attention is all you need" (Vaswani et al. 2017, arXiv:1706.03762)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from fnet import functional as F
from fnet import nn
from fnet.functional.ids import is_concrete


def seq2seq_forward(
    src: Any, tgt: Any, src_mask: Any = None, *, embed: Any, positions: Any, drop: Any, transformer: Any, scale: float
) -> jax.Array:
    """Logits of the token after each of ``tgt``, given ``src``; the embedding is shared by both and the head (3.4)."""

    def tokens(ids: Any) -> Any:
        return drop(positions(embed(ids) * scale))

    h = transformer(tokens(src), tokens(tgt), src_key_mask=src_mask, memory_key_mask=src_mask)
    return F.linear(h, embed.params["weight"].T)


def encoder_decoder(
    vocab_size: int,
    num_layers: int = 6,
    num_heads: int = 8,
    width: int = 512,
    hidden: int = 2048,
    dropout: float = 0.1,
) -> nn.Model:
    """A transformer from one sequence to another: (src (batch, S), tgt (batch, T)) -> logits (batch, T, vocab_size).

    ``model(params, src, tgt, src_mask)``; ``src_mask`` (batch, S) is True at tokens. To train, ``tgt`` is the target
    shifted right behind a start token; `translate` decodes.

    >>> import jax, jax.numpy as jnp
    >>> from fnet import models
    >>> model = models.encoder_decoder(50, num_layers=1, num_heads=2, width=16, hidden=32)
    >>> src, tgt = jnp.zeros((2, 7), "int32"), jnp.zeros((2, 5), "int32")
    >>> params, _ = model.init(jax.random.key(0), src, tgt)
    >>> model(params, src, tgt).shape
    (2, 5, 50)
    """
    encoder_layer = nn.TransformerEncoderLayer(num_heads, hidden, dropout)
    decoder_layer = nn.TransformerDecoderLayer(num_heads, hidden, dropout, causal=True)
    return nn.Model(
        seq2seq_forward, embed=nn.Embedding(vocab_size, width), positions=nn.SinusoidalPosition(),
        drop=nn.Dropout(dropout),
        transformer=nn.Model(
            transform, encoder=nn.TransformerEncoder(encoder_layer, num_layers),
            decoder=nn.TransformerDecoder(decoder_layer, num_layers),
        ),
        scale=width**0.5,
    )  # fmt: skip


def transform(src: Any, tgt: Any, *, src_key_mask: Any, memory_key_mask: Any, encoder: Any, decoder: Any) -> Any:
    memory = encoder(src, key_mask=src_key_mask)
    return decoder(tgt, memory, memory_key_mask=memory_key_mask)


def translate(
    model: Any, params: Any, src: Any, start: int, length: int, end: int | None = None, src_mask: Any = None
) -> jax.Array:
    """The most likely next token, again and again: (batch, length) ids, filled with ``end`` once that came.

    Works under jit with ``model``, ``start``, ``length`` and ``end`` static. Each step runs the decoder over the whole
    target, so it is for short ones. Raises ValueError where the logits are NaN, as of an id that is not in the
    vocabulary (not under jit, where such tokens mean nothing).

    >>> import jax, jax.numpy as jnp
    >>> from fnet import models
    >>> model = models.encoder_decoder(50, num_layers=1, num_heads=2, width=16, hidden=32)
    >>> src = jnp.zeros((2, 7), "int32")
    >>> params, _ = model.init(jax.random.key(0), src, src)
    >>> models.translate(model, params, src, start=0, length=4).shape
    (2, 4)
    """
    out = jnp.full((len(src), length + 1), start, jnp.int32)

    def one(i: Any, carry: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        out, ended, nan = carry
        logits = model(params, src, out[:, :-1], src_mask)[:, i]
        token, nan = logits.argmax(-1).astype(out.dtype), nan | jnp.isnan(logits).any()
        if end is not None:
            token = jnp.where(ended, end, token)
            ended = ended | (token == end)
        return out.at[:, i + 1].set(token), ended, nan

    out, _, nan = jax.lax.fori_loop(0, length, one, (out, jnp.zeros(len(src), bool), jnp.bool(False)))
    if is_concrete(nan) and nan:
        raise ValueError(
            f"translate: logits are NaN: start={start} and src must be ids of the vocabulary, and params finite"
        )
    return out[:, 1:]
