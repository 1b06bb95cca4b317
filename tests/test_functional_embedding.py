"""Embedding lookup against PyTorch, and what happens to ids that name no row."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fnet.functional as F


@settings(max_examples=6)
@given(
    st.lists(st.integers(0, 4), max_size=3).map(tuple),
    st.sampled_from(["int8", "uint8", "int16", "int32", "uint32", "int64"]),
    st.sampled_from([None, 0, 3, -1, -5]),
    st.integers(0, 2**31),
)
def test_rows_and_gradients_are_pytorchs(shape, dtype, padding_idx, seed):
    torch = pytest.importorskip("torch", reason="parity tests need the oracle extra: pip install fnet[oracle]")
    rng = np.random.default_rng(seed)
    ids, table, dy = rng.integers(0, 5, shape).astype(dtype), rng.normal(size=(5, 3)), rng.normal(size=(*shape, 3))
    tw = torch.tensor(table, requires_grad=True)
    ty = torch.nn.functional.embedding(torch.tensor(ids.astype(np.int64)), tw, padding_idx)
    ty.backward(torch.tensor(dy))
    with jax.enable_x64(True):
        np.testing.assert_array_equal(F.embedding(ids, table, padding_idx), ty.detach())
        grad = jax.jit(jax.grad(lambda w, ids: (F.embedding(ids, w, padding_idx) * dy).sum()))(table, ids)
        np.testing.assert_allclose(grad, tw.grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("bad", [5, 1000, -1, -5, 2**31 - 1, -(2**31)])
def test_an_id_out_of_range_is_an_error_and_nan_under_jit(bad):
    table, ids = jnp.ones((5, 3)), jnp.array([[0, 1], [bad, 4]])
    with pytest.raises(ValueError, match=rf"embedding: {bad} at index \(1, 0\) is out of range, expected 0 to 4"):
        F.embedding(ids, table)
    rows = jax.jit(F.embedding)(ids, table)
    np.testing.assert_array_equal(np.isnan(rows), np.array([[[0] * 3] * 2, [[1] * 3, [0] * 3]], bool))
    assert np.isnan(jax.vmap(lambda i: F.embedding(i, table))(ids)[1, 0]).all()
    assert np.isnan(jax.jit(jax.value_and_grad(lambda w, i: F.embedding(i, w).sum()))(table, ids)[0])


def test_an_int64_id_is_judged_before_jax_narrows_it():
    with pytest.raises(ValueError, match=str(2**32)):
        F.embedding(np.array([2**32]), jnp.ones((5, 3)))


def test_ids_must_be_integers_and_the_table_floats():
    table = jnp.ones((5, 3))
    for ids in (jnp.zeros(2), jnp.zeros(2, bool)):
        with pytest.raises(TypeError, match=r"expected integers; cast with ids\.astype"):
            F.embedding(ids, table)
    with pytest.raises(ValueError, match=r"int32 of shape \(5, 3\)"):
        F.embedding(jnp.zeros(2, int), table.astype(int))
    with pytest.raises(ValueError, match=r"shape \(5,\)"):
        F.embedding(jnp.zeros(2, int), jnp.ones(5))
    with pytest.raises(ValueError, match="padding_idx=5"):
        F.embedding(jnp.zeros(2, int), table, 5)


def test_padding_still_lets_the_gradient_of_other_rows_through_in_low_precision():
    table = jnp.ones((4, 2), jnp.bfloat16)
    grad = jax.grad(lambda w: F.embedding(jnp.array([0, 1, 1]), w, 0).sum())(table)
    assert grad.dtype == jnp.bfloat16
    np.testing.assert_array_equal(grad, jnp.array([[0, 0], [2, 2], [0, 0], [0, 0]]))


def test_one_hot():
    ids = jnp.array([[0, 2], [1, 1]], jnp.uint8)
    np.testing.assert_array_equal(F.one_hot(ids, 3), np.eye(3)[np.asarray(ids)])
    assert F.one_hot(ids, 3, dtype=jnp.bfloat16).dtype == jnp.bfloat16
    with pytest.raises(ValueError, match="one_hot: 2 at index"):
        F.one_hot(ids, 2)
    np.testing.assert_array_equal(np.isnan(jax.jit(lambda i: F.one_hot(i, 2))(ids))[..., 0], ids == 2)
    with pytest.raises(TypeError, match="int32"):
        F.one_hot(ids, 3, dtype=jnp.int32)
    with pytest.raises(TypeError, match="float32"):
        F.one_hot(jnp.ones(2), 3)
