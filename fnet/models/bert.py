"""BERT (Devlin et al. 2019, arXiv:1810.04805): an encoder of post-norm blocks that predicts masked tokens."""

from __future__ import annotations

from typing import Any

import jax

from fnet import functional as F
from fnet import init, nn

# From the names of Hugging Face's BertForMaskedLM to those here, for ``io.from_torch(…, rename=…)``.
BERT_NAMES = {
    r"^bert\.": "",
    r"LayerNorm\.gamma$": "LayerNorm.weight",  # TensorFlow's names, as bert-base-uncased has them
    r"LayerNorm\.beta$": "LayerNorm.bias",
    r"^(pooler|cls\.seq_relationship)\.": None,  # of BertForPreTraining, for the next sentence
    r"^cls\.predictions\.decoder\.weight": "words.weight",  # the embedding and the bias again: from_torch compares them
    r"^cls\.predictions\.decoder\.bias": "bias",
    r"position_ids": None,
    r"^embeddings\.word_embeddings\.": "words.",
    r"^embeddings\.position_embeddings\.": "positions.",
    r"^embeddings\.token_type_embeddings\.": "type_table.",
    r"^embeddings\.LayerNorm\.": "norm.",
    r"^encoder\.layer\.(\d+)\.attention\.self\.(query|key|value)\.": lambda m: f"blocks.{m[1]}.attn.{m[2][0]}_proj.",
    r"^encoder\.layer\.(\d+)\.attention\.output\.dense\.": r"blocks.\1.attn.out_proj.",
    r"^encoder\.layer\.(\d+)\.attention\.output\.LayerNorm\.": r"blocks.\1.norm1.",
    r"^encoder\.layer\.(\d+)\.intermediate\.dense\.": r"blocks.\1.fc1.",
    r"^encoder\.layer\.(\d+)\.output\.dense\.": r"blocks.\1.fc2.",
    r"^encoder\.layer\.(\d+)\.output\.LayerNorm\.": r"blocks.\1.norm2.",
    r"^cls\.predictions\.transform\.dense\.": "transform.",
    r"^cls\.predictions\.transform\.LayerNorm\.": "transform_norm.",
    r"^cls\.predictions\.bias": "bias",
}


def block(x: Any, key_mask: Any = None, *, attn: Any, norm1: Any, fc1: Any, fc2: Any, norm2: Any, drop: Any) -> Any:
    x = norm1(x + drop(attn(x, key_mask=key_mask)))
    return norm2(x + drop(fc2(F.gelu(fc1(x)))))


def bert_forward(
    ids: Any, types: Any = None, key_mask: Any = None, *, words: Any, positions: Any, type_table: Any, norm: Any,
    drop: Any, blocks: Any, transform: Any, transform_norm: Any, bias: Any,
) -> jax.Array:  # fmt: skip
    """Logits of every token; types (batch, length) say which of two sentences a token is of, 0 by default."""
    x = positions(words(ids)) + type_table(ids * 0 if types is None else types)
    x = blocks(drop(norm(x)), key_mask)
    x = transform_norm(F.gelu(transform(x)))
    return F.linear(x, words.params["weight"].T, bias)


def bert(
    vocab_size: int = 30522,
    context: int = 512,
    num_layers: int = 12,
    num_heads: int = 12,
    width: int = 768,
    hidden: int = 3072,
    dropout: float = 0.1,
    eps: float = 1e-12,
) -> nn.Model:
    """A BERT, by default of the base size: ids (batch, length) -> logits (batch, length, vocab_size).

    ``model(params, ids, types, key_mask)``; ``key_mask`` (batch, length) is True at tokens, PyTorch's attention_mask.
    ``io.from_torch(models.bert(), "model.safetensors", ids, rename=models.BERT_NAMES)`` loads the weights of Hugging
    Face's BertForMaskedLM, and those of BertForPreTraining, such as bert-base-uncased's, without the pooler and the
    head for the next sentence. A decoder that is not the embedding (tie_word_embeddings=False) is an error.

    >>> import jax
    >>> import fnet
    >>> from fnet import models
    >>> ids = jax.ShapeDtypeStruct((1, 8), "int32")
    >>> fnet.count(jax.eval_shape(models.bert().init, jax.random.key(0), ids)[0])
    109514298
    """
    layer = nn.Model(
        block, attn=nn.MultiheadAttention(num_heads, dropout), norm1=nn.LayerNorm(eps), fc1=nn.Linear(hidden),
        fc2=nn.Linear(width), norm2=nn.LayerNorm(eps), drop=nn.Dropout(dropout),
    )  # fmt: skip
    return nn.Model(
        bert_forward, words=nn.Embedding(vocab_size, width), positions=nn.LearnedPosition(context),
        type_table=nn.Embedding(2, width), norm=nn.LayerNorm(eps), drop=nn.Dropout(dropout),
        blocks=nn.Stack(layer, num_layers), transform=nn.Linear(width), transform_norm=nn.LayerNorm(eps),
        bias=nn.Param((vocab_size,), init.zeros),
    )  # fmt: skip
