"""MultiheadAttention."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any

import jax
import jax.numpy as jnp

from fnet import functional as F
from fnet import init
from fnet.functional.attention.masks import check_window, split_mask
from fnet.nn.cache import cache_spec, overflows, write
from fnet.nn.core import Layer, Param
from fnet.nn.core.frame import PartScope
from fnet.nn.position import RoPE


@dataclass(frozen=True, repr=False)
class MultiheadAttention(Layer):
    """Attention in several heads: ``out_proj(softmax(q kᵀ / √head_dim) v)``, with q, k and v projected from the inputs.

    Called as ``attn(x)`` for self-attention, ``attn(query, keys, values)`` for cross-attention (values are the keys by
    default). Shapes: query (…, L, E), keys (…, S, Ek), values (…, S, Ev) -> (…, L, E); the batch comes first, as with
    PyTorch's ``batch_first=True``. Parameters ``q_proj``, ``k_proj``, ``v_proj`` and ``out_proj``, each ``weight``
    (in, out) and ``bias``. Initialised as PyTorch does: xavier_uniform over the packed (E, 3 E) matrix of the three
    projections (each for itself where the widths of keys or values differ from E), ``out_proj`` as a Linear, biases 0.

    **Masks are True where something takes part**, which is the reverse of PyTorch's ``key_padding_mask`` and
    ``attn_mask`` of this layer (not of its scaled_dot_product_attention): pass ``key_mask=~key_padding_mask``.

        key_mask      bool (…, S): False at keys that are padding
        mask          bool, or floats added to the scores, broadcast against (…, heads, L, S)
        need_weights  True gives (output, weights (…, heads, L, S)), of each head and before dropout. PyTorch gives
                      them by default, averaged over heads

    Options:

        dropout       of the attention weights, in training
        causal        queries see no later keys; the first query stands at the first key, as in PyTorch
        num_kv_heads  fewer heads of keys and values, each for a group of query heads; 1 is multi-query attention
        head_dim      the width of a head, E / num_heads by default
        window        sliding window (left, right), as in `F.scaled_dot_product_attention`
        rope          rotary positions: True, or `nn.RoPE` with its options
        alibi         ALiBi's biases, a slope for each head
        qk_norm       an RMS norm of queries and keys over head_dim, ``q_norm.weight`` and ``k_norm.weight``
                      (Henry et al. 2020, arXiv:2010.04245; as Qwen 3 has it, before the rotation)
        cache         decoding: so many slots for the keys and values of the tokens so far, held as state; see below
        implementation  as in `F.scaled_dot_product_attention`

    With ``cache=256`` (and ``causal=True``) the parameters are the same and the layer has a state, for the batch that
    init or ``init_state`` has seen. Each call attends to the tokens of the calls before it and to its own, so the
    outputs of many short calls are those of one long call. ``key_mask`` (…, L) of a prompt that is padded on the left
    is remembered; ``mask`` is against all slots. More tokens than slots raise when concrete and give NaN under jit.

    >>> import jax, jax.numpy as jnp
    >>> from fnet import nn
    >>> attn = nn.MultiheadAttention(4, causal=True)
    >>> params, state = attn.init(jax.random.key(0), jnp.ones((2, 5, 16)))
    >>> params["q_proj"]["weight"].shape, attn(params, jnp.ones((2, 5, 16))).shape
    ((16, 16), (2, 5, 16))
    """

    num_heads: int
    dropout: float = 0.0
    bias: bool = True
    _: KW_ONLY
    causal: bool = False
    num_kv_heads: int | None = None
    head_dim: int | None = None
    window: int | tuple[int, int] | None = None
    rope: bool | RoPE = False
    alibi: bool = False
    qk_norm: bool = False
    cache: int | None = None
    implementation: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        where = "MultiheadAttention"
        for name in ("num_heads", "num_kv_heads", "head_dim", "cache"):
            value = getattr(self, name)
            if (value is not None or name == "num_heads") and (not isinstance(value, int) or value < 1):
                raise ValueError(f"{where} needs {name} of at least 1, got {value!r}")
        if not 0 <= self.dropout <= 1 or (isinstance(self.dropout, int) and self.dropout):  # 1: PyTorch's one head
            raise ValueError(
                f"{where}'s dropout is a probability between 0 and 1, got {self.dropout!r}; the width is read from the "
                "data, so PyTorch's MultiheadAttention(embed_dim, heads) is MultiheadAttention(heads) here"
            )
        if self.num_heads % self.kv_heads:
            raise ValueError(f"{where}: num_kv_heads={self.kv_heads} does not divide num_heads={self.num_heads}")
        check_window(self.window, where)
        if not isinstance(self.rope, bool | RoPE):
            raise TypeError(f"{where}: rope={self.rope!r}, expected True or nn.RoPE(base=…)")
        if self.rope is True:
            object.__setattr__(self, "rope", RoPE())
        if self.cache is not None and not self.causal:
            raise ValueError(f"{where}: a cache is for causal self-attention, pass causal=True")

    @property
    def kv_heads(self) -> int:
        """The number of heads of keys and values."""
        return self.num_heads if self.num_kv_heads is None else self.num_kv_heads

    def spec(
        self, query: Any, keys: Any = None, values: Any = None, mask: Any = None, key_mask: Any = None,
        need_weights: bool = False, **unknown: Any,
    ) -> dict[str, Any]:  # fmt: skip
        _refuse_pytorchs_masks(unknown)
        keys = query if keys is None else keys
        values = keys if values is None else values
        for name, x in (("query", query), ("keys", keys), ("values", values)):
            if len(x.shape) < 2:
                raise ValueError(f"MultiheadAttention needs {name} (…, length, features), got shape {tuple(x.shape)}")
        width = self._head_dim(query.shape[-1])
        inner, kv_inner = self.num_heads * width, self.kv_heads * width
        ins = {"q_proj": query.shape[-1], "k_proj": keys.shape[-1], "v_proj": values.shape[-1]}
        outs = {"q_proj": inner, "k_proj": kv_inner, "v_proj": kv_inner}
        packed = len(set(ins.values())) == 1
        spec: dict[str, Any] = {}
        for name in ins:
            fans = ins[name] + (sum(outs.values()) if packed else outs[name])
            bound = math.sqrt(6 / fans)  # xavier_uniform's
            spec[name] = self._projection(ins[name], outs[name], init.uniform(-bound, bound))
        spec["out_proj"] = self._projection(inner, query.shape[-1], init.torch_uniform())
        if self.qk_norm:
            spec |= {name: {"weight": Param((width,), init.ones)} for name in ("q_norm", "k_norm")}
        return spec | (cache_spec(query.shape[:-2], self.cache, self.kv_heads, width) if self.cache else {})

    def _projection(self, n_in: int, n_out: int, draw: init.Initializer) -> dict[str, Param]:
        weight = {"weight": Param((n_in, n_out), draw)}
        return weight | {"bias": Param((n_out,), init.zeros)} if self.bias else weight

    def _head_dim(self, features: int) -> int:
        if self.head_dim is None and features % self.num_heads:
            raise ValueError(
                f"MultiheadAttention: {features} features do not divide into num_heads={self.num_heads} equal heads; "
                "choose a divisor, or give head_dim="
            )
        return self.head_dim or features // self.num_heads

    def apply(
        self, params: dict, state: dict, query: Any, keys: Any = None, values: Any = None, mask: Any = None,
        key_mask: Any = None, need_weights: bool = False, key: Any = None, train: bool = False, **unknown: Any,
    ) -> tuple[Any, dict]:  # fmt: skip
        _refuse_pytorchs_masks(unknown)
        if self.cache and keys is not None:
            raise ValueError("MultiheadAttention: a cache is for self-attention, which takes one input")
        keys = query if keys is None else keys
        values = keys if values is None else values
        q = self._heads(params, "q_proj", query, self.num_heads)
        k = self._heads(params, "k_proj", keys, self.kv_heads)
        v = self._heads(params, "v_proj", values, self.kv_heads)
        offset = state["index"] if self.cache else 0
        if self.qk_norm:
            q = F.rms_norm(q, q.shape[-1], params["q_norm"]["weight"], 1e-6)
            k = F.rms_norm(k, k.shape[-1], params["k_norm"]["weight"], 1e-6)
        if isinstance(self.rope, RoPE):
            q, k = (self.rope({}, x, offset + jnp.arange(x.shape[-3])) for x in (q, k))
        key_mask = _key_mask(key_mask, k.shape[:-2])
        if self.cache:
            state = write(state, k, v, key_mask)
            k, v, key_mask = state["k"].astype(q.dtype), state["v"].astype(q.dtype), state["mask"]
        out = self._attend(q, k, v, mask, key_mask, offset, need_weights, key, train)
        mixed, weights = out if need_weights else (out, None)
        with PartScope("out_proj", self, (mixed,)):
            out_proj = params["out_proj"]
            rows = mixed.reshape(*mixed.shape[:-2], self.num_heads * mixed.shape[-1])
            y = F.linear(rows, out_proj["weight"], self._bias(out_proj))
        if self.cache:
            y = jnp.where(overflows(state), jnp.nan, y)
        return ((y, weights) if need_weights else y), state

    def _heads(self, params: Mapping[str, Any], name: str, x: Any, heads: int) -> jax.Array:
        with PartScope(name, self, (x,)):
            y = F.linear(x, params[name]["weight"], self._bias(params[name]))
            return y.reshape(*y.shape[:-1], heads, y.shape[-1] // heads)

    def _bias(self, projection: Mapping[str, Any]) -> Any:
        return projection["bias"] if self.bias else None

    def _attend(
        self, q: jax.Array, k: jax.Array, v: jax.Array, mask: Any, key_mask: Any, offset: Any, need_weights: bool,
        key: Any, train: bool,
    ) -> Any:  # fmt: skip
        shape = (*q.shape[:-3], self.num_heads, q.shape[-3], k.shape[-3])
        keep, bias = split_mask(mask, shape, "MultiheadAttention")
        if key_mask is not None:
            key_mask = key_mask[..., None, None, :]
            keep = key_mask if keep is None else keep & key_mask
        if self.alibi:
            slopes = F.alibi_bias(self.num_heads, shape[-2], shape[-1], offset)
            bias = slopes if bias is None else bias + slopes.reshape((1,) * (bias.ndim - 3) + slopes.shape)
        return F.scaled_dot_product_attention(
            q, k, v, keep, self.dropout if train else 0.0, self.causal, enable_gqa=True, bias=bias, window=self.window,
            query_offset=offset, dropout_key=key if train and self.dropout else None, return_weights=need_weights,
            implementation=self.implementation,
        )  # fmt: skip


MultiHeadAttention = MultiheadAttention  # the other spelling


def _key_mask(key_mask: Any, shape: tuple[int, ...]) -> jax.Array | None:
    if key_mask is None:
        return None
    key_mask = jnp.asarray(key_mask)
    if key_mask.dtype != bool or key_mask.shape != shape:
        raise ValueError(
            f"MultiheadAttention: key_mask is {key_mask.dtype} of shape {key_mask.shape}, expected bool {shape}, one "
            "for each key, True where it takes part"
        )
    return key_mask


def _refuse_pytorchs_masks(unknown: Mapping[str, Any]) -> None:
    """PyTorch's masks are True where something is left out: taken as they are, they would do the reverse."""
    fixes = {"key_padding_mask": "key_mask=~key_padding_mask", "attn_mask": "mask=~attn_mask if it is bool"}
    for name in unknown:
        fix = fixes.get(name)
        why = f"; here True takes part, which is the reverse of PyTorch's: pass {fix}" if fix else ""
        raise TypeError(f"MultiheadAttention takes no {name!r}{why}")
