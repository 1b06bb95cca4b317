"""What is put around an input: `pad`, and the padding that a convolution asks for in numbers or in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fnet.functional.convolution.arguments import Axes

Pairs = tuple[tuple[int, int], ...]
Padding = str | int | Sequence[int] | Sequence[tuple[int, int]]

MODES = {"constant": "constant", "zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def pad(x: ArrayLike, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> jax.Array:
    """`x` with values put around its spatial axes.

    Shapes: x (..., *spatial, channels); `pad` holds two ints, before and after, for each padded axis, from the last
    spatial axis backwards: (left, right, top, bottom) for images. These are PyTorch's numbers on JAX's layout: the
    channels are never padded (`jnp.pad` does that). `mode`: "constant" (`value`, 0 by default; negative sizes crop),
    "reflect" (without the edge), "replicate" (the edge) or "circular" (from the other end). The dtype is kept.

    Raises ValueError for an odd number of sizes, too few axes, an unknown mode, a negative size outside "constant",
    and sizes that "reflect" (size of the axis or more) or "circular" (more than it) cannot fill.

    >>> pad(jnp.arange(3.0)[:, None], (2, 1), "reflect")[:, 0]
    Array([2., 1., 0., 1., 2., 1.], dtype=float32)
    """
    x = jnp.asarray(x)
    if mode not in MODES or mode == "zeros":
        raise ValueError(f'pad: mode={mode!r}, expected "constant", "reflect", "replicate" or "circular"')
    if value is not None and mode != "constant":
        raise ValueError(f"pad: value={value!r} goes with mode='constant', and mode is {mode!r}")
    sizes = tuple(pad)
    if len(sizes) % 2 or not all(isinstance(size, int) for size in sizes):
        raise ValueError(f"pad: pad={pad!r}, expected two ints for each axis: (left, right, top, bottom, ...)")
    rank = len(sizes) // 2
    if x.ndim < rank + 1:
        raise ValueError(
            f"pad: input has shape {x.shape}, expected at least {rank + 1} axes: {rank} to pad and the channels "
            f"after them; jnp.pad takes any axes"
        )
    pairs = tuple((sizes[2 * i], sizes[2 * i + 1]) for i in reversed(range(rank)))
    return pad_axes(x, pairs, mode, "pad", 0 if value is None else value)


def pad_axes(x: jax.Array, pairs: Pairs, mode: str, where: str, value: float = 0) -> jax.Array:
    """`x` (..., *spatial, channels) padded by `pairs`, one for each of its last spatial axes in their order."""
    if not any(map(any, pairs)):
        return x
    spatial = x.shape[-len(pairs) - 1 : -1]
    if MODES[mode] == "constant":
        config = [(0, 0, 0)] * (x.ndim - len(pairs) - 1) + [(low, high, 0) for low, high in pairs] + [(0, 0, 0)]
        if any(n + low + high < 0 for n, (low, high) in zip(spatial, pairs, strict=True)):
            raise ValueError(f"{where}: padding {pairs} takes more away than the spatial axes {spatial} have")
        return jax.lax.pad(x, jnp.asarray(value, x.dtype), config)
    for n, pair in zip(spatial, pairs, strict=True):
        limit = {"reflect": n - 1, "circular": n}.get(mode)
        if min(pair) < 0 or (limit is not None and max(pair) > limit) or (n == 0 and any(pair)):
            raise ValueError(
                f"{where}: mode {mode!r} cannot pad an axis of {n} by {pair}, expected 0 to "
                f"{'any size' if limit is None else limit} (spatial axes {spatial})"
            )
    width = [(0, 0)] * (x.ndim - len(pairs) - 1) + list(pairs) + [(0, 0)]
    return jnp.pad(x, width, mode=MODES[mode])


def resolve(padding: Any, size: Axes, kernel: Axes, stride: Axes, dilation: Axes, where: str) -> Pairs:
    """The padding before and after each spatial axis that the argument `padding` of a convolution means."""
    rank = len(size)
    reach = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    if isinstance(padding, str):
        word = padding.upper()
        if word == "VALID":
            return ((0, 0),) * rank
        if word == "SAME":
            total = [max((-(-n // s) - 1) * s + r + 1 - n, 0) for n, s, r in zip(size, stride, reach, strict=True)]
            return tuple((t // 2, t - t // 2) for t in total)
        if word == "CAUSAL":
            if rank != 1:
                raise ValueError(
                    f'{where}: padding="CAUSAL" is for one spatial axis, time, and there are {rank}; '
                    f"give the pairs: (({reach[0]}, 0), ...)"
                )
            return ((reach[0], 0),)
        raise ValueError(f'{where}: padding={padding!r}, expected "SAME", "VALID", "CAUSAL", ints or pairs of ints')
    return pairs_of(padding, rank, where)


def pairs_of(padding: Any, rank: int, where: str) -> Pairs:
    """An int, an int for each axis or a pair (before, after) for each axis, as pairs."""
    axes = (padding,) * rank if isinstance(padding, int) else tuple(padding)
    pairs = tuple((a, a) if isinstance(a, int) else tuple(a) for a in axes)
    if len(pairs) != rank or not all(len(p) == 2 and all(isinstance(n, int) and n >= 0 for n in p) for p in pairs):
        raise ValueError(
            f"{where}: padding={padding!r}, expected an int of at least 0, or for each of the {rank} spatial axes an "
            f"int or a pair (before, after)"
        )
    return pairs
