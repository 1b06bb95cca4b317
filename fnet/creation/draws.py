"""Random arrays, each from a key that the caller gives: the same key gives the same numbers, on every backend."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from fnet.creation.arguments import Device, Shape, like, place, resolve_dtype, resolve_shape
from fnet.creation.values import check_fit, tensor


def rand(key: jax.Array, shape: Shape = (), dtype: DTypeLike | None = None, device: Device | None = None) -> jax.Array:
    """Uniform draws from [0, 1), float32 unless told. Raises TypeError for a seed in the place of a key.

    >>> import jax
    >>> rand(jax.random.key(0), (2, 3)).shape
    (2, 3)
    """
    return uniform(key, shape, dtype=dtype, device=device)


def randn(key: jax.Array, shape: Shape = (), dtype: DTypeLike | None = None, device: Device | None = None) -> jax.Array:
    """Standard normal draws, float32 unless told.

    >>> import jax
    >>> randn(jax.random.key(0), (2, 3)).dtype
    dtype('float32')
    """
    return place(jax.random.normal(_key(key), resolve_shape(shape), _floating(dtype)), device)


def uniform(
    key: jax.Array, shape: Shape = (), low: ArrayLike = 0.0, high: ArrayLike = 1.0,
    dtype: DTypeLike | None = None, device: Device | None = None,
) -> jax.Array:  # fmt: skip
    """Uniform draws from [low, high), which may be arrays that broadcast to `shape`; float32 unless told.

    >>> import jax
    >>> bool((uniform(jax.random.key(0), 1000, -1.0, 1.0) < 1.0).all())
    True
    """
    _check_order("uniform", low, high)
    return place(jax.random.uniform(_key(key), resolve_shape(shape), _floating(dtype), low, high), device)


def normal(
    key: jax.Array, shape: Shape = (), mean: ArrayLike = 0.0, std: ArrayLike = 1.0,
    dtype: DTypeLike | None = None, device: Device | None = None,
) -> jax.Array:  # fmt: skip
    """Normal draws; mean and standard deviation may be arrays that broadcast to `shape`; float32 unless told.

    >>> import jax
    >>> round(float(normal(jax.random.key(0), 10_000, mean=3.0).mean()), 1)
    3.0
    """
    draws = randn(key, shape, dtype)
    return place((jnp.asarray(mean) + jnp.asarray(std) * draws).astype(draws.dtype), device)


def randint(
    key: jax.Array, low: ArrayLike, high: ArrayLike, shape: Shape = (),
    dtype: DTypeLike | None = None, device: Device | None = None,
) -> jax.Array:  # fmt: skip
    """Integers from low (included) to high (excluded), evenly likely, in torch.randint's order; int32 unless told.

    >>> import jax
    >>> randint(jax.random.key(0), 0, 10, (2, 3)).dtype
    dtype('int32')
    """
    if isinstance(low, tuple | list):
        raise TypeError(f"randint takes its bounds first: randint(key, low, high, shape); got low={low!r}")
    for name, bound in (("low", low), ("high", high)):
        if not jnp.issubdtype(jnp.result_type(bound), np.integer):
            raise TypeError(f"randint takes whole bounds; got {name}={bound!r}")
    _check_order("randint", low, high)
    dtype = resolve_dtype(dtype, int)
    if not isinstance(low, jax.core.Tracer) and not isinstance(high, jax.core.Tracer):  # else JAX wraps what overflows
        check_fit(np.asarray(low), dtype)
        check_fit(np.asarray(high) - 1, dtype)
    low, high = tensor(low), tensor(high)
    return place(jax.random.randint(_key(key), resolve_shape(shape), low, high, dtype), device)


def permutation(key: jax.Array, x: Any, axis: int = 0, device: Device | None = None) -> jax.Array:
    """The array `x` shuffled along an axis, its slices kept whole; an int n stands for arange(n).

    >>> import jax
    >>> sorted(permutation(jax.random.key(0), 4).tolist())
    [0, 1, 2, 3]
    """
    if isinstance(x, int | np.integer):
        return randperm(key, int(x), device=device)
    return place(jax.random.permutation(_key(key), x if isinstance(x, jax.Array) else tensor(x), axis), device)


def randperm(key: jax.Array, n: int, dtype: DTypeLike | None = None, device: Device | None = None) -> jax.Array:
    """The integers from 0 to n - 1 in random order; int32 unless told.

    >>> import jax
    >>> sorted(randperm(jax.random.key(0), 4).tolist())
    [0, 1, 2, 3]
    """
    if not isinstance(n, int | np.integer) or n < 0:
        raise ValueError(f"randperm takes how many integers to shuffle, 0 or more; got {n!r}")
    order = jnp.arange(n, dtype=resolve_dtype(dtype, int))
    return place(jax.random.permutation(_key(key), order), device)


def rand_like(key: jax.Array, x: Any, dtype: DTypeLike | None = None, device: Device | None = None) -> jax.Array:
    """Uniform draws from [0, 1) in the shape, dtype and device of `x`, unless told otherwise.

    Raises TypeError when `x` is of integers and no floating dtype is given.

    >>> import jax
    >>> rand_like(jax.random.key(0), tensor([[1, 2]]), dtype=float).shape
    (1, 2)
    """
    return rand(_key(key), *like(x, dtype, device))


def randn_like(key: jax.Array, x: Any, dtype: DTypeLike | None = None, device: Device | None = None) -> jax.Array:
    """Standard normal draws in the shape, dtype and device of `x`, unless told otherwise.

    Raises TypeError when `x` is of integers and no floating dtype is given.

    >>> import jax
    >>> randn_like(jax.random.key(0), tensor([1.0, 2.0])).shape
    (2,)
    """
    return randn(_key(key), *like(x, dtype, device))


def _key(key: Any) -> jax.Array:
    """The key, typed (`jax.random.key`) or of the older kind (`jax.random.PRNGKey`); a seed is refused with the fix."""
    dtype = getattr(key, "dtype", None)
    if dtype is not None and (jnp.issubdtype(dtype, jax.dtypes.prng_key) or (dtype == np.uint32 and key.ndim > 0)):
        return key
    seed = key if isinstance(key, int) else 0
    got = f"the int {key}" if isinstance(key, int) else f"{type(key).__name__} {key!r:.60}"
    raise TypeError(
        f"random functions take a key first; got {got}: write jax.random.key({seed}), and one jax.random.split a draw"
    )


def _floating(dtype: DTypeLike | None) -> np.dtype:
    resolved = resolve_dtype(dtype)
    if not jnp.issubdtype(resolved, np.inexact):
        raise TypeError(f"these draws are floats, and dtype is {resolved}: pass dtype=float, or use fnet.randint")
    return resolved


def _check_order(name: str, low: Any, high: Any) -> None:
    """JAX answers crossed bounds with numbers of no meaning; bounds that are traced cannot be looked at."""
    if not isinstance(low, jax.core.Tracer) and not isinstance(high, jax.core.Tracer):
        if np.all(np.asarray(low) < np.asarray(high)):
            return
        raise ValueError(f"{name} needs low < high; got low={low}, high={high}")
