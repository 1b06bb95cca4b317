"""The LSTM language model of Zaremba et al. 2014 (arXiv:1409.2329)."""

from __future__ import annotations

from typing import Any

from fnet import functional as F
from fnet import nn


def lstm_lm_forward(ids: Any, initial: Any = None, *, embed: Any, drop: Any, lstm: Any, head: Any) -> Any:
    """Logits, and the state after the last token, to go on from."""
    h, state = lstm(drop(embed(ids)), initial, return_state=True)
    h = drop(h)
    return (F.linear(h, embed.params["weight"].T) if head is None else head(h)), state


def lstm_lm(
    vocab_size: int, width: int = 256, num_layers: int = 2, dropout: float = 0.0, tied: bool = False
) -> nn.Model:
    """An LSTM that predicts the next token: ids (batch, length) -> (logits (batch, length, vocab_size), state).

    ``model(params, ids, state)`` goes on from a state ``(h, c)``, as truncated backpropagation and sampling do;
    ``tied`` uses the embedding as the head (Press & Wolf 2017).

    >>> import jax, jax.numpy as jnp
    >>> from fnet import models
    >>> model, ids = models.lstm_lm(65, 32), jnp.zeros((2, 10), "int32")
    >>> params, _ = model.init(jax.random.key(0), ids)
    >>> logits, state = model(params, ids)
    >>> logits.shape, model(params, ids[:, :1], state)[0].shape
    ((2, 10, 65), (2, 1, 65))
    """
    return nn.Model(
        lstm_lm_forward, embed=nn.Embedding(vocab_size, width), drop=nn.Dropout(dropout),
        lstm=nn.LSTM(width, num_layers, dropout=dropout if num_layers > 1 else 0.0),
        head=None if tied else nn.Linear(vocab_size),
    )  # fmt: skip
