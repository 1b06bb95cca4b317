"""Transforms: callables on images (height, width, channels), one or a batch of them, of numpy or of jax."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class ToFloat:
    """Bytes 0 to 255 as float32 0 to 1; floats stay as they are.

    Takes any shape, a numpy or a jax array, so it can be the first part of a Sequential as well as be applied to data.
    Raises TypeError for other dtypes, whose range is not known.

    >>> ToFloat()(np.array([0, 51, 255], np.uint8))
    array([0. , 0.2, 1. ], dtype=float32)
    """

    def __call__(self, x: Any) -> Any:
        if x.dtype == np.uint8:
            return x / np.float32(255)
        if np.issubdtype(x.dtype, np.floating) or x.dtype.name == "bfloat16":
            return x
        raise TypeError(f"ToFloat takes uint8 images of 0 to 255 or floats, got {x.dtype} {tuple(x.shape)}")
