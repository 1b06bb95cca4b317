"""F.linear against PyTorch, its two lowerings against each other, and its messages."""

from __future__ import annotations

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fnet.functional as F

LEADING = st.lists(st.integers(0, 4), max_size=3).map(tuple)


def draw(seed: int, *shapes: tuple[int, ...], dtype: type = np.float64) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape).astype(dtype) for shape in shapes]


@settings(max_examples=10)
@given(LEADING, st.integers(1, 9), st.integers(1, 9), st.booleans(), st.integers(0, 2**31))
def test_outputs_and_gradients_are_pytorchs(leading, n_in, n_out, has_bias, seed):
    torch = pytest.importorskip("torch", reason="parity tests need the oracle extra: pip install fnet[oracle]")
    x, w, b, dy = draw(seed, (*leading, n_in), (n_in, n_out), (n_out,), (*leading, n_out))
    b = b if has_bias else None
    tx, tw = (torch.tensor(a, requires_grad=True) for a in (x, w.T.copy()))
    tb = torch.tensor(b, requires_grad=True) if has_bias else None
    ty = torch.nn.functional.linear(tx, tw, tb)
    ty.backward(torch.tensor(dy))
    with jax.enable_x64(True):
        grads = jax.grad(lambda *args: (F.linear(*args) * dy).sum(), (0, 1, 2))
        (dx, dw, db), y = jax.jit(lambda *args: (grads(*args), F.linear(*args)))(x, w, b)
        np.testing.assert_allclose(y, ty.detach(), rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(dx, tx.grad, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(dw, tw.grad.T, rtol=1e-12, atol=1e-12)
        if has_bias:
            np.testing.assert_allclose(db, tb.grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(2, 3, 5), (2, 3, 4, 5), (0, 3, 5)])
def test_both_lowerings_give_the_same_numbers_and_gradients(monkeypatch, shape):
    x, w, b = draw(0, shape, (5, 7), (7,), dtype=np.float32)
    results = []
    for rows in (True, False):
        monkeypatch.setattr(sys.modules["fnet.functional.linear"], "_rows_are_faster", lambda x, rows=rows: rows)
        loss = lambda x, w, b: jnp.sin(F.linear(x, w, b)).sum()  # noqa: E731
        results.append(jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(x, w, b))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6, atol=2e-6), *results)


def matmul_ranks(x, w):
    return [
        eqn.invars[0].aval.ndim for eqn in jax.make_jaxpr(F.linear)(x, w).eqns if eqn.primitive.name == "dot_general"
    ]


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="the 2-D form is chosen on CPU only")
def test_leading_axes_are_folded_on_cpu_and_kept_on_a_mesh():
    x, w = jnp.ones((2, 3, 5)), jnp.ones((5, 7))
    assert matmul_ranks(x, w) == [2]
    for kind in (jax.sharding.AxisType.Auto, jax.sharding.AxisType.Explicit):
        mesh = jax.make_mesh((1,), ("sequence",), axis_types=(kind,))
        spec = jax.sharding.PartitionSpec(None, "sequence")
        sharded = jax.device_put(x, jax.sharding.NamedSharding(mesh, spec))
        whole = jax.device_put(w, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))
        assert matmul_ranks(sharded, whole) == [3]
        assert F.linear(sharded, whole).shape == (2, 3, 7)


def test_two_axes_compile_to_the_plain_matmul():
    x, w, b = jnp.ones((4, 5)), jnp.ones((5, 7)), jnp.ones(7)
    hlo = [jax.jit(f).lower(x, w, b).compile().cost_analysis() for f in (F.linear, lambda x, w, b: x @ w + b)]
    assert hlo[0]["flops"] == hlo[1]["flops"] and hlo[0]["bytes accessed"] == hlo[1]["bytes accessed"]


def test_the_weight_sets_the_dtype():
    w, b = jnp.ones((3, 2), jnp.bfloat16), jnp.ones(2)
    assert F.linear(jnp.ones((4, 3)), w, b).dtype == jnp.bfloat16
    assert F.linear(jnp.ones((4, 3), jnp.bfloat16), w.astype(jnp.float32)).dtype == jnp.float32
    assert F.linear(np.ones((4, 3)), w.astype(jnp.float32)).dtype == jnp.float32
    assert F.linear(jnp.ones((4, 3), jnp.int8), jnp.ones((3, 2), jnp.int32)).dtype == jnp.int32


@pytest.mark.parametrize("dtype", ["uint8", "int32", "bool"])
def test_integers_for_a_float_weight_are_an_error_with_its_fix(dtype):
    with pytest.raises(TypeError, match=rf"linear: got integer input \({dtype}, .*x / 255.*ToFloat"):
        F.linear(jnp.ones((2, 3), dtype), jnp.ones((3, 2)))


def test_casts_that_lose_are_errors():
    with pytest.raises(TypeError, match="imaginary"):
        F.linear(jnp.ones((2, 3), jnp.complex64), jnp.ones((3, 2)))
    with pytest.raises(TypeError, match="integer weight"):
        F.linear(jnp.ones((2, 3)), jnp.ones((3, 2), jnp.int32))


def test_shapes_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"input has shape \(2, 4\), expected \(\.\.\., 3\).*3 in-features.*\(3, 5\)$"):
        F.linear(jnp.ones((2, 4)), jnp.ones((3, 5)))
    with pytest.raises(ValueError, match=r"pass weight\.T"):
        F.linear(jnp.ones((2, 5)), jnp.ones((3, 5)))
    with pytest.raises(ValueError, match=r"input has shape \(\)"):
        F.linear(jnp.ones(()), jnp.ones((3, 5)))
    with pytest.raises(ValueError, match=r"weight has shape \(3,\)"):
        F.linear(jnp.ones(3), jnp.ones(3))
    with pytest.raises(ValueError, match=r"bias has shape \(3,\), expected \(5,\)"):
        F.linear(jnp.ones((2, 3)), jnp.ones((3, 5)), jnp.ones(3))


def test_it_runs_under_vmap_and_strict_rank_promotion():
    x, w, b = draw(1, (6, 4, 5), (6, 5, 7), (6, 7), dtype=np.float32)
    with jax.numpy_rank_promotion("raise"):
        y = jax.vmap(F.linear)(x, w, b)
    np.testing.assert_allclose(y, x @ w + b[:, None], rtol=1e-5, atol=1e-5)
