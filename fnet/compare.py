"""How two leaves differ, in words."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def difference(a: Any, b: Any, rtol: float = 0.0, atol: float = 0.0) -> str | None:
    """What differs between two leaves, arrays or not, or None; values within ``|a - b| <= atol + rtol |b|`` are equal.

    >>> difference(1.0, 1.5)
    'values differ by at most 0.5 (1 of 1)'
    """
    if np.shape(a) != np.shape(b):
        return f"shape {np.shape(a)} and {np.shape(b)}"
    if getattr(a, "dtype", None) != getattr(b, "dtype", None):
        return f"dtype {getattr(a, 'dtype', type(a).__name__)} and {getattr(b, 'dtype', type(b).__name__)}"
    if isinstance(a, jax.ShapeDtypeStruct) or isinstance(b, jax.ShapeDtypeStruct):
        return None
    if jnp.issubdtype(getattr(a, "dtype", np.dtype(bool)), jax.dtypes.prng_key):
        a, b = jax.random.key_data(a), jax.random.key_data(b)
    x, y = np.asarray(a), np.asarray(b)
    if not np.issubdtype(x.dtype, np.number) and x.dtype.kind != "V":
        return None if np.array_equal(x, y) else f"values differ ({np.sum(x != y)} of {x.size})"
    wide = np.complex128 if np.iscomplexobj(x) or np.iscomplexobj(y) else np.float64
    if np.issubdtype(x.dtype, np.integer) and np.array_equal(x, y):
        return None  # exact, where float64 could round 64-bit integers
    far = ~np.isclose(x.astype(wide), y.astype(wide), rtol=rtol, atol=atol, equal_nan=True)
    if np.issubdtype(x.dtype, np.integer) and rtol == atol == 0:
        far = x != y
    if not far.any():
        return None
    gaps = np.abs(x.astype(wide) - y.astype(wide))[far]
    if np.isnan(gaps).any():
        return f"values differ ({far.sum()} of {x.size}), NaN in one of them"
    return f"values differ by at most {gaps.max():.3g} ({far.sum()} of {x.size})"
