"""Transforms: functions of an image and of random numbers, as frozen values. Needs numpy, and Pillow for some.

Called as t(image, rng) on one numpy image (height, width, channels), uint8 of 0 to 255 or floats of 0 to 1, and as
t.batch(images, rngs) on many, with the same bytes. Names and arguments are those of torchvision.transforms.v2; enums
are strings ("bilinear", "reflect", "imagenet").
"""

from typing import Any

from .auto import AugMix, AutoAugment, RandAugment, TrivialAugmentWide
from .base import MissingRng, Transform
from .colour import (
    ColorJitter,
    GaussianBlur,
    Grayscale,
    RandomAdjustSharpness,
    RandomAutocontrast,
    RandomEqualize,
    RandomGrayscale,
    RandomInvert,
    RandomPosterize,
    RandomSolarize,
)
from .compose import Compose, Lambda, OnSample, RandomApply, RandomChoice, RandomOrder
from .crop import (
    CenterCrop,
    FiveCrop,
    Pad,
    RandomCrop,
    RandomHorizontalFlip,
    RandomTranslate,
    RandomVerticalFlip,
    TenCrop,
)
from .erase import Cutout, RandomErasing
from .geometry import (
    ElasticTransform,
    RandomAffine,
    RandomPerspective,
    RandomResizedCrop,
    RandomRotation,
    Resize,
)
from .mixing import CutMix, MixUp
from .values import GaussianNoise, Normalize, OneHot, ToDtype, ToFloat, ToImage

__all__ = [
    "AugMix",
    "AutoAugment",
    "CenterCrop",
    "ColorJitter",
    "Compose",
    "CutMix",
    "Cutout",
    "ElasticTransform",
    "FiveCrop",
    "GaussianBlur",
    "GaussianNoise",
    "Grayscale",
    "Lambda",
    "MissingRng",
    "MixUp",
    "Normalize",
    "OnSample",
    "OneHot",
    "Pad",
    "RandAugment",
    "RandomAdjustSharpness",
    "RandomAffine",
    "RandomApply",
    "RandomAutocontrast",
    "RandomChoice",
    "RandomCrop",
    "RandomEqualize",
    "RandomErasing",
    "RandomGrayscale",
    "RandomHorizontalFlip",
    "RandomInvert",
    "RandomOrder",
    "RandomPerspective",
    "RandomPosterize",
    "RandomResizedCrop",
    "RandomRotation",
    "RandomSolarize",
    "RandomTranslate",
    "RandomVerticalFlip",
    "Resize",
    "TenCrop",
    "ToDtype",
    "ToFloat",
    "ToImage",
    "Transform",
    "TrivialAugmentWide",
]

_PYTORCH = {
    "ToTensor": "ToFloat() (bytes become floats of 0 to 1; images stay numpy arrays (height, width, channels))",
    "PILToTensor": "ToImage()",
    "ConvertImageDtype": "ToDtype(dtype, scale=True)",
    "ToPILImage": "PIL.Image.fromarray(image)",
}


def __getattr__(name: str) -> Any:
    if name in _PYTORCH:
        raise AttributeError(f"transforms.{name} is {_PYTORCH[name]} in fnet")
    raise AttributeError(f"module 'fnet.data.transforms' has no {name!r}")
