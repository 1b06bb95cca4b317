"""linear_cross_entropy against the two functions that it fuses, and against PyTorch; its memory."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fnet.functional as F


@settings(max_examples=8)
@given(
    st.sampled_from([(7,), (2, 5)]), st.sampled_from([1, 3, 4, 100]), st.booleans(), st.booleans(),
    st.sampled_from(["labels", "soft"]), st.sampled_from([0.0, 0.1]), st.sampled_from(["mean", "sum", "none"]),
    st.integers(0, 2**31),
)  # fmt: skip
def test_values_and_all_gradients_are_pytorchs(shape, chunk, biased, weighted, kind, smoothing, reduction, seed):
    torch = pytest.importorskip("torch", reason="parity tests need the oracle extra: pip install fnet[oracle]")
    rng = np.random.default_rng(seed)
    x, w = rng.normal(size=(*shape, 3)), rng.normal(size=(3, 6))
    soft = kind == "soft"
    y = rng.dirichlet(np.ones(6), shape) if soft else rng.integers(0, 6, shape)
    if not soft:
        y.flat[1] = -100
    arrays = {"input": x, "linear_weight": w}
    arrays |= {"linear_bias": rng.normal(size=6)} if biased else {}
    arrays |= {"weight": rng.random(6)} if weighted else {}
    arrays |= {"target": y} if soft else {}
    fixed = {} if soft else {"target": y}
    kw = {"reduction": reduction, "label_smoothing": smoothing}

    tensors = {k: torch.tensor(v, requires_grad=k != "weight") for k, v in arrays.items()}
    logits = torch.nn.functional.linear(
        tensors["input"].reshape(-1, 3), tensors["linear_weight"].T, tensors.get("linear_bias")
    )
    target = tensors["target"].reshape(-1, 6) if soft else torch.tensor(y.ravel())
    expected = torch.nn.functional.cross_entropy(logits, target, tensors.get("weight"), **kw)
    probe = rng.normal(size=tuple(expected.shape))
    gradients = torch.autograd.grad(
        (expected * torch.tensor(probe)).sum(), [t for k, t in tensors.items() if k != "weight"]
    )
    gradients = dict(zip([k for k in arrays if k != "weight"], gradients, strict=True))
    with jax.enable_x64(True):

        def fused(a):
            return F.linear_cross_entropy(**a, **fixed, **kw, chunk_size=chunk)

        def plain(a):
            logits = F.linear(a["input"], a["linear_weight"], a.get("linear_bias"))
            return F.cross_entropy(logits, a.get("target", y), a.get("weight"), **kw)

        def both(a):
            out = []
            for f in (fused, plain):
                value, pull = jax.vjp(f, a)
                out.append((value, pull(probe.reshape(value.shape))[0]))
            return out

        ours, unfused = jax.jit(both)(arrays)
    np.testing.assert_allclose(ours[0].ravel(), expected.detach().ravel(), rtol=1e-12, atol=1e-12)
    for name, gradient in gradients.items():
        np.testing.assert_allclose(ours[1][name], gradient.reshape(arrays[name].shape), rtol=1e-10, atol=1e-12)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12), ours, unfused)


def arrays(rows=10, features=3, classes=6, dtype=np.float32):
    rng = np.random.default_rng(0)
    x, w, b = (rng.normal(size=shape).astype(dtype) for shape in ((rows, features), (features, classes), (classes,)))
    return (x, w, b), rng.integers(0, classes, rows)


def test_forward_mode_and_second_derivatives_are_those_of_the_plain_form(x64):
    tree, y = arrays(dtype=np.float64)
    moves = jax.tree.map(np.cos, tree)

    def everything(f):
        along = lambda tree: jax.jvp(f, [tree], [moves])[1]  # noqa: E731
        return along(tree), jax.grad(along)(tree), jax.jvp(jax.grad(f), [tree], [moves])[1]

    ours, theirs = jax.jit(
        lambda: [
            everything(lambda t: F.linear_cross_entropy(t[0], t[1], y, linear_bias=t[2], chunk_size=4)),
            everything(lambda t: F.cross_entropy(F.linear(*t), y)),
        ]
    )()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), ours, theirs)


def test_masks_vmap_and_low_precision():
    (x, w, b), y = arrays(classes=40)
    mask = np.arange(10) % 3 > 0
    bad_x, bad_y = x.copy(), y.copy()
    bad_x[~mask], bad_y[~mask] = np.nan, 77
    expected, expected_grads = jax.value_and_grad(lambda x, w: F.cross_entropy(F.linear(x, w, b), y[mask]), (0, 1))(
        x[mask], w
    )

    def loss(x, w, y, mask):
        return F.linear_cross_entropy(x, w, y, linear_bias=b, mask=mask, chunk_size=4)

    value, grads = jax.jit(jax.value_and_grad(loss, (0, 1)))(bad_x, w, bad_y, mask)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(grads[0][mask], expected_grads[0], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(grads[1], expected_grads[1], rtol=1e-5, atol=1e-6)
    assert (grads[0][~mask] == 0).all()
    assert loss(x, w, y, np.zeros(10, bool)) == 0
    many = jax.vmap(jax.grad(loss), (0, None, 0, None))(np.stack([x, 2 * x]), w, np.stack([y, y]), mask)
    np.testing.assert_allclose(many[1], jax.grad(loss)(2 * x, w, y, mask), rtol=1e-4, atol=1e-6)
    # In bfloat16 the weight's gradient is summed in float32: rounding does not grow with the number of chunks.
    (x, w, _), y = arrays(rows=512, classes=4)
    low, dw = jax.jit(jax.value_and_grad(lambda w: F.linear_cross_entropy(x, w, y, chunk_size=2)))(
        jnp.asarray(w, jnp.bfloat16)
    )
    exact = jax.grad(lambda w: F.cross_entropy(F.linear(x, w), y))(w)
    assert low.dtype == jnp.float32 and dw.dtype == jnp.bfloat16
    np.testing.assert_allclose(dw.astype(np.float32), exact, atol=0.01 * np.abs(exact).max())


def test_labels_out_of_range_and_messages():
    (x, w, _), y = arrays()
    y[3] = 6
    with pytest.raises(ValueError, match=r"linear_cross_entropy target: 6 at index \(3,\).*ignore_index="):
        F.linear_cross_entropy(x, w, y, chunk_size=4)
    value, grad = jax.jit(jax.value_and_grad(lambda x, y: F.linear_cross_entropy(x, w, y, chunk_size=4)))(x, y)
    assert np.isnan(value) and np.isnan(grad).any(-1).tolist() == [i == 3 for i in range(10)]
    with pytest.raises(ValueError, match=r"input has shape \(10, 3\), linear_weight \(6, 3\) and target \(10,\)"):
        F.linear_cross_entropy(x, w.T, y)
    with pytest.raises(ValueError, match=r"linear_weight has shape \(3,\)"):
        F.linear_cross_entropy(x, w[:, 0], y)
    with pytest.raises(ValueError, match="chunk_size=0"):
        F.linear_cross_entropy(x, w, y, chunk_size=0)
    with pytest.raises(TypeError, match="integer input"):
        F.linear_cross_entropy(x.astype(int), w, y)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_the_logits_are_never_all_there(reduction):
    """2048 rows of 8192 classes are 64 MiB; a chunk of 64 rows is 2, and is there a few times."""
    shapes = {(2048, 16): "float32", (16, 8192): "float32", (2048,): "int32"}
    x, w, y = (jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in shapes.items())

    def memory(loss):
        train = jax.value_and_grad(lambda x, w, y: loss(x, w, y).sum(), (0, 1))
        return jax.jit(train).lower(x, w, y).compile().memory_analysis().temp_size_in_bytes

    fused = memory(lambda x, w, y: F.linear_cross_entropy(x, w, y, chunk_size=64, reduction=reduction))
    plain = memory(lambda x, w, y: F.cross_entropy(F.linear(x, w), y, reduction=reduction))
    assert plain > 2048 * 8192 * 4 > 4 * fused
