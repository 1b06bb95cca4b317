"""Bilinear and EmbeddingBag against PyTorch; tied embeddings; PReLU, Identity, Unflatten."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fnet.functional as F
from fnet import nn

ORACLE = "parity tests need the oracle extra: pip install fnet[oracle]"
KEY = jax.random.key(0)


@settings(max_examples=4)
@given(st.sampled_from([(), (4,), (2, 3)]), st.booleans(), st.integers(0, 2**31))
def test_bilinear_is_pytorchs(leading, biased, seed):
    torch = pytest.importorskip("torch", reason=ORACLE)
    rng = np.random.default_rng(seed)
    arrays = [rng.normal(size=s) for s in ((*leading, 3), (*leading, 2), (3, 2, 5), (5,))][: 4 if biased else 3]
    tensors = [torch.tensor(a, requires_grad=True) for a in arrays]
    expected = torch.nn.functional.bilinear(*tensors[:2], tensors[2].permute(2, 0, 1), *tensors[3:])
    probe = rng.normal(size=tuple(expected.shape))
    gradients = torch.autograd.grad((expected * torch.tensor(probe)).sum(), tensors)
    with jax.enable_x64(True):

        def both(arrays):
            y, pull = jax.vjp(F.bilinear, *arrays)
            return y, pull(jnp.asarray(probe))

        got, grads = jax.jit(both)(arrays)
    np.testing.assert_allclose(got, expected.detach(), rtol=1e-12, atol=1e-12)
    for a, b in zip(grads, gradients, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


@settings(max_examples=10)
@given(
    st.sampled_from(["sum", "mean", "max"]), st.sampled_from(["rows", "offsets"]), st.sampled_from([None, 2, -1]),
    st.booleans(), st.integers(0, 2**31),
)  # fmt: skip
def test_embedding_bag_is_pytorchs(mode, form, padding, weighted, seed):
    torch = pytest.importorskip("torch", reason=ORACLE)
    rng = np.random.default_rng(seed)
    table, ids = rng.normal(size=(5, 3)), rng.integers(0, 5, (4, 6))
    offsets = None
    if padding is not None:
        ids[1] = padding % 5  # a bag of nothing else
    if form == "offsets":
        ids, offsets = ids.ravel(), np.array([0, 5, 5, 12, 24])  # two empty bags, one at the end
    arrays = [table] + ([rng.normal(size=ids.shape)] if weighted and mode == "sum" else [])
    tensors = [torch.tensor(a, requires_grad=True) for a in arrays]
    expected = torch.nn.functional.embedding_bag(
        torch.tensor(ids), tensors[0], None if offsets is None else torch.tensor(offsets), mode=mode,
        padding_idx=padding, per_sample_weights=tensors[1] if len(tensors) == 2 else None,
    )  # fmt: skip
    probe = rng.normal(size=tuple(expected.shape))
    gradients = torch.autograd.grad((expected * torch.tensor(probe)).sum(), tensors)
    with jax.enable_x64(True):

        def f(table, *weights):
            weights = weights[0] if weights else None
            return F.embedding_bag(ids, table, offsets, mode=mode, per_sample_weights=weights, padding_idx=padding)

        def both(arrays):
            y, pull = jax.vjp(f, *arrays)
            return y, pull(jnp.asarray(probe))

        got, grads = jax.jit(both)(arrays)
    np.testing.assert_allclose(got, expected.detach(), rtol=1e-12, atol=1e-12)
    for a, b in zip(grads, gradients, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


def test_embedding_bag_masks_and_says_what_is_wrong():
    table, ids = jnp.arange(10.0).reshape(5, 2), np.array([[0, 99], [4, 4]])
    got = F.embedding_bag(ids, table, mask=np.array([[True, False], [True, True]]))
    np.testing.assert_array_equal(got, table[jnp.array([0, 4])])
    bag = nn.EmbeddingBag(5, 2, padding_idx=-1, mode="max")
    params, _ = bag.init(KEY, ids)
    assert (params["weight"][4] == 0).all()
    np.testing.assert_array_equal(bag(params, jnp.array([[0, 4], [4, 4]])), [params["weight"][0], [0, 0]])
    assert F.embedding_bag(jnp.zeros((2, 3), int), table.astype(jnp.bfloat16)).dtype == jnp.bfloat16
    with pytest.raises(ValueError, match="embedding: 99 at index"):
        F.embedding_bag(ids, table)
    assert np.isnan(jax.jit(F.embedding_bag)(ids, table)).tolist() == [[True] * 2, [False] * 2]
    with pytest.raises(ValueError, match=r"offsets must start at 0, not fall, and end by 3; got \[0 2 1\]"):
        F.embedding_bag(jnp.array([0, 1, 2]), table, jnp.array([0, 2, 1]))
    assert np.isnan(jax.jit(F.embedding_bag)(jnp.array([0, 1, 2]), table, jnp.array([0, 2, 1]))).all()
    with pytest.raises(ValueError, match="mode='median'"):
        F.embedding_bag(ids, table, mode="median")
    with pytest.raises(ValueError, match="mode is .* got 'median'"):
        nn.EmbeddingBag(5, 2, mode="median")
    with pytest.raises(ValueError, match='per_sample_weights need mode="sum"'):
        F.embedding_bag(ids, table, per_sample_weights=jnp.ones((2, 2)))
    with pytest.raises(ValueError, match=r"per_sample_weights have shape \(2,\), expected that of the ids: \(2, 2\)"):
        F.embedding_bag(ids % 5, table, mode="sum", per_sample_weights=jnp.ones(2))
    with pytest.raises(ValueError, match="padding_idx=5"):
        F.embedding_bag(ids % 5, table, padding_idx=5)
    with pytest.raises(ValueError, match=r"with offsets of shape \(2,\) the ids have shape \(2, 2\)"):
        F.embedding_bag(ids % 5, table, jnp.array([0, 1]))


def test_bilinear_layer_and_messages():
    x1, x2 = jnp.ones((2, 3)), jnp.ones((2, 4))
    layer = nn.Bilinear(5)
    params, _ = layer.init(KEY, x1, x2)
    assert params["weight"].shape == (3, 4, 5)
    assert all(0.3 < abs(leaf).max() <= 3**-0.5 for leaf in params.values()), "uniform in ±1/√in1"
    np.testing.assert_allclose(layer(params, x1, x2), F.bilinear(x1, x2, params["weight"], params["bias"]))
    assert set(nn.Bilinear(5, bias=False).init(KEY, x1, x2)[0]) == {"weight"}
    with pytest.raises(ValueError, match=r"inputs have shapes \(2, 4\) and \(2, 3\), expected \(\.\.\., 3\) and"):
        layer(params, x2, x1)
    with pytest.raises(TypeError, match=r"PyTorch's Bilinear\(in1, in2, out\) is Bilinear\(out\)"):
        nn.Bilinear(3, 4)
    with pytest.raises(ValueError, match="out_features of at least 1"):
        nn.Bilinear(0)
    with pytest.raises(ValueError, match=r"weight has shape \(3, 4\)"):
        F.bilinear(x1, x2, jnp.ones((3, 4)))
    with pytest.raises(ValueError, match=r"bias has shape \(4,\), expected \(5,\)"):
        F.bilinear(x1, x2, params["weight"], jnp.ones(4))
    with pytest.raises(ValueError, match=r"Bilinear needs inputs"):
        layer.init(KEY, x1, jnp.ones(()))


def lm(ids, embed, body):
    return body(embed(ids)) @ embed.params["weight"].T


def test_a_tied_embedding_gets_the_gradient_of_both_uses():
    model = nn.Model(lm, embed=nn.Embedding(7, 4), body=nn.Linear(4))
    ids = jnp.array([1, 2, 3])
    params, _ = model.init(KEY, ids)
    assert set(params) == {"embed", "body"}

    def by_hand(table, head):
        body = params["body"]
        return F.cross_entropy((table[ids] @ body["weight"] + body["bias"]) @ head.T, ids)

    table = params["embed"]["weight"]
    both = jax.grad(by_hand, (0, 1))(table, table)
    grad = jax.grad(lambda p: F.cross_entropy(model(p, ids), ids))(params)["embed"]["weight"]
    np.testing.assert_allclose(grad, both[0] + both[1], rtol=1e-5, atol=1e-6)


def test_prelu_identity_and_unflatten():
    x = jnp.array([[-1.0, -2.0, 3.0]])
    params, _ = nn.PReLU(3, 0.5).init(KEY, x)
    np.testing.assert_array_equal(nn.PReLU(3, 0.5)(params, x), [[-0.5, -1.0, 3.0]])
    with pytest.raises(ValueError, match=r"PReLU\(2\) takes inputs of 2 channels on the last axis, got \(1, 3\)"):
        nn.PReLU(2).init(KEY, x)
    with pytest.raises(ValueError, match="at least 1"):
        nn.PReLU(0)
    assert nn.Identity()({}, x) is x
    assert nn.Unflatten(1, [3, -1])({}, jnp.ones((2, 12, 5))).shape == (2, 3, 4, 5)
    for size, message in [((5, 2), "12 values"), ((-1, -1), "cannot split"), ((5, -1), "cannot split")]:
        with pytest.raises(ValueError, match=message):
            nn.Unflatten(1, size)({}, jnp.ones((2, 12)))
    with pytest.raises(ValueError, match="splits axis 2"):
        nn.Unflatten(2, (3, 4))({}, jnp.ones((2, 12)))
