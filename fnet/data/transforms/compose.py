"""Transforms made of transforms, plain functions among them, and the one that reads a whole sample."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..rng import Rngs
from ..structure import fix
from .base import Transform, check_probability, streams


@dataclass(frozen=True)
class Lambda(Transform):
    """A plain function as a transform; Compose and the others wrap functions by themselves.

    The function is called as fn(image), or as fn(image, rng) if it has a parameter named `rng`. It is taken to leave
    geometry alone: masks stay as they are. A lambda cannot be pickled, so it cannot go to worker processes; a function
    with a name in a module can.

    >>> Lambda(lambda image: image[::2, ::2])(np.zeros((4, 4, 1), np.uint8)).shape
    (2, 2, 1)
    """

    fn: Callable[..., Any]
    _takes_rng: bool = field(init=False, repr=False, compare=False)

    @property
    def random(self) -> bool:
        return self._takes_rng

    def __post_init__(self) -> None:
        if not callable(self.fn):
            raise TypeError(f"a transform is a function of an image, got {type(self.fn).__name__} {self.fn!r}")
        try:
            fix(self, _takes_rng="rng" in inspect.signature(self.fn).parameters)
        except ValueError:  # a function written in C that says nothing about its parameters
            fix(self, _takes_rng=False)

    def __call__(self, image: Any, rng: Any = None) -> Any:
        return self.fn(image, rng=rng) if self._takes_rng else self.fn(image)

    def along(self, image: Any, masks: Sequence[np.ndarray], rng: Any = None) -> tuple[Any, tuple]:
        return self(image, rng), tuple(masks)

    def __repr__(self) -> str:
        return f"Lambda({getattr(self.fn, '__qualname__', repr(self.fn))})"


def as_transform(value: Any) -> Transform:
    """Wrap what is not a Transform in Lambda."""
    return value if isinstance(value, Transform) else Lambda(value)


def _several(transforms: Any, who: str) -> tuple[Transform, ...]:
    if isinstance(transforms, Transform) or not isinstance(transforms, Sequence):
        raise TypeError(f"{who} takes a list of transforms, got {type(transforms).__name__}: {who}([a, b])")
    return tuple(map(as_transform, transforms))


@dataclass(frozen=True)
class Compose(Transform):
    """One transform after another; each draws from the sample's stream where the one before stopped.

    On a batch, each part runs vectorised if it can, and sample by sample if not.

    >>> from fnet.data.transforms import Normalize, ToFloat
    >>> t = Compose([ToFloat(), Normalize(0.5, 0.5)])
    >>> t
    Compose([ToFloat(), Normalize(mean=(0.5,), std=(0.5,))])
    >>> t(np.full((1, 1, 1), 255, np.uint8)).item()
    1.0
    """

    transforms: Sequence[Any]

    def __post_init__(self) -> None:
        fix(self, transforms=_several(self.transforms, "Compose"))

    @property
    def random(self) -> bool:
        return any(transform.random for transform in self.transforms)

    def along(self, image: Any, masks: Sequence[np.ndarray], rng: Any = None) -> tuple[Any, tuple]:
        moved = tuple(masks)
        for transform in self.transforms:
            image, moved = transform.along(image, moved, rng)
        return image, moved

    def batch(self, images: Any, rng: Any = None) -> Any:
        rngs = None if rng is None else Rngs.of(rng, len(images))
        for transform in self.transforms:
            images = transform.batch(images, rngs)
        return images

    def __repr__(self) -> str:
        return f"Compose([{', '.join(map(repr, self.transforms))}])"


@dataclass(frozen=True)
class RandomApply(Transform):
    """Apply transforms, one after another, with probability p; else none of them.

    >>> from fnet.data.transforms import Pad
    >>> RandomApply([Pad(1)], p=0.0)(np.zeros((2, 2, 1), np.uint8), np.random.default_rng(0)).shape
    (2, 2, 1)
    """

    transforms: Sequence[Any]
    p: float = 0.5

    def __post_init__(self) -> None:
        check_probability(self.p, "RandomApply")
        fix(self, transforms=_several(self.transforms, "RandomApply"))

    def along(self, image: Any, masks: Sequence[np.ndarray], rng: Any = None) -> tuple[Any, tuple]:
        if self.uniforms(rng, 1)[0] >= self.p:
            return image, tuple(masks)
        return Compose(self.transforms).along(image, masks, rng)

    def batch(self, images: np.ndarray, rng: Any = None) -> np.ndarray:
        rngs = None if rng is None else Rngs.of(rng, len(images))
        chosen = self.uniforms(rngs, 1)[0] < self.p
        return _replace(images, rngs, chosen, Compose(self.transforms))


@dataclass(frozen=True)
class RandomChoice(Transform):
    """Apply one of several transforms.

    Args:
        transforms: what to choose from.
        p: how likely each is (weights; they are divided by their sum); None for all alike.

    >>> from fnet.data.transforms import CenterCrop
    >>> t = RandomChoice([CenterCrop(1), CenterCrop(2)], p=[0, 1])
    >>> t(np.zeros((4, 4, 1), np.uint8), np.random.default_rng(0)).shape
    (2, 2, 1)
    """

    transforms: Sequence[Any]
    p: Sequence[float] | None = None

    def __post_init__(self) -> None:
        fix(self, transforms=_several(self.transforms, "RandomChoice"), p=self.p if self.p is None else tuple(self.p))
        if not self.transforms:
            raise ValueError("RandomChoice needs at least one transform")
        if self.p is not None and (len(self.p) != len(self.transforms) or min(self.p) < 0 or sum(self.p) <= 0):
            raise ValueError(f"RandomChoice: p needs one weight of 0 or more for each transform, got {self.p}")

    def _number(self, u: Any) -> Any:
        weights = np.ones(len(self.transforms)) if self.p is None else np.asarray(self.p, float)
        edges = np.cumsum(weights) / weights.sum()
        return np.searchsorted(edges[:-1], u, side="right")

    def along(self, image: Any, masks: Sequence[np.ndarray], rng: Any = None) -> tuple[Any, tuple]:
        return self.transforms[self._number(self.uniforms(rng, 1)[0])].along(image, masks, rng)

    def batch(self, images: np.ndarray, rng: Any = None) -> np.ndarray:
        rngs = None if rng is None else Rngs.of(rng, len(images))
        numbers = self._number(self.uniforms(rngs, 1)[0])
        out: list[Any] = [None] * len(images)
        for number, transform in enumerate(self.transforms):
            rows = np.flatnonzero(numbers == number)
            if rows.size:
                part = rngs.rows(rows)  # type: ignore[union-attr]
                for row, image in zip(rows, transform.batch(images[rows], part), strict=True):
                    out[row] = image
                rngs.put(rows, part)  # type: ignore[union-attr]
        return np.stack(out)


@dataclass(frozen=True)
class RandomOrder(Transform):
    """Apply all transforms, in a random order.

    >>> from fnet.data.transforms import Pad, ToFloat
    >>> RandomOrder([ToFloat(), Pad(1)])(np.zeros((2, 2, 1), np.uint8), np.random.default_rng(0)).shape
    (4, 4, 1)
    """

    transforms: Sequence[Any]

    def __post_init__(self) -> None:
        fix(self, transforms=_several(self.transforms, "RandomOrder"))

    def along(self, image: Any, masks: Sequence[np.ndarray], rng: Any = None) -> tuple[Any, tuple]:
        order = np.argsort(self.uniforms(rng, len(self.transforms)))
        return Compose([self.transforms[k] for k in order]).along(image, masks, rng)


@dataclass(frozen=True)
class OnSample(Transform):
    """Transform a whole sample: its image, its label, and its segmentation masks with the image.

    Called as t(sample, rng). In a tuple or list the image is entry 0 and the target entry 1; in a dict they are
    "image" and "label". All else passes through.

    Args:
        transform: of the image; None for none.
        target_transform: of the target, called as target_transform(label, rng) after the image's; None for none.
        masks: entries (numbers or keys) that are masks (height, width[, channels]): flips, crops and warps move them
            as the image, taking the nearest pixel and filling with 0; changes of colour leave them alone.

    >>> from fnet.data.transforms import OneHot, RandomHorizontalFlip, ToFloat
    >>> image, label = OnSample(ToFloat(), OneHot(3))((np.zeros((2, 2, 1), np.uint8), 1))
    >>> label
    array([0., 1., 0.], dtype=float32)
    >>> image, mask = np.arange(4, dtype=np.uint8).reshape(2, 2, 1), np.array([[0, 1], [2, 3]])
    >>> OnSample(RandomHorizontalFlip(1.0), masks=[1])((image, mask), np.random.default_rng(0))[1]
    array([[1, 0],
           [3, 2]])
    """

    transform: Any = None
    target_transform: Any = None
    masks: Sequence[Any] = ()

    def __post_init__(self) -> None:
        for name in ("transform", "target_transform"):
            value = getattr(self, name)
            fix(self, **{name: value if value is None else as_transform(value)})
        fix(self, masks=tuple(self.masks))

    @property
    def random(self) -> bool:
        return any(t is not None and t.random for t in (self.transform, self.target_transform))

    def __call__(self, sample: Any, rng: Any = None) -> Any:
        mapping = isinstance(sample, Mapping)
        if not mapping and not isinstance(sample, (tuple, list)):
            raise TypeError(f"OnSample takes samples that are tuples, lists or dicts, got {type(sample).__name__}")
        entries: Any = dict(sample) if mapping else list(sample)
        image, target = ("image", "label") if mapping else (0, 1)
        try:
            if self.transform is not None:
                moved, masks = self.transform.along(entries[image], [entries[key] for key in self.masks], rng)
                entries[image] = moved
                for key, mask in zip(self.masks, masks, strict=True):
                    entries[key] = mask
            if self.target_transform is not None:
                entries[target] = self.target_transform(entries[target], rng)
        except LookupError as error:
            has = list(entries) if mapping else f"{len(entries)} entries"
            raise type(error)(f"OnSample: the sample has no entry {error}; it has {has}") from error
        if mapping or isinstance(sample, list):
            return entries
        return type(sample)(*entries) if hasattr(sample, "_fields") else tuple(entries)

    def batch(self, images: Any, rng: Any = None) -> Any:
        """Transform a batch in the structure of a sample, its images vectorised: `MapBatch(dataset, t.batch)`."""
        if self.masks:
            raise TypeError(f"{self}: masks go sample by sample; use Map(dataset, t), and not MapBatch")
        mapping = isinstance(images, Mapping)
        entries: Any = dict(images) if mapping else list(images)
        image, target = ("image", "label") if mapping else (0, 1)
        rngs = None if rng is None else Rngs.of(rng, len(entries[image]))
        if self.transform is not None:
            entries[image] = self.transform.batch(entries[image], rngs)
        if self.target_transform is not None:
            labels = entries[target]
            pairs = zip(labels, streams(rngs, len(labels)), strict=True)
            entries[target] = np.stack([self.target_transform(label, stream) for label, stream in pairs])
        return entries if mapping or isinstance(images, list) else tuple(entries)


def _replace(images: np.ndarray, rngs: Any, chosen: np.ndarray, transform: Transform) -> np.ndarray:
    """Transform some of the images, which must keep their shape and dtype."""
    if not chosen.any():
        return images
    part = rngs.rows(chosen)
    changed = transform.batch(images[chosen], part)
    rngs.put(chosen, part)
    if changed.shape[1:] != images.shape[1:] or changed.dtype != images.dtype:
        if chosen.all():
            return changed
        raise ValueError(
            f"{transform} gives {changed.dtype}{list(changed.shape[1:])} from {images.dtype}{list(images.shape[1:])}, "
            "and is applied to some of the images only, so they cannot be stacked to a batch"
        )
    out = images.copy()
    out[chosen] = changed
    return out


