"""MixUp and CutMix: each image of a batch is mixed with the one before it, and its label in the same proportion."""

from __future__ import annotations

import functools
import operator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..rng import Rngs
from ..structure import signature
from .base import MissingRng, Transform
from .erase import inside_box
from .values import OneHot


@dataclass(frozen=True)
class _Mix(Transform):
    def __call__(self, batch: Any, rng: Any = None) -> tuple[np.ndarray, np.ndarray]:
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise TypeError(
                f"{self}: mixes batches (images, labels), as a DataLoader gives them, and not single images; "
                f"got {type(batch).__name__}"
            )
        if rng is None:
            raise MissingRng(f"{self}: needs random numbers: pass rng=fnet.data.Rng(seed, step)")
        images, labels = np.asarray(batch[0]), np.asarray(batch[1])
        if images.ndim != 4 or len(labels) != len(images):
            raise ValueError(
                f"{self}: takes images (batch, height, width, channels) and a label for each, got {signature(images)} "
                f"and {signature(labels)}"
            )
        soft = self._soft(labels)
        images, kept = self.mix(images, Rngs.of(rng, len(images)))
        kept = kept.astype(np.float32)[:, None]
        return images, kept * soft + (1 - kept) * np.roll(soft, 1, 0)

    def batch(self, images: Any, rng: Any = None) -> Any:
        return self(images, rng)

    def along(self, image: Any, masks: Any, rng: Any = None) -> Any:
        raise TypeError(f"{self}: mixes batches (images, labels); it cannot be part of a transform of single images")

    def mix(self, images: np.ndarray, rngs: Rngs) -> tuple[np.ndarray, np.ndarray]:
        """Give the mixed images, and how much of itself each has kept."""
        raise NotImplementedError

    def _soft(self, labels: np.ndarray) -> np.ndarray:
        classes = self.num_classes  # type: ignore[attr-defined]
        if labels.dtype.kind == "f" and labels.ndim == 2:
            if classes is not None and labels.shape[1] != classes:
                raise ValueError(f"{self}: soft labels have {labels.shape[1]} classes, expected {classes}")
            return labels.astype(np.float32)
        if classes is None:
            raise ValueError(f"{self}: integer labels become soft ones, which needs num_classes=")
        return OneHot(classes)(labels)

    def __post_init__(self) -> None:
        if not self.alpha > 0:  # type: ignore[attr-defined]
            raise ValueError(f"{type(self).__name__}: alpha must be positive, got {self.alpha}")  # type: ignore[attr-defined]
        if self.num_classes is not None and operator.index(self.num_classes) < 1:  # type: ignore[attr-defined]
            raise ValueError(f"{type(self).__name__}: num_classes must be at least 1")


@dataclass(frozen=True)
class MixUp(_Mix):
    """Blend each image of a batch with the one before it (Zhang et al. 2017, arXiv:1710.09412).

    Called as t((images, labels), rng); gives (images, soft labels float32 (batch, num_classes)). `rng` is the `Rngs` of
    the samples, or one stream: `fnet.data.Rng(seed, step)`. Each image has a proportion of its own, from
    Beta(alpha, alpha), where torchvision draws one for the whole batch.

    Args:
        alpha: of the Beta distribution; small values leave most images almost whole.
        num_classes: of integer labels; None for labels that are soft already.

    >>> images = np.stack([np.zeros((2, 2, 1)), np.ones((2, 2, 1))]).astype(np.float32)
    >>> mixed, labels = MixUp(alpha=1.0, num_classes=2)((images, np.array([0, 1])), np.random.default_rng(0))
    >>> np.allclose(mixed[:, 0, 0, 0], labels[:, 1])
    True
    """

    alpha: float = 1.0
    num_classes: int | None = None

    def mix(self, images: np.ndarray, rngs: Rngs) -> tuple[np.ndarray, np.ndarray]:
        kept = beta_quantile(rngs.random(1)[:, 0], self.alpha)
        dtype = images.dtype if images.dtype.kind == "f" else np.dtype(np.float32)
        share = kept.astype(dtype)[:, None, None, None]
        mixed = share * images + (1 - share) * np.roll(images, 1, 0)
        return (np.rint(mixed).astype(np.uint8) if images.dtype == np.uint8 else mixed), kept


@dataclass(frozen=True)
class CutMix(_Mix):
    """Paste a rectangle of the image before it into each image of a batch (Yun et al. 2019, arXiv:1905.04899).

    Called and labelled as MixUp. The rectangle has the image's proportions and its centre anywhere; it is cut off at
    the edges, and the labels follow the area that was really pasted.

    >>> images = np.stack([np.zeros((8, 8, 1)), np.ones((8, 8, 1))]).astype(np.uint8)
    >>> mixed, labels = CutMix(alpha=1.0, num_classes=2)((images, np.array([0, 1])), np.random.default_rng(0))
    >>> np.allclose(mixed.mean((1, 2, 3)), labels[:, 1])
    True
    """

    alpha: float = 1.0
    num_classes: int | None = None

    def mix(self, images: np.ndarray, rngs: Rngs) -> tuple[np.ndarray, np.ndarray]:
        height, width = images.shape[1:3]
        u = rngs.random(3).T
        half = 0.5 * np.sqrt(1 - beta_quantile(u[0], self.alpha))
        y, x = np.floor(u[1] * height), np.floor(u[2] * width)
        top, bottom = (np.clip(np.trunc(y + s * np.trunc(half * height)), 0, height) for s in (-1, 1))
        left, right = (np.clip(np.trunc(x + s * np.trunc(half * width)), 0, width) for s in (-1, 1))
        inside = inside_box((height, width), top, left, bottom - top, right - left)[..., None]
        kept = 1 - (bottom - top) * (right - left) / (height * width)
        return np.where(inside, np.roll(images, 1, 0), images), kept


@functools.lru_cache(maxsize=32)
def _beta_table(alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """Half of the distribution function of Beta(alpha, alpha), over t = x^p for x up to 1/2, with p = min(alpha, 1).

    In t the density x^(alpha - 1) (1 - x)^(alpha - 1) dx is x^(alpha - p) (1 - x)^(alpha - 1) dt / p, which is finite
    also where the density itself is not, at 0 for alpha < 1.
    """
    power = min(alpha, 1.0)
    t = np.linspace(0, 0.5**power, 8193)
    x = t ** (1 / power)
    density = x ** (alpha - power) * (1 - x) ** (alpha - 1)
    total = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return total / (2 * total[-1]), t


def beta_quantile(u: np.ndarray, alpha: float) -> np.ndarray:
    """Turn uniforms into numbers of the distribution Beta(alpha, alpha).

    >>> beta_quantile(np.array([0.1, 0.5, 0.9]), 1.0)
    array([0.1, 0.5, 0.9])
    """
    cumulated, t = _beta_table(float(alpha))
    x = np.interp(np.minimum(u, 1 - u), cumulated, t) ** (1 / min(alpha, 1.0))
    return np.where(u < 0.5, x, 1 - x)
