"""Layers that only change the shape of their input."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax

from fnet.nn.core import Layer


@dataclass(frozen=True, repr=False)
class Flatten(Layer):
    """Axes ``start_dim`` to ``end_dim`` (included) made one; by default all but the first, the batch.

    >>> import jax.numpy as jnp
    >>> from fnet import nn
    >>> nn.Flatten()({}, jnp.ones((8, 28, 28, 1))).shape
    (8, 784)
    """

    keyless = True

    start_dim: int = 1
    end_dim: int = -1

    def apply(self, params: dict, state: dict, x: Any, key: Any = None, train: bool = False) -> tuple[jax.Array, dict]:
        shape = x.shape or (1,)
        start, end = (dim + len(shape) if dim < 0 else dim for dim in (self.start_dim, self.end_dim))
        if not 0 <= start <= end < len(shape):
            raise ValueError(
                f"{self!r} flattens axes {self.start_dim} to {self.end_dim}, but the input is {tuple(x.shape)}"
            )
        return x.reshape(*shape[:start], math.prod(shape[start : end + 1]), *shape[end + 1 :]), state


@dataclass(frozen=True, repr=False)
class Reshape(Layer):
    """The axes from ``start_dim`` on given another shape; by default all but the first, the batch.

    One size may be -1 and is inferred, as in ``jnp.reshape``.

    >>> import jax.numpy as jnp
    >>> from fnet import nn
    >>> nn.Reshape((7, 7, -1))({}, jnp.ones((8, 98))).shape
    (8, 7, 7, 2)
    """

    keyless = True

    shape: tuple[int, ...]
    start_dim: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.shape, int):
            object.__setattr__(self, "shape", (self.shape,))
        if sum(size == -1 for size in self.shape) > 1 or any(size < -1 for size in self.shape):
            raise ValueError(f"Reshape takes sizes of at least 0 and at most one -1, got {self.shape}")

    def apply(self, params: dict, state: dict, x: Any, key: Any = None, train: bool = False) -> tuple[jax.Array, dict]:
        kept, given = x.shape[: self.start_dim], x.shape[self.start_dim :]
        known, size = math.prod(n for n in self.shape if n != -1), math.prod(given)
        if size != known if -1 not in self.shape else (known == 0 or size % known):
            raise ValueError(f"{self!r} cannot shape the axes {given} of an input {tuple(x.shape)}: {size} values")
        shape = [size // known if n == -1 else n for n in self.shape]
        return x.reshape(*kept, *shape), state
