"""Rotary, sinusoidal and learned positions and ALiBi against their formulas."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnet.functional as F
from fnet import nn

KEY = jax.random.key(0)


def draw(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def hugging_face(x: np.ndarray, positions: np.ndarray, base: float) -> np.ndarray:
    """Transcribed from transformers' Llama: `apply_rotary_pos_emb` with `rotate_half`, heads before the length."""
    dim = x.shape[-1]
    inv_freq = 1.0 / (base ** (np.arange(0, dim, 2) / dim))
    freqs = positions[:, None] * inv_freq[None]
    emb = np.concatenate([freqs, freqs], -1)
    rotated = np.concatenate([-x[..., dim // 2 :], x[..., : dim // 2]], -1)
    return x * np.cos(emb) + rotated * np.sin(emb)


def gpt_j(x: np.ndarray, positions: np.ndarray, base: float) -> np.ndarray:
    """Equation 34 of the paper, one pair of neighbours at a time, as complex numbers."""
    pairs = x[..., 0::2] + 1j * x[..., 1::2]
    dim = x.shape[-1]
    turned = pairs * np.exp(1j * positions[:, None] * base ** (-np.arange(0, dim, 2) / dim))
    return np.stack([turned.real, turned.imag], -1).reshape(x.shape)


@pytest.mark.parametrize("interleaved, oracle", [(False, hugging_face), (True, gpt_j)])
@pytest.mark.parametrize("base, dims, offset", [(10000.0, 8, 0), (500.0, 4, 7)])
def test_rotary_is_the_formula_of_each_convention(interleaved, oracle, base, dims, offset):
    x = draw(0, 2, 5, 3, 8)
    positions = np.arange(5) + offset
    expected = x.copy()
    expected[..., :dims] = oracle(x.swapaxes(1, 2)[..., :dims], positions, base).swapaxes(1, 2)
    with jax.enable_x64(True):
        turn = jax.jit(lambda x, p: F.rotary_embedding(x, p, base, dims, interleaved))
        np.testing.assert_allclose(turn(x, positions), expected, rtol=1e-12, atol=1e-12)
        rows = np.broadcast_to(positions, (2, 5))
        np.testing.assert_allclose(turn(x, rows), expected, rtol=1e-12, atol=1e-12)


def test_rotary_frequencies_are_those_of_transformers():
    """`_compute_llama3_parameters` of transformers, transcribed pair by pair, with the numbers of Llama 3.1."""
    found = F.rotary_frequencies(128, 5e5, 8.0, 8192)
    expected, kinds = [], set()
    for plain in 5e5 ** (-np.arange(0, 128, 2) / 128):
        wavelength = 2 * np.pi / plain
        share = (8192 / wavelength - 1) / (4 - 1)
        kind = "kept" if wavelength < 8192 / 4 else "divided" if wavelength > 8192 / 1 else "between"
        expected.append({"kept": plain, "divided": plain / 8, "between": (1 - share) * plain / 8 + share * plain}[kind])
        kinds.add(kind)
    assert len(kinds) == 3
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    x = jnp.asarray(draw(0, 1, 5, 2, 8), "float32")
    linear, halves = nn.RoPE(factor=2.0)({}, x), F.rotary_embedding(x, jnp.arange(5) / 2)
    np.testing.assert_allclose(linear, halves, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("interleaved", [False, True])
def test_rotary_products_depend_on_the_distance_alone(interleaved):
    q, k = draw(1, 1, 1, 1, 16), draw(2, 1, 1, 1, 16)
    with jax.enable_x64(True):
        turn = jax.jit(lambda x, p: F.rotary_embedding(x, p, interleaved=interleaved))

        def product(i: float, j: float) -> Any:
            return (turn(q, np.array([i])) * turn(k, np.array([j]))).sum()

        np.testing.assert_allclose(product(3.0, 1.0), product(1002.0, 1000.0), rtol=1e-9)
        assert abs(product(3.0, 1.0) - product(3.0, 2.0)) > 1e-3
        np.testing.assert_allclose(jnp.linalg.norm(turn(q, np.array([5.0]))), np.linalg.norm(q), rtol=1e-12)
    low = F.rotary_embedding(jnp.asarray(q, "bfloat16"))
    assert low.dtype == jnp.bfloat16


def test_sinusoidal_is_the_papers():
    found = F.sinusoidal_embedding(np.array([[0, 1], [50, 7]]), 6)
    for index, p in np.ndenumerate(np.array([[0, 1], [50, 7]])):
        row = [f(p / 10000 ** (2 * i / 6)) for i in range(3) for f in (np.sin, np.cos)]
        np.testing.assert_allclose(found[index], row, rtol=1e-5, atol=1e-5)


def test_alibi_slopes_are_those_of_the_papers_code():
    assert F.alibi_slopes(8).tolist() == [2.0**-n for n in range(1, 9)]
    np.testing.assert_allclose(F.alibi_slopes(16)[:2], [2**-0.5, 2**-1])
    # get_slopes(12) of the paper's repository: those of 8 heads, then every other one of 16 heads.
    twelve = [*(2.0**-n for n in range(1, 9)), *(2 ** -(n + 0.5) for n in range(4))]
    np.testing.assert_allclose(F.alibi_slopes(12), twelve)
    assert len(F.alibi_slopes(1)) == 1 and len(F.alibi_slopes(7)) == 7
    bias = F.alibi_bias(2, 2, 4, 2)
    np.testing.assert_array_equal(bias[0], -(2.0**-4) * np.array([[2, 1, 0, 1], [3, 2, 1, 0]]))


@pytest.mark.parametrize("layer", [nn.LearnedPosition, nn.SinusoidalPosition], ids=lambda c: c.__name__)
def test_positions_go_on_where_the_last_call_ended(layer):
    make = (lambda **kw: layer(8, **kw)) if layer is nn.LearnedPosition else layer
    x = draw(3, 2, 6, 4).astype("float32")
    params, _ = make().init(KEY, x)
    whole = make()(params, x)
    added = whole - x
    table = params["weight"] if params else F.sinusoidal_embedding(jnp.arange(8), 4)
    np.testing.assert_allclose(added, np.broadcast_to(table[:6], x.shape), atol=1e-6)
    cached = make(cache=True)
    step, state = jax.jit(cached.apply), cached.init_state(x)
    first, state = step(params, state, x[:, :4])
    second, state = step(params, state, x[:, 4:])
    np.testing.assert_allclose(np.concatenate([first, second], 1), whole, atol=1e-6)
    mask = np.array([[True] * 4, [False, False, True, True]])
    padded, state = step(params, cached.init_state(x), np.zeros((2, 4, 4), "float32"), mask)
    np.testing.assert_allclose(padded[1, 2:], table[:2], atol=1e-6)
    assert state["index"].tolist() == [4, 2]


def test_positions_past_the_table():
    layer = nn.LearnedPosition(4, cache=True)
    x = jnp.ones((1, 3, 2))
    params, state = layer.init(KEY, x)
    _, full = layer.apply(params, state, x)
    with pytest.raises(ValueError, match="out of range, expected 0 to 3"):
        layer.apply(params, full, x)
    assert np.isnan(jax.jit(layer.apply)(params, full, x)[0]).any()
    with pytest.raises(ValueError, match="at most 4"):
        layer.apply(params, state, jnp.ones((1, 5, 2)))


X = jnp.ones((2, 5, 3, 8))


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: F.rotary_embedding(X, dims=5), ValueError, "dims=5, expected an even number up to the head_dim of 8"),
        (lambda: F.rotary_embedding(X, dims=10), ValueError, "dims=10"),
        (lambda: F.rotary_embedding(X.astype(int)), TypeError, "expected floats"),
        (lambda: F.rotary_embedding(X, jnp.arange(4)), ValueError, r"positions have shape \(4,\), expected \(5,\) or"),
        (lambda: F.rotary_embedding(X, frequencies=np.ones(3)), ValueError, r"shape \(3,\), expected \(4,\)"),
        (lambda: F.rotary_frequencies(8, factor=0), ValueError, "factor=0"),
        (lambda: nn.RoPE(factor=2.0, low_freq_factor=4.0), ValueError, "low_freq_factor < high_freq_factor"),
        (lambda: F.sinusoidal_embedding(jnp.arange(3), 5), ValueError, "dim=5, expected an even number"),
        (lambda: F.alibi_slopes(0), ValueError, "num_heads=0"),
        (lambda: nn.RoPE(dims=3), ValueError, "even number of dims"),
        (lambda: nn.LearnedPosition(0), ValueError, "num_positions of at least 1"),
        (lambda: nn.LearnedPosition(4).init(KEY, jnp.ones(3)), ValueError, "LearnedPosition"),
        (lambda: nn.SinusoidalPosition().init(KEY, jnp.ones((2, 3), int)), TypeError, "ids go through an Embedding"),
        (lambda: nn.SinusoidalPosition()({}, X[0], jnp.ones((5, 2), bool)), ValueError, r"key_mask is bool of shape"),
    ],
)
def test_what_does_not_fit_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
