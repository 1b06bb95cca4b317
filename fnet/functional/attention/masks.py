"""Which query may attend to which key: masks, causality, windows and padding as one bool array, made late."""

from __future__ import annotations

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


@dataclass(frozen=True)
class Visibility:
    """What limits attention, still as it was given, so that a form that knows causality need not see a mask."""

    keep: jax.Array | None  # bool, of the rank of the weights
    is_causal: bool
    window: tuple[int, int] | None
    key_lengths: ArrayLike | None
    query_offset: ArrayLike

    def check(self, shape: tuple[int, ...], where: str) -> None:
        """Raise for lengths and offsets that are not integers, or do not fit weights of this shape."""
        for name, value in (("key_lengths", self.key_lengths), ("query_offset", self.query_offset)):
            if value is None:
                continue
            if not jnp.issubdtype(jnp.result_type(value), jnp.integer):
                raise TypeError(f"{where}: {name} has dtype {jnp.result_type(value)}, expected integers")
            if jnp.shape(value) not in ((), shape[:-3]):
                raise ValueError(
                    f"{where}: {name} has shape {jnp.shape(value)}, expected one number, or one for each row of the "
                    f"batch: {shape[:-3]}"
                )

    @property
    def known(self) -> bool:
        """Whether all of it is numbers and none of it arrays: the same for every example, and known while tracing."""
        return self.keep is None and self.key_lengths is None and isinstance(self.query_offset, int)

    @property
    def aligned(self) -> bool:
        """Whether the first query stands at the first key, as far as can be known while tracing."""
        return isinstance(self.query_offset, int) and self.query_offset == 0

    def leaves_keys(self, length: int, keys: int) -> bool:
        """Whether it is known while tracing that every query sees a key: its own, or any where all are seen."""
        if self.keep is not None or self.key_lengths is not None:
            return False
        offset = self.query_offset
        if not self.is_causal and self.window is None:
            return keys > 0
        return isinstance(offset, int) and 0 <= offset and offset + length <= keys

    def seen(self, rows: range, keys: int) -> range:
        """The keys that causality and the window leave to these queries; all where the offset is not known."""
        first, last = 0, keys
        if isinstance(self.query_offset, int):
            start, stop = rows.start + self.query_offset, rows.stop + self.query_offset
            if self.window is not None:
                first, last = start - self.window[0], stop + self.window[1]
            if self.is_causal:
                last = min(last, stop)
        first = min(max(first, 0), keys)
        return range(first, min(max(last, first), keys))

    def block(self, rows: range, columns: range) -> Visibility:
        """The same visibility for some of the queries and keys, each counted from 0."""
        return replace(
            self,
            keep=None if self.keep is None else block(self.keep, rows, columns),
            key_lengths=None if self.key_lengths is None else jnp.asarray(self.key_lengths) - columns.start,
            query_offset=self.query_offset + (rows.start - columns.start),
        )

    def mask(self, shape: tuple[int, ...]) -> jax.Array | None:
        """A bool mask of the rank of the weights (…, H, L, S), 1 on axes along which it is constant; or None."""
        *_, length, keys = shape
        found = [] if self.keep is None else [self.keep]
        column = jnp.arange(keys)[None, :]
        if self.is_causal or self.window is not None:
            row = _per_row(self.query_offset, shape) + jnp.arange(length)[:, None]
            distance = jnp.broadcast_to(column, (*row.shape[:-1], keys)) - row  # how far a key is after the query
            if self.is_causal:
                found.append(distance <= 0)
            if self.window is not None:
                left, right = self.window
                found.append((distance >= -left) & (distance <= right))
        if self.key_lengths is not None:
            lengths = _per_row(self.key_lengths, shape)
            found.append(jnp.broadcast_to(column, (*lengths.shape[:-1], keys)) < lengths)
        if not found:
            return None
        mask = _ranked(found[0], len(shape))
        for other in found[1:]:
            mask = mask & _ranked(other, len(shape))
        return mask


def split_mask(mask: ArrayLike | None, shape: tuple[int, ...], where: str) -> tuple[jax.Array | None, jax.Array | None]:
    """`attn_mask` as (bool mask, None) or (None, floats to add), with all axes of the weights."""
    if mask is None:
        return None, None
    mask = jnp.asarray(mask)
    if mask.dtype != bool and not jnp.issubdtype(mask.dtype, jnp.floating):
        raise TypeError(
            f"{where}: attn_mask is {mask.dtype}, expected bool (True takes part) or floats (added to the scores); "
            "cast 0 and 1 with mask.astype(bool)"
        )
    mask = full_rank(mask, shape, f"{where}: attn_mask")
    return (mask, None) if mask.dtype == bool else (None, mask)


def full_rank(x: jax.Array, shape: tuple[int, ...], what: str) -> jax.Array:
    """`x` with leading axes of 1 up to the rank of the weights; ValueError where it does not broadcast to them."""
    fits = x.ndim <= len(shape) and all(n in (1, m) for n, m in zip(x.shape[::-1], shape[::-1], strict=False))
    if not fits:
        hint = ""
        if x.ndim == 2 and x.shape == (*shape[:1], shape[-1]):
            hint = ". A mask of keys, one row for each of the batch, is passed as mask[:, None, None, :]"
        elif x.ndim == 3 and x.shape == (*shape[:1], *shape[-2:]):
            hint = ". A mask for each of the batch is passed with an axis for the heads: mask[:, None]"
        raise ValueError(
            f"{what} has shape {x.shape}, which does not broadcast to the weights {shape}, (…, heads, queries, "
            f"keys){hint}"
        )
    return _ranked(x, len(shape))


def check_window(window: int | tuple[int, int] | None, where: str) -> tuple[int, int] | None:
    """`window` as (left, right); ValueError unless it is one or two integers of 0 or more."""
    if window is None:
        return None
    pair = (window, window) if isinstance(window, int) else tuple(window)
    if len(pair) != 2 or not all(isinstance(n, int) and n >= 0 for n in pair):
        raise ValueError(f"{where}: window={window!r}, expected an integer of 0 or more, or two: (left, right)")
    return pair[0], pair[1]


def _per_row(value: ArrayLike, shape: tuple[int, ...]) -> jax.Array:
    """One integer, or one for each row of the batch, with axes for what follows: () -> (1, 1), (…) -> (…, 1, 1, 1)."""
    value = jnp.asarray(value)
    return value.reshape((1, 1) if value.ndim == 0 else (*value.shape, 1, 1, 1))


def block(x: jax.Array, rows: range, columns: range) -> jax.Array:
    """Some rows and columns of a mask or bias of the rank of the weights; an axis of 1 stays."""
    x = x if x.shape[-2] == 1 else x[..., rows.start : rows.stop, :]
    return x if x.shape[-1] == 1 else x[..., columns.start : columns.stop]


def _ranked(x: jax.Array, rank: int) -> jax.Array:
    return x.reshape((1,) * (rank - x.ndim) + x.shape)
