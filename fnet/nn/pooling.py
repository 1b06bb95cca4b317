"""Pooling layers.

Which axes they pool: as many as a tuple of sizes has, or as the name says (`MaxPool2d`), with any axes before them; a
plain number pools all axes but the first and the last, so ``MaxPool(2)`` takes ``(N, …, C)``. Where no batch axis
is seen, as under `jax.vmap` over examples, write ``MaxPool2d(2)`` or ``MaxPool((2, 2))``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import jax
import jax.numpy as jnp

from fnet import functional as F
from fnet.nn.core import Layer

Sizes: TypeAlias = int | tuple[int, ...]
OutputSize: TypeAlias = int | None | tuple[int | None, ...]


@dataclass(frozen=True, repr=False)
class _Pool(Layer):
    keyless = True

    rank: ClassVar[int | None] = None  # of the names that have one

    def _sizes(self, sizes: Any) -> Any:
        if self.rank is None:
            return sizes
        if isinstance(sizes, tuple) and len(sizes) != self.rank:
            raise ValueError(f"{self!r} pools {self.rank} axes, got {len(sizes)} sizes: {sizes}")
        return sizes if isinstance(sizes, tuple) else (sizes,) * self.rank


@dataclass(frozen=True, repr=False)
class MaxPool(_Pool):
    """The largest value of each window; of equal ones the first gets the gradient.

    Input ``(…, *spatial, C)``, output ``(…, *windows, C)`` in the same dtype; ``stride`` is ``kernel_size``
    unless given. Arguments as in PyTorch, each a number or a tuple; `F.max_pool` has the formula. With
    ``return_indices`` the output is a pair, the values and their places, which `MaxUnpool` takes.

    >>> import jax.numpy as jnp
    >>> from fnet import nn
    >>> nn.MaxPool(3, stride=2, padding=1)({}, jnp.ones((8, 28, 28, 16))).shape
    (8, 14, 14, 16)
    """

    kernel_size: Sizes
    stride: Sizes | None = None
    padding: Sizes = 0
    dilation: Sizes = 1
    return_indices: bool = False
    ceil_mode: bool = False

    def apply(self, params: dict, state: dict, x: Any, key: Any = None, train: bool = False) -> tuple[Any, dict]:
        sizes = self._sizes(self.kernel_size)
        how = (self.stride, self.padding, self.dilation, self.ceil_mode, self.return_indices)
        return F.max_pool(x, sizes, *how), state


@dataclass(frozen=True, repr=False)
class MaxUnpool(_Pool):
    """Each value at its place in an output of zeros: ``unpool(values, indices, output_size=None)`` of `MaxPool`'s pair.

    Input ``(…, *windows, C)``, output ``(…, *spatial, C)``. Arguments as in PyTorch; `F.max_unpool` has the formula.

    >>> import jax.numpy as jnp
    >>> from fnet import nn
    >>> values, indices = nn.MaxPool2d(2, return_indices=True)({}, jnp.ones((8, 28, 28, 16)))
    >>> nn.MaxUnpool2d(2)({}, values, indices).shape
    (8, 28, 28, 16)
    """

    kernel_size: Sizes
    stride: Sizes | None = None
    padding: Sizes = 0

    def apply(
        self, params: dict, state: dict, x: Any, indices: Any, output_size: Any = None, key: Any = None,
        train: bool = False,
    ) -> tuple[jax.Array, dict]:  # fmt: skip
        sizes = self._sizes(self.kernel_size)
        return F.max_unpool(x, indices, sizes, self.stride, self.padding, output_size), state


@dataclass(frozen=True, repr=False)
class AvgPool(_Pool):
    """The mean of each window, padding counted as zeros unless ``count_include_pad=False``.

    Input ``(…, *spatial, C)``, output ``(…, *windows, C)`` in the same dtype. Arguments as in PyTorch, each a
    number or a tuple; `F.avg_pool` has the formula.

    >>> import jax.numpy as jnp
    >>> from fnet import nn
    >>> nn.AvgPool(2)({}, jnp.ones((8, 28, 28, 16))).shape
    (8, 14, 14, 16)
    """

    kernel_size: Sizes
    stride: Sizes | None = None
    padding: Sizes = 0
    ceil_mode: bool = False
    count_include_pad: bool = True
    divisor_override: int | None = None

    def apply(self, params: dict, state: dict, x: Any, key: Any = None, train: bool = False) -> tuple[jax.Array, dict]:
        sizes = self._sizes(self.kernel_size)
        how = (self.stride, self.padding, self.ceil_mode, self.count_include_pad, self.divisor_override)
        return F.avg_pool(x, sizes, *how), state


@dataclass(frozen=True, repr=False)
class LPPool(_Pool):
    """The ``norm_type``-norm of each window: ``(sum of x ** norm_type) ** (1 / norm_type)``; 2 is L2 pooling.

    >>> import jax.numpy as jnp
    >>> from fnet import nn
    >>> nn.LPPool(2, 2)({}, jnp.array([[[3.0], [4.0]]]))
    Array([[[5.]]], dtype=float32)
    """

    norm_type: float
    kernel_size: Sizes
    stride: Sizes | None = None
    ceil_mode: bool = False

    def apply(self, params: dict, state: dict, x: Any, key: Any = None, train: bool = False) -> tuple[jax.Array, dict]:
        sizes = self._sizes(self.kernel_size)
        return F.lp_pool(x, self.norm_type, sizes, self.stride, self.ceil_mode), state


@dataclass(frozen=True, repr=False)
class AdaptiveAvgPool(_Pool):
    """Means of windows that divide each axis into ``output_size`` parts; None keeps an axis.

    >>> import jax.numpy as jnp
    >>> from fnet import nn
    >>> nn.AdaptiveAvgPool((7, None))({}, jnp.ones((8, 30, 30, 16))).shape
    (8, 7, 30, 16)
    """

    output_size: OutputSize

    def apply(self, params: dict, state: dict, x: Any, key: Any = None, train: bool = False) -> tuple[jax.Array, dict]:
        return F.adaptive_avg_pool(x, self._sizes(self.output_size)), state


@dataclass(frozen=True, repr=False)
class AdaptiveMaxPool(_Pool):
    """The largest values of windows that divide each axis into ``output_size`` parts; None keeps an axis.

    >>> import jax.numpy as jnp
    >>> from fnet import nn
    >>> nn.AdaptiveMaxPool(7)({}, jnp.ones((8, 30, 30, 16))).shape
    (8, 7, 7, 16)
    """

    output_size: OutputSize

    def apply(self, params: dict, state: dict, x: Any, key: Any = None, train: bool = False) -> tuple[jax.Array, dict]:
        return F.adaptive_max_pool(x, self._sizes(self.output_size)), state


@dataclass(frozen=True, repr=False)
class GlobalAvgPool(Layer):
    """The mean over all axes but the first and the last: ``(N, …, C)`` to ``(N, C)``, in the dtype of the input.

    Summed in at least float32. One example alone, as under `jax.vmap`, needs a first axis of 1.

    >>> import jax.numpy as jnp
    >>> from fnet import nn
    >>> nn.GlobalAvgPool()({}, jnp.ones((8, 7, 7, 16))).shape
    (8, 16)
    """

    keyless = True

    def apply(self, params: dict, state: dict, x: Any, key: Any = None, train: bool = False) -> tuple[jax.Array, dict]:
        x, axes = _positions(self, x)
        return F.adaptive_avg_pool(x, 1).squeeze(axes), state


@dataclass(frozen=True, repr=False)
class GlobalMaxPool(Layer):
    """The largest value over all axes but the first and the last: ``(N, …, C)`` to ``(N, C)``.

    Of equal values the first gets the gradient. One example alone, as under `jax.vmap`, needs a first axis of 1.

    >>> import jax.numpy as jnp
    >>> from fnet import nn
    >>> nn.GlobalMaxPool()({}, jnp.ones((8, 7, 7, 16))).shape
    (8, 16)
    """

    keyless = True

    def apply(self, params: dict, state: dict, x: Any, key: Any = None, train: bool = False) -> tuple[jax.Array, dict]:
        x, axes = _positions(self, x)
        return F.adaptive_max_pool(x, 1).squeeze(axes), state


def _positions(layer: Any, x: Any) -> tuple[jax.Array, tuple[int, ...]]:
    """The input as an array, and the axes of its positions."""
    x = jnp.asarray(x)
    if x.ndim < 3:
        raise ValueError(f"{layer!r} needs an input (N, …, C) of at least three axes, got shape {x.shape}")
    return x, tuple(range(1, x.ndim - 1))


class MaxPool1d(MaxPool):
    """`MaxPool` over ``(…, L, C)``, any leading axes."""

    rank = 1


class MaxPool2d(MaxPool):
    """`MaxPool` over ``(…, H, W, C)``, any leading axes."""

    rank = 2


class MaxPool3d(MaxPool):
    """`MaxPool` over ``(…, D, H, W, C)``, any leading axes."""

    rank = 3


class MaxUnpool1d(MaxUnpool):
    """`MaxUnpool` over ``(…, L, C)``, any leading axes."""

    rank = 1


class MaxUnpool2d(MaxUnpool):
    """`MaxUnpool` over ``(…, H, W, C)``, any leading axes."""

    rank = 2


class MaxUnpool3d(MaxUnpool):
    """`MaxUnpool` over ``(…, D, H, W, C)``, any leading axes."""

    rank = 3


class AvgPool1d(AvgPool):
    """`AvgPool` over ``(…, L, C)``, any leading axes."""

    rank = 1


class AvgPool2d(AvgPool):
    """`AvgPool` over ``(…, H, W, C)``, any leading axes."""

    rank = 2


class AvgPool3d(AvgPool):
    """`AvgPool` over ``(…, D, H, W, C)``, any leading axes."""

    rank = 3


class LPPool1d(LPPool):
    """`LPPool` over ``(…, L, C)``, any leading axes."""

    rank = 1


class LPPool2d(LPPool):
    """`LPPool` over ``(…, H, W, C)``, any leading axes."""

    rank = 2


class LPPool3d(LPPool):
    """`LPPool` over ``(…, D, H, W, C)``, any leading axes."""

    rank = 3


class AdaptiveAvgPool1d(AdaptiveAvgPool):
    """`AdaptiveAvgPool` over ``(…, L, C)``, any leading axes."""

    rank = 1


class AdaptiveAvgPool2d(AdaptiveAvgPool):
    """`AdaptiveAvgPool` over ``(…, H, W, C)``, any leading axes."""

    rank = 2


class AdaptiveAvgPool3d(AdaptiveAvgPool):
    """`AdaptiveAvgPool` over ``(…, D, H, W, C)``, any leading axes."""

    rank = 3


class AdaptiveMaxPool1d(AdaptiveMaxPool):
    """`AdaptiveMaxPool` over ``(…, L, C)``, any leading axes."""

    rank = 1


class AdaptiveMaxPool2d(AdaptiveMaxPool):
    """`AdaptiveMaxPool` over ``(…, H, W, C)``, any leading axes."""

    rank = 2


class AdaptiveMaxPool3d(AdaptiveMaxPool):
    """`AdaptiveMaxPool` over ``(…, D, H, W, C)``, any leading axes."""

    rank = 3
