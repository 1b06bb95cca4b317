"""Dropout: what is kept, what it is scaled by, which gradient it has, and when it needs a key."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fnet.functional as F

KEY = jax.random.key(0)


@settings(max_examples=12)
@given(st.floats(0.01, 0.99), st.integers(0, 2**31))
def test_each_element_is_zero_or_scaled_and_the_share_is_p(p, seed):
    x = jnp.ones(20_000)
    y = F.dropout(x, p, key=jax.random.key(seed))
    dropped = y == 0
    np.testing.assert_allclose(y[~dropped], 1 / (1 - p), rtol=1e-6)
    # Six standard errors of a share of 20,000: a run of 12 examples fails by chance once in 10^8.
    assert abs(dropped.mean() - p) < 6 * (p * (1 - p) / 20_000) ** 0.5 + 1e-9


def test_the_gradient_is_the_mask():
    x = jnp.arange(1.0, 101.0)
    y, pull = jax.vjp(lambda x: F.dropout(x, 0.3, key=KEY), x)
    np.testing.assert_allclose(pull(jnp.ones_like(y))[0] * x, y, rtol=1e-6)


def test_without_training_or_with_p_zero_it_is_the_identity_and_needs_no_key():
    x = jnp.array([1.0, jnp.nan, -2.0])
    assert F.dropout(x, 0.5, train=False) is x
    assert F.dropout(x, 0) is x
    assert F.dropout(x, 1.0, False) is x


def test_p_one_gives_zeros_and_a_zero_gradient():
    x = jnp.array([1.0, -1e30, 5.0])
    y, grad = jax.value_and_grad(lambda x: F.dropout(x, 1, key=KEY).sum())(x)
    assert y == 0 and (grad == 0).all()


def test_p_may_be_traced():
    f = jax.jit(lambda x, p: F.dropout(x, p, key=KEY))
    x = jnp.ones(100)
    np.testing.assert_allclose(f(x, 0.25), F.dropout(x, 0.25, key=KEY), rtol=1e-6)
    np.testing.assert_array_equal(f(x, 0.0), x)
    grad = jax.jit(jax.grad(lambda x, p: F.dropout(x, p, key=KEY).sum()))
    assert (grad(x, 1.0) == 0).all() and (f(x, 1.0) == 0).all()


def test_what_is_dropped_may_be_anything():
    x = jnp.full(1000, jnp.inf).at[0].set(jnp.nan)
    y = F.dropout(x, 0.999, key=KEY)
    assert (y == 0).sum() > 900


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_dtype_is_kept(dtype):
    assert F.dropout(jnp.ones(8, dtype), 0.5, key=KEY).dtype == dtype


def test_keys_decide_the_mask():
    x = jnp.ones(64)
    a, b = F.dropout(x, key=KEY), F.dropout(x, key=jax.random.key(1))
    assert (a != b).any()
    np.testing.assert_array_equal(a, jax.jit(lambda x: F.dropout(x, key=KEY))(x))
    many = jax.vmap(lambda k: F.dropout(x, key=k))(jax.random.split(KEY, 3))
    assert len(np.unique(many, axis=0)) == 3
    F.dropout(x, key=jax.random.PRNGKey(0))  # the old kind of key too


def test_a_missing_key_is_its_own_error_and_says_how_to_pass_one():
    with pytest.raises(F.MissingKey, match=r"p=0\.5 and train=True.*key=jax\.random\.key.*train=False"):
        F.dropout(jnp.ones(3))
    assert issubclass(F.MissingKey, ValueError)


@pytest.mark.parametrize("p", [-0.1, 1.5, 50, float("nan")])
def test_p_outside_zero_to_one_is_an_error(p):
    with pytest.raises(ValueError, match="not a probability"):
        F.dropout(jnp.ones(3), p, key=KEY)
    with pytest.raises(ValueError, match="not a probability"):
        F.dropout(jnp.ones(3), p, train=False)


def test_integers_are_an_error():
    with pytest.raises(TypeError, match=r"int32 of shape \(3,\)"):
        F.dropout(jnp.arange(3), key=KEY)
