"""Sums over the batch, a block of examples at a time: what a block makes on the way stays in the cache."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp


def count(batch: int, each: int, limit: int) -> int:
    """Into how many parts to cut the batch: the fewest that divide it and hold `each` element an example below the
    limit."""
    return next((n for n in range(1, batch) if batch % n == 0 and batch // n * each <= limit), batch)


def total(block: Callable[[jax.Array, jax.Array], jax.Array], blocks: int, dy: jax.Array, x: jax.Array) -> jax.Array:
    """The sum of `block(dy, x)`, linear in dy, over blocks of the examples of both."""
    block = partial(jax.checkpoint, prevent_cse=False)(block)  # else what all blocks make on the way is kept
    if blocks <= 1:
        return block(dy, x)
    split = [a.reshape(blocks, -1, *a.shape[1:]) for a in (dy, x)]
    shape = jax.eval_shape(block, *(jax.ShapeDtypeStruct(a.shape[1:], a.dtype) for a in split))
    zero = jnp.zeros(shape.shape, shape.dtype)
    return jax.lax.scan(lambda total, given: (total + block(*given), None), zero, tuple(split))[0]
