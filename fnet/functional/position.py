"""Positions: rotary and sinusoidal embeddings, and ALiBi's biases."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from fnet.functional.dtypes import at_least_float32


def rotary_embedding(
    x: ArrayLike,
    positions: ArrayLike | None = None,
    base: float = 10000.0,
    dims: int | None = None,
    interleaved: bool = False,
    *,
    frequencies: ArrayLike | None = None,
) -> jax.Array:
    """Rotate pairs of features by angles that grow with the position, so that q·k depends on the distance alone.

    The pair i of d = `dims` features turns by position * base^(-2i/d), or by position * `frequencies`[i] (d/2,), as
    `rotary_frequencies` gives them for a longer context. Shapes: x (…, L, heads, head_dim), kept; `positions` (L,) or
    (…, L), integers or floats, by default 0 to L - 1. Only the first `dims` features turn, all by default. The two
    conventions do not mix, and weights are trained for one:

        interleaved=False   pairs (i, i + d/2): GPT-NeoX, Llama, Hugging Face
        interleaved=True    pairs (2i, 2i + 1): the paper, GPT-J

    Computed in at least float32, returned in the dtype of `x`. Raises TypeError for integers, ValueError for an odd or
    impossible `dims` and for positions or frequencies that do not fit. Source: Su et al. 2021
    (arXiv:2104.09864), equation 34.

    >>> q = jnp.ones((1, 3, 2, 4))
    >>> rotary_embedding(q).shape
    (1, 3, 2, 4)
    >>> bool((rotary_embedding(q)[:, 0] == q[:, 0]).all())
    True
    """
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating) or x.ndim < 3:
        raise TypeError(f"rotary_embedding: got {x.dtype} of shape {x.shape}, expected floats (…, L, heads, head_dim)")
    length, width = x.shape[-3], x.shape[-1]
    turned = width if dims is None else dims
    if turned % 2 or not 0 < turned <= width:
        raise ValueError(f"rotary_embedding: dims={turned}, expected an even number up to the head_dim of {width}")
    wide = at_least_float32(x, "rotary_embedding")
    positions = jnp.arange(length) if positions is None else jnp.asarray(positions)
    if positions.shape not in ((length,), x.shape[:-2]):
        raise ValueError(
            f"rotary_embedding: positions have shape {positions.shape}, expected {(length,)} or {x.shape[:-2]} for x "
            f"of shape {x.shape}"
        )
    per_pair = jnp.asarray(_frequencies(turned, base) if frequencies is None else frequencies)
    if per_pair.shape != (turned // 2,):
        raise ValueError(
            f"rotary_embedding: frequencies have shape {per_pair.shape}, expected {(turned // 2,)}, one for each pair"
        )
    angles = positions[..., None].astype(wide.dtype) * per_pair.astype(wide.dtype)
    angles = angles.reshape((1,) * (x.ndim - 1 - angles.ndim) + (*angles.shape[:-1], 1, turned // 2))
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    if interleaved:
        first, second = wide[..., 0:turned:2], wide[..., 1:turned:2]
    else:
        first, second = wide[..., : turned // 2], wide[..., turned // 2 : turned]
    pair = [first * cos - second * sin, second * cos + first * sin]
    out = jnp.stack(pair, -1).reshape(*x.shape[:-1], turned) if interleaved else jnp.concatenate(pair, -1)
    return jnp.concatenate([out.astype(x.dtype), x[..., turned:]], -1) if turned < width else out.astype(x.dtype)


def rotary_frequencies(
    dims: int,
    base: float = 10000.0,
    factor: float = 1.0,
    original_max_position_embeddings: int | None = None,
    low_freq_factor: float = 1.0,
    high_freq_factor: float = 4.0,
) -> np.ndarray:
    """By how much each pair of features turns from one position to the next, for `rotary_embedding`: float64 (dims/2,).

    They are base^(-2i/dims), and for a context `factor` times as long as in training, with Hugging Face's names:

        linear   `factor` alone divides all, as if the positions were interpolated
        llama3   with `original_max_position_embeddings`, the context of training, it divides those that turn less
                 than `low_freq_factor` times in it, leaves those that turn more than `high_freq_factor` times, and
                 goes linearly from one to the other in between

    Raises ValueError for numbers that are no such scaling. Sources: Chen et al. 2023 (arXiv:2306.15595); Llama 3.1.

    >>> rotary_frequencies(4, factor=2.0).tolist()
    [0.5, 0.005]
    >>> rotary_frequencies(4, factor=2.0, original_max_position_embeddings=100).tolist()
    [1.0, 0.005]
    """
    if dims < 2 or dims % 2 or base <= 0 or factor <= 0 or not 0 < low_freq_factor < high_freq_factor:
        raise ValueError(
            f"rotary_frequencies: dims={dims}, base={base}, factor={factor}, low_freq_factor={low_freq_factor}, "
            f"high_freq_factor={high_freq_factor}, expected an even dims, and 0 < low_freq_factor < high_freq_factor"
        )
    frequencies = _frequencies(dims, base)
    if original_max_position_embeddings is None:
        return frequencies / factor
    turns = original_max_position_embeddings * frequencies / (2 * math.pi)
    kept = np.clip((turns - low_freq_factor) / (high_freq_factor - low_freq_factor), 0, 1)
    return (kept + (1 - kept) / factor) * frequencies


def sinusoidal_embedding(
    positions: ArrayLike, dim: int, base: float = 10000.0, *, dtype: jax.typing.DTypeLike = jnp.float32
) -> jax.Array:
    """sin and cos of the position at `dim` / 2 frequencies: PE(p, 2i) = sin(p * base^(-2i/dim)), PE(p, 2i + 1) = cos.

    Shapes: positions (…), integers or floats -> (…, dim). Computed in at least float32. Raises ValueError for an odd
    `dim`. Source: Vaswani et al. 2017 (arXiv:1706.03762), section 3.5.

    >>> sinusoidal_embedding(jnp.arange(2), 4)[0]
    Array([0., 1., 0., 1.], dtype=float32)
    """
    if dim < 2 or dim % 2:
        raise ValueError(f"sinusoidal_embedding: dim={dim}, expected an even number: half are sines, half cosines")
    wide = jnp.promote_types(dtype, jnp.float32)
    positions = jnp.asarray(positions)
    angles = positions[..., None].astype(wide) * _frequencies(dim, base).astype(wide)
    return jnp.stack([jnp.sin(angles), jnp.cos(angles)], -1).reshape(*positions.shape, dim).astype(dtype)


def alibi_slopes(num_heads: int) -> np.ndarray:
    """ALiBi's slope of each head: 2^(-8/n), 2^(-16/n), … for a power of two n.

    Another number of heads takes the slopes of the power of two below it, and for the rest every other slope of
    twice that power, as the paper's code does. Returns float64 (num_heads,). Raises ValueError for fewer than 1.
    Source: Press et al. 2021 (arXiv:2108.12409), section 3, and its `get_slopes`.

    >>> alibi_slopes(4).tolist()
    [0.25, 0.0625, 0.015625, 0.00390625]
    """
    if num_heads < 1:
        raise ValueError(f"alibi_slopes: num_heads={num_heads}, expected 1 or more")
    below = 2 ** math.floor(math.log2(num_heads))
    slopes = 2.0 ** (-8 / below * np.arange(1, below + 1))
    between = 2.0 ** (-4 / below * np.arange(1, 2 * below + 1, 2))
    return np.concatenate([slopes, between[: num_heads - below]])


def alibi_bias(
    num_heads: int,
    query_length: int,
    key_length: int | None = None,
    query_offset: ArrayLike = 0,
    *,
    dtype: jax.typing.DTypeLike = jnp.float32,
) -> jax.Array:
    """-slope * |distance| for each head, query and key: the `bias` of scaled_dot_product_attention.

    Returns (num_heads, query_length, key_length); the keys are as many as the queries by default, and query i stands at
    the key `query_offset` + i. It is symmetric, and with is_causal the paper's. Source: Press et al. 2021
    (arXiv:2108.12409).

    >>> alibi_bias(8, 3)[0]
    Array([[-0. , -0.5, -1. ],
           [-0.5, -0. , -0.5],
           [-1. , -0.5, -0. ]], dtype=float32)
    """
    keys = query_length if key_length is None else key_length
    rows = jnp.asarray(query_offset) + jnp.arange(query_length)
    distance = jnp.abs(rows[:, None] - jnp.arange(keys)[None, :])
    return -jnp.asarray(alibi_slopes(num_heads), dtype)[:, None, None] * distance[None].astype(dtype)


def _frequencies(dims: int, base: float) -> np.ndarray:
    """base^(-2i/dims) for each pair i, taken in float64 on the host: rounding here grows with the position."""
    return base ** (-np.arange(0, dims, 2) / dims)
