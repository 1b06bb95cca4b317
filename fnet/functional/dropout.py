"""Dropout of elements, channels and examples, and the error of a function that must draw and has no key."""

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
    x = _floats(x, "dropout")
    return _scaled(x, _kept("dropout", x.shape, p, train, key), p)


def dropout1d(x: ArrayLike, p: float = 0.5, train: bool = True, *, key: jax.Array | None = None) -> jax.Array:
    """dropout of whole channels of sequences: (length, channels) or (batch, length, channels).

    A channel of an example is zero everywhere or nowhere. Otherwise as dropout; raises ValueError for another rank.
    Source: Tompson et al. 2014 (arXiv:1411.4280).

    >>> jnp.unique(dropout1d(jnp.ones((5, 64)), key=jax.random.key(0)), axis=0).shape  # every row is alike
    (1, 64)
    """
    return _channels(x, p, train, key, "dropout1d", 1)


def dropout2d(x: ArrayLike, p: float = 0.5, train: bool = True, *, key: jax.Array | None = None) -> jax.Array:
    """dropout of whole channels of images: (height, width, channels) or (batch, height, width, channels).

    As dropout1d. PyTorch reads three axes as a batch of sequences, for which dropout1d is here.

    >>> jnp.unique(dropout2d(jnp.ones((2, 4, 4, 1)), key=jax.random.key(0)), axis=1).shape
    (2, 1, 4, 1)
    """
    return _channels(x, p, train, key, "dropout2d", 2)


def dropout3d(x: ArrayLike, p: float = 0.5, train: bool = True, *, key: jax.Array | None = None) -> jax.Array:
    """dropout of whole channels of volumes: (depth, height, width, channels), with or without a batch. As dropout1d.

    >>> dropout3d(jnp.ones((2, 4, 4, 4, 3)), key=jax.random.key(0)).shape
    (2, 4, 4, 4, 3)
    """
    return _channels(x, p, train, key, "dropout3d", 3)


def drop_path(x: ArrayLike, p: float = 0.5, train: bool = True, *, key: jax.Array | None = None) -> jax.Array:
    """dropout of whole examples, axis 0: on the branch of a residual block, stochastic depth.

    Shapes: (batch, ...), kept. Otherwise as dropout. Source: Huang et al. 2016 (arXiv:1603.09382); scaled while
    training, as in torchvision's stochastic_depth with mode="row".

    >>> jnp.unique(drop_path(jnp.ones((8, 3)), key=jax.random.key(0)), axis=1).shape
    (8, 1)
    """
    x = _floats(x, "drop_path")
    if x.ndim == 0:
        raise ValueError("drop_path: x is a scalar, expected (batch, ...)")
    return _scaled(x, _kept("drop_path", (x.shape[0],) + (1,) * (x.ndim - 1), p, train, key), p)


def alpha_dropout(x: ArrayLike, p: float = 0.5, train: bool = False, *, key: jax.Array | None = None) -> jax.Array:
    """Dropout that keeps mean 0 and variance 1: what is dropped becomes selu's lowest value, then all is scaled.

    Any shape, floating dtype. `train` is False unless given, as in PyTorch; with `p=1` all is 0. Errors are dropout's.
    Source: Klambauer et al. 2017 (arXiv:1706.02515).

    >>> x = jax.random.normal(jax.random.key(0), (10_000,))
    >>> y = alpha_dropout(x, 0.3, train=True, key=jax.random.key(1))
    >>> bool(abs(y.mean()) < 0.05), bool(abs(y.std() - 1) < 0.05)
    (True, True)
    """
    x = _floats(x, "alpha_dropout")
    return _selu_like(x, _kept("alpha_dropout", x.shape, p, train, key), p)


def feature_alpha_dropout(
    x: ArrayLike, p: float = 0.5, train: bool = False, *, key: jax.Array | None = None
) -> jax.Array:
    """alpha_dropout of whole channels: (batch, ..., channels), a channel of an example all or nothing.

    Raises ValueError for fewer than two axes.

    >>> x = jnp.ones((2, 5, 3))
    >>> jnp.unique(feature_alpha_dropout(x, train=True, key=jax.random.key(0)), axis=1).shape
    (2, 1, 3)
    """
    x = _floats(x, "feature_alpha_dropout")
    if x.ndim < 2:
        raise ValueError(f"feature_alpha_dropout: x has shape {x.shape}, expected (batch, ..., channels)")
    shape = (x.shape[0], *(1,) * (x.ndim - 2), x.shape[-1])
    return _selu_like(x, _kept("feature_alpha_dropout", shape, p, train, key), p)


def _floats(x: ArrayLike, where: str) -> jax.Array:
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        raise TypeError(
            f"{where}: got {x.dtype} of shape {x.shape}, takes floats; drop after the embedding, or cast x to float"
        )
    return x


def _kept(where: str, shape: tuple[int, ...], p: float, train: bool, key: jax.Array | None) -> jax.Array | None:
    """What is kept, drawn; None where all is."""
    known = not isinstance(p, jax.core.Tracer)
    if known and not 0 <= p <= 1:
        raise ValueError(f"{where}: p={p} is not a probability; p is the fraction to drop, between 0 and 1")
    if not train or (known and p == 0):
        return None
    if key is None:
        raise MissingKey(
            f"{where} with p={p} and train=True draws a mask and has no key: pass key=jax.random.key(seed), "
            f"split or folded anew for each call, or train=False when evaluating"
        )
    return jax.random.bernoulli(key, 1.0 - p, shape)


def _scaled(x: jax.Array, keep: jax.Array | None, p: float) -> jax.Array:
    if keep is None:
        return x
    share = jnp.where(p < 1, 1.0 - p, 1.0)  # at p=1 nothing is kept, and x / 0 would put NaN in the gradient
    return jnp.where(keep, x / share.astype(x.dtype), 0)


def _channels(x: ArrayLike, p: float, train: bool, key: jax.Array | None, where: str, rank: int) -> jax.Array:
    x = _floats(x, where)
    if x.ndim not in (rank + 1, rank + 2):
        raise ValueError(
            f"{where}: x has shape {x.shape}, expected {rank} axes and channels, with a batch before them or without"
        )
    batch = x.shape[: x.ndim - rank - 1]
    return _scaled(x, _kept(where, (*batch, *(1,) * rank, x.shape[-1]), p, train, key), p)


def _selu_like(x: jax.Array, keep: jax.Array | None, p: float) -> jax.Array:
    if keep is None:
        return x
    lowest = -1.7580993408473766  # of selu: minus its scale times its alpha
    share = jnp.where(p < 1, 1.0 - p, 1.0)
    scale = 1 / jnp.sqrt(share * (1 + p * lowest**2))
    y = jnp.where(keep, x, lowest) * scale.astype(x.dtype) - (scale * p * lowest).astype(x.dtype)
    return jnp.where(p < 1, y, jnp.zeros_like(y))
