"""The bridge to Pillow, which does resampling and colour spaces; it is imported when it is first needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .base import fill_of

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")


def pil(who: Any) -> Any:
    """Import PIL.Image, or say which extra has it."""
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError(f"{who} needs Pillow: pip install 'fnet[image]', or pip install Pillow") from error
    return Image


def check_interpolation(name: str, who: str, allowed: tuple[str, ...] = INTERPOLATIONS) -> None:
    if name not in allowed:
        raise ValueError(f"{who}: interpolation is one of {', '.join(allowed)}, got {name!r}")


def to_pil(image: np.ndarray, who: Any) -> Any:
    """A uint8 image of 1 or 3 channels as a PIL image of mode L or RGB."""
    return pil(who).fromarray(image[..., 0] if image.shape[-1] == 1 else np.ascontiguousarray(image))


def from_pil(picture: Any) -> np.ndarray:
    """A PIL image as a new array (height, width, channels)."""
    array = np.array(picture)
    return array[..., None] if array.ndim == 2 else array


def warp(image: np.ndarray, move: Callable, interpolation: str, fill: Any, who: Any) -> np.ndarray:
    """Resample an image with move(PIL image, resampling filter, fill).

    Bytes of 1 or 3 channels go through as one picture; other channel counts, and floats as 32-bit floats, one channel
    at a time.
    """
    Image = pil(who)
    resample = Image.Resampling[interpolation.upper()]
    channels = image.shape[-1]
    fills = fill_of(fill, channels, image.dtype, who).tolist()
    if image.dtype == np.uint8 and channels in (1, 3):
        return from_pil(move(to_pil(image, who), resample, fills[0] if channels == 1 else tuple(fills)))
    planes = image if image.dtype == np.uint8 else image.astype(np.float32)
    moved = [
        np.asarray(move(Image.fromarray(np.ascontiguousarray(planes[..., c])), resample, fills[c]))
        for c in range(channels)
    ]
    return np.stack(moved, axis=-1).astype(image.dtype)


def warp_mask(mask: np.ndarray, move: Callable, who: Any) -> np.ndarray:
    """Move a mask of any dtype by the nearest pixel, with 0 from outside: the numbers of its pixels are moved."""
    Image = pil(who)
    numbers = np.arange(mask.shape[0] * mask.shape[1], dtype=np.int32).reshape(mask.shape[:2])
    moved = np.asarray(move(Image.fromarray(numbers), Image.Resampling.NEAREST, -1))
    flat = mask.reshape(-1, *mask.shape[2:])
    out = flat[np.maximum(moved, 0)]
    out[moved < 0] = 0
    return out
