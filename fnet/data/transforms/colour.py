"""Random changes of colour and sharpness."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..structure import fix
from .adjust import (
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    adjust_sharpness,
    autocontrast,
    blur,
    equalize,
    invert,
    posterize,
    solarize,
    to_grey,
)
from .base import Chance, Transform, range_of


@dataclass(frozen=True)
class ColorJitter(Transform):
    """Change brightness, contrast, saturation and hue at random, in a random order.

    Args:
        brightness, contrast, saturation: a range of factors (low, high), or one number v for (max(0, 1 - v), 1 + v).
        hue: a range of turns within -0.5 to 0.5, or one number v for (-v, v).

    >>> ColorJitter(brightness=0.5)(np.full((1, 1, 3), 0.5, np.float32), np.random.default_rng(0)).shape
    (1, 1, 3)
    """

    brightness: float | tuple[float, float] = 0
    contrast: float | tuple[float, float] = 0
    saturation: float | tuple[float, float] = 0
    hue: float | tuple[float, float] = 0

    def __post_init__(self) -> None:
        for name in ("brightness", "contrast", "saturation"):
            value = getattr(self, name)
            if isinstance(value, (int, float)):
                if value < 0:
                    raise ValueError(f"ColorJitter: {name} must not be negative, got {value}")
                value = (max(0.0, 1.0 - value), 1.0 + value)
            fix(self, **{name: range_of(value, name, "ColorJitter", 0)})
        hue = (-self.hue, self.hue) if isinstance(self.hue, (int, float)) else self.hue
        low, high = range_of(hue, "hue", "ColorJitter", -0.5)
        if high > 0.5:
            raise ValueError(f"ColorJitter: hue is within -0.5 to 0.5 turns, got {self.hue!r}")
        fix(self, hue=(low, high))

    def draw(self, shape: tuple[int, ...], rng: Any) -> list[tuple[Callable, float]]:
        u = self.uniforms(rng, 8)
        ranges: Any = (self.brightness, self.contrast, self.saturation, self.hue)
        steps = []
        for k in sorted(range(4), key=lambda k: u[k]):
            low, high = ranges[k]
            if (low, high) != ((0, 0) if k == 3 else (1, 1)):
                steps.append((_JITTERS[k], low + (high - low) * u[4 + k]))
        return steps

    def apply(self, image: np.ndarray, steps: list[tuple[Callable, float]]) -> np.ndarray:
        for adjust, factor in steps:
            image = adjust(image, factor, self)
        return image


_JITTERS = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)


@dataclass(frozen=True)
class Grayscale(Transform):
    """Luma of the colours, as 1 channel or as 3 equal ones; grey images stay grey.

    >>> Grayscale()(np.full((1, 1, 3), 100, np.uint8)).item()
    100
    """

    num_output_channels: int = 1

    def __post_init__(self) -> None:
        if self.num_output_channels not in (1, 3):
            raise ValueError(f"Grayscale: num_output_channels is 1 or 3, got {self.num_output_channels}")

    def apply(self, image: np.ndarray, drawn: None) -> np.ndarray:
        return np.repeat(to_grey(image), self.num_output_channels, -1)

    apply_batch = apply


@dataclass(frozen=True)
class _Sometimes(Chance):
    """Change an image with probability p, or leave it."""

    def change(self, image: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def apply(self, image: np.ndarray, chosen: bool) -> np.ndarray:
        return self.change(image) if chosen else image


def _change_rows(self: Any, images: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    out = images.copy()
    out[chosen] = self.change(images[chosen])
    return out


@dataclass(frozen=True)
class RandomGrayscale(_Sometimes):
    """Take the colours out with probability p; the number of channels stays.

    >>> RandomGrayscale(1.0)(np.array([[[255, 0, 0]]], np.uint8), np.random.default_rng(0)).ravel()
    array([76, 76, 76], dtype=uint8)
    """

    p: float = 0.1

    def change(self, image: np.ndarray) -> np.ndarray:
        return np.repeat(to_grey(image), image.shape[-1], -1)

    apply_batch = _change_rows


@dataclass(frozen=True)
class RandomInvert(_Sometimes):
    """Invert the colours with probability p.

    >>> RandomInvert(1.0)(np.array([[[255, 0, 55]]], np.uint8), np.random.default_rng(0)).ravel()
    array([  0, 255, 200], dtype=uint8)
    """

    p: float = 0.5

    def change(self, image: np.ndarray) -> np.ndarray:
        return invert(image)

    apply_batch = _change_rows


@dataclass(frozen=True)
class RandomPosterize(_Sometimes):
    """Keep only the upper bits of each colour, with probability p.

    >>> RandomPosterize(2, 1.0)(np.array([[[255, 64, 63]]], np.uint8), np.random.default_rng(0)).ravel()
    array([192,  64,   0], dtype=uint8)
    """

    bits: int
    p: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.bits <= 8:
            raise ValueError(f"RandomPosterize: bits is from 0 to 8, got {self.bits}")

    def change(self, image: np.ndarray) -> np.ndarray:
        return posterize(image, self.bits)

    apply_batch = _change_rows


@dataclass(frozen=True)
class RandomSolarize(_Sometimes):
    """Invert what is at least as bright as the threshold, with probability p.

    >>> RandomSolarize(128, 1.0)(np.array([[[255, 128, 55]]], np.uint8), np.random.default_rng(0)).ravel()
    array([  0, 127,  55], dtype=uint8)
    """

    threshold: float
    p: float = 0.5

    def change(self, image: np.ndarray) -> np.ndarray:
        return solarize(image, self.threshold)

    apply_batch = _change_rows


@dataclass(frozen=True)
class RandomAdjustSharpness(_Sometimes):
    """Blend with a smoothed image by sharpness_factor (0 smooth, 1 unchanged, 2 sharper), with probability p.

    >>> RandomAdjustSharpness(2)(np.zeros((4, 4, 3), np.uint8), np.random.default_rng(0)).shape
    (4, 4, 3)
    """

    sharpness_factor: float
    p: float = 0.5

    def change(self, image: np.ndarray) -> np.ndarray:
        return adjust_sharpness(image, self.sharpness_factor, self)


@dataclass(frozen=True)
class RandomAutocontrast(_Sometimes):
    """Stretch each channel to the full range, with probability p.

    >>> RandomAutocontrast(1.0)(np.array([[[100], [150]]], np.uint8), np.random.default_rng(0)).ravel()
    array([  0, 255], dtype=uint8)
    """

    p: float = 0.5

    def change(self, image: np.ndarray) -> np.ndarray:
        return autocontrast(image, self)


@dataclass(frozen=True)
class RandomEqualize(_Sometimes):
    """Spread the grey values of each channel evenly, with probability p.

    >>> RandomEqualize()(np.zeros((4, 4, 3), np.uint8), np.random.default_rng(0)).shape
    (4, 4, 3)
    """

    p: float = 0.5

    def change(self, image: np.ndarray) -> np.ndarray:
        return equalize(image, self)


@dataclass(frozen=True)
class GaussianBlur(Transform):
    """Blur with a Gaussian of random sigma, reflecting at the edges, in numpy.

    Args:
        kernel_size: of odd pixels, one number or (height, width).
        sigma: a range in pixels, or one number.

    >>> GaussianBlur(3)(np.full((4, 4, 3), 7, np.uint8), np.random.default_rng(0)).max()
    np.uint8(7)
    """

    kernel_size: int | tuple[int, int]
    sigma: float | tuple[float, float] = (0.1, 2.0)

    def __post_init__(self) -> None:
        size = (self.kernel_size,) * 2 if isinstance(self.kernel_size, int) else tuple(self.kernel_size)
        if len(size) != 2 or any(taps < 1 or taps % 2 == 0 for taps in size):
            raise ValueError(f"GaussianBlur: kernel_size is odd and positive, or two such, got {self.kernel_size}")
        sigma = (self.sigma, self.sigma) if isinstance(self.sigma, (int, float)) else self.sigma
        fix(self, kernel_size=size, sigma=range_of(sigma, "sigma", "GaussianBlur", 1e-6))

    def draw(self, shape: tuple[int, ...], rng: Any) -> float:
        half = max(self.kernel_size) // 2  # type: ignore[arg-type]
        if half >= min(shape[:2]):
            raise ValueError(f"{self}: the kernel reaches {half} pixels beyond an image of {shape[0]} x {shape[1]}")
        low, high = self.sigma  # type: ignore[misc]
        return low + (high - low) * self.uniforms(rng, 1)[0]

    def apply(self, image: np.ndarray, sigma: float) -> np.ndarray:
        return blur(image, self.kernel_size, (sigma, sigma))  # type: ignore[arg-type]
