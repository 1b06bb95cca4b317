"""Erasing a rectangle, in numpy: on one image, and vectorised on a batch with the same bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..structure import fix
from .base import Transform, check_probability, choose, fill_of, hashable, pair_of, range_of
from .values import normals


@dataclass(frozen=True)
class RandomErasing(Transform):
    """Erase a random rectangle with probability p (Zhong et al. 2017, arXiv:1708.04896).

    Args:
        p: fraction of images to change.
        scale: range of the erased area, as a fraction of the image's.
        ratio: range of height over width, drawn evenly on a log scale.
        value: what to write: a number, one a channel, or "random" for normal noise (times 255 on bytes, clipped).

    Up to ten rectangles are tried, as in torchvision; if none fits, the image stays. Masks stay as they are.

    >>> image = np.ones((32, 32, 3), np.float32)
    >>> 0.02 < 1 - RandomErasing(p=1.0)(image, np.random.default_rng(0)).mean() < 0.33
    np.True_
    """

    p: float = 0.5
    scale: tuple[float, float] = (0.02, 0.33)
    ratio: tuple[float, float] = (0.3, 3.3)
    value: float | tuple[float, ...] | str = 0

    def __post_init__(self) -> None:
        check_probability(self.p, "RandomErasing")
        scale = range_of(self.scale, "scale", "RandomErasing", 0)
        if scale[1] > 1:
            raise ValueError(f"RandomErasing: scale is a fraction of the area, at most 1, got {scale}")
        ratio = range_of(self.ratio, "ratio", "RandomErasing", 1e-6)
        fix(self, scale=scale, ratio=ratio, value=self.value if self.value == "random" else hashable(self.value))
        if isinstance(self.value, str) and self.value != "random":
            raise ValueError(f'RandomErasing: value is a number, one a channel, or "random", got {self.value!r}')

    def draw(self, shape: tuple[int, ...], rng: Any) -> Any:
        u = np.asarray(self.uniforms(rng, 23))  # (23,) or (23, batch)
        h, w, found = boxes(shape, u[1:21], self.scale, self.ratio)
        y, x = (np.floor(v * (edge - part + 1)) for v, edge, part in ((u[21], shape[0], h), (u[22], shape[1], w)))
        found = found & (u[0] < self.p)
        noise = normals(rng, shape) if self.value == "random" else None
        return np.where(found, np.stack([y, x, h, w]), 0).astype(np.int64), noise

    def apply(self, image: np.ndarray, drawn: Any) -> np.ndarray:
        (y, x, h, w), noise = drawn
        if h == 0:
            return image
        out = image.copy()
        out[y : y + h, x : x + w] = self._fill(image, noise)[y : y + h, x : x + w]
        return out

    def apply_batch(self, images: np.ndarray, drawn: Any) -> np.ndarray:
        (y, x, h, w), noise = drawn
        inside = inside_box(images.shape[1:3], y, x, h, w)[..., None]
        return np.where(inside, self._fill(images, noise), images)

    def _fill(self, image: np.ndarray, noise: np.ndarray | None) -> np.ndarray:
        if noise is None:
            return np.broadcast_to(fill_of(self.value, image.shape[-1], image.dtype, self), image.shape)
        if image.dtype == np.uint8:
            return np.clip(np.rint(255 * noise), 0, 255).astype(np.uint8)
        return noise.astype(image.dtype)


@dataclass(frozen=True)
class Cutout(Transform):
    """Write `value` into a square whose centre is anywhere in the image (DeVries and Taylor 2017, arXiv:1708.04552).

    The square is cut off at the edges, as in the paper, so the erased area varies.

    >>> (Cutout(2)(np.ones((8, 8, 1), np.float32), np.random.default_rng(0)) == 0).sum()
    np.int64(4)
    """

    size: int
    value: float | tuple[float, ...] = 0

    def __post_init__(self) -> None:
        pair_of(self.size, "size", "Cutout")
        fix(self, value=hashable(self.value))

    def draw(self, shape: tuple[int, ...], rng: Any) -> Any:
        u, v = self.uniforms(rng, 2)
        return choose(u, 0, shape[0] - 1) - self.size // 2, choose(v, 0, shape[1] - 1) - self.size // 2

    def apply(self, image: np.ndarray, drawn: Any) -> np.ndarray:
        y, x = drawn
        out = image.copy()
        fill = fill_of(self.value, image.shape[-1], image.dtype, self)
        out[max(y, 0) : max(y + self.size, 0), max(x, 0) : max(x + self.size, 0)] = fill
        return out

    def apply_batch(self, images: np.ndarray, drawn: Any) -> np.ndarray:
        y, x = drawn
        inside = inside_box(images.shape[1:3], y, x, self.size, self.size)[..., None]
        return np.where(inside, fill_of(self.value, images.shape[-1], images.dtype, self), images)


def boxes(shape: Sequence[int], u: np.ndarray, scale: tuple[float, float], ratio: tuple[float, float]) -> Any:
    """Try ten rectangles of random area and shape (height over width); give height and width of the first that is
    smaller than the image, and whether there is one. `u` holds ten areas and ten ratios, (20,) or (20, batch).
    """
    area = shape[0] * shape[1] * (scale[0] + (scale[1] - scale[0]) * u[:10])
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = np.exp(low + (high - low) * u[10:])
    heights, widths = np.rint(np.sqrt(area * aspect)), np.rint(np.sqrt(area / aspect))
    fits = (heights < shape[0]) & (widths < shape[1]) & (heights > 0) & (widths > 0)
    first = fits.argmax(0)[None]
    return np.take_along_axis(heights, first, 0)[0], np.take_along_axis(widths, first, 0)[0], fits.any(0)


def inside_box(shape: Sequence[int], y: Any, x: Any, h: Any, w: Any) -> np.ndarray:
    """Which pixels are in the rectangle of each image: bool (batch, height, width)."""
    rows, columns = np.arange(shape[0]), np.arange(shape[1])
    y, x, h, w = (np.atleast_1d(np.asarray(v))[:, None] for v in (y, x, h, w))
    across = (columns >= x) & (columns < x + w)
    return ((rows >= y) & (rows < y + h))[:, :, None] & across[:, None, :]
