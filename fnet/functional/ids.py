"""Checks of integers that index something: class labels, token ids.

JAX clamps an index that is out of range and goes on with a wrong number. Here such an id is a ValueError where its
value can be read, and NaN where it cannot (under jit, vmap and the rest, where only the shape is known).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike


def is_concrete(*arrays: Any) -> bool:
    """Whether the values of all `arrays` can be read now, on this process (None counts as readable)."""
    return not any(
        isinstance(a, jax.core.Tracer) or (isinstance(a, jax.Array) and not a.is_fully_addressable) for a in arrays
    )


def integer_ids(ids: ArrayLike, where: str) -> jax.Array:
    """`ids` as an integer array of 32 bits or more, so that comparing it with a size cannot overflow.

    Raises TypeError for any other dtype; the message begins with `where`, the caller's name.
    """
    dtype = jnp.result_type(ids)
    if not jnp.issubdtype(dtype, jnp.integer):
        hint = "ids.astype(jnp.int32)"
        if dtype == np.bool_:
            hint += ", if True means class 1"
        raise TypeError(f"{where}: got {dtype} of shape {jnp.shape(ids)}, expected integers; cast with {hint}")
    return jnp.asarray(ids, dtype if dtype.itemsize >= 4 else jnp.int32)


def equals(ids: jax.Array, value: int) -> jax.Array:
    """`ids == value`, also for a value that the dtype of `ids` cannot hold (-100 among unsigned ids)."""
    limits = jnp.iinfo(ids.dtype)
    return ids == value if limits.min <= value <= limits.max else jnp.zeros(ids.shape, bool)


def in_range(ids: ArrayLike, size: int, where: str, *, counted: ArrayLike | None = None, fix: str = "") -> jax.Array:
    """Which `ids` are in 0 .. size - 1, as a bool array; or a ValueError that shows the first which is not, if it can.

    `counted` (bool, the shape of ids) limits the check to the entries that matter; the others are True in the result.
    `fix` ends the message. Concrete ids are read on the host, which waits for them; under jit this costs two
    comparisons. Raises TypeError for ids that are not integers.
    """
    wide = integer_ids(ids, where)
    if is_concrete(ids, counted):
        host = np.asarray(ids)  # and not `wide`, where jax may have narrowed an int64 to another number
        wrong = (host < 0) | (host >= size)
        if counted is not None:
            wrong &= np.asarray(counted)
        if wrong.any():
            first = tuple(int(i) for i in np.argwhere(wrong)[0])
            raise ValueError(
                f"{where}: {host[first]} at index {first} is out of range, expected 0 to {size - 1} "
                f"({int(wrong.sum())} of {host.size} are out of range){fix}"
            )
    valid = (wide >= 0) & (wide < size)
    return valid if counted is None else valid | ~jnp.asarray(counted)


LABEL_FIX = "; labels count from 0, and mask= leaves examples out"
