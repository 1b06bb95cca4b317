"""Transforms of the values of an image, or of a label: dtype, scale, noise."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..structure import fix
from .base import Transform, as_image, refuse_sample


@dataclass(frozen=True)
class ToImage(Transform):
    """A PIL image, or an array of (height, width[, channels]), as an array of (height, width, channels).

    >>> ToImage()(np.zeros((4, 5), np.uint8)).shape
    (4, 5, 1)
    """

    random = False

    def __call__(self, image: Any, rng: Any = None) -> np.ndarray:
        array = np.asarray(image)
        return as_image(array[..., None] if array.ndim == 2 else array, self)

    def along(self, image: Any, masks: Any, rng: Any = None) -> Any:
        return self(image), tuple(masks)


@dataclass(frozen=True)
class ToFloat(Transform):
    """Bytes 0 to 255 as float32 0 to 1; floats stay as they are.

    Takes any shape, a numpy or a jax array, so it can be the first part of a Sequential as well as be applied to data.
    Raises TypeError for other dtypes, whose range is not known.

    >>> ToFloat()(np.array([0, 51, 255], np.uint8))
    array([0. , 0.2, 1. ], dtype=float32)
    """

    random = False

    def __call__(self, x: Any, rng: Any = None) -> Any:
        refuse_sample(x, self)
        if x.dtype == np.uint8:
            return x / np.float32(255)
        if np.issubdtype(x.dtype, np.floating) or x.dtype.name == "bfloat16":
            return x
        raise TypeError(f"ToFloat takes uint8 images of 0 to 255 or floats, got {x.dtype} {tuple(x.shape)}")

    def along(self, image: Any, masks: Any, rng: Any = None) -> Any:
        return self(image), tuple(masks)

    def batch(self, images: Any, rng: Any = None) -> Any:
        return self(images)


@dataclass(frozen=True)
class ToDtype(Transform):
    """Cast an image; with scale=True, between bytes of 0 to 255 and floats of 0 to 1.

    Floats become bytes as in torchvision, by floor(x * 255.999), and are clipped to 0 to 1 before.

    >>> ToDtype("float16", scale=True)(np.full((1, 1, 1), 255, np.uint8)).item()
    1.0
    """

    dtype: str = "float32"
    scale: bool = False

    def __post_init__(self) -> None:
        fix(self, dtype=np.dtype(self.dtype).name)
        if self.scale and self.dtype != "uint8" and np.dtype(self.dtype).kind != "f":
            raise ValueError(f"ToDtype: scale=True goes between uint8 and floats, got dtype={self.dtype}")

    def apply(self, image: np.ndarray, drawn: None) -> np.ndarray:
        dtype = np.dtype(self.dtype)
        if not self.scale or image.dtype.kind == dtype.kind:
            return image.astype(dtype)
        if dtype.kind == "f":
            return (image / np.float32(255)).astype(dtype)
        return (np.clip(image, 0, 1) * (256 - 1e-3)).astype(np.uint8)

    apply_batch = apply


@dataclass(frozen=True)
class Normalize(Transform):
    """(image - mean) / std by channel, on floats; use ToFloat before it, as the means of tutorials are of 0 to 1.

    Works on numpy and jax arrays with any leading axes.

    Args:
        mean, std: one number, or one a channel.

    >>> Normalize(0.5, 0.25)(np.full((1, 1, 1), 1.0, np.float32)).item()
    2.0
    """

    mean: float | tuple[float, ...]
    std: float | tuple[float, ...]
    random = False

    def __post_init__(self) -> None:
        mean, std = (tuple(np.atleast_1d(v).astype(float).tolist()) for v in (self.mean, self.std))
        fix(self, mean=mean, std=std)
        if len(mean) != len(std) and 1 not in (len(mean), len(std)):
            raise ValueError(f"Normalize: mean has {len(mean)} channels and std {len(std)}")
        if any(not value > 0 for value in std):
            raise ValueError(f"Normalize: std must be positive, got {std}")

    def __call__(self, image: Any, rng: Any = None) -> Any:
        refuse_sample(image, self)
        if not hasattr(image, "dtype") or (image.dtype.kind != "f" and image.dtype.name != "bfloat16"):
            raise TypeError(
                f"Normalize takes floats, got {getattr(image, 'dtype', type(image).__name__)}: put ToFloat() before it"
            )
        channels = max(len(self.mean), len(self.std))  # type: ignore[arg-type]
        if channels not in (1, image.shape[-1]):
            raise ValueError(f"{self}: {channels} channels, but the image is {image.dtype}{list(image.shape)}")
        mean, std = (np.asarray(v, np.float32).astype(image.dtype) for v in (self.mean, self.std))
        return (image - mean) / std

    def along(self, image: Any, masks: Any, rng: Any = None) -> Any:
        return self(image), tuple(masks)

    def batch(self, images: Any, rng: Any = None) -> Any:
        return self(images)


@dataclass(frozen=True)
class GaussianNoise(Transform):
    """Add normal noise, of the unit of 0 to 1: sigma=0.1 is 25.5 grey values on bytes.

    Args:
        mean, sigma: of the noise.
        clip: keep the result within 0 to 1 (bytes are always clipped to 0 to 255).

    >>> image = np.full((64, 64, 3), 0.5, np.float32)
    >>> round(float(GaussianNoise(sigma=0.1)(image, np.random.default_rng(0)).std()), 2)
    0.1
    """

    mean: float = 0.0
    sigma: float = 0.1
    clip: bool = True

    def __post_init__(self) -> None:
        if self.sigma < 0:
            raise ValueError(f"GaussianNoise: sigma must not be negative, got {self.sigma}")

    def draw(self, shape: tuple[int, ...], rng: Any) -> np.ndarray:
        self.uniforms(rng, 0)  # says so where there is no rng
        return self.mean + self.sigma * normals(rng, shape)

    def apply(self, image: np.ndarray, noise: np.ndarray) -> np.ndarray:
        if image.dtype == np.uint8:
            return np.clip(np.rint(image + 255 * noise), 0, 255).astype(np.uint8)
        noisy = image + noise.astype(image.dtype)
        return np.clip(noisy, 0, 1) if self.clip else noisy

    apply_batch = apply


def normals(rng: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal numbers of a shape, from two uniforms each (Box and Muller, 1958)."""
    u = rng.random((2, *shape))
    axis = u.ndim - len(shape) - 1
    first, second = u.take(0, axis), u.take(1, axis)
    return np.sqrt(-2 * np.log1p(-first)) * np.cos(2 * np.pi * second)


@dataclass(frozen=True)
class OneHot(Transform):
    """Labels 0 to num_classes - 1, one or an array of them, as float32 vectors on a new last axis.

    Raises ValueError for labels out of range and TypeError for labels that are not integers.

    >>> OneHot(3)(np.array([2, 0]))
    array([[0., 0., 1.],
           [1., 0., 0.]], dtype=float32)
    """

    num_classes: int
    random = False

    def __post_init__(self) -> None:
        if operator.index(self.num_classes) < 1:
            raise ValueError(f"OneHot: num_classes must be at least 1, got {self.num_classes}")

    def __call__(self, label: Any, rng: Any = None) -> np.ndarray:
        label = np.asarray(label)
        if label.dtype.kind not in "iu":
            raise TypeError(f"OneHot takes integer labels, got {label.dtype}")
        wrong = (label < 0) | (label >= self.num_classes)
        if wrong.any():
            raise ValueError(f"OneHot: label {label[wrong][0]} is out of range, expected 0 to {self.num_classes - 1}")
        return (label[..., None] == np.arange(self.num_classes)).astype(np.float32)

    def batch(self, images: Any, rng: Any = None) -> np.ndarray:
        return self(images)
