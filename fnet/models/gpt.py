"""GPT-2 (Radford et al. 2019): a decoder of pre-norm blocks with learned positions and a head tied to the embedding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from fnet import creation, init, nn
from fnet import functional as F
from fnet.tree import optional


def block(x: Any, key_mask: Any = None, *, ln_1: Any, attn: Any, ln_2: Any, c_fc: Any, c_proj: Any, drop: Any) -> Any:
    x = x + drop(attn(ln_1(x), key_mask=key_mask))
    return x + drop(c_proj(F.gelu(c_fc(ln_2(x)), approximate="tanh")))


def gpt_forward(ids: Any, key_mask: Any = None, *, wte: Any, wpe: Any, drop: Any, h: Any, ln_f: Any) -> jax.Array:
    x = drop(wpe(wte(ids), key_mask))
    for layer in h if isinstance(h, list) else [h]:
        x = layer(x, key_mask)
    return F.linear(ln_f(x), wte.params["weight"].T)


def gpt(
    vocab_size: int = 50257,
    context: int = 1024,
    num_layers: int = 12,
    num_heads: int = 12,
    width: int = 768,
    dropout: float = 0.0,
    bias: bool = True,
    cache: int | None = None,
    stacked: bool = True,
) -> nn.Model:
    """A GPT in GPT-2's style, its smallest by default: ids (batch, length) -> logits (batch, length, vocab_size).

    ``model(params, ids, key_mask)``: ``key_mask`` (batch, length), True at tokens, for prompts padded on the left.
    ``bias=False`` leaves the biases of linear layers and norms out, as nanoGPT does. With ``cache=n`` the parameters
    are the same and the keys and values of up to n tokens are kept as state: for `generate`. For the initial values of
    GPT-2 use ``model.init(key, ids, init=models.gpt_init(num_layers))``, for its weights `gpt2_arrays`.

    ``stacked=False`` has a list of blocks in place of `nn.Stack`, with names such as ``h.0.c_fc.weight``: each block is
    compiled, which takes longer, and for a small model on CPU a step takes less, since nothing is stored in a scan.

    >>> import jax, jax.numpy as jnp
    >>> from fnet import models
    >>> model, ids = models.gpt(65, 64, num_layers=2, num_heads=4, width=32), jnp.zeros((2, 10), "int32")
    >>> params, _ = model.init(jax.random.key(0), ids, init=models.gpt_init(2))
    >>> model(params, ids).shape
    (2, 10, 65)
    """
    if cache is not None and cache > context:
        raise ValueError(f"gpt: cache={cache} is more than context={context}, the tokens that have a position")
    layer = nn.Model(
        block, ln_1=nn.LayerNorm(bias=bias),
        attn=nn.MultiheadAttention(num_heads, dropout, bias, causal=True, cache=cache), ln_2=nn.LayerNorm(bias=bias),
        c_fc=nn.Linear(4 * width, bias), c_proj=nn.Linear(width, bias), drop=nn.Dropout(dropout),
    )  # fmt: skip
    return nn.Model(
        gpt_forward, wte=nn.Embedding(vocab_size, width), wpe=nn.LearnedPosition(context, cache=cache is not None),
        drop=nn.Dropout(dropout), h=nn.Stack(layer, num_layers) if stacked else [layer] * num_layers,
        ln_f=nn.LayerNorm(bias=bias),
    )  # fmt: skip


def gpt_init(num_layers: int, std: float = 0.02) -> dict[Any, Any]:
    """GPT-2's initial values: N(0, std²), less by √(2 · num_layers) where a block adds to the residual; biases 0.

    For ``model.init(key, ids, init=…)``; it fits `gpt` and `llama`.

    >>> import jax, jax.numpy as jnp
    >>> model = gpt(65, 64, num_layers=2, num_heads=4, width=32)
    >>> params, _ = model.init(jax.random.key(0), jnp.zeros((1, 8), "int32"), init=gpt_init(2))
    >>> print(round(float(params["h"]["c_proj"]["weight"].std()), 3))
    0.01
    """
    residual = ("*out_proj.weight", "*c_proj.weight", "*down_proj.weight")
    return {
        optional(residual): init.normal(std / (2 * num_layers) ** 0.5),
        optional(lambda name, leaf: name.endswith("weight") and not _is_norm(name)): init.normal(std),
        optional(lambda name, leaf: name.endswith("bias")): init.zeros,
    }


def _is_norm(name: str) -> bool:
    return any(part.startswith(("ln_", "norm")) or part.endswith("norm") for part in name.split("."))


def gpt2_arrays(arrays: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The arrays of Hugging Face's GPT2LMHeadModel or GPT2Model, named and turned for ``io.from_torch(gpt(…), …)``.

    Its linear layers hold (in, out), where PyTorch's hold (out, in), and c_attn is q, k and v in one; the head, which
    is the embedding again, and the causal masks are left out. ``arrays`` come from ``io.read_torch(path)``,
    ``module.state_dict()``, or a safetensors file: ``dict(fnet.named(fnet.load(path)))``. Raises ValueError for a head
    that is not the embedding (tie_word_embeddings=False).

    >>> {name: a.shape for name, a in gpt2_arrays({"transformer.h.0.attn.c_attn.weight": np.ones((4, 12))}).items()}
    {'h.0.attn.in_proj_weight': (12, 4)}
    """
    found = {}
    for name, value in arrays.items():
        name = name.removeprefix("transformer.")
        if name.endswith((".attn.bias", ".attn.masked_bias")):
            continue
        array = np.asarray(creation.from_torch(value.cpu()) if hasattr(value, "detach") else value)  # in any dtype
        if name.endswith(("c_attn.weight", "c_fc.weight", "c_proj.weight")):
            array = array.T
        name = name.replace("attn.c_attn.", "attn.in_proj_").replace("attn.c_proj.", "attn.out_proj.")
        found[name.replace(".mlp.", ".")] = array
    head = found.pop("lm_head.weight", None)
    if head is not None and "wte.weight" in found and not np.array_equal(head, found["wte.weight"]):
        raise ValueError(
            "gpt2_arrays: lm_head.weight differs from wte.weight: these weights have a head of their own "
            "(tie_word_embeddings=False), and the head of models.gpt is the embedding; tie them and train on, or write "
            "the model with nn.Model and a head nn.Linear(vocab_size, bias=False)"
        )
    return found
