"""The keys and values of the tokens so far, as state: what decoding one token at a time attends to."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fnet import init
from fnet.functional.ids import is_concrete
from fnet.nn.core import Param


def cache_spec(leading: tuple[int, ...], slots: int, heads: int, width: int) -> dict[str, Param]:
    """The state: keys and values by slot, which slots hold a token, and how many are written."""
    shape = (*leading, slots, heads, width)
    return {
        "k": Param(shape, init.zeros, trainable=False),
        "v": Param(shape, init.zeros, trainable=False),
        "mask": Param((*leading, slots), init.zeros, bool, trainable=False),
        "index": Param((), init.zeros, "int32", trainable=False),
    }


def write(state: dict, key: jax.Array, value: jax.Array, key_mask: jax.Array | None) -> dict:
    """The state with the keys and values (…, L, heads, head_dim) of L more tokens in the next slots.

    Raises ValueError for a batch of another size than the cache's, and where the cache is full, as far as that can
    be seen; `overflows` says it of a traced index.
    """
    length, slots, index = key.shape[-3], state["k"].shape[-3], state["index"]
    if key.shape[:-3] != state["k"].shape[:-3] or key.shape[-2:] != state["k"].shape[-2:]:
        raise ValueError(
            f"the cache is {state['k'].shape}, (…, slots, heads, head_dim), and the keys of this input "
            f"{key.shape}; make a cache for this batch with model.init_state(x)"
        )
    used = int(index) if is_concrete(index) else 0
    if used + length > slots:
        raise ValueError(
            f"the cache has {slots} slots, of which {used} are used, and cannot take {length} more tokens; give "
            "cache= a larger number, or begin again with model.init_state(x)"
        )
    written = {}
    for name, new, axis in (("k", key, -3), ("v", value, -3), ("mask", key_mask, -1)):
        if new is None:
            new = jnp.ones((*key.shape[:-3], length), bool)
        old = state[name]
        written[name] = jax.lax.dynamic_update_slice_in_dim(old, new.astype(old.dtype), index, axis % old.ndim)
    return {**written, "index": (index + length).astype(index.dtype)}


def overflows(state: dict) -> jax.Array:
    """Whether more tokens were written than there are slots: then the last ones were written over."""
    return state["index"] > state["k"].shape[-3]
