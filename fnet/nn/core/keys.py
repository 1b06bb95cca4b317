"""Random keys by name, so that adding a layer changes nobody else's numbers."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


class TransformError(RuntimeError):
    """A part that needs a key or changes its state was called inside a JAX transform within the forward."""


class Withheld:
    """Stands in for a key inside a JAX transform, where the key would repeat: any use of it raises TransformError."""

    def __init__(self, message: str):
        self.__dict__["message"] = message

    def __getattr__(self, name: str) -> Any:
        raise TransformError(self.__dict__["message"])

    def __repr__(self) -> str:
        return "<no key inside a transform>"


def fold_index(key: Any, index: Any) -> Any:
    """A key of its own for a number; where there is no key to fold, the same nothing."""
    return key if key is None or isinstance(key, Withheld) else jax.random.fold_in(key, index)


def check_key(key: Any, where: str) -> None:
    """Raise TypeError unless ``key`` is one JAX random key (typed, or the older pair of uint32)."""
    dtype, shape = getattr(key, "dtype", None), getattr(key, "shape", None)
    if dtype is not None and shape is not None:
        if jnp.issubdtype(dtype, jax.dtypes.prng_key) and shape == ():
            return
        if dtype == np.uint32 and len(shape) == 1:
            return
    given = f"{dtype}{list(shape)}" if dtype is not None and shape is not None else repr(key)
    raise TypeError(f"{where} needs one random key such as jax.random.key(0), got {given}")
