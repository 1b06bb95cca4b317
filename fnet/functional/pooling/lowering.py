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

from fnet.functional.platform import on_one_cpu
from fnet.functional.pooling.windows import Window

FEW = 16  # how many slices to write out; more of them would take long to compile


@dataclass(frozen=True)
class Join:
    """A way to put values together, in its four forms."""

    start: Any  # the value of padding, which changes nothing
    two: Callable[[jax.Array, jax.Array], jax.Array]  # the earlier value and the later
    whole: Callable[[jax.Array, tuple[int, ...]], jax.Array]  # all along some axes, kept with size 1
    few: Callable[[jax.Array, tuple[int, ...]], jax.Array]  # the few values along some axes, which go
    window: Callable[..., jax.Array]  # the jax.lax operation that reduce_window takes


def largest(dtype: Any) -> Join:
    """The largest value; of equal ones the first gets the gradient."""
    low = -math.inf if jnp.issubdtype(dtype, jnp.inexact) else jnp.iinfo(dtype).min
    return Join(np.array(low, dtype), larger, first_largest, partial(_fold_axes, two=larger), jax.lax.max)


def added(dtype: Any) -> Join:
    """The sum."""
    return Join(np.zeros((), dtype), jnp.add, partial(jnp.sum, keepdims=True), few_added, jax.lax.add)


def pool(x: jax.Array, windows: list[Window], join: Join) -> jax.Array:
    """The values of each window put together."""
    x = padded(x, windows, join.start)
    if not _takes_apart():
        return _reduce_window(x, windows, join)
    if all(window.tiles for window in windows):
        return _pool_tiles(x, windows, join)
    return _pool_slices(x, windows, join) if all(w.kernel <= FEW for w in windows) else _reduce_window(x, windows, join)


def padded(x: jax.Array, windows: list[Window], value: Any) -> jax.Array:
    """`x` with the padding of its windows, made of one value."""
    pads = {window.axis: window.pads for window in windows}
    if all(pad == (0, 0) for pad in pads.values()):
        return x
    return jax.lax.pad(x, value, [(*pads.get(axis, (0, 0)), 0) for axis in range(x.ndim)])


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
    places = tuple(first + 1 + 2 * number for number in range(len(windows)))
    if math.prod(w.kernel for w in windows) <= FEW:
        return join.few(x, places)
    for axis in reversed(places):
        x = join.whole(x, (axis,))
    return x.squeeze(places)


def _fold_axes(x: jax.Array, axes: tuple[int, ...], two: Callable[[jax.Array, jax.Array], jax.Array]) -> jax.Array:
    """The values at all places of some axes put together, place by place in C order."""
    at = (dict(zip(axes, index, strict=True)) for index in np.ndindex(*(x.shape[axis] for axis in axes)))
    return fold([x[tuple(place.get(axis, slice(None)) for axis in range(x.ndim))] for place in at], two)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def few_added(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """The sum over short axes, place by place. Its derivative is that of a plain sum, which transposes to a broadcast;
    that of the slices would put each of them into zeros."""
    return _fold_axes(x, axes, jnp.add)


@few_added.defjvp
def _few_added_jvp(axes: tuple[int, ...], primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> Any:
    return few_added(primals[0], axes), tangents[0].sum(axes)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def global_mean(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """The mean over neighbouring axes up to the last but one, kept with size 1.

    On CPU it is a product with a row of 1 / n, which reads memory up to twice as fast as XLA's reduction does. Its
    derivative is that of the plain mean, which transposes to a broadcast.
    """
    if not (_takes_apart() and on_one_cpu(x)):
        return x.mean(axes, keepdims=True)
    leading, channels = x.shape[: axes[0]], x.shape[-1]
    places = math.prod(x.shape[axis] for axis in axes)
    rows = jnp.full((math.prod(leading), places), 1 / places, x.dtype)
    dimensions = (((1,), (1,)), ((0,), (0,)))
    mean = jax.lax.dot_general(rows, x.reshape(-1, places, channels), dimensions, precision="highest")
    return mean.reshape(*leading, *(1,) * len(axes), channels)


@global_mean.defjvp
def _global_mean_jvp(axes: tuple[int, ...], primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> Any:
    return global_mean(primals[0], axes), tangents[0].mean(axes, keepdims=True)


def fold(parts: list[jax.Array], two: Callable[[jax.Array, jax.Array], jax.Array]) -> jax.Array:
    """The parts put together in their order."""
    return reduce(two, parts)


def larger(best: jax.Array, new: jax.Array) -> jax.Array:
    """The larger of two, NaN if one is; of equal ones the earlier, which then has the whole gradient."""
    return jnp.where((new > best) | (new != new), new, best)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def first_largest(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """The maximum over axes, kept with size 1; of equal ones the first gets the gradient; NaN is largest."""
    return x.max(axes, keepdims=True)


@first_largest.defjvp
def _first_largest_jvp(
    axes: tuple[int, ...], primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    (x,), (dx,) = primals, tangents
    y = first_largest(x, axes)
    place, count = jnp.zeros((), jnp.int32), 1  # the place in C order
    for axis in sorted(axes, reverse=True):
        place = place + count * jax.lax.broadcasted_iota(jnp.int32, x.shape, axis)
        count *= x.shape[axis]
    first = jnp.where((x == y) | (x != x), place, count).min(axes, keepdims=True)
    return y, jnp.where(place == first, dx, 0).sum(axes, keepdims=True)
