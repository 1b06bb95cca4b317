"""Sampling at coordinates against PyTorch, and its messages."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parity import channels_first, channels_last, ours, theirs, torch

import fnet.functional as F


@pytest.mark.parametrize("spatial, out", [((4, 5), (3, 6)), ((3, 4, 2), (2, 3, 4))])
@pytest.mark.parametrize("align", [False, True])
def test_affine_grid_is_pytorchs(spatial, out, align):
    rank = len(out)
    theta = np.random.default_rng(0).normal(size=(2, rank, rank + 1))
    want = torch().nn.functional.affine_grid(torch().tensor(theta), (2, 1, *out), align_corners=align)
    with jax.enable_x64(True):
        got = F.affine_grid(theta, (2, *out, 1), align_corners=align)
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)


IMAGE, VOLUME = (4, 5), (3, 4, 2)
CASES = [
    (IMAGE, "bilinear", "zeros", False), (IMAGE, "bilinear", "border", True), (IMAGE, "bilinear", "reflection", False),
    (IMAGE, "nearest", "reflection", True), (IMAGE, "bicubic", "zeros", True), (IMAGE, "bicubic", "border", False),
    (IMAGE, "bicubic", "reflection", False), (VOLUME, "bilinear", "zeros", True), (VOLUME, "nearest", "border", False),
]  # fmt: skip


@pytest.mark.parametrize("spatial, mode, padding, align", CASES)
def test_grid_sample_is_pytorchs(spatial, mode, padding, align):
    rng, rank = np.random.default_rng(0), len(spatial)
    x = rng.normal(size=(2, *spatial, 3))
    grid = rng.uniform(-1.6, 1.6, size=(2, *(3, 4, 2)[:rank], rank))
    dy = rng.normal(size=(*grid.shape[:-1], 3))
    with jax.enable_x64(True):
        y, dx, dgrid = ours(lambda x, grid: F.grid_sample(x, grid, mode, padding, align), [x, grid], dy)
    f = torch().nn.functional.grid_sample
    want = theirs(lambda x, grid: f(x, grid, mode, padding, align), [channels_first(x), grid], channels_first(dy))
    np.testing.assert_allclose(y, channels_last(want[0]), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(dx, channels_last(want[1]), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(dgrid, want[2], rtol=1e-9, atol=1e-9)


X, GRID = jnp.ones((2, 4, 4, 3)), jnp.zeros((2, 5, 2))


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: F.grid_sample(X, GRID[..., :1]), ValueError, r"grid \(2, 5, 1\), expected \(N, H, W, C\) and"),
        (lambda: F.grid_sample(X, GRID, "cubic"), ValueError, "mode='cubic' is not one of"),
        (lambda: F.grid_sample(X, GRID, padding_mode="edge"), ValueError, "padding_mode='edge' is not one of"),
        (lambda: F.grid_sample(X.astype(int), GRID), TypeError, "takes floats, got int32"),
        (lambda: F.affine_grid(jnp.ones((1, 2, 3)), (2, 4, 4, 1)), ValueError, r"theta has shape \(1, 2, 3\) for size"),
    ],
)
def test_messages(call, error, message):
    with pytest.raises(error, match=message):
        call()
