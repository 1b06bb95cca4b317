"""Layers that drop: elements, channels, examples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax

from fnet import functional as F
from fnet.nn.core import Layer


@dataclass(frozen=True, repr=False)
class _Drop(Layer):
    p: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.p, bool) or not 0.0 <= self.p <= 1.0:
            raise ValueError(f"{type(self).__name__}'s p is a probability between 0 and 1, got {self.p!r}")


@dataclass(frozen=True, repr=False)
class Dropout(_Drop):
    """In training, each value is zero with probability ``p`` and else divided by ``1 - p``; otherwise the identity.

    Needs a key in training: a model gives each of its parts one of its own. Source: Srivastava et al. 2014.

    >>> import jax, jax.numpy as jnp
    >>> from fnet import nn
    >>> y, _ = nn.Dropout(0.5).apply({}, {}, jnp.ones(1000), key=jax.random.key(0), train=True)
    >>> sorted(set(y.tolist()))
    [0.0, 2.0]
    """

    def apply(self, params: dict, state: dict, x: Any, key: Any = None, train: bool = False) -> tuple[jax.Array, dict]:
        return F.dropout(x, self.p, train, key=key), state


@dataclass(frozen=True, repr=False)
class Dropout1d(_Drop):
    """`Dropout` of whole channels of sequences: ``(…batch, length, channels)``, the batch axis or none.

    >>> import jax, jax.numpy as jnp
    >>> from fnet import nn
    >>> y, _ = nn.Dropout1d(0.5).apply({}, {}, jnp.ones((2, 9, 4)), key=jax.random.key(0), train=True)
    >>> bool((y == y[:, :1]).all())
    True
    """

    def apply(self, params: dict, state: dict, x: Any, key: Any = None, train: bool = False) -> tuple[jax.Array, dict]:
        return F.dropout1d(x, self.p, train, key=key), state


@dataclass(frozen=True, repr=False)
class Dropout2d(_Drop):
    """`Dropout` of whole channels of images: ``(…batch, height, width, channels)``, the batch axis or none.

    >>> import jax, jax.numpy as jnp
    >>> from fnet import nn
    >>> y, _ = nn.Dropout2d(0.5).apply({}, {}, jnp.ones((2, 3, 3, 4)), key=jax.random.key(0), train=True)
    >>> bool((y == y[:, :1, :1]).all())
    True
    """

    def apply(self, params: dict, state: dict, x: Any, key: Any = None, train: bool = False) -> tuple[jax.Array, dict]:
        return F.dropout2d(x, self.p, train, key=key), state


@dataclass(frozen=True, repr=False)
class Dropout3d(_Drop):
    """`Dropout` of whole channels of volumes: ``(…batch, depth, height, width, channels)``, the batch axis or none.

    >>> import jax.numpy as jnp
    >>> from fnet import nn
    >>> nn.Dropout3d(0.5)({}, jnp.ones((2, 3, 3, 3, 4))).shape
    (2, 3, 3, 3, 4)
    """

    def apply(self, params: dict, state: dict, x: Any, key: Any = None, train: bool = False) -> tuple[jax.Array, dict]:
        return F.dropout3d(x, self.p, train, key=key), state


@dataclass(frozen=True, repr=False)
class AlphaDropout(_Drop):
    """Dropout for `F.selu` networks: in training, mean 0 and variance 1 stay. Source: Klambauer et al. 2017.

    >>> import jax, jax.numpy as jnp
    >>> from fnet import nn
    >>> y, _ = nn.AlphaDropout(0.5).apply({}, {}, jnp.zeros(100), key=jax.random.key(0), train=True)
    >>> len(set(y.tolist()))
    2
    """

    def apply(self, params: dict, state: dict, x: Any, key: Any = None, train: bool = False) -> tuple[jax.Array, dict]:
        return F.alpha_dropout(x, self.p, train, key=key), state


@dataclass(frozen=True, repr=False)
class FeatureAlphaDropout(_Drop):
    """`AlphaDropout` of whole channels: ``(batch, …, channels)``.

    >>> import jax.numpy as jnp
    >>> from fnet import nn
    >>> nn.FeatureAlphaDropout(0.5)({}, jnp.ones((2, 5, 4))).shape
    (2, 5, 4)
    """

    def apply(self, params: dict, state: dict, x: Any, key: Any = None, train: bool = False) -> tuple[jax.Array, dict]:
        return F.feature_alpha_dropout(x, self.p, train, key=key), state


@dataclass(frozen=True, repr=False)
class DropPath(_Drop):
    """Stochastic depth: in training, an example is zero with probability ``p`` as a whole, else divided by ``1 - p``.

    Meant for the end of a residual branch: ``x + drop(branch(x))`` then skips the block. Source: Huang et al. 2016
    (arXiv:1603.09382).

    >>> import jax, jax.numpy as jnp
    >>> from fnet import nn
    >>> y, _ = nn.DropPath(0.5).apply({}, {}, jnp.ones((8, 3)), key=jax.random.key(0), train=True)
    >>> bool((y == y[:, :1]).all())
    True
    """

    def apply(self, params: dict, state: dict, x: Any, key: Any = None, train: bool = False) -> tuple[jax.Array, dict]:
        return F.drop_path(x, self.p, train, key=key), state
