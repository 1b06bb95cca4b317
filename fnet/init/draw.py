"""Random floats for initialisers: the same numbers eagerly and traced, and no compilation per shape.

`jax.random` compiles a sampler for each new shape, which is most of the time that initialising a model takes.
Threefry, JAX's default generator, computes the i-th number of a stream from the key and i alone. So what is drawn
eagerly comes in blocks of one size, from two programs compiled once per process (the bits and, for normal numbers,
erf_inv), and the arithmetic between is numpy's. Under a trace, and for other generators, jax.random draws the shape
itself, which also lets the result be sharded. Both forms do the same float operations in the same order, and
tests/test_init.py compares them bit by bit. Only where a sum follows a product, for a mean other than 0, may a compiler
round once for the two and change the last bit.

The functions return a numpy array when drawing eagerly and a jax.Array otherwise; `finish` makes either the result.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.random import threefry_2x32
from jax.typing import DTypeLike

BLOCK = 1 << 16

Floats = np.ndarray | jax.Array


def unit(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> Floats:
    """Uniform in the open interval (-1, 1), symmetric about 0, in the precision to draw `dtype` in."""
    dtype = jax.dtypes.canonicalize_dtype(dtype)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(
            f"a random initialiser draws floats, got dtype {dtype}; zeros, ones and constant make any dtype"
        )
    key = _single_key(key)
    words = jax.random.key_data(key)
    size = math.prod(shape)
    # Each step below is exact: the odd multiples of 2^-23 (2^-52) between -1 and 1 are floats of 24 (53) bits.
    if dtype == np.float64:
        return ((jax.random.bits(key, shape, jnp.uint64) >> 12).astype(dtype) + 0.5) * 2.0**-51 - 1
    eager = not isinstance(words, jax.core.Tracer) and words.is_fully_addressable
    bits = (
        _host_bits(words, size).reshape(shape)
        if eager and _counts(key, size)
        else jax.random.bits(key, shape, jnp.uint32)
    )
    return ((bits >> 9).astype(np.float32) + 0.5) * 2.0**-22 - 1


def erf_inv(x: Floats) -> Floats:
    """The inverse of the error function; normal numbers are sqrt(2) times that of `unit`."""
    if isinstance(x, jax.Array):
        return jax.lax.erf_inv(x)
    out = np.empty(-(-x.size // BLOCK) * BLOCK, np.float32)
    out[: x.size] = x.ravel()
    out[x.size :] = 0
    for start in range(0, x.size, BLOCK):
        out[start : start + BLOCK] = _erf_inv_block(out[start : start + BLOCK].copy())
    return out[: x.size].reshape(x.shape)


def finish(x: Floats, dtype: DTypeLike) -> jax.Array:
    """`x` as a jax.Array of `dtype`. A numpy array must be the caller's own: on CPU the result may share its memory."""
    x = x.astype(jax.dtypes.canonicalize_dtype(dtype))
    return x if isinstance(x, jax.Array) else jax.device_put(x)  # jnp.asarray would compile a copy for each shape


def filled(key: jax.Array | None, shape: tuple[int, ...], value: float, dtype: DTypeLike) -> jax.Array:
    """An array of one value, made without compiling where nothing is traced."""
    traced = key is not None and isinstance(jax.random.key_data(_single_key(key)), jax.core.Tracer)
    dtype = jax.dtypes.canonicalize_dtype(dtype)
    return jnp.full(shape, value, dtype) if traced else jax.device_put(np.full(shape, value, dtype))


def _single_key(key: jax.Array) -> jax.Array:
    if not isinstance(key, jax.Array | np.ndarray):
        raise TypeError(f"an initialiser takes a key first, such as jax.random.key(0); got {type(key).__name__}")
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.wrap_key_data(key)
    if key.shape:
        raise ValueError(f"an initialiser takes one key, got an array of keys {key.shape}; use jax.vmap over them")
    return key


def _counts(key: jax.Array, size: int) -> bool:
    """Whether number i of the key's stream is threefry of i, for every i < size."""
    by_count: bool = jax.config.jax_threefry_partitionable  # type: ignore[attr-defined]
    return by_count and str(jax.random.key_impl(key)) == "threefry2x32" and size < 1 << 32


def _host_bits(words: jax.Array, size: int) -> np.ndarray:
    out = np.empty(size, np.uint32)
    for start in range(0, size, BLOCK):
        part = out[start : start + BLOCK]
        part[:] = np.asarray(_bits_block(words, np.uint32(start)))[: part.size]
    return out


@jax.jit
def _bits_block(words: jax.Array, start: jax.Array) -> jax.Array:
    """Numbers start .. start + BLOCK of the stream that jax.random.bits(key, shape, uint32) lays out in row-major
    order."""
    low = start + jax.lax.iota(jnp.uint32, BLOCK)
    first, second = threefry_2x32(words, jnp.concatenate([jnp.zeros_like(low), low])).reshape(2, BLOCK)
    return first ^ second


_erf_inv_block = jax.jit(jax.lax.erf_inv)
