"""Resizing of sequences, images and volumes, and moving values between channels and space.

Sizes are for as many axes before the channels as a tuple has, with any axes before them; a plain number is for all axes
but the first and the last.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from fnet.functional.along import along_axis
from fnet.functional.pooling import adaptive_avg_pool

RANK = {"linear": 1, "bilinear": 2, "bicubic": 2, "trilinear": 3}  # of the modes that weigh neighbours
MODES = ("nearest", "nearest-exact", *RANK, "area")

Numbers: TypeAlias = float | Sequence[float]
Kernel: TypeAlias = Callable[[np.ndarray], np.ndarray]


def interpolate(
    x: ArrayLike,
    size: int | Sequence[int] | None = None,
    scale_factor: Numbers | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> jax.Array:
    """Resize to `size`, or by `scale_factor` (sizes rounded down), with PyTorch's choice of coordinates.

    Shapes: x (..., *spatial, C) -> (..., *size, C), in x's dtype; weights are applied in at least float32. Modes:
    "nearest", "nearest-exact" and "area" in any rank, "linear" for one axis, "bilinear" and "bicubic" for two,
    "trilinear" for three. `align_corners` puts the centres of the corner values at the corners. With a scale factor,
    coordinates follow it rather than the rounded sizes, unless `recompute_scale_factor`. `antialias` widens the
    kernel of bilinear and bicubic when shrinking, as Pillow does.

    Raises ValueError for sizes and modes that do not fit, TypeError for integer input where weights are applied.

    >>> interpolate(jnp.array([[[0.0], [1.0]]]), scale_factor=2, mode="linear").ravel().tolist()
    [0.0, 0.25, 0.75, 1.0]
    """
    x = jnp.asarray(x)
    axes, sizes, scales = _targets(x, size, scale_factor)
    _check_mode(mode, len(axes), align_corners, antialias)
    if mode == "area":
        return adaptive_avg_pool(x, sizes)
    if recompute_scale_factor:
        scales = (None,) * len(axes)
    if mode in ("nearest", "nearest-exact"):
        for axis, out, scale in zip(axes, sizes, scales, strict=True):
            x = _pick(x, axis, out, scale, 0.5 if mode == "nearest-exact" else 0.0)
        return x
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"interpolate: {mode!r} weighs floats, got {x.dtype} of shape {x.shape}; for bytes x / 255")
    y = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    for axis, out, scale in zip(axes, sizes, scales, strict=True):
        weights = _weights(x.shape[axis], out, scale, mode == "bicubic", bool(align_corners), antialias)
        if weights is not None:
            y = along_axis(y, weights, axis)
    return y.astype(x.dtype)


def pixel_shuffle(x: ArrayLike, upscale_factor: int) -> jax.Array:
    """Blocks of channels laid out in space, the upsampling of sub-pixel convolution.

    Shapes: x (..., H, W, C r²) -> (..., H r, W r, C); `y[h r + i, w r + j, c] = x[h, w, c r² + i r + j]`, PyTorch's
    order of channels. Source: Shi et al. 2016 (arXiv:1609.05158). Raises ValueError for channels that r² does not
    divide.

    >>> pixel_shuffle(jnp.arange(4.0).reshape(1, 1, 4), 2).squeeze(-1).tolist()
    [[0.0, 1.0], [2.0, 3.0]]
    """
    x, r = _image(x, "pixel_shuffle"), upscale_factor
    if r < 1 or x.shape[-1] % (r * r):
        raise ValueError(
            f"pixel_shuffle: {x.shape[-1]} channels of {x.shape} are no multiple of upscale_factor² = {r * r}"
        )
    *lead, h, w, channels = x.shape
    blocks = x.reshape(-1, h, w, channels // (r * r), r, r)
    return blocks.transpose(0, 1, 4, 2, 5, 3).reshape(*lead, h * r, w * r, channels // (r * r))


def pixel_unshuffle(x: ArrayLike, downscale_factor: int) -> jax.Array:
    """The inverse of `pixel_shuffle`: blocks in space laid out in channels.

    Shapes: x (..., H r, W r, C) -> (..., H, W, C r²). Raises ValueError for sizes that r does not divide.

    >>> pixel_unshuffle(jnp.arange(4.0).reshape(2, 2, 1), 2).ravel().tolist()
    [0.0, 1.0, 2.0, 3.0]
    """
    x, r = _image(x, "pixel_unshuffle"), downscale_factor
    *lead, h, w, channels = x.shape
    if r < 1 or h % r or w % r:
        raise ValueError(f"pixel_unshuffle: sides {h} and {w} of {x.shape} are no multiples of downscale_factor={r}")
    blocks = x.reshape(-1, h // r, r, w // r, r, channels)
    return blocks.transpose(0, 1, 3, 5, 2, 4).reshape(*lead, h // r, w // r, channels * r * r)


def channel_shuffle(x: ArrayLike, groups: int) -> jax.Array:
    """Channels dealt out from `groups` groups in turn, so that a grouped convolution reads from all.

    Shapes: x (..., C), kept. Source: Zhang et al. 2018 (arXiv:1707.01083). Raises ValueError for channels that
    `groups` does not divide.

    >>> channel_shuffle(jnp.arange(6.0), 2).tolist()
    [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]
    """
    x = jnp.asarray(x)
    if x.ndim < 1 or groups < 1 or x.shape[-1] % groups:
        raise ValueError(f"channel_shuffle: groups={groups} does not divide the channels (last axis) of {x.shape}")
    return x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups).swapaxes(-1, -2).reshape(x.shape)


def _image(x: ArrayLike, where: str) -> jax.Array:
    x = jnp.asarray(x)
    if x.ndim < 3:
        raise ValueError(f"{where}: input has shape {x.shape}, expected (..., H, W, C)")
    return x


def _targets(
    x: jax.Array, size: int | Sequence[int] | None, scale_factor: Numbers | None
) -> tuple[range, tuple[int, ...], tuple[float | None, ...]]:
    """The axes to resize, their new sizes, and the factors where the caller gave them."""
    if (size is None) == (scale_factor is None):
        raise ValueError("interpolate takes size or scale_factor, one of them")
    given: Any = scale_factor if size is None else size
    rank = len(given) if isinstance(given, Sequence) else x.ndim - 2
    if not 1 <= rank < x.ndim:
        raise ValueError(
            f"interpolate: input has shape {x.shape}, expected (..., *spatial, C) with {max(rank, 1)} spatial axes"
            + ("" if rank >= 1 else "; a plain number takes (N, ..., C), so without a batch axis give a tuple")
        )
    axes = range(x.ndim - 1 - rank, x.ndim - 1)
    each = tuple(given) if isinstance(given, Sequence) else (given,) * rank
    scales: tuple[float | None, ...] = (None,) * rank
    if size is None:
        scales = tuple(float(factor) for factor in each)
        each = tuple(math.floor(x.shape[axis] * factor) for axis, factor in zip(axes, each, strict=True))
    sizes = tuple(int(out) for out in each)
    if any(out < 1 for out in sizes) or any(x.shape[axis] < 1 for axis in axes):
        raise ValueError(f"interpolate: cannot resize {x.shape} to {sizes}")
    return axes, sizes, scales


def _check_mode(mode: str, rank: int, align_corners: bool | None, antialias: bool) -> None:
    if mode not in MODES:
        raise ValueError(f"interpolate: no mode {mode!r}; there are {', '.join(MODES)}")
    if mode in RANK and RANK[mode] != rank:
        fitting = next((name for name, axes in RANK.items() if axes == rank), None)
        hint = f"; {rank} take {fitting!r}" if fitting else ""
        raise ValueError(f"interpolate: mode={mode!r} resizes {RANK[mode]} spatial axes, got {rank}{hint}")
    if align_corners is not None and mode not in RANK:
        raise ValueError(f"interpolate: align_corners is for {', '.join(RANK)}, not for {mode!r}")
    if antialias and mode not in ("bilinear", "bicubic"):
        raise ValueError(f"interpolate: antialias is for bilinear and bicubic, not for {mode!r}")


def _pick(x: jax.Array, axis: int, out: int, scale: float | None, offset: float) -> jax.Array:
    """The nearest value for each place of an axis."""
    length = x.shape[axis]
    # In float32, since PyTorch's are: the last bit decides which value is nearest.
    step = np.float32(1 / scale) if scale else np.float32(length) / np.float32(out)
    index = np.floor((np.arange(out, dtype=np.float32) + np.float32(offset)) * step).astype(np.int64)
    index = np.minimum(index, length - 1)
    repeats = out // length
    if out % length == 0 and (index == np.arange(out) // repeats).all():
        return x if repeats == 1 else jnp.repeat(x, repeats, axis)
    return jnp.take(x, index, axis, mode="clip")


def _weights(
    length: int, out: int, scale: float | None, cubic: bool, corners: bool, antialias: bool
) -> np.ndarray | None:
    """What each old value contributes to each new one, (length, out); None for no change."""
    if length == out and (corners or scale in (None, 1.0)):
        return None
    if corners:
        step = (length - 1) / (out - 1) if out > 1 else 0.0
    else:
        step = 1 / scale if scale else length / out
    if antialias:
        return _smooth_weights(length, out, step, cubic)
    place = np.arange(out) * step if corners else (np.arange(out) + 0.5) * step - 0.5
    kernel: Kernel = _cubic(-0.75) if cubic else _triangle
    place = place if cubic else np.maximum(place, 0)
    first = np.floor(place).astype(int)
    weights = np.zeros((length, out))
    for tap in range(-1, 3) if cubic else range(2):  # values past the ends repeat the last
        index = np.clip(first + tap, 0, length - 1)
        np.add.at(weights, (index, np.arange(out)), kernel(first + tap - place))
    return weights


def _smooth_weights(length: int, out: int, step: float, cubic: bool) -> np.ndarray:
    """The kernel stretched by `step` where that is above 1, cut at the ends and normalised."""
    stretch = max(step, 1.0)
    support = (2 if cubic else 1) * stretch
    centre = (np.arange(out) + 0.5) * step
    low = np.maximum((centre - support + 0.5).astype(int), 0)
    high = np.minimum((centre + support + 0.5).astype(int), length)
    place = np.arange(length)[:, None]
    kernel = _cubic(-0.5) if cubic else _triangle
    weights = kernel((place - centre + 0.5) / stretch) * ((place >= low) & (place < high))
    return weights / weights.sum(0)


def _triangle(distance: np.ndarray) -> np.ndarray:
    return np.maximum(1 - np.abs(distance), 0)


def _cubic(a: float) -> Kernel:
    """Keys' kernel (1981), whose slope at distance 1 is `a`."""

    def kernel(distance: np.ndarray) -> np.ndarray:
        d = np.abs(distance)
        near = ((a + 2) * d - (a + 3)) * d * d + 1
        far = a * (((d - 5) * d + 8) * d - 4)
        return np.where(d <= 1, near, np.where(d < 2, far, 0))

    return kernel
