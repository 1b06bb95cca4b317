"""metrics.accuracy against numpy, its mask, and labels that are out of range."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fnet import metrics


@settings(max_examples=12)
@given(
    st.lists(st.integers(1, 5), max_size=3).map(tuple),
    st.sampled_from(["int8", "uint8", "int32", "uint32", "int64"]),
    st.integers(0, 2**31),
)
def test_it_is_the_share_of_hits_among_those_that_count(shape, dtype, seed):
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(size=(*shape, 4)).astype(np.float32), rng.integers(0, 4, shape).astype(dtype)
    mask = rng.random(shape) < 0.6
    hits = logits.argmax(-1) == labels
    np.testing.assert_allclose(metrics.accuracy(logits, labels), hits.mean(), rtol=1e-6)
    np.testing.assert_allclose(
        metrics.accuracy(logits, labels, mask=mask), hits[mask].mean() if mask.any() else 0, rtol=1e-6
    )


def test_dtype_is_at_least_float32():
    labels = jnp.array([0, 1])
    assert metrics.accuracy(jnp.ones((2, 3), jnp.bfloat16), labels).dtype == jnp.float32
    with jax.enable_x64(True):
        assert metrics.accuracy(np.ones((2, 3)), labels).dtype == jnp.float64


@pytest.mark.parametrize("bad", [3, -1, -100])
def test_a_label_out_of_range_is_an_error_nan_under_jit_and_fine_where_masked(bad):
    logits, labels, mask = jnp.ones((2, 3)), jnp.array([0, bad]), jnp.array([True, False])
    with pytest.raises(ValueError, match=rf"accuracy labels: {bad} at index \(1,\).*0 to 2.*mask="):
        metrics.accuracy(logits, labels)
    assert np.isnan(jax.jit(metrics.accuracy)(logits, labels))
    assert metrics.accuracy(logits, labels, mask=mask) == 1
    assert jax.jit(metrics.accuracy)(logits, labels, mask=mask) == 1
    assert np.isnan(jax.vmap(metrics.accuracy)(logits, labels)).tolist() == [False, True]


def test_a_mask_may_cover_leading_axes_and_count_nothing():
    logits, labels = jnp.zeros((2, 3, 4)).at[0, :, 1].set(1.0), jnp.ones((2, 3), int)
    assert metrics.accuracy(logits, labels, mask=jnp.array([True, False])) == 1
    assert metrics.accuracy(logits, labels, mask=jnp.array([False, False])) == 0


def test_wrong_inputs_are_named():
    logits = jnp.ones((4, 3))
    with pytest.raises(ValueError, match=r"logits have shape \(4, 3\).*labels \(4, 3\).*argmax"):
        metrics.accuracy(logits, jnp.ones((4, 3)))
    with pytest.raises(ValueError, match=r"labels \(4, 1\)"):
        metrics.accuracy(logits, jnp.ones((4, 1), int))
    with pytest.raises(TypeError, match="float32.*expected integers"):
        metrics.accuracy(logits, jnp.ones(4))
    with pytest.raises(TypeError, match="mask is int32"):
        metrics.accuracy(logits, jnp.ones(4, int), mask=jnp.ones(4, int))
    with pytest.raises(ValueError, match=r"mask has shape \(3,\)"):
        metrics.accuracy(logits, jnp.ones(4, int), mask=jnp.ones(3, bool))
