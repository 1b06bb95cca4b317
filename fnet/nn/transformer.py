"""The layers of "Attention is all you need" with PyTorch's names, and stacks of them.

Source: Vaswani et al. 2017 (arXiv:1706.03762); with norm_first Xiong et al. 2020 (arXiv:2002.04745).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from fnet import functional as F
from fnet.nn.attention import MultiheadAttention
from fnet.nn.combinators import Stack
from fnet.nn.core import Layer, Model, Param
from fnet.nn.dropout import Dropout
from fnet.nn.linear import Linear
from fnet.nn.norm import LayerNorm

Activation = Callable[[jax.Array], jax.Array]


def encoder_layer(
    x: Any, mask: Any = None, key_mask: Any = None, *, self_attn: Any, linear1: Any, dropout: Any, linear2: Any,
    norm1: Any, norm2: Any, dropout1: Any, dropout2: Any, activation: Activation, norm_first: bool,
) -> Any:  # fmt: skip
    """Self-attention and a feed-forward network, each in a residual sum with a norm after it or before."""

    def attend(x: Any) -> Any:
        return dropout1(self_attn(x, mask=mask, key_mask=key_mask))

    def feed(x: Any) -> Any:
        return dropout2(linear2(dropout(activation(linear1(x))), x))

    if norm_first:
        x = x + attend(norm1(x))
        return x + feed(norm2(x))
    x = norm1(x + attend(x))
    return norm2(x + feed(x))


def decoder_layer(
    x: Any, memory: Any, mask: Any = None, memory_mask: Any = None, key_mask: Any = None, memory_key_mask: Any = None,
    *, self_attn: Any, multihead_attn: Any, linear1: Any, dropout: Any, linear2: Any, norm1: Any, norm2: Any,
    norm3: Any, dropout1: Any, dropout2: Any, dropout3: Any, activation: Activation, norm_first: bool,
) -> Any:  # fmt: skip
    """As `encoder_layer`, with attention to the memory, which is an encoder's output, between the two."""

    def attend(x: Any) -> Any:
        return dropout1(self_attn(x, mask=mask, key_mask=key_mask))

    def look_up(x: Any) -> Any:
        return dropout2(multihead_attn(x, memory, mask=memory_mask, key_mask=memory_key_mask))

    def feed(x: Any) -> Any:
        return dropout3(linear2(dropout(activation(linear1(x))), x))

    if norm_first:
        x = x + attend(norm1(x))
        x = x + look_up(norm2(x))
        return x + feed(norm3(x))
    x = norm1(x + attend(x))
    x = norm2(x + look_up(x))
    return norm3(x + feed(x))


def encoder(x: Any, mask: Any = None, key_mask: Any = None, *, layers: Any, norm: Any) -> Any:
    """The layers in a row, then the norm; all layers see the masks."""
    for layer in layers if isinstance(layers, list) else [layers]:
        x = layer(x, mask, key_mask)
    return x if norm is None else norm(x)


def decoder(
    x: Any, memory: Any, mask: Any = None, memory_mask: Any = None, key_mask: Any = None, memory_key_mask: Any = None,
    *, layers: Any, norm: Any,
) -> Any:  # fmt: skip
    """The layers in a row, then the norm; all layers see the memory and the masks."""
    for layer in layers if isinstance(layers, list) else [layers]:
        x = layer(x, memory, mask, memory_mask, key_mask, memory_key_mask)
    return x if norm is None else norm(x)


def transformer(
    src: Any, tgt: Any, src_mask: Any = None, tgt_mask: Any = None, memory_mask: Any = None, src_key_mask: Any = None,
    tgt_key_mask: Any = None, memory_key_mask: Any = None, *, encoder: Any, decoder: Any,
) -> Any:  # fmt: skip
    """The decoder's output for ``tgt``, with the encoder's output for ``src`` as its memory."""
    memory = encoder(src, src_mask, src_key_mask)
    return decoder(tgt, memory, tgt_mask, memory_mask, tgt_key_mask, memory_key_mask)


def TransformerEncoderLayer(
    num_heads: int,
    dim_feedforward: int = 2048,
    dropout: float = 0.1,
    activation: Activation = F.relu,
    layer_norm_eps: float = 1e-5,
    norm_first: bool = False,
    bias: bool = True,
    *,
    causal: bool = False,
) -> Model:
    """Self-attention and a feed-forward network: ``layer(x, mask=None, key_mask=None)``, (…, L, E) -> (…, L, E).

    Arguments, defaults, parts and numbers are PyTorch's, less ``d_model``, which is read from the input; the batch is
    first. **Masks are True where something takes part**, the reverse of PyTorch's, see `MultiheadAttention`. The other
    options of attention come by exchange: ``layer.replace("self_attn", nn.MultiheadAttention(8, rope=True))``.

    >>> import jax, jax.numpy as jnp
    >>> from fnet import nn
    >>> layer = nn.TransformerEncoderLayer(4, dim_feedforward=32)
    >>> params, _ = layer.init(jax.random.key(0), jnp.ones((2, 5, 16)))
    >>> params["linear1"]["weight"].shape, layer(params, jnp.ones((2, 5, 16))).shape
    ((16, 32), (2, 5, 16))
    """
    return Model(
        encoder_layer,
        self_attn=MultiheadAttention(num_heads, dropout, bias, causal=causal),
        norm2=LayerNorm(layer_norm_eps, bias=bias),
        dropout2=Dropout(dropout),
        **_common(num_heads, dim_feedforward, dropout, activation, layer_norm_eps, norm_first, bias),
    )


def TransformerDecoderLayer(
    num_heads: int,
    dim_feedforward: int = 2048,
    dropout: float = 0.1,
    activation: Activation = F.relu,
    layer_norm_eps: float = 1e-5,
    norm_first: bool = False,
    bias: bool = True,
    *,
    causal: bool = False,
) -> Model:
    """Self-attention, attention to a memory and a feed-forward network.

    ``layer(x, memory, mask=None, memory_mask=None, key_mask=None, memory_key_mask=None)``, with x (…, L, E) and memory
    (…, S, Em) -> (…, L, E); else as `TransformerEncoderLayer`. As in PyTorch, self-attention sees later tokens
    unless it is told not to: pass ``causal=True``.

    >>> import jax, jax.numpy as jnp
    >>> from fnet import nn
    >>> layer = nn.TransformerDecoderLayer(4, dim_feedforward=32, causal=True)
    >>> x, memory = jnp.ones((2, 5, 16)), jnp.ones((2, 7, 16))
    >>> params, _ = layer.init(jax.random.key(0), x, memory)
    >>> layer(params, x, memory).shape
    (2, 5, 16)
    """
    return Model(
        decoder_layer,
        self_attn=MultiheadAttention(num_heads, dropout, bias, causal=causal),
        multihead_attn=MultiheadAttention(num_heads, dropout, bias),
        norm2=LayerNorm(layer_norm_eps, bias=bias),
        norm3=LayerNorm(layer_norm_eps, bias=bias),
        dropout2=Dropout(dropout),
        dropout3=Dropout(dropout),
        **_common(num_heads, dim_feedforward, dropout, activation, layer_norm_eps, norm_first, bias),
    )


def TransformerEncoder(encoder_layer: Any, num_layers: int, norm: Any = None, *, stack: bool = False) -> Model:
    """``num_layers`` encoder layers in a row and a norm: ``model(x, mask=None, key_mask=None)``.

    Parameters are ``layers.0.linear1.weight`` and on, as in PyTorch, each layer drawn for itself. ``stack=True``
    compiles one layer and scans over the weights (`nn.Stack`), which are then ``layers.linear1.weight`` with a leading
    axis; `nn.restack` goes from the one to the other. With norm_first the last sum has no norm: give one here.

    >>> import jax, jax.numpy as jnp
    >>> from fnet import nn
    >>> model = nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 32), 2, nn.LayerNorm())
    >>> sorted(model.init(jax.random.key(0), jnp.ones((2, 5, 16)))[0]["layers"])
    ['0', '1']
    """
    return Model(encoder, layers=_layers(encoder_layer, num_layers, stack), norm=norm)


def TransformerDecoder(decoder_layer: Any, num_layers: int, norm: Any = None, *, stack: bool = False) -> Model:
    """``num_layers`` decoder layers in a row and a norm; inputs are those of a layer, names as in `TransformerEncoder`.

    >>> import jax, jax.numpy as jnp
    >>> from fnet import nn
    >>> model = nn.TransformerDecoder(nn.TransformerDecoderLayer(4, 32, causal=True), 2, stack=True)
    >>> x, memory = jnp.ones((2, 5, 16)), jnp.ones((2, 7, 16))
    >>> params, _ = model.init(jax.random.key(0), x, memory)
    >>> params["layers"]["linear1"]["weight"].shape
    (2, 16, 32)
    """
    return Model(decoder, layers=_layers(decoder_layer, num_layers, stack), norm=norm)


def Transformer(
    num_heads: int = 8,
    num_encoder_layers: int = 6,
    num_decoder_layers: int = 6,
    dim_feedforward: int = 2048,
    dropout: float = 0.1,
    activation: Activation = F.relu,
    layer_norm_eps: float = 1e-5,
    norm_first: bool = False,
    bias: bool = True,
    *,
    causal: bool = False,
    stack: bool = False,
) -> Model:
    """An encoder and a decoder, each with a norm at its end: ``model(src, tgt)``, (…, S, E) and (…, L, E) -> (…, L, E).

    Further inputs: src_mask, tgt_mask, memory_mask, src_key_mask, tgt_key_mask, memory_key_mask, True where something
    takes part. ``causal=True`` keeps the decoder's tokens from seeing later ones, which PyTorch leaves to ``tgt_mask``.
    Embeddings, positions and the head are the caller's. Unlike PyTorch's, which draws all matrices anew from
    xavier_uniform, the parts start as they do on their own; ``init={"*linear?.weight": init.xavier_uniform(), …}`` in
    ``model.init`` changes that.

    >>> import jax, jax.numpy as jnp
    >>> from fnet import nn
    >>> model = nn.Transformer(4, 1, 1, dim_feedforward=32, causal=True)
    >>> src, tgt = jnp.ones((2, 7, 16)), jnp.ones((2, 5, 16))
    >>> params, _ = model.init(jax.random.key(0), src, tgt)
    >>> model(params, src, tgt).shape
    (2, 5, 16)
    """
    options = (num_heads, dim_feedforward, dropout, activation, layer_norm_eps, norm_first, bias)
    norm = LayerNorm(layer_norm_eps, bias=bias)
    layer = TransformerDecoderLayer(*options, causal=causal)
    return Model(
        transformer,
        encoder=TransformerEncoder(TransformerEncoderLayer(*options), num_encoder_layers, norm, stack=stack),
        decoder=TransformerDecoder(layer, num_decoder_layers, norm, stack=stack),
    )


@dataclass(frozen=True, repr=False)
class LinearLike(Layer):
    """A `Linear` to the width of its second input: the way back from a feed-forward network's inner width.

    >>> import jax, jax.numpy as jnp
    >>> from fnet import nn
    >>> params, _ = nn.LinearLike().init(jax.random.key(0), jnp.ones((2, 32)), jnp.ones((2, 8)))
    >>> params["weight"].shape
    (32, 8)
    """

    keyless = True

    bias: bool = True

    def spec(self, x: Any, like: Any) -> dict[str, Param]:
        return Linear(like.shape[-1], self.bias).spec(x)

    def apply(
        self, params: dict, state: dict, x: Any, like: Any, key: Any = None, train: bool = False
    ) -> tuple[jax.Array, dict]:
        return F.linear(x, params["weight"], params["bias"] if self.bias else None), state


def _common(
    num_heads: int, dim_feedforward: int, dropout: float, activation: Activation, eps: float, norm_first: bool,
    bias: bool,
) -> dict[str, Any]:  # fmt: skip
    if not callable(activation):
        raise TypeError(f"a transformer's activation is a function such as F.relu or F.gelu, got {activation!r}")
    if dim_feedforward < num_heads or num_heads > 128:  # no published model has more
        raise ValueError(
            f"a transformer got num_heads={num_heads} and dim_feedforward={dim_feedforward}. The width is read from "
            "the data: PyTorch's TransformerEncoderLayer(d_model, nhead) is TransformerEncoderLayer(nhead) here, and "
            "Transformer(d_model, nhead) is Transformer(nhead)"
        )
    return {
        "linear1": Linear(dim_feedforward, bias),
        "dropout": Dropout(dropout),
        "linear2": LinearLike(bias),
        "norm1": LayerNorm(eps, bias=bias),
        "dropout1": Dropout(dropout),
        "activation": activation,
        "norm_first": norm_first,
    }


def _layers(layer: Any, count: int, stack: bool) -> Any:
    if not isinstance(count, int) or count < 1:
        raise ValueError(f"a transformer needs num_layers of at least 1, got {count!r}")
    return Stack(layer, count) if stack else [layer] * count
