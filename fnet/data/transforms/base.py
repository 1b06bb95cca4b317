"""What a transform is, and the few helpers that all of them share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..rng import Rng, Rngs
from ..structure import signature


class MissingRng(ValueError):
    """Raised by a random transform that was called without random numbers."""


_MAY_DRAW = ("draw", "along", "batch", "__call__")  # the methods that are given random numbers


class Transform:
    """A function of an image and of random numbers, as a frozen value: equal settings are equal, and pickle.

    A transform is called as `t(image, rng)`. The image is a numpy array (height, width, channels) of bytes of 0 to 255
    or of floats; the result is a new array or the same one, and the argument is never changed. `rng` is anything with
    numpy's `random(size)`: the loader gives a stream that depends on nothing but (seed, epoch, index), and
    `np.random.default_rng(0)` serves for trying out. Transforms that draw nothing need none.

    `t.batch(images, rngs)` does the same to (batch, height, width, channels), and gives the same bytes.
    `t.along(image, masks, rng)` moves segmentation masks (height, width[, channels], any dtype) with their image.

    A transform of your own is any function of an image (see `Lambda`), or a frozen dataclass with this base that
    defines `apply`, and `draw` where it is random:

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class RandomGain(Transform):
    ...     low: float = 0.5
    ...     def draw(self, shape, rng):
    ...         return self.low + (1 - self.low) * self.uniforms(rng, 1)[0]
    ...     def apply(self, image, gain):
    ...         return image * gain
    >>> RandomGain()(np.ones((1, 1, 1)), Rng(0)).round(2).item()
    0.78
    """

    @property
    def random(self) -> bool:
        """Whether it may draw random numbers; datasets ask. A transform that defines `apply` alone does not."""
        return any(getattr(type(self), name) is not getattr(Transform, name) for name in _MAY_DRAW)

    def draw(self, shape: tuple[int, ...], rng: Any) -> Any:
        """Draw what `apply` needs for an image of this shape; always as many numbers for the same settings."""
        return None

    def apply(self, image: np.ndarray, drawn: Any) -> np.ndarray:
        """Transform one image with what was drawn."""
        raise NotImplementedError(f"{type(self).__name__} must define apply(image, drawn)")

    def apply_mask(self, mask: np.ndarray, drawn: Any) -> np.ndarray:
        """Move a mask as the image is moved; what only changes colours leaves it as it is."""
        return mask

    apply_batch: Any = None  # (images, what was drawn for each) -> images, where that is faster than one by one

    def __call__(self, image: Any, rng: Any = None) -> Any:
        return self.along(image, (), rng)[0]

    def along(self, image: Any, masks: Sequence[np.ndarray], rng: Any = None) -> tuple[np.ndarray, tuple]:
        """Transform an image and, with the same random numbers, its masks; give (image, masks)."""
        image = as_image(image, self)
        for mask in masks:
            if mask.shape[:2] != image.shape[:2]:
                raise ValueError(
                    f"{self}: the mask is {signature(mask)}, the image {signature(image)}; height and width must agree"
                )
        drawn = self.draw(image.shape, rng)
        return self.apply(image, drawn), tuple(self.apply_mask(mask, drawn) for mask in masks)

    def batch(self, images: np.ndarray, rng: Any = None) -> np.ndarray:
        """Transform images (batch, height, width, channels), each with its own random numbers.

        `rng` is the `Rngs` of the samples, or one stream from which theirs are derived.
        """
        images = np.asarray(images)
        if images.ndim != 4:
            raise ValueError(f"{self}.batch takes images (batch, height, width, channels), got {signature(images)}")
        rngs = None if rng is None else Rngs.of(rng, len(images))
        if self.apply_batch is not None:
            return self.apply_batch(images, self.draw(images.shape[1:], rngs))
        return np.stack([self(image, stream) for image, stream in zip(images, streams(rngs, len(images)), strict=True)])

    def uniforms(self, rng: Any, n: int) -> Any:
        """Draw n uniforms of 0 <= u < 1: n floats for a sample, n arrays (batch,) for a batch."""
        if rng is None:
            raise MissingRng(
                f"{self} is random and was called without random numbers: pass rng=fnet.data.Rng(seed), or "
                "np.random.default_rng(seed). A DataLoader makes those of each sample: give it "
                "fnet.data.Map(dataset, OnSample(transform)), not in __getitem__, or define get(self, i, rng)"
            )
        numbers = rng.random(n)
        return numbers.T if isinstance(rng, Rngs) else numbers.tolist()


def streams(rngs: Rngs | None, n: int) -> Any:
    """Go through the streams of a batch one by one, and write back how far each was drawn."""
    for row in range(n):
        if rngs is None:
            yield None
            continue
        stream = rngs[row]
        yield stream
        rngs.counts[row] = stream.count


def as_image(image: Any, who: Any) -> np.ndarray:
    """Read a PIL image or an array as (height, width, channels), or say what is wrong with it."""
    refuse_sample(image, who)
    if not isinstance(image, np.ndarray):
        array = np.asarray(image)
        if array.ndim == 2 and hasattr(image, "getbands"):  # a grey PIL image
            array = array[..., None]
        image = array
    if image.ndim != 3:
        hint = "a grey image needs image[..., None]" if image.ndim == 2 else "a batch goes through .batch(images, rngs)"
        raise ValueError(f"{who}: takes one image (height, width, channels), got {signature(image)}; {hint}")
    if image.dtype != np.uint8 and image.dtype.kind != "f":
        raise TypeError(f"{who}: takes uint8 images of 0 to 255 or floats, got {signature(image)}")
    return image


def refuse_sample(image: Any, who: Any) -> None:
    """Raise TypeError where a whole sample is given for its image."""
    if isinstance(image, (tuple, Mapping)):
        raise TypeError(
            f"{who}: takes one image, got a {type(image).__name__}, as samples are: OnSample(transform) changes the "
            "image of a sample, as in fnet.data.Map(dataset, OnSample(transform))"
        )


def choose(u: Any, low: Any, high: Any) -> Any:
    """Turn uniforms into integers low <= k <= high."""
    if isinstance(u, np.ndarray):
        return (low + np.floor(u * (np.asarray(high) - low + 1))).astype(np.int64)
    return low + int(u * (high - low + 1))


def pair_of(value: Any, name: str, who: str) -> tuple[int, int]:
    """Read a size: one integer for a square, or (height, width)."""
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) == 1:
        pair = pair * 2
    if len(pair) != 2 or any(not isinstance(v, (int, np.integer)) or v < 1 for v in pair):
        raise ValueError(f"{who}: {name} is one positive integer or (height, width), got {value!r}")
    return int(pair[0]), int(pair[1])


def range_of(value: Any, name: str, who: str, least: float = -np.inf) -> tuple[float, float]:
    """Read a (low, high) pair of numbers."""
    try:
        low, high = (float(v) for v in value)
    except (TypeError, ValueError):
        raise ValueError(f"{who}: {name} is a pair (low, high), got {value!r}") from None
    if not least <= low <= high:
        raise ValueError(f"{who}: {name} needs {f'{least:g} <= ' if least > -np.inf else ''}low <= high, got {value!r}")
    return low, high


def check_probability(p: float, who: str) -> None:
    if not 0 <= p <= 1:
        raise ValueError(f"{who}: p={p!r} is not a probability; it is the fraction of images to change, from 0 to 1")


class Chance(Transform):
    """What happens to an image with probability ``p``, a field of the subclass, or does not."""

    p: float

    def __post_init__(self) -> None:
        check_probability(self.p, type(self).__name__)

    def draw(self, shape: tuple[int, ...], rng: Any) -> Any:
        return self.uniforms(rng, 1)[0] < self.p


def fill_of(fill: Any, channels: int, dtype: np.dtype, who: Any) -> np.ndarray:
    """One fill value for each channel."""
    values = np.atleast_1d(np.asarray(fill))
    if values.ndim != 1 or len(values) not in (1, channels):
        raise ValueError(f"{who}: fill has {len(values)} values, the image {channels} channels")
    if dtype == np.uint8 and (values.min() < 0 or values.max() > 255):
        raise ValueError(f"{who}: fill={fill!r} is not a byte of 0 to 255, as the image has")
    return np.broadcast_to(values.astype(dtype), (channels,))


def hashable(value: Any) -> Any:
    """Make a list of values a tuple."""
    return tuple(value) if isinstance(value, (list, tuple, np.ndarray)) else value


__all__ = ["MissingRng", "Rng", "Rngs", "Transform"]
