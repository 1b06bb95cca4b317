"""Sampling images and volumes at any coordinates, as spatial transformers do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def affine_grid(theta: ArrayLike, size: Sequence[int], align_corners: bool = False) -> jax.Array:
    """The coordinates at which an affine map puts each pixel of an output, for `grid_sample`.

    Shapes: theta (N, 2, 3) and size (N, H, W, C) -> (N, H, W, 2), or (N, 3, 4) and (N, D, H, W, C) -> (N, D, H, W, 3).
    Coordinates run from -1 to 1 and are in the order x, y(, z), the last axis of space first. Source: Jaderberg et al.
    2015 (arXiv:1506.02025). Raises ValueError for shapes that do not fit.

    >>> affine_grid(jnp.eye(2, 3)[None], (1, 2, 2, 1), align_corners=True)[0, :, :, 0].tolist()
    [[-1.0, 1.0], [-1.0, 1.0]]
    """
    theta, spatial = jnp.asarray(theta), tuple(size[1:-1])
    rank = len(spatial)
    if rank not in (2, 3) or theta.shape != (size[0], rank, rank + 1):
        raise ValueError(
            f"affine_grid: theta has shape {theta.shape} for size={tuple(size)}, expected (N, 2, 3) for (N, H, W, C) "
            f"or (N, 3, 4) for (N, D, H, W, C)"
        )
    ends = [1 if align_corners else (length - 1) / length for length in spatial]
    ends = [end if length > 1 else 0 for end, length in zip(ends, spatial, strict=True)]
    steps = [jnp.linspace(-end, end, length, dtype=theta.dtype) for end, length in zip(ends, spatial, strict=True)]
    axes = jnp.meshgrid(*steps, indexing="ij")
    points = jnp.stack([*reversed(axes), jnp.ones_like(axes[0])], -1)
    return jnp.einsum("...j,nij->n...i", points, theta, precision="highest")


def grid_sample(
    x: ArrayLike, grid: ArrayLike, mode: str = "bilinear", padding_mode: str = "zeros", align_corners: bool = False
) -> jax.Array:
    """The values of an image or a volume at the coordinates of a grid.

    Shapes: x (N, H, W, C) and grid (N, *out, 2) -> (N, *out, C), or x (N, D, H, W, C) and grid (N, *out, 3), in x's
    dtype. Coordinates are x, y(, z), the last axis of space first, and -1 and 1 are the borders of the image, or with
    `align_corners` the centres of its outermost pixels. Modes: "bilinear" (in volumes: trilinear), "nearest" (half
    to even), "bicubic" (images only). Past the border: "zeros", "border" (the outermost pixel), "reflection".

    Differentiable in x and grid. Raises ValueError for shapes and modes that do not fit, TypeError for integer input.

    >>> grid_sample(jnp.array([[0.0, 1.0]]).reshape(1, 1, 2, 1), jnp.zeros((1, 1, 1, 2))).item()
    0.5
    """
    x, grid = jnp.asarray(x), jnp.asarray(grid)
    rank = x.ndim - 2
    if rank not in (2, 3) or grid.ndim < 2 or grid.shape[0] != x.shape[0] or grid.shape[-1] != rank:
        raise ValueError(
            f"grid_sample: input {x.shape} and grid {grid.shape}, expected (N, H, W, C) and (N, ..., 2), or "
            f"(N, D, H, W, C) and (N, ..., 3)"
        )
    taps = {"bilinear": (0, 1), "nearest": (0,), "bicubic": (-1, 0, 1, 2)}
    if mode not in taps or (mode == "bicubic" and rank == 3):
        raise ValueError(f"grid_sample: mode={mode!r} is not one of bilinear, nearest and, for images, bicubic")
    if padding_mode not in ("zeros", "border", "reflection"):
        raise ValueError(f"grid_sample: padding_mode={padding_mode!r} is not one of zeros, border, reflection")
    if not (jnp.issubdtype(x.dtype, jnp.floating) and jnp.issubdtype(grid.dtype, jnp.floating)):
        raise TypeError(f"grid_sample takes floats, got {x.dtype} and a grid of {grid.dtype}; scale bytes with x / 255")
    wide = jnp.promote_types(x.dtype, jnp.float32)
    firsts, weights = [], []
    for axis, length in enumerate(x.shape[1:-1]):
        place = _pixels(grid[..., rank - 1 - axis].astype(wide), length, align_corners)
        if mode != "bicubic":  # whose taps are moved inside one by one
            place = _inside(place, length, padding_mode, align_corners)
        first = jnp.round(place) if mode == "nearest" else jnp.floor(place)
        firsts.append(jax.lax.stop_gradient(first))
        weights.append(_tap_weights(mode, place - firsts[-1]))
    total = jnp.zeros((), wide)
    for corner in product(enumerate(taps[mode]), repeat=rank):
        places, weight = [], jnp.ones((), wide)
        for axis, (number, tap) in enumerate(corner):
            length = x.shape[1 + axis]
            place = firsts[axis] + tap
            if mode == "bicubic":
                place = _inside(place, length, padding_mode, align_corners)
            weight = weight * weights[axis][number] * ((place >= 0) & (place < length))
            places.append(jnp.clip(place, 0, length - 1).astype(jnp.int32))
        total = total + weight[..., None] * _gather(x, places)
    return total.astype(x.dtype)


def _pixels(coordinate: jax.Array, length: int, align_corners: bool) -> jax.Array:
    """From -1 to 1, to positions counted in pixels."""
    if align_corners:
        return (coordinate + 1) / 2 * (length - 1)
    return ((coordinate + 1) * length - 1) / 2


def _inside(place: jax.Array, length: int, padding_mode: str, align_corners: bool) -> jax.Array:
    if padding_mode == "zeros":
        return place
    if padding_mode == "reflection":
        low, span = (0.0, length - 1.0) if align_corners else (-0.5, float(length))
        if span == 0:
            return jnp.zeros_like(place)
        distance = jnp.abs(place - low)
        rest, flips = jnp.fmod(distance, span), jnp.floor(distance / span)
        place = jnp.where(flips % 2 == 0, rest, span - rest) + low
    return jnp.clip(place, 0, length - 1)


def _tap_weights(mode: str, t: jax.Array) -> list[jax.Array]:
    """The weights of a mode's taps at the fraction t past the first pixel."""
    if mode == "nearest":
        return [jnp.ones_like(t)]
    if mode == "bilinear":
        return [1 - t, t]
    a = -0.75
    near = [((a + 2) * d - (a + 3)) * d * d + 1 for d in (t, 1 - t)]
    far = [a * (((d - 5) * d + 8) * d - 4) for d in (t + 1, 2 - t)]
    return [far[0], *near, far[1]]


def _gather(x: jax.Array, places: Sequence[jax.Array]) -> jax.Array:
    """The pixels of each image at integer places, one array an axis: (N, *out, C)."""
    flat = jnp.zeros_like(places[0])
    for place, length in zip(places, x.shape[1:-1], strict=True):
        flat = flat * length + place
    rows = x.reshape(x.shape[0], math.prod(x.shape[1:-1]), x.shape[-1])
    picked = jnp.take_along_axis(rows, flat.reshape(flat.shape[0], -1, 1), 1, mode="clip")
    return picked.reshape(*flat.shape, x.shape[-1])
