"""Layers that resize, or move values between channels and space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax

from fnet import functional as F
from fnet.nn.core import Layer


@dataclass(frozen=True, repr=False)
class Upsample(Layer):
    """Resizing to ``size`` or by ``scale_factor``, in any of the modes of `F.interpolate`.

    Input ``(…, *spatial, C)``; a plain number is for all axes but the first and the last, a tuple for as many as it
    has.

    >>> import jax.numpy as jnp
    >>> from fnet import nn
    >>> nn.Upsample(scale_factor=2, mode="bilinear")({}, jnp.ones((8, 7, 7, 16))).shape
    (8, 14, 14, 16)
    """

    keyless = True

    size: int | tuple[int, ...] | None = None
    scale_factor: float | tuple[float, ...] | None = None
    mode: str = "nearest"
    align_corners: bool | None = None
    recompute_scale_factor: bool | None = None

    def apply(self, params: dict, state: dict, x: Any, key: Any = None, train: bool = False) -> tuple[jax.Array, dict]:
        how = (self.size, self.scale_factor, self.mode, self.align_corners, self.recompute_scale_factor)
        return F.interpolate(x, *how), state


@dataclass(frozen=True, repr=False)
class PixelShuffle(Layer):
    """Channels laid out in space: ``(…, H, W, C r²)`` to ``(…, H r, W r, C)``.

    >>> import jax.numpy as jnp
    >>> from fnet import nn
    >>> nn.PixelShuffle(2)({}, jnp.ones((8, 7, 7, 12))).shape
    (8, 14, 14, 3)
    """

    keyless = True

    upscale_factor: int

    def apply(self, params: dict, state: dict, x: Any, key: Any = None, train: bool = False) -> tuple[jax.Array, dict]:
        return F.pixel_shuffle(x, self.upscale_factor), state


@dataclass(frozen=True, repr=False)
class PixelUnshuffle(Layer):
    """Blocks in space laid out in channels: ``(…, H r, W r, C)`` to ``(…, H, W, C r²)``.

    >>> import jax.numpy as jnp
    >>> from fnet import nn
    >>> nn.PixelUnshuffle(2)({}, jnp.ones((8, 14, 14, 3))).shape
    (8, 7, 7, 12)
    """

    keyless = True

    downscale_factor: int

    def apply(self, params: dict, state: dict, x: Any, key: Any = None, train: bool = False) -> tuple[jax.Array, dict]:
        return F.pixel_unshuffle(x, self.downscale_factor), state


@dataclass(frozen=True, repr=False)
class ChannelShuffle(Layer):
    """Channels dealt out from ``groups`` groups in turn.

    >>> import jax.numpy as jnp
    >>> from fnet import nn
    >>> nn.ChannelShuffle(2)({}, jnp.arange(4.0))
    Array([0., 2., 1., 3.], dtype=float32)
    """

    keyless = True

    groups: int

    def apply(self, params: dict, state: dict, x: Any, key: Any = None, train: bool = False) -> tuple[jax.Array, dict]:
        return F.channel_shuffle(x, self.groups), state
