"""Layers that tell a model where in a sequence each token stands."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any

import jax
import jax.numpy as jnp

from fnet import functional as F
from fnet import init
from fnet.functional.dtypes import to_weight_dtype
from fnet.nn.core import Layer, Param


@dataclass(frozen=True, repr=False)
class RoPE(Layer):
    """Rotary positions, for the queries and keys of attention: ``MultiheadAttention(8, rope=nn.RoPE())``.

    Input and output (…, L, heads, head_dim); ``positions`` as in `F.rotary_embedding`, which says what ``base`` (called
    theta in Llama's files), ``dims`` and ``interleaved`` are. The others stretch the context, as
    `F.rotary_frequencies` says: ``factor`` alone is the kind "linear", with ``original_max_position_embeddings`` it is
    "llama3", of Llama 3.1 and later. Source: Su et al. 2021 (arXiv:2104.09864).

    >>> import jax.numpy as jnp
    >>> from fnet import nn
    >>> nn.RoPE(base=500000.0)({}, jnp.ones((2, 5, 4, 8))).shape
    (2, 5, 4, 8)
    """

    keyless = True

    base: float = 10000.0
    dims: int | None = None
    interleaved: bool = False
    _: KW_ONLY
    factor: float = 1.0
    original_max_position_embeddings: int | None = None
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.base <= 0 or (self.dims is not None and (self.dims < 2 or self.dims % 2)):
            raise ValueError(f"RoPE takes a positive base and an even number of dims, got {self!r}")
        if self.factor <= 0 or not 0 < self.low_freq_factor < self.high_freq_factor:
            raise ValueError(f"RoPE takes a positive factor and low_freq_factor < high_freq_factor, got {self!r}")

    def apply(
        self, params: dict, state: dict, x: Any, positions: Any = None, key: Any = None, train: bool = False
    ) -> tuple[jax.Array, dict]:
        frequencies = None
        if self.factor != 1:
            frequencies = F.rotary_frequencies(
                self.dims or x.shape[-1], self.base, self.factor, self.original_max_position_embeddings,
                self.low_freq_factor, self.high_freq_factor,
            )  # fmt: skip
        return F.rotary_embedding(x, positions, self.base, self.dims, self.interleaved, frequencies=frequencies), state


@dataclass(frozen=True, repr=False)
class _Positions(Layer):
    """What the layers that add a vector for each position share: which position each token has."""

    keyless = True

    def positions(self, state: dict, x: Any, key_mask: Any) -> tuple[jax.Array, dict]:
        """The position of each token, (L,) or (…, L), and the state after it."""
        if x.ndim < 2:
            raise ValueError(f"{type(self).__name__} needs an input (…, length, features), got shape {x.shape}")
        length = x.shape[-2]
        if key_mask is None:
            steps, count = jnp.arange(length), length
        else:
            key_mask = jnp.asarray(key_mask)
            if key_mask.shape != x.shape[:-1] or key_mask.dtype != bool:
                raise ValueError(
                    f"{type(self).__name__}: key_mask is {key_mask.dtype} of shape {key_mask.shape}, expected bool "
                    f"{x.shape[:-1]}, True at tokens"
                )
            steps, count = (jnp.cumsum(key_mask, -1) - 1).clip(0), key_mask.sum(-1)
        if not getattr(self, "cache", False):
            return steps, state
        index = state["index"]
        return index[..., None] + steps, {"index": (index + count).astype(index.dtype)}

    def state_spec(self, x: Any) -> dict[str, Param]:
        if not getattr(self, "cache", False):
            return {}
        return {"index": Param(x.shape[:-2], init.zeros, "int32", trainable=False)}


@dataclass(frozen=True, repr=False)
class LearnedPosition(_Positions):
    """Adds to each token the trained vector of its position, as GPT-2, BERT and ViT do.

    Input and output (…, L, features) with L up to ``num_positions``; ``weight`` is (num_positions, features),
    initialised N(0, 0.02²). ``key_mask`` (…, L), bool and True at tokens, counts the positions of tokens alone, so
    that padding on the left moves nothing. With ``cache=True`` the number of tokens so far is state, one for each row
    of the batch, and a call goes on from there: for decoding. A position past the table raises when concrete and gives
    NaN under jit.

    >>> import jax, jax.numpy as jnp
    >>> from fnet import nn
    >>> params, state = nn.LearnedPosition(16).init(jax.random.key(0), jnp.ones((2, 5, 8)))
    >>> params["weight"].shape
    (16, 8)
    """

    num_positions: int
    cache: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.num_positions, int) or self.num_positions < 1:
            raise ValueError(f"LearnedPosition needs num_positions of at least 1, got {self.num_positions!r}")

    def spec(self, x: Any, key_mask: Any = None) -> dict[str, Param]:
        return {"weight": Param((self.num_positions, x.shape[-1]), init.normal(0.02))} | self.state_spec(x)

    def apply(
        self, params: dict, state: dict, x: Any, key_mask: Any = None, key: Any = None, train: bool = False
    ) -> tuple[jax.Array, dict]:
        weight = params["weight"]
        x = to_weight_dtype(x, weight, "LearnedPosition")
        if x.ndim < 2 or x.shape[-1] != weight.shape[1] or x.shape[-2] > self.num_positions:
            raise ValueError(
                f"LearnedPosition: input has shape {x.shape}, expected (…, length, {weight.shape[1]}) with a length of "
                f"at most {self.num_positions}, the rows of its table"
            )
        if key_mask is None and not self.cache:
            return x + jnp.broadcast_to(weight[: x.shape[-2]], x.shape), state
        positions, state = self.positions(state, x, key_mask)
        return x + F.embedding(positions, weight), state


@dataclass(frozen=True, repr=False)
class SinusoidalPosition(_Positions):
    """Adds to each token sines and cosines of its position, which need no training.

    Input and output (…, L, features), with an even number of features. ``base``: `F.sinusoidal_embedding`;
    ``key_mask`` and ``cache``: `LearnedPosition`. Source: Vaswani et al. 2017 (arXiv:1706.03762), section 3.5.

    >>> import jax.numpy as jnp
    >>> from fnet import nn
    >>> nn.SinusoidalPosition()({}, jnp.zeros((1, 2, 4)))[0, 0]
    Array([0., 1., 0., 1.], dtype=float32)
    """

    base: float = 10000.0
    cache: bool = False

    def spec(self, x: Any, key_mask: Any = None) -> dict[str, Param]:
        return self.state_spec(x)

    def apply(
        self, params: dict, state: dict, x: Any, key_mask: Any = None, key: Any = None, train: bool = False
    ) -> tuple[jax.Array, dict]:
        x = jnp.asarray(x)
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise TypeError(f"SinusoidalPosition: got {x.dtype} input, expected floats; ids go through an Embedding")
        positions, state = self.positions(state, x, key_mask)
        table = F.sinusoidal_embedding(positions, x.shape[-1], self.base, dtype=x.dtype)
        return x + jnp.broadcast_to(table, x.shape), state
