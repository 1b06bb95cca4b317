"""Putting the values of windows together, in the form that is fast on the backend at hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnet.functional.pooling.windows import Window

FEW = 16  # how many slices to write out; more of them would take long to compile


@dataclass(frozen=True)
class Join:
    """A way to put values together, in its three forms."""

    start: Any  # the value of padding, which changes nothing
    two: Callable[[jax.Array, jax.Array], jax.Array]  # the earlier value and the later
    axis: Callable[[jax.Array, int], jax.Array]  # all along one axis, kept with size 1
    window: Callable[..., jax.Array]  # the jax.lax operation that reduce_window takes


def largest(dtype: Any) -> Join:
    """The largest value; of equal ones the first gets the gradient."""
    low = -math.inf if jnp.issubdtype(dtype, jnp.inexact) else jnp.iinfo(dtype).min
    return Join(np.array(low, dtype), larger, first_largest, jax.lax.max)


def added(dtype: Any) -> Join:
    """The sum."""
    return Join(np.zeros((), dtype), jnp.add, partial(jnp.sum, keepdims=True), jax.lax.add)


def pool(x: jax.Array, windows: list[Window], join: Join) -> jax.Array:
    """The values of each window put together."""
    pads = {window.axis: window.pads for window in windows}
    if any(pad != (0, 0) for pad in pads.values()):
        x = jax.lax.pad(x, join.start, [(*pads.get(axis, (0, 0)), 0) for axis in range(x.ndim)])
    if not _takes_apart():
        return _reduce_window(x, windows, join)
    if all(window.tiles for window in windows):
        return _pool_tiles(x, windows, join)
    return _pool_slices(x, windows, join) if all(w.kernel <= FEW for w in windows) else _reduce_window(x, windows, join)


def _takes_apart() -> bool:
    """Whether to take windows apart: on CPU, where the gradient of reduce_window is many times slower."""
    return jax.default_backend() == "cpu"


def _reduce_window(x: jax.Array, windows: list[Window], join: Join) -> jax.Array:
    """What XLA has for pooling, of an input that is padded already (its padding cannot cut off an end)."""
    shape, strides, dilation = ([1] * x.ndim for _ in range(3))
    for w in windows:
        shape[w.axis], strides[w.axis], dilation[w.axis] = w.kernel, w.stride, w.dilation
    return jax.lax.reduce_window(x, join.start, join.window, shape, strides, "VALID", window_dilation=dilation)


def _pool_slices(x: jax.Array, windows: list[Window], join: Join) -> jax.Array:
    """One axis after the other, a slice for each place in the window; the last axis first.

    In that order the first of equal values is the first in C order: the first row, and in it the first column.
    """
    for w in reversed(windows):
        reach = (w.out - 1) * w.stride + 1
        starts = range(0, w.kernel * w.dilation, w.dilation)
        x = fold([jax.lax.slice_in_dim(x, start, start + reach, w.stride, w.axis) for start in starts], join.two)
    return x


def _pool_tiles(x: jax.Array, windows: list[Window], join: Join) -> jax.Array:
    """Windows side by side: each axis is made two, windows and places in them, and the places are put together."""
    first = windows[0].axis
    sizes = [size for w in windows for size in (w.out, w.kernel)]
    x = x.reshape(*x.shape[:first], *sizes, x.shape[-1])
    kernels = [w.kernel for w in windows]
    if math.prod(kernels) > FEW:
        places = [first + 1 + 2 * number for number in range(len(windows))]
        for axis in reversed(places):
            x = join.axis(x, axis)
        return x.squeeze(places)
    lead = (slice(None),) * first
    at = ([index for place in places for index in (slice(None), place)] for places in np.ndindex(*kernels))
    return fold([x[(*lead, *index)] for index in at], join.two)


def fold(parts: list[jax.Array], two: Callable[[jax.Array, jax.Array], jax.Array]) -> jax.Array:
    """The parts put together in their order."""
    return reduce(two, parts)


def larger(best: jax.Array, new: jax.Array) -> jax.Array:
    """The larger of two, NaN if one is; of equal ones the earlier, which then has the whole gradient."""
    return jnp.where((new > best) | (new != new), new, best)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def first_largest(x: jax.Array, axis: int) -> jax.Array:
    """The maximum along an axis, kept with size 1; of equal ones the first gets the gradient; NaN is largest."""
    return x.max(axis, keepdims=True)


@first_largest.defjvp
def _first_largest_jvp(axis: int, primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (x,), (dx,) = primals, tangents
    y = first_largest(x, axis)
    place = jax.lax.broadcasted_iota(jnp.int32, x.shape, axis)
    first = jnp.where((x == y) | (x != x), place, x.shape[axis]).min(axis, keepdims=True)
    return y, jnp.where(place == first, dx, 0).sum(axis, keepdims=True)
