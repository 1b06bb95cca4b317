"""Weight and spectral normalisation against torch.nn.utils.parametrizations; stacks, attention, messages."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnet
from fnet import nn, reparam

ORACLE = "parity tests need the oracle extra: pip install fnet[oracle]"
KEY = jax.random.key(0)
# torch's layer, its weight from ours (…, in, out), and dim there and here
LAYERS = {
    "linear": (lambda torch: torch.nn.Linear(4, 6), (4, 6), (1, 0)),
    "conv": (lambda torch: torch.nn.Conv2d(4, 6, 3), (3, 3, 4, 6), (3, 2, 0, 1)),
}


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("dim", [0, 1, None])
def test_weight_norm_is_pytorchs(x64, kind, dim):
    torch = pytest.importorskip("torch", reason=ORACLE)
    make, shape, axes = LAYERS[kind]
    rng = np.random.default_rng(0)
    w, probe = rng.normal(size=shape), rng.normal(size=shape)
    layer = make(torch).double()
    layer.weight.data = torch.tensor(w.transpose(axes))
    layer = torch.nn.utils.parametrizations.weight_norm(layer, dim=dim)
    g, v = layer.parametrizations.weight.original0, layer.parametrizations.weight.original1
    g.data *= torch.tensor(rng.random(g.shape) + 0.5)
    (layer.weight * torch.tensor(probe.transpose(axes))).sum().backward()
    back = np.argsort(axes)
    our_dim = None if dim is None else axes[dim]
    params = reparam.weight_norm({"fc": {"weight": jnp.asarray(w), "bias": jnp.ones(6)}}, "*.weight", our_dim)
    assert fnet.names(params) == ["fc.bias", "fc.weight.direction", "fc.weight.magnitude"]
    shape_g = params["fc"]["weight"]["magnitude"].shape
    params["fc"]["weight"]["magnitude"] = jnp.asarray(g.detach().numpy().reshape(shape_g))

    def loss(params: Any) -> Any:
        plain = reparam.merge(params)["fc"]["weight"]
        return (plain * probe).sum(), plain

    (_, plain), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    np.testing.assert_allclose(plain, layer.weight.detach().numpy().transpose(back), rtol=1e-12)
    grads = grads["fc"]["weight"]
    np.testing.assert_allclose(grads["magnitude"], g.grad.numpy().reshape(shape_g), rtol=1e-10)
    np.testing.assert_allclose(grads["direction"], v.grad.numpy().transpose(back), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("train", [True, False])
def test_spectral_norm_is_pytorchs(x64, kind, train):
    torch = pytest.importorskip("torch", reason=ORACLE)
    make, shape, axes = LAYERS[kind]
    rng = np.random.default_rng(0)
    w, probe = rng.normal(size=shape), rng.normal(size=shape)
    layer = make(torch).double()
    layer.weight.data = torch.tensor(w.transpose(axes))
    layer = torch.nn.utils.parametrizations.spectral_norm(layer, n_power_iterations=2)
    norm = layer.parametrizations.weight[0]
    norm._u.data = torch.nn.functional.normalize(torch.tensor(rng.normal(size=6)), dim=0)
    norm._v.data = torch.nn.functional.normalize(torch.tensor(rng.normal(size=w.size // 6)), dim=0)
    u, v = norm._u.numpy().copy(), norm._v.numpy().copy()

    def ours(v: np.ndarray) -> np.ndarray:  # torch's inputs are (in, height, width), ours (height, width, in)
        return v.reshape(4, *shape[:-2]).transpose(*range(1, len(shape) - 1), 0).ravel()

    vectors = {"fc": {"weight": {"u": jnp.asarray(u), "v": jnp.asarray(ours(v))}}}
    layer.train(train)
    weight = layer.weight
    (weight * torch.tensor(probe.transpose(axes))).sum().backward()

    def loss(params: Any, vectors: Any) -> Any:
        plain, new = reparam.spectral_norm(params, vectors, train, n_power_iterations=2)
        return (plain["fc"]["weight"] * probe).sum(), (plain["fc"]["weight"], new)

    params = {"fc": {"weight": jnp.asarray(w), "bias": jnp.ones(6)}}
    (_, (plain, new)), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params, vectors)
    back = np.argsort(axes)
    np.testing.assert_allclose(plain, weight.detach().numpy().transpose(back), rtol=1e-10)
    got = layer.parametrizations.weight.original.grad.numpy().transpose(back)
    np.testing.assert_allclose(grads["fc"]["weight"], got, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(new["fc"]["weight"]["u"], norm._u.numpy(), rtol=1e-10)
    np.testing.assert_allclose(new["fc"]["weight"]["v"], ours(norm._v.numpy()), rtol=1e-10)


def forward(x: Any, attend: Any, blocks: Any) -> Any:
    return blocks(attend(x))


def test_both_work_in_a_stack_and_in_attention():
    model = nn.Model(forward, attend=nn.MultiheadAttention(2), blocks=nn.Stack(nn.Residual(nn.Linear(8)), 3))
    x = jax.random.normal(KEY, (2, 5, 8))
    params, _ = model.init(KEY, x)
    split = reparam.weight_norm(params, "*.weight", stacked="blocks.*")
    assert split["blocks"]["weight"]["magnitude"].shape == (3, 1, 8)
    assert split["attend"]["q_proj"]["weight"]["magnitude"].shape == (1, 8)
    assert not fnet.diff(reparam.merge(split), params, rtol=1e-5, atol=1e-6)
    vectors = reparam.spectral_init(KEY, params, "*.weight", stacked="blocks.*")
    assert vectors["blocks"]["weight"]["u"].shape == (3, 8)

    @jax.jit
    def iterate(vectors: Any) -> Any:
        return jax.lax.fori_loop(0, 60, lambda _, v: reparam.spectral_norm(params, v, train=True)[1], vectors)

    plain, vectors = reparam.spectral_norm(params, iterate(vectors), train=True)
    largest = np.linalg.svd(plain["blocks"]["weight"], compute_uv=False)[:, 0]
    np.testing.assert_allclose(largest, np.ones(3), rtol=1e-3)
    largest = np.linalg.svd(plain["attend"]["out_proj"]["weight"], compute_uv=False)[0]
    np.testing.assert_allclose(largest, 1, rtol=1e-3)
    np.testing.assert_array_equal(plain["blocks"]["bias"], params["blocks"]["bias"])
    again, same = reparam.spectral_norm(params, vectors)
    assert not fnet.diff(same, vectors) and not fnet.diff(again, plain, rtol=1e-3, atol=1e-4)
    low, _ = reparam.spectral_norm(fnet.cast(params, jnp.bfloat16), vectors)
    assert low["blocks"]["weight"].dtype == jnp.bfloat16
    model(plain, x)


def test_messages():
    params = {"fc": {"weight": jnp.ones((4, 6)), "bias": jnp.ones(6)}}
    with pytest.raises(ValueError, match=r"weight_norm: 'fc\.weight' is float32 of shape \(4, 6\), with no axis 2"):
        reparam.weight_norm(params, "fc.weight", 2)
    with pytest.raises(ValueError, match="did you mean"):
        reparam.weight_norm(params, "fc.wieght")
    with pytest.raises(ValueError, match=r"spectral_norm: 'fc\.bias' is float32 of shape \(6,\), no matrix"):
        reparam.spectral_init(KEY, params, "fc.*")
    vectors = reparam.spectral_init(KEY, params, "fc.weight")
    with pytest.raises(ValueError, match=r"vectors for 'fc\.weight', which is no parameter"):
        reparam.spectral_norm({"head": params["fc"]}, vectors)
    with pytest.raises(ValueError, match=r"has shape \(6, 4\), its vectors u \(6,\) and v \(4,\)"):
        reparam.spectral_norm({"fc": {"weight": jnp.ones((6, 4))}}, vectors)
