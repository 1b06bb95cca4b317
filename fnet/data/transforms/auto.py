"""Automatic augmentation: AutoAugment, RandAugment, TrivialAugmentWide and AugMix, with torchvision's tables.

All work on uint8 images of 1 or 3 channels, through Pillow (the `image` extra), and have no meaning for masks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..structure import fix, signature
from . import adjust
from .base import Transform, choose, hashable
from .geometry import affine, affine_matrix
from .mixing import beta_quantile
from .pillow import check_interpolation, warp
from .policies import POLICIES

# An operation's strengths: (weakest, strongest, signed), or None where it has none. Translations are in pixels.
Space = dict[str, tuple[float, float, bool] | None]


def _space(shear: float, across: float, down: float, turn: float, colour: float, posterize: tuple) -> Space:
    return {
        "Identity": None,
        "ShearX": (0.0, shear, True),
        "ShearY": (0.0, shear, True),
        "TranslateX": (0.0, across, True),
        "TranslateY": (0.0, down, True),
        "Rotate": (0.0, turn, True),
        "Brightness": (0.0, colour, True),
        "Color": (0.0, colour, True),
        "Contrast": (0.0, colour, True),
        "Sharpness": (0.0, colour, True),
        "Posterize": (*posterize, False),
        "Solarize": (1.0, 0.0, False),
        "AutoContrast": None,
        "Equalize": None,
    }


def _strength(space: Space, name: str, number: int, bins: int, sign: float) -> float:
    """The strength of this number among evenly spaced ones, negative for half of the signed operations."""
    entry = space[name]
    if entry is None:
        return 0.0
    weakest, strongest, signed = entry
    value = weakest + (strongest - weakest) * number / max(bins - 1, 1)
    if name == "Posterize":
        value = float(round(value))
    return -value if signed and sign < 0.5 else value


def operate(image: np.ndarray, name: str, strength: float, interpolation: str, fill: Any, who: Any) -> np.ndarray:
    """Apply one operation by its name in the papers' tables."""
    if name == "Identity":
        return image
    colours: dict[str, Callable[[], np.ndarray]] = {
        "Brightness": lambda: adjust.adjust_brightness(image, 1 + strength, who),
        "Color": lambda: adjust.adjust_saturation(image, 1 + strength, who),
        "Contrast": lambda: adjust.adjust_contrast(image, 1 + strength, who),
        "Sharpness": lambda: adjust.adjust_sharpness(image, 1 + strength, who),
        "Posterize": lambda: adjust.posterize(image, int(strength)),
        "Solarize": lambda: adjust.solarize(image, 255 * strength),
        "AutoContrast": lambda: adjust.autocontrast(image, who),
        "Equalize": lambda: adjust.equalize(image, who),
        "Invert": lambda: adjust.invert(image),
    }
    if name in colours:
        return colours[name]()
    if name == "Rotate":
        return warp(image, lambda im, resample, f: im.rotate(strength, resample, fillcolor=f), interpolation, fill, who)
    middle = (image.shape[1] * 0.5, image.shape[0] * 0.5)
    tilt = math.degrees(math.atan(strength))
    matrix = {
        "ShearX": lambda: affine_matrix((0, 0), 0.0, (0, 0), 1.0, (tilt, 0.0)),
        "ShearY": lambda: affine_matrix((0, 0), 0.0, (0, 0), 1.0, (0.0, tilt)),
        "TranslateX": lambda: affine_matrix(middle, 0.0, (int(strength), 0), 1.0, (0.0, 0.0)),
        "TranslateY": lambda: affine_matrix(middle, 0.0, (0, int(strength)), 1.0, (0.0, 0.0)),
    }[name]()
    return warp(image, affine(matrix, who), interpolation, fill, who)


@dataclass(frozen=True)
class _Auto(Transform):
    def steps(self, shape: tuple[int, ...], u: list[float]) -> list[tuple[str, float]]:
        raise NotImplementedError

    def apply(self, image: np.ndarray, drawn: Any) -> np.ndarray:
        _check(image, self)
        for name, strength in drawn:
            image = operate(image, name, strength, self.interpolation, self.fill, self)  # type: ignore[attr-defined]
        return image

    def apply_mask(self, mask: np.ndarray, drawn: Any) -> np.ndarray:
        raise TypeError(f"{self} is not defined for masks: use RandomAffine, RandomRotation and ColorJitter")

    def __post_init__(self) -> None:
        fix(self, fill=hashable(self.fill))  # type: ignore[attr-defined]
        check_interpolation(self.interpolation, type(self).__name__, ("nearest", "bilinear", "bicubic"))  # type: ignore[attr-defined]


@dataclass(frozen=True)
class AutoAugment(_Auto):
    """One of the 25 pairs of operations that were learned for a dataset (Cubuk et al. 2018, arXiv:1805.09501).

    Args:
        policy: "imagenet", "cifar10" or "svhn".
        interpolation, fill: of the geometric operations.

    >>> AutoAugment("cifar10")(np.zeros((32, 32, 3), np.uint8), np.random.default_rng(0)).shape
    (32, 32, 3)
    """

    policy: str = "imagenet"
    interpolation: str = "nearest"
    fill: float | tuple[float, ...] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.policy not in POLICIES:
            raise ValueError(f"AutoAugment: policy is one of {', '.join(POLICIES)}, got {self.policy!r}")

    def draw(self, shape: tuple[int, ...], rng: Any) -> list[tuple[str, float]]:
        u = self.uniforms(rng, 5)
        space = {**_wide(shape), "Invert": None}
        pair = POLICIES[self.policy][choose(u[0], 0, 24)]
        return [
            (name, _strength(space, name, number, 10, u[2 + 2 * k]))
            for k, (name, p, number) in enumerate(pair)
            if u[1 + 2 * k] < p
        ]


@dataclass(frozen=True)
class RandAugment(_Auto):
    """Some operations of one strength, drawn at random (Cubuk et al. 2019, arXiv:1909.13719).

    Args:
        num_ops: how many, one after another.
        magnitude: their strength, a number of 0 to num_magnitude_bins - 1.
        num_magnitude_bins: how finely strengths are divided.
        interpolation, fill: of the geometric operations.

    >>> RandAugment()(np.zeros((32, 32, 3), np.uint8), np.random.default_rng(0)).shape
    (32, 32, 3)
    """

    num_ops: int = 2
    magnitude: int = 9
    num_magnitude_bins: int = 31
    interpolation: str = "nearest"
    fill: float | tuple[float, ...] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_ops < 0 or not 0 <= self.magnitude < self.num_magnitude_bins:
            raise ValueError(
                f"RandAugment: needs num_ops of 0 or more and magnitude below num_magnitude_bins, got {self.num_ops}, "
                f"{self.magnitude} and {self.num_magnitude_bins}"
            )

    def draw(self, shape: tuple[int, ...], rng: Any) -> list[tuple[str, float]]:
        u = self.uniforms(rng, 2 * self.num_ops)
        space, steps = _wide(shape), []
        for k in range(self.num_ops):
            name = list(space)[choose(u[2 * k], 0, len(space) - 1)]
            steps.append((name, _strength(space, name, self.magnitude, self.num_magnitude_bins, u[2 * k + 1])))
        return steps


@dataclass(frozen=True)
class TrivialAugmentWide(_Auto):
    """One operation of random strength: nothing to tune (Müller and Hutter 2021, arXiv:2103.10158).

    >>> TrivialAugmentWide()(np.zeros((32, 32, 3), np.uint8), np.random.default_rng(0)).shape
    (32, 32, 3)
    """

    num_magnitude_bins: int = 31
    interpolation: str = "nearest"
    fill: float | tuple[float, ...] = 0

    def draw(self, shape: tuple[int, ...], rng: Any) -> list[tuple[str, float]]:
        u = self.uniforms(rng, 3)
        space = _space(0.99, 32.0, 32.0, 135.0, 0.99, (8, 2))
        name = list(space)[choose(u[0], 0, len(space) - 1)]
        number = choose(u[1], 0, self.num_magnitude_bins - 1)
        return [(name, _strength(space, name, number, self.num_magnitude_bins, u[2]))]


@dataclass(frozen=True)
class AugMix(_Auto):
    """A blend of the image with several chains of operations (Hendrycks et al. 2019, arXiv:1912.02781).

    Args:
        severity: largest strength, 1 to 10.
        mixture_width: number of chains.
        chain_depth: operations in each; -1 for 1 to 3, drawn for each chain.
        alpha: of the Beta and Dirichlet distributions of the proportions.
        all_ops: with brightness, colour, contrast and sharpness too.
        interpolation, fill: of the geometric operations.

    >>> AugMix()(np.zeros((32, 32, 3), np.uint8), np.random.default_rng(0)).shape
    (32, 32, 3)
    """

    severity: int = 3
    mixture_width: int = 3
    chain_depth: int = -1
    alpha: float = 1.0
    all_ops: bool = True
    interpolation: str = "bilinear"
    fill: float | tuple[float, ...] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.severity <= 10:
            raise ValueError(f"AugMix: severity is from 1 to 10, got {self.severity}")
        if self.mixture_width < 1 or self.chain_depth == 0 or not self.alpha > 0:
            raise ValueError(f"AugMix: mixture_width, chain_depth (or -1) and alpha must be positive, got {self}")

    def draw(self, shape: tuple[int, ...], rng: Any) -> Any:
        """Give the image's own share, and for each chain its share and its steps."""
        space = _space(0.3, shape[1] / 3, shape[0] / 3, 30.0, 0.9, (4, 0))
        left_out = {"Identity"} | (set() if self.all_ops else {"Brightness", "Color", "Contrast", "Sharpness"})
        names = [name for name in space if name not in left_out]
        deepest = max(self.chain_depth, 3)
        (u,) = (self.uniforms(rng, 1 + self.mixture_width * (2 + 3 * deepest)),)
        own = float(beta_quantile(np.array(u[0]), self.alpha))
        chains = [u[1 + k * (2 + 3 * deepest) :] for k in range(self.mixture_width)]
        shares = _dirichlet([chain[0] for chain in chains], self.alpha)
        steps = []
        for chain in chains:
            depth = self.chain_depth if self.chain_depth > 0 else choose(chain[1], 1, 3)
            numbers = [chain[2 + 3 * k : 5 + 3 * k] for k in range(depth)]
            picked = [(names[choose(a, 0, len(names) - 1)], choose(b, 0, self.severity - 1), c) for a, b, c in numbers]
            steps.append([(name, _strength(space, name, number, 10, sign)) for name, number, sign in picked])
        return own, [((1 - own) * share, chain) for share, chain in zip(shares, steps, strict=True)]

    def apply(self, image: np.ndarray, drawn: Any) -> np.ndarray:
        own, chains = drawn
        mixed = own * image.astype(np.float64)
        for share, steps in chains:
            mixed += share * super().apply(image, steps)
        return np.clip(mixed, 0, 255).astype(np.uint8)  # torchvision, too, cuts the fraction off


def _wide(shape: tuple[int, ...]) -> Space:
    """The space that AutoAugment and RandAugment share: shifts are 150 pixels of an image of 331."""
    return _space(0.3, 150 / 331 * shape[1], 150 / 331 * shape[0], 30.0, 0.9, (8, 4))


def _dirichlet(u: list[float], alpha: float) -> np.ndarray:
    """Proportions that sum to 1: normalised gamma variables; for alpha = 1 these are -log of uniforms."""
    gammas = np.array([gamma_quantile(v, alpha) for v in u])
    return gammas / gammas.sum()


def gamma_quantile(u: float, alpha: float) -> float:
    """Turn a uniform into a number of the distribution Gamma(alpha, 1), by bisection of the series for its integral."""
    if alpha == 1:
        return -math.log1p(-u) + 1e-300
    scale = math.exp(-math.lgamma(alpha + 1))

    def below(x: float) -> float:
        term = total = 1.0
        k = alpha
        while term > 1e-17 * total:
            k += 1
            term *= x / k
            total += term
        return scale * x**alpha * math.exp(-x) * total

    low, high = 0.0, alpha + 40 * math.sqrt(alpha) + 40
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if below(middle) < u else (low, middle)
    return high


def _check(image: np.ndarray, who: Any) -> None:
    if image.dtype != np.uint8 or image.shape[-1] not in (1, 3):
        raise TypeError(f"{who}: takes uint8 images of 1 or 3 channels, before ToFloat, got {signature(image)}")
