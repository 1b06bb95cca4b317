"""Layers that only change the shape of their input, or not even that."""

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
class Unflatten(Layer):
    """Axis ``dim`` split into axes of the sizes given, of which one may be -1 and is inferred.

    >>> import jax.numpy as jnp
    >>> from fnet import nn
    >>> nn.Unflatten(-1, (2, -1))({}, jnp.ones((8, 10))).shape
    (8, 2, 5)
    """

    keyless = True

    dim: int
    unflattened_size: tuple[int, ...]

    def apply(self, params: dict, state: dict, x: Any, key: Any = None, train: bool = False) -> tuple[jax.Array, dict]:
        sizes, dim = self.unflattened_size, self.dim + len(x.shape) if self.dim < 0 else self.dim
        known = math.prod(size for size in sizes if size != -1)
        if not 0 <= dim < len(x.shape):
            raise ValueError(f"{self!r} splits axis {self.dim}, but the input is {tuple(x.shape)}")
        length = x.shape[dim]
        if sizes.count(-1) > 1 or (length != known if -1 not in sizes else (known == 0 or length % known)):
            raise ValueError(f"{self!r} cannot split axis {self.dim} of an input {tuple(x.shape)}: {length} values")
        split = [length // known if size == -1 else size for size in sizes]
        return x.reshape(*x.shape[:dim], *split, *x.shape[dim + 1 :]), state


@dataclass(frozen=True, repr=False)
class Identity(Layer):
    """The input itself: what to put in the place of a layer to take it out.

    >>> from fnet import nn
    >>> nn.Sequential(nn.Linear(8), head=nn.Linear(3)).replace("head", nn.Identity())
    Sequential(Linear(8), head=Identity())
    """

    keyless = True

    def apply(self, params: dict, state: dict, x: Any, key: Any = None, train: bool = False) -> tuple[Any, dict]:
        return x, state


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
