"""Looking up rows by integer id."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fnet.functional.ids import equals, in_range, integer_ids


def embedding(ids: ArrayLike, weight: ArrayLike, padding_idx: int | None = None) -> jax.Array:
    """The rows of `weight` that `ids` name.

    Shapes: ids (...), integers; weight (num_embeddings, dim), floats -> (..., dim) in the weight's dtype. The row
    `padding_idx` (which may count from the end) is looked up like any other and gets no gradient.

    Raises TypeError for ids that are not integers, ValueError for an id outside 0 .. num_embeddings - 1; where the
    value cannot be read (under jit) that id's row is NaN.

    >>> embedding(jnp.array([2, 0]), jnp.arange(6.0).reshape(3, 2))
    Array([[4., 5.],
           [0., 1.]], dtype=float32)
    """
    weight = jnp.asarray(weight)
    if weight.ndim != 2 or not jnp.issubdtype(weight.dtype, jnp.inexact):
        raise ValueError(
            f"embedding: weight is {weight.dtype} of shape {weight.shape}, expected floats (num_embeddings, dim)"
        )
    count = weight.shape[0]
    valid = in_range(ids, count, "embedding")
    ids = integer_ids(ids, "embedding")
    # An id past the end is what "fill" fills; a negative one would count from the end.
    rows = weight.at[jnp.where(valid, ids, count)].get(mode="fill", fill_value=jnp.nan)
    if padding_idx is None:
        return rows
    if not -count <= padding_idx < count:
        raise ValueError(f"embedding: padding_idx={padding_idx} is out of range for {count} rows")
    padding = equals(ids, padding_idx % count)
    return jnp.where(padding[..., None], jax.lax.stop_gradient(rows), rows)


def one_hot(ids: ArrayLike, num_classes: int, *, dtype: jax.typing.DTypeLike = jnp.float32) -> jax.Array:
    """Vectors with a 1 at each id and 0 elsewhere, ready to be soft labels.

    Shapes: ids (...), integers -> (..., num_classes), of a floating `dtype` (PyTorch's are integers). Raises
    TypeError for ids that are not integers or a dtype without NaN, ValueError for an id out of range (under jit: a
    row of NaN).

    >>> one_hot(jnp.array([1, 0]), 3)
    Array([[0., 1., 0.],
           [1., 0., 0.]], dtype=float32)
    """
    if not jnp.issubdtype(dtype, jnp.inexact):
        raise TypeError(
            f"one_hot: dtype={jnp.dtype(dtype)} cannot hold the NaN of an id out of range; cast the result instead"
        )
    valid = in_range(ids, num_classes, "one_hot")
    ids = integer_ids(ids, "one_hot")
    classes = jax.lax.broadcasted_iota(ids.dtype, (*ids.shape, num_classes), ids.ndim)
    return jnp.where(valid[..., None], (ids[..., None] == classes).astype(dtype), jnp.nan)
