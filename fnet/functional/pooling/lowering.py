"""Putting the values of windows together, in the form that is fast on the backend at hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnet.functional.pooling.windows import Window


def pool(x: jax.Array, windows: list[Window], start: Any, join: Callable, monoid: Callable) -> jax.Array:
    """The values of each window put together; `start` is the value of padding, and `join` of two a `monoid`."""
    if _folds():
        return _folded(x, windows, start, join)
    whole = {window.axis: window for window in windows}
    shape = [whole[axis].kernel if axis in whole else 1 for axis in range(x.ndim)]
    strides = [whole[axis].stride if axis in whole else 1 for axis in range(x.ndim)]
    pads = [whole[axis].pads if axis in whole else (0, 0) for axis in range(x.ndim)]
    dilation = [whole[axis].dilation if axis in whole else 1 for axis in range(x.ndim)]
    # The end may have to be cut, which reduce_window's own padding cannot do, and JAX differentiates it only if it
    # recognises the monoid by its plain initial value.
    x = jax.lax.pad(x, start, [(*pad, 0) for pad in pads])
    return jax.lax.reduce_window(x, start, monoid, shape, strides, "VALID", window_dilation=dilation)


def _folds() -> bool:
    """Whether to take windows apart into slices: on CPU, where the gradient of reduce_window is 10 times slower."""
    return jax.default_backend() == "cpu"


def _folded(x: jax.Array, windows: list[Window], start: Any, join: Callable) -> jax.Array:
    pads = {window.axis: window.pads for window in windows}
    if any(pad != (0, 0) for pad in pads.values()):
        x = jax.lax.pad(x, start, [(*pads.get(axis, (0, 0)), 0) for axis in range(x.ndim)])
    if all(window.tiles for window in windows):
        return _fold_tiles(x, windows, join)
    # One axis after the other, the last first, keeps the order: the first row of the first largest value.
    for w in reversed(windows):
        reach = (w.out - 1) * w.stride + 1
        starts = range(0, w.kernel * w.dilation, w.dilation)
        x = fold([jax.lax.slice_in_dim(x, start, start + reach, w.stride, w.axis) for start in starts], join)
    return x


def _fold_tiles(x: jax.Array, windows: list[Window], join: Callable) -> jax.Array:
    """Windows side by side: each axis is made two, windows and places in the window, and places are indexed."""
    first = windows[0].axis
    shape = list(x.shape[:first])
    for w in windows:
        shape += [w.out, w.kernel]
    x = x.reshape(*shape, x.shape[-1])
    places = np.ndindex(*(w.kernel for w in windows))
    lead = (slice(None),) * first
    parts = []
    for place in places:
        index = [entry for position in place for entry in (slice(None), position)]
        parts.append(x[(*lead, *index)])
    return fold(parts, join)


def fold(parts: list[jax.Array], join: Callable) -> jax.Array:
    total = parts[0]
    for part in parts[1:]:
        total = join(total, part)
    return total


def larger(best: jax.Array, new: jax.Array) -> jax.Array:
    """The larger of two, NaN if one is; of equal ones the earlier, which then has the whole gradient."""
    return jnp.where((new > best) | (new != new), new, best)


