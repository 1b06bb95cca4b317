"""Resizing and warping, through Pillow (the `image` extra); the matrices are torchvision's."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..structure import fix
from .adjust import blur
from .base import Transform, check_probability, choose, fill_of, hashable, pair_of, range_of
from .pillow import check_interpolation, pil, warp, warp_mask

_WARPS = ("nearest", "bilinear", "bicubic")  # what Pillow offers for anything but resizing


@dataclass(frozen=True)
class Resize(Transform):
    """Resample to another size, with antialiasing (Pillow's filters widen when they shrink).

    Args:
        size: (height, width), or one integer for the shorter edge, keeping the proportions.
        interpolation: "nearest", "bilinear", "bicubic", "lanczos", "box" or "hamming". Masks take the nearest pixel.
        max_size: with one integer: the longer edge gets no longer than this, and the shorter one less in proportion.

    >>> Resize(8)(np.zeros((16, 32, 3), np.uint8)).shape, Resize((8, 8))(np.zeros((16, 32, 3), np.uint8)).shape
    ((8, 16, 3), (8, 8, 3))
    """

    size: int | tuple[int, int]
    interpolation: str = "bilinear"
    max_size: int | None = None
    random = False  # its draw computes the size

    def __post_init__(self) -> None:
        pair = pair_of(self.size, "size", "Resize")
        fix(self, size=self.size if isinstance(self.size, int) else pair)
        check_interpolation(self.interpolation, "Resize")
        if self.max_size is not None and (not isinstance(self.size, int) or self.max_size < self.size):
            raise ValueError(
                f"Resize: max_size={self.max_size} goes with a size that is one integer and no longer, got {self.size}"
            )

    def _target(self, height: int, width: int) -> tuple[int, int]:
        if not isinstance(self.size, int):
            return self.size
        short, long = self.size, int(self.size * max(height, width) / min(height, width))
        if self.max_size is not None and long > self.max_size:
            short, long = int(self.max_size * short / long), self.max_size
        return (short, long) if height <= width else (long, short)

    def draw(self, shape: tuple[int, ...], rng: Any) -> tuple[int, int]:
        return self._target(shape[0], shape[1])

    def apply(self, image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        return image if image.shape[:2] == size else resized(image, size, self.interpolation, self)

    def apply_mask(self, mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        return resized_mask(mask, size, self)


@dataclass(frozen=True)
class RandomResizedCrop(Transform):
    """Cut out a random part of random area and shape, and resize it: the augmentation of ImageNet training.

    Args:
        size: of the result, one integer for a square, or (height, width).
        scale: range of the part's area, as a fraction of the image's.
        ratio: range of its width over its height, drawn evenly on a log scale.
        interpolation: as in Resize.

    Up to ten parts are tried; if none fits, the middle is taken, as large as ratio allows. Source: Szegedy et al. 2014
    (arXiv:1409.4842), in torchvision's form.

    >>> RandomResizedCrop(8)(np.zeros((16, 32, 3), np.uint8), np.random.default_rng(0)).shape
    (8, 8, 3)
    """

    size: int | tuple[int, int]
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        who = "RandomResizedCrop"
        fix(self, size=pair_of(self.size, "size", who), scale=range_of(self.scale, "scale", who, 0),
            ratio=range_of(self.ratio, "ratio", who, 1e-6))  # fmt: skip
        check_interpolation(self.interpolation, who)

    def draw(self, shape: tuple[int, ...], rng: Any) -> tuple[int, int, int, int]:
        u = self.uniforms(rng, 22)
        height, width = shape[:2]
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        for k in range(10):
            area = height * width * (self.scale[0] + (self.scale[1] - self.scale[0]) * u[k])
            aspect = math.exp(low + (high - low) * u[10 + k])
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                return choose(u[20], 0, height - h), choose(u[21], 0, width - w), h, w
        h, w = height, width
        if width / height < self.ratio[0]:
            h = round(width / self.ratio[0])
        elif width / height > self.ratio[1]:
            w = round(height * self.ratio[1])
        return (height - h) // 2, (width - w) // 2, h, w

    def apply(self, image: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
        y, x, h, w = box
        return resized(image[y : y + h, x : x + w], self.size, self.interpolation, self)  # type: ignore[arg-type]

    def apply_mask(self, mask: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
        y, x, h, w = box
        return resized_mask(mask[y : y + h, x : x + w], self.size, self)  # type: ignore[arg-type]


@dataclass(frozen=True)
class RandomRotation(Transform):
    """Turn by a random angle, counter-clockwise for a positive one.

    Args:
        degrees: a range (low, high), or one number for (-degrees, degrees).
        interpolation: "nearest" (torchvision's default), "bilinear" or "bicubic".
        expand: enlarge the image so that all of it is kept.
        center: (x, y) of the pixel to turn about; the middle by default.
        fill: what comes from outside, one value or one a channel.

    >>> image = np.arange(4, dtype=np.uint8).reshape(2, 2, 1)
    >>> RandomRotation((90, 90))(image, np.random.default_rng(0))[..., 0]
    array([[1, 3],
           [0, 2]], dtype=uint8)
    """

    degrees: float | tuple[float, float]
    interpolation: str = "nearest"
    expand: bool = False
    center: tuple[float, float] | None = None
    fill: float | tuple[float, ...] = 0

    def __post_init__(self) -> None:
        fix(self, degrees=_symmetric(self.degrees, "degrees", "RandomRotation"), fill=hashable(self.fill),
            center=hashable(self.center))  # fmt: skip
        check_interpolation(self.interpolation, "RandomRotation", _WARPS)

    def draw(self, shape: tuple[int, ...], rng: Any) -> float:
        return _between(self.degrees, self.uniforms(rng, 1)[0])

    def apply(self, image: np.ndarray, angle: float) -> np.ndarray:
        return warp(image, self._turn(angle), self.interpolation, self.fill, self)

    def apply_mask(self, mask: np.ndarray, angle: float) -> np.ndarray:
        return warp_mask(mask, self._turn(angle), self)

    def _turn(self, angle: float) -> Any:
        return lambda im, resample, fill: im.rotate(angle, resample, self.expand, self.center, fillcolor=fill)


@dataclass(frozen=True)
class RandomAffine(Transform):
    """Turn, shift, scale and shear at random, about the middle.

    Args:
        degrees: range of the angle, or one number for (-degrees, degrees).
        translate: largest shift (horizontal, vertical), as fractions of width and height; None for none.
        scale: range of the factor; None for 1.
        shear: in degrees: one number or (low, high) along x, or (x low, x high, y low, y high); None for none.
        interpolation, fill, center: as in RandomRotation.

    >>> RandomAffine(10, translate=(0.1, 0.1))(np.zeros((8, 8, 1), np.uint8), np.random.default_rng(0)).shape
    (8, 8, 1)
    """

    degrees: float | tuple[float, float]
    translate: tuple[float, float] | None = None
    scale: tuple[float, float] | None = None
    shear: float | tuple[float, ...] | None = None
    interpolation: str = "nearest"
    fill: float | tuple[float, ...] = 0
    center: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        who = "RandomAffine"
        translate, shear = hashable(self.translate), self.shear
        if translate is not None and (len(translate) != 2 or not all(0 <= part <= 1 for part in translate)):
            raise ValueError(f"{who}: translate is two fractions of 0 to 1, got {self.translate!r}")
        if shear is not None:
            sides = (-shear, shear) if isinstance(shear, (int, float)) else tuple(shear)
            if len(sides) not in (2, 4):
                raise ValueError(f"{who}: shear is one angle, (low, high) or four angles, got {self.shear!r}")
            shear = sides + (0.0, 0.0) * (len(sides) == 2)
        scale = None if self.scale is None else range_of(self.scale, "scale", who, 1e-6)
        fix(self, degrees=_symmetric(self.degrees, "degrees", who), translate=translate, scale=scale, shear=shear,
            fill=hashable(self.fill), center=hashable(self.center))  # fmt: skip
        check_interpolation(self.interpolation, who, _WARPS)

    def draw(self, shape: tuple[int, ...], rng: Any) -> tuple[float, ...]:
        u = self.uniforms(rng, 6)
        height, width = shape[:2]
        across, down = self.translate or (0.0, 0.0)
        shear = self.shear or (0.0,) * 4
        shifts = (round((2 * v - 1) * part) for v, part in ((u[1], across * width), (u[2], down * height)))
        shears = (_between(shear[:2], u[4]), _between(shear[2:], u[5]))  # type: ignore[index]
        center = self.center or (width * 0.5, height * 0.5)
        angle = _between(self.degrees, u[0])
        return affine_matrix(center, angle, tuple(shifts), _between(self.scale or (1.0, 1.0), u[3]), shears)

    def apply(self, image: np.ndarray, matrix: tuple[float, ...]) -> np.ndarray:
        return warp(image, affine(matrix, self), self.interpolation, self.fill, self)

    def apply_mask(self, mask: np.ndarray, matrix: tuple[float, ...]) -> np.ndarray:
        return warp_mask(mask, affine(matrix, self), self)


@dataclass(frozen=True)
class RandomPerspective(Transform):
    """See the image from another side with probability p.

    Args:
        distortion_scale: how far the corners may move inwards, 0 to 1 (half of the image).
        p: fraction of images to change.
        interpolation, fill: as in RandomRotation.

    >>> RandomPerspective(p=1.0)(np.ones((8, 8, 1), np.uint8), np.random.default_rng(0)).shape
    (8, 8, 1)
    """

    distortion_scale: float = 0.5
    p: float = 0.5
    interpolation: str = "bilinear"
    fill: float | tuple[float, ...] = 0

    def __post_init__(self) -> None:
        check_probability(self.p, "RandomPerspective")
        if not 0 <= self.distortion_scale <= 1:
            raise ValueError(f"RandomPerspective: distortion_scale is from 0 to 1, got {self.distortion_scale}")
        fix(self, fill=hashable(self.fill))
        check_interpolation(self.interpolation, "RandomPerspective", _WARPS)

    def draw(self, shape: tuple[int, ...], rng: Any) -> tuple[float, ...] | None:
        u = self.uniforms(rng, 9)
        if u[0] >= self.p:
            return None
        height, width = shape[:2]
        dy, dx = (int(self.distortion_scale * (edge // 2)) for edge in (height, width))
        left, right = (0, dx), (width - 1 - dx, width - 1)
        top, bottom = (0, dy), (height - 1 - dy, height - 1)
        ranges = [(left, top), (right, top), (right, bottom), (left, bottom)]
        ends = [(choose(u[1 + 2 * k], *x), choose(u[2 + 2 * k], *y)) for k, (x, y) in enumerate(ranges)]
        starts = [(0, 0), (width - 1, 0), (width - 1, height - 1), (0, height - 1)]
        return perspective_coefficients(starts, ends)

    def apply(self, image: np.ndarray, coefficients: tuple[float, ...] | None) -> np.ndarray:
        if coefficients is None:
            return image
        return warp(image, self._look(coefficients), self.interpolation, self.fill, self)

    def apply_mask(self, mask: np.ndarray, coefficients: tuple[float, ...] | None) -> np.ndarray:
        return mask if coefficients is None else warp_mask(mask, self._look(coefficients), self)

    def _look(self, coefficients: tuple[float, ...]) -> Any:
        how = pil(self).Transform.PERSPECTIVE
        return lambda im, resample, fill: im.transform(im.size, how, coefficients, resample, fillcolor=fill)


@dataclass(frozen=True)
class ElasticTransform(Transform):
    """Move each pixel by a smooth random field, as seen through moving glass (Simard et al. 2003), in numpy.

    Args:
        alpha: strength: a shift of alpha / 2 pixels where the smoothed noise of -1 to 1 would be 1, as in torchvision.
        sigma: standard deviation of the smoothing, in pixels.
        fill: what comes from outside, one value or one a channel. Interpolation is bilinear; masks: nearest.

    >>> ElasticTransform()(np.ones((16, 16, 1), np.uint8), np.random.default_rng(0)).shape
    (16, 16, 1)
    """

    alpha: float = 50.0
    sigma: float = 5.0
    fill: float | tuple[float, ...] = 0

    def __post_init__(self) -> None:
        if self.sigma <= 0:
            raise ValueError(f"ElasticTransform: sigma must be positive, got {self.sigma}")
        fix(self, fill=hashable(self.fill))

    def draw(self, shape: tuple[int, ...], rng: Any) -> np.ndarray:
        """Where each pixel comes from: (2, height, width) of row and column."""
        self.uniforms(rng, 0)
        height, width = shape[:2]
        noise = 2 * rng.random((height, width, 2)) - 1
        size = int(8 * self.sigma + 1) | 1
        field = blur(noise, (size, size), (self.sigma, self.sigma)) * (self.alpha / 2)
        return np.mgrid[:height, :width] + field.transpose(2, 0, 1)

    def apply(self, image: np.ndarray, where: np.ndarray) -> np.ndarray:
        height, width, channels = image.shape
        fill = fill_of(self.fill, channels, image.dtype, self)
        framed = np.empty((height + 2, width + 2, channels), np.float64)  # a border of fill: outside blends into it
        framed[...] = fill
        framed[1:-1, 1:-1] = image
        y, x = (np.clip(v + 1, 0, edge + 0.999999) for v, edge in zip(where, (height, width), strict=True))
        top, left = y.astype(np.intp), x.astype(np.intp)
        dy, dx = (y - top)[..., None], (x - left)[..., None]
        upper = framed[top, left] * (1 - dx) + framed[top, left + 1] * dx
        lower = framed[top + 1, left] * (1 - dx) + framed[top + 1, left + 1] * dx
        out = upper * (1 - dy) + lower * dy
        return np.rint(out).astype(np.uint8) if image.dtype == np.uint8 else out.astype(image.dtype)

    def apply_mask(self, mask: np.ndarray, where: np.ndarray) -> np.ndarray:
        y, x = np.rint(where).astype(np.intp)
        inside = (y >= 0) & (y < mask.shape[0]) & (x >= 0) & (x < mask.shape[1])
        out = np.zeros_like(mask)
        out[inside] = mask[y[inside], x[inside]]
        return out


def resized(image: np.ndarray, size: tuple[int, int], interpolation: str, who: Any) -> np.ndarray:
    """Resample an image to (height, width)."""
    return warp(image, lambda im, resample, fill: im.resize(size[::-1], resample), interpolation, 0, who)


def resized_mask(mask: np.ndarray, size: tuple[int, int], who: Any) -> np.ndarray:
    return warp_mask(mask, lambda im, resample, fill: im.resize(size[::-1], resample), who)


def affine(matrix: tuple[float, ...], who: Any) -> Any:
    how = pil(who).Transform.AFFINE
    return lambda im, resample, fill: im.transform(im.size, how, matrix, resample, fillcolor=fill)


def affine_matrix(
    center: tuple[float, float], angle: float, translate: Any, scale: float, shear: tuple[float, float]
) -> tuple[float, ...]:
    """The map from output to input pixels, (a, b, c, d, e, f) for x' = a x + b y + c and y' = d x + e y + f.

    The forward map is T(translate) C R(angle) Sy Sx scale C^-1, with C the shift to the center; shears in degrees.
    """
    turn, sx, sy = math.radians(angle), math.radians(shear[0]), math.radians(shear[1])
    a = math.cos(turn - sy) / math.cos(sy)
    b = -a * math.tan(sx) - math.sin(turn)
    c = math.sin(turn - sy) / math.cos(sy)
    d = -c * math.tan(sx) + math.cos(turn)
    (cx, cy), (tx, ty) = center, translate  # the determinant a d - b c is 1, so the inverse needs no division
    xx, xy, yx, yy = d / scale, -b / scale, -c / scale, a / scale
    return (xx, xy, cx - xx * (cx + tx) - xy * (cy + ty), yx, yy, cy - yx * (cx + tx) - yy * (cy + ty))


def perspective_coefficients(starts: Any, ends: Any) -> tuple[float, ...]:
    """The eight numbers with which PIL maps output to input pixels, from four corners and where they go."""
    rows, values = [], []
    for (x, y), (u, v) in zip(ends, starts, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    return tuple(np.linalg.lstsq(np.array(rows, float), np.array(values, float), rcond=None)[0].tolist())


def _symmetric(value: Any, name: str, who: str) -> tuple[float, float]:
    if isinstance(value, (int, float)):
        if value < 0:
            raise ValueError(f"{who}: {name} as one number must not be negative, got {value}")
        return -float(value), float(value)
    return range_of(value, name, who)


def _between(bounds: Any, u: float) -> float:
    return bounds[0] + (bounds[1] - bounds[0]) * u
