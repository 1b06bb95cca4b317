"""3x3 convolutions with Winograd's minimal filtering F(2x2, 3x3): 16 products for 4 outputs in place of 36.

Source: Lavin and Gray 2015 (arXiv:1509.09308). With their matrices, for tiles of 4x4 inputs and 2x2 outputs,

    Y = A^T [(G w G^T) * (B^T x B)] A          (eq. 8; * per element, summed over input channels)

so each of the 16 elements of a tile is a matmul (tiles, in) @ (in, out). XLA's CPU matmul runs at four times the rate
of its convolution, so this wins from 32 channels on; below, the transforms cost more than they save.
In float32 it rounds about as much as the direct sum does; in 16 bits the transformed inputs would be rounded, so these
are left to XLA.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from fnet.functional.convolution.cpu import blocks
from fnet.functional.convolution.padding import Pairs, pad_axes

G = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
LIMIT = 6 * 2**20  # elements of transformed input and output: what is above is done in blocks, to stay in the cache


def conv(x: jax.Array, weight: jax.Array, pads: Pairs) -> jax.Array:
    """`plain.conv` with stride and dilation 1 for a weight (3, 3, in, out)."""
    height, width = (n + low + high - 2 for n, (low, high) in zip(x.shape[1:3], pads, strict=True))
    filters = _filters(weight)

    def block(x: jax.Array) -> jax.Array:
        tiles = _input_tiles(_even(x, pads, 2))
        m = [[tile @ u for tile, u in zip(*row, strict=True)] for row in zip(tiles, filters, strict=True)]
        columns = [_outputs([m[i][j] for i in range(4)]) for j in range(4)]  # A^T m
        rows = [_outputs([column[i] for column in columns]) for i in range(2)]  # … A
        shape = (x.shape[0], (height + 1) // 2, (width + 1) // 2, weight.shape[-1])
        parts = [jnp.stack([part.reshape(shape) for part in row], 3) for row in rows]
        whole = jnp.stack(parts, 2).reshape(shape[0], 2 * shape[1], 2 * shape[2], shape[3])
        return whole[:, :height, :width]

    parts = _blocks(x, weight, height * width)
    if parts == 1:
        return block(x)
    return jax.lax.map(block, x.reshape(parts, -1, *x.shape[1:])).reshape(-1, height, width, weight.shape[-1])


def weight_gradient(x: jax.Array, dy: jax.Array, pads: Pairs) -> jax.Array:
    """The gradient of the weight, tile by tile: G^T [(B^T x B) * (A dy A^T)] G, summed over tiles by the matmuls."""

    def block(dy: jax.Array, x: jax.Array) -> jax.Array:
        tiles, cotiles = _input_tiles(_even(x, pads, 2)), _output_tiles(_even(dy, ((0, 0), (0, 0)), 0))
        m = [[a.T @ b for a, b in zip(*row, strict=True)] for row in zip(tiles, cotiles, strict=True)]
        return jnp.stack([jnp.stack(row) for row in m])

    total = blocks.total(block, _blocks(x, dy, dy.shape[1] * dy.shape[2]), dy, x)
    g = jnp.asarray(G, x.dtype)
    return jnp.einsum("ai,bj,abco->ijco", g, g, total)


def _blocks(x: jax.Array, other: jax.Array, outputs: int) -> int:
    """Into how many parts to cut the batch, so that the transforms of one stay below the limit."""
    return blocks.count(len(x), 4 * outputs * (x.shape[-1] + other.shape[-1]), LIMIT)


def _even(x: jax.Array, pads: Pairs, border: int) -> jax.Array:
    """`x` padded, and to an even number of outputs."""
    odd = [(n + low + high - border) % 2 for n, (low, high) in zip(x.shape[1:3], pads, strict=True)]
    return pad_axes(x, tuple((low, high + o) for (low, high), o in zip(pads, odd, strict=True)), "zeros", "conv")


def _filters(weight: jax.Array) -> jax.Array:
    """G w G^T: (4, 4, in, out)."""
    g = jnp.asarray(G, weight.dtype)
    return jnp.einsum("ai,bj,ijco->abco", g, g, weight)


def _input_tiles(x: jax.Array) -> list[list[jax.Array]]:
    """B^T x B: 4 by 4 arrays (tiles, channels)."""

    def transform(x: jax.Array, axis: int) -> list[jax.Array]:
        reach = x.shape[axis] - 3  # from the first to behind the last of the elements that are first in a tile
        d0, d1, d2, d3 = (jax.lax.slice_in_dim(x, i, i + reach, 2, axis) for i in range(4))
        return [d0 - d2, d1 + d2, d2 - d1, d1 - d3]

    return [[tile.reshape(-1, x.shape[-1]) for tile in transform(row, 2)] for row in transform(x, 1)]


def _output_tiles(dy: jax.Array) -> list[list[jax.Array]]:
    """A dy A^T: 4 by 4 arrays (tiles, channels)."""

    def transform(dy: jax.Array, axis: int) -> list[jax.Array]:
        even, odd = (jax.lax.slice_in_dim(dy, i, None, 2, axis) for i in range(2))
        return [even, even + odd, even - odd, -odd]

    return [[tile.reshape(-1, dy.shape[-1]) for tile in transform(row, 2)] for row in transform(dy, 1)]


def _outputs(m: list[jax.Array]) -> tuple[jax.Array, jax.Array]:
    """A^T m for one column m of four."""
    return m[0] + m[1] + m[2], m[1] - m[2] - m[3]
