"""Dropout, and the error that every function raises when it must draw random numbers and has no key."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


class MissingKey(ValueError):
    """Raised by a function that has to draw random numbers and was given no key."""


def dropout(x: ArrayLike, p: float = 0.5, train: bool = True, *, key: jax.Array | None = None) -> jax.Array:
    """Zero each element with probability `p` and divide the others by `1 - p`, so that the mean stays.

    Any shape; floating dtype, which is kept. With `train=False` or `p=0` the result is `x` and no key is needed.
    Each call needs a key of its own: the same key gives the same mask. `p` may be a traced scalar, which then
    always needs a key. Source: Srivastava et al. 2014, in the scaled-while-training form that all libraries use.

    Raises MissingKey without a key, ValueError for `p` outside [0, 1], TypeError for integers.

    >>> jnp.unique(dropout(jnp.ones(100), 0.75, key=jax.random.key(0)))
    Array([0., 4.], dtype=float32)
    >>> dropout(jnp.ones(3), 0.5, train=False)
    Array([1., 1., 1.], dtype=float32)
    """
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        raise TypeError(
            f"dropout: got {x.dtype} of shape {x.shape}, takes floats; drop after the embedding, or cast x to float"
        )
    known = not isinstance(p, jax.core.Tracer)
    if known and not 0 <= p <= 1:
        raise ValueError(f"dropout: p={p} is not a probability; p is the fraction to zero, between 0 and 1")
    if not train or (known and p == 0):
        return x
    if key is None:
        raise MissingKey(
            f"dropout with p={p} and train=True draws a mask and has no key: pass key=jax.random.key(seed), "
            f"split or folded anew for each call, or train=False when evaluating"
        )
    keep = jax.random.bernoulli(key, 1.0 - p, x.shape)
    share = jnp.where(p < 1, 1.0 - p, 1.0)  # at p=1 nothing is kept, and x / 0 would put NaN in the gradient
    return jnp.where(keep, x / share.astype(x.dtype), 0)
