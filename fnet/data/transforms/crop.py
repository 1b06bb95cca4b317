"""Flips, crops and padding, in numpy: on one image, and vectorised on a batch with the same bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..structure import fix, signature
from .base import Chance, Transform, choose, fill_of, hashable, pair_of

_MODES = ("constant", "edge", "reflect", "symmetric")


@dataclass(frozen=True)
class _Flip(Chance):
    p: float = 0.5

    def apply_mask(self, mask: np.ndarray, drawn: bool) -> np.ndarray:
        return self.apply(mask, drawn)


@dataclass(frozen=True)
class RandomHorizontalFlip(_Flip):
    """Mirror left and right with probability p.

    >>> RandomHorizontalFlip(1.0)(np.array([[[1], [2]]], np.uint8), np.random.default_rng(0))[..., 0]
    array([[2, 1]], dtype=uint8)
    """

    def apply(self, image: np.ndarray, drawn: bool) -> np.ndarray:
        return image[:, ::-1] if drawn else image

    def apply_batch(self, images: np.ndarray, flip: np.ndarray) -> np.ndarray:
        out = images.copy()
        out[flip] = images[flip, :, ::-1]
        return out


@dataclass(frozen=True)
class RandomVerticalFlip(_Flip):
    """Mirror top and bottom with probability p.

    >>> RandomVerticalFlip(1.0)(np.array([[[1]], [[2]]], np.uint8), np.random.default_rng(0))[..., 0]
    array([[2],
           [1]], dtype=uint8)
    """

    def apply(self, image: np.ndarray, drawn: bool) -> np.ndarray:
        return image[::-1] if drawn else image

    def apply_batch(self, images: np.ndarray, flip: np.ndarray) -> np.ndarray:
        out = images.copy()
        out[flip] = images[flip, ::-1]
        return out


@dataclass(frozen=True)
class Pad(Transform):
    """Add a border.

    Args:
        padding: one width for all sides, (left and right, top and bottom), or (left, top, right, bottom), as in
            torchvision. Negative widths are refused; crop instead.
        fill: of "constant", one value or one a channel. Masks are filled with 0.
        padding_mode: "constant", "edge", "reflect" (the edge is not repeated) or "symmetric" (it is).

    >>> Pad(1)(np.ones((1, 1, 1), np.uint8))[..., 0]
    array([[0, 0, 0],
           [0, 1, 0],
           [0, 0, 0]], dtype=uint8)
    """

    padding: int | tuple[int, ...]
    fill: float | tuple[float, ...] = 0
    padding_mode: str = "constant"

    def __post_init__(self) -> None:
        fix(self, padding=_four_sides(self.padding, "Pad"), fill=hashable(self.fill))
        _check_mode(self.padding_mode, "Pad")

    def apply(self, image: np.ndarray, drawn: None) -> np.ndarray:
        return _pad(image, self.padding, self.fill, self.padding_mode, self)  # type: ignore[arg-type]

    apply_batch = apply

    def apply_mask(self, mask: np.ndarray, drawn: None) -> np.ndarray:
        return _pad_mask(mask, self.padding, self.padding_mode)  # type: ignore[arg-type]


@dataclass(frozen=True)
class CenterCrop(Transform):
    """Cut out the middle; a smaller image is first padded with 0 to the size, as in torchvision.

    >>> CenterCrop(2)(np.arange(16, dtype=np.uint8).reshape(4, 4, 1))[..., 0]
    array([[ 5,  6],
           [ 9, 10]], dtype=uint8)
    """

    size: int | tuple[int, int]

    def __post_init__(self) -> None:
        fix(self, size=pair_of(self.size, "size", "CenterCrop"))

    def apply(self, image: np.ndarray, drawn: None) -> np.ndarray:
        return self._cut(image, image.ndim - 3)

    apply_batch = apply

    def apply_mask(self, mask: np.ndarray, drawn: None) -> np.ndarray:
        return self._cut(mask, 0)

    def _cut(self, array: np.ndarray, axis: int) -> np.ndarray:
        height, width = array.shape[axis : axis + 2]
        h, w = self.size  # type: ignore[misc]
        if height < h or width < w:
            down, right = max(h - height, 0), max(w - width, 0)
            widths = [(0, 0)] * axis + [(down // 2, (down + 1) // 2), (right // 2, (right + 1) // 2)]
            array = np.pad(array, widths + [(0, 0)] * (array.ndim - axis - 2))
            height, width = array.shape[axis : axis + 2]
        top, left = round((height - h) / 2), round((width - w) / 2)
        return array[(slice(None),) * axis + (slice(top, top + h), slice(left, left + w))]


@dataclass(frozen=True)
class RandomCrop(Transform):
    """Cut out a random part of fixed size, all positions being as likely.

    Args:
        size: one integer for a square, or (height, width).
        padding: border to add first, as in Pad; None for none.
        pad_if_needed: pad an image that is smaller than size on both sides of the short axis, as torchvision does.
        fill, padding_mode: as in Pad.

    Raises ValueError for an image that is smaller than size.

    >>> RandomCrop(32, padding=4)(np.zeros((32, 32, 3), np.uint8), np.random.default_rng(0)).shape
    (32, 32, 3)
    """

    size: int | tuple[int, int]
    padding: int | tuple[int, ...] | None = None
    pad_if_needed: bool = False
    fill: float | tuple[float, ...] = 0
    padding_mode: str = "constant"

    def __post_init__(self) -> None:
        padding = None if self.padding is None else _four_sides(self.padding, "RandomCrop")
        fix(self, size=pair_of(self.size, "size", "RandomCrop"), padding=padding, fill=hashable(self.fill))
        _check_mode(self.padding_mode, "RandomCrop")

    def draw(self, shape: tuple[int, ...], rng: Any) -> Any:
        h, w = self.size  # type: ignore[misc]
        left, top, right, bottom = sides = self._sides(shape)
        height, width = shape[0] + top + bottom, shape[1] + left + right
        if height < h or width < w:
            raise ValueError(
                f"{self}: the image of {shape[0]} x {shape[1]} is smaller than the crop; use pad_if_needed=True, "
                "padding=, or Resize before it"
            )
        u, v = self.uniforms(rng, 2)
        return sides, choose(u, 0, height - h), choose(v, 0, width - w)

    def apply(self, image: np.ndarray, drawn: Any) -> np.ndarray:
        sides, y, x = drawn
        h, w = self.size  # type: ignore[misc]
        return _pad(image, sides, self.fill, self.padding_mode, self)[y : y + h, x : x + w]

    def apply_mask(self, mask: np.ndarray, drawn: Any) -> np.ndarray:
        sides, y, x = drawn
        h, w = self.size  # type: ignore[misc]
        return _pad_mask(mask, sides, self.padding_mode)[y : y + h, x : x + w]

    def apply_batch(self, images: np.ndarray, drawn: Any) -> np.ndarray:
        sides, y, x = drawn
        h, w = self.size  # type: ignore[misc]
        return windows(_pad(images, sides, self.fill, self.padding_mode, self), h, w)[np.arange(len(images)), y, x]

    def _sides(self, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
        h, w = self.size  # type: ignore[misc]
        left, top, right, bottom = self.padding or (0, 0, 0, 0)  # type: ignore[misc]
        if self.pad_if_needed:
            down, across = max(h - shape[0] - top - bottom, 0), max(w - shape[1] - left - right, 0)
            left, top, right, bottom = left + across, top + down, right + across, bottom + down
        return left, top, right, bottom


@dataclass(frozen=True)
class FiveCrop(Transform):
    """The four corners and the middle, stacked to (5, height, width, channels): top left, top right, bottom left,
    bottom right, centre.

    >>> FiveCrop(2)(np.zeros((4, 4, 3), np.uint8)).shape
    (5, 2, 2, 3)
    """

    size: int | tuple[int, int]

    def __post_init__(self) -> None:
        fix(self, size=pair_of(self.size, "size", type(self).__name__))

    def apply(self, image: np.ndarray, drawn: None) -> np.ndarray:
        h, w = self.size  # type: ignore[misc]
        if image.shape[0] < h or image.shape[1] < w:
            raise ValueError(f"{self}: the image {signature(image)} is smaller than the crops")
        centre = CenterCrop((h, w)).apply_mask(image, None)  # which has no batch, whatever its number of axes
        return np.stack([image[:h, :w], image[:h, -w:], image[-h:, :w], image[-h:, -w:], centre])

    def apply_mask(self, mask: np.ndarray, drawn: None) -> np.ndarray:
        return self.apply(mask, drawn)


@dataclass(frozen=True)
class TenCrop(FiveCrop):
    """FiveCrop of the image and of its mirror image, stacked to (10, height, width, channels).

    >>> TenCrop(2)(np.zeros((4, 4, 3), np.uint8)).shape
    (10, 2, 2, 3)
    """

    vertical_flip: bool = False

    def apply(self, image: np.ndarray, drawn: None) -> np.ndarray:
        mirrored = image[::-1] if self.vertical_flip else image[:, ::-1]
        return np.concatenate([super().apply(image, None), super().apply(mirrored, None)])


@dataclass(frozen=True)
class RandomTranslate(Transform):
    """Shift by up to `padding` pixels in each direction; what comes in is `fill`. FFCV's name for a padded RandomCrop.

    >>> RandomTranslate(2)(np.ones((8, 8, 1), np.uint8), np.random.default_rng(0)).shape
    (8, 8, 1)
    """

    padding: int
    fill: float | tuple[float, ...] = 0

    def __post_init__(self) -> None:
        _four_sides(self.padding, "RandomTranslate")
        fix(self, fill=hashable(self.fill))

    def _crop(self, shape: tuple[int, ...]) -> RandomCrop:
        return RandomCrop((shape[0], shape[1]), padding=self.padding, fill=self.fill)

    def draw(self, shape: tuple[int, ...], rng: Any) -> Any:
        self.uniforms(rng, 0)
        return self._crop(shape).draw(shape, rng)

    def apply(self, image: np.ndarray, drawn: Any) -> np.ndarray:
        return self._crop(image.shape).apply(image, drawn)

    def apply_batch(self, images: np.ndarray, drawn: Any) -> np.ndarray:
        return self._crop(images.shape[1:]).apply_batch(images, drawn)

    def apply_mask(self, mask: np.ndarray, drawn: Any) -> np.ndarray:
        return self._crop(mask.shape).apply_mask(mask, drawn)


def windows(images: np.ndarray, h: int, w: int) -> np.ndarray:
    """All parts of a size as a view (batch, top, left, h, w, channels): one index then cuts a batch."""
    b, height, width, c = images.shape
    sb, sy, sx, sc = images.strides
    shape = (b, height - h + 1, width - w + 1, h, w, c)
    return np.lib.stride_tricks.as_strided(images, shape, (sb, sy, sx, sy, sx, sc), writeable=False)


def _pad(image: np.ndarray, sides: tuple[int, ...], fill: Any, mode: str, who: Any) -> np.ndarray:
    left, top, right, bottom = sides
    if not any(sides):
        return image
    widths = [(0, 0)] * (image.ndim - 3) + [(top, bottom), (left, right), (0, 0)]
    if mode != "constant":
        return np.pad(image, widths, mode)  # type: ignore[call-overload]
    *batch, height, width, channels = image.shape
    out = np.empty((*batch, top + height + bottom, left + width + right, channels), image.dtype)
    out[...] = fill_of(fill, channels, image.dtype, who)  # np.pad has one fill for all channels, and is slower
    out[..., top : top + height, left : left + width, :] = image
    return out


def _pad_mask(mask: np.ndarray, sides: tuple[int, ...], mode: str) -> np.ndarray:
    left, top, right, bottom = sides
    return np.pad(mask, [(top, bottom), (left, right)] + [(0, 0)] * (mask.ndim - 2), mode)  # type: ignore[call-overload]


def _four_sides(padding: Any, who: str) -> tuple[int, int, int, int]:
    sides = (padding,) if isinstance(padding, int) else tuple(padding)
    if len(sides) not in (1, 2, 4) or any(not isinstance(s, (int, np.integer)) or s < 0 for s in sides):
        raise ValueError(
            f"{who}: padding is one width of 0 or more, (left and right, top and bottom), or (left, top, right, "
            f"bottom), got {padding!r}"
        )
    left, top, right, bottom = (int(s) for s in sides * (4 // len(sides)))
    return left, top, right, bottom


def _check_mode(mode: str, who: str) -> None:
    if mode not in _MODES:
        raise ValueError(f"{who}: padding_mode is one of {', '.join(_MODES)}, got {mode!r}")
