"""Normalisation and pooling layers: state over steps as PyTorch's, under transforms and combinators, on devices."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parity import channels_first, channels_last, torch

import fnet
from fnet import functional as F
from fnet import nn

KEY = jax.random.key(0)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=shape) * 2 + 1).astype("float32")


@pytest.mark.parametrize("kind, momentum", [("BatchNorm", 0.1), ("BatchNorm", None), ("InstanceNorm", 0.2)])
def test_running_statistics_are_pytorchs_over_steps(kind, momentum):
    layer = getattr(nn, kind)(momentum=momentum, affine=True, track_running_stats=True)
    module = getattr(torch().nn, f"{kind}2d")(3, momentum=momentum, affine=True, track_running_stats=True)
    params, state = layer.init(KEY, jnp.zeros((4, 5, 6, 3)))
    assert set(params) == {"weight", "bias"} and set(state) == set(dict(module.named_buffers()))
    step = jax.jit(layer.apply, static_argnames="train")
    for seed in range(4):
        x = normal(4, 5, 6, 3, seed=seed)
        y, state = step(params, state, x, train=True)
        want = module.train()(torch().tensor(channels_first(x)))
        np.testing.assert_allclose(y, channels_last(want.detach()), rtol=1e-4, atol=1e-5)
    assert state["num_batches_tracked"] == 4  # PyTorch's InstanceNorm has the count and leaves it at 0
    for name, buffer in list(module.named_buffers())[:2]:
        np.testing.assert_allclose(state[name], buffer, rtol=1e-5, atol=1e-6)
    y, after = step(params, state, x, train=False)
    want = module.eval()(torch().tensor(channels_first(x)))
    np.testing.assert_allclose(y, channels_last(want.detach()), rtol=1e-4, atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, after, state)


def test_without_running_statistics_the_batch_normalises_always():
    layer, x = nn.BatchNorm(track_running_stats=False, affine=False), normal(8, 3)
    assert layer.init(KEY, x) == ({}, {})
    np.testing.assert_array_equal(layer({}, x), layer.apply({}, {}, x, train=True)[0])
    np.testing.assert_allclose(layer({}, x).mean(0), 0, atol=1e-6)


def test_a_mask_reaches_the_layer_and_a_model():
    x, keep = normal(6, 4, 3), np.array([True, True, False, True, False, True])
    model = nn.Model(lambda x, mask, norm: norm(x, mask=mask), norm=nn.BatchNorm())
    params, state = model.init(KEY, x, keep)
    _, some = model.apply(params, state, x, keep, train=True)
    _, alone = nn.BatchNorm().apply(params["norm"], state["norm"], x[keep], train=True)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), some["norm"], alone)


def block(x, norm1, fc, norm2):
    return x + norm2(fc(jnp.tanh(norm1(x))))


def make():
    return nn.Model(block, norm1=nn.BatchNorm(), fc=nn.Linear(4), norm2=nn.GroupNorm(2))


def test_stack_remat_and_ensemble_keep_every_layers_state():
    x = normal(8, 4)
    stacked, remat = nn.Stack(make(), 3), nn.Stack(nn.Remat(make()), 3)
    params, state = stacked.init(KEY, x)
    loop_x, loop_states = jnp.asarray(x), {}
    for name, p in nn.unstack(params).items():
        loop_x, loop_states[name] = make().apply(p, nn.unstack(state)[name], loop_x, train=True)

    def loss(params, state, model):
        y, state = model.apply(params, state, x, train=True)
        return (y**2).sum(), (y, state)

    for model in (stacked, remat):
        step = jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnums=2)
        (_, (y, new)), grads = step(params, state, model)
        np.testing.assert_allclose(y, loop_x, rtol=1e-4, atol=1e-5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), new, nn.restack(loop_states))
        assert all(jnp.isfinite(g).all() for g in jax.tree.leaves(grads))
    many = nn.Ensemble(make(), 2)
    params, state = many.init(KEY, x)
    y, new = many.apply(params, state, x, train=True)
    y0, new0 = make().apply(nn.unstack(params)["0"], nn.unstack(state)["0"], x, train=True)
    np.testing.assert_allclose(y[0], y0, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(new["norm1"]["running_mean"][0], new0["norm1"]["running_mean"], rtol=1e-5)


def test_a_network_casts_to_sixteen_bits_and_names_the_layer_that_fails():
    model = nn.Sequential(
        conv=nn.Conv(8, 3, padding=1), norm=nn.BatchNorm2d(), act=F.relu, pool=nn.MaxPool2d(2),
        up=nn.Upsample(scale_factor=2), mean=nn.GlobalAvgPool(), head=nn.Linear(3),
    )  # fmt: skip
    x = normal(4, 8, 8, 2)
    params, state = model.init(KEY, x)
    half = fnet.cast(params, jnp.bfloat16)
    y, new = model.apply(half, state, x, train=True)
    assert y.shape == (4, 3) and y.dtype == jnp.bfloat16 and new["norm"]["running_mean"].dtype == jnp.float32
    np.testing.assert_allclose(y.astype("float32"), model.apply(params, state, x, train=True)[0], atol=0.06)
    with pytest.raises(ValueError, match="too short for a window of 2") as caught:
        model.apply(params, state, x[:, :1, :1], train=True)
    assert "in part 'pool': MaxPool2d(2) called with (float32[4, 1, 1, 8])" in caught.value.__notes__


def test_pooling_layers_are_their_functions_and_values():
    x = normal(2, 7, 6, 3)
    assert nn.MaxPool2d(2) == nn.MaxPool2d(2) != nn.MaxPool(2) and hash(nn.MaxPool(3, 2)) == hash(nn.MaxPool(3, 2))
    assert repr(nn.AvgPool2d(3, stride=2)) == "AvgPool2d(3, stride=2)" and not nn.MaxPool(2).init(KEY, x)[0]
    pairs = [
        (nn.MaxPool(3, 2, 1, ceil_mode=True), F.max_pool(x, 3, 2, 1, 1, True)),
        (nn.AvgPool(3, 2, 1, False, False), F.avg_pool(x, 3, 2, 1, False, False)),
        (nn.AvgPool(2, divisor_override=3), F.avg_pool(x, 2, divisor_override=3)),
        (nn.LPPool(2, 3, 2, True), F.lp_pool(x, 2, 3, 2, True)),
        (nn.AdaptiveMaxPool2d((2, None)), F.adaptive_max_pool(x, (2, None))),
        (nn.GlobalAvgPool(), x.mean((1, 2))),
        (nn.GlobalMaxPool(), x.max((1, 2))),
        (nn.Upsample((4, 9), mode="bilinear", align_corners=True), F.interpolate(x, (4, 9), None, "bilinear", True)),
    ]
    for layer, want in pairs:
        np.testing.assert_allclose(layer({}, x), want, rtol=1e-5, atol=1e-6)
    one = jax.vmap(lambda x: nn.MaxPool2d(2)({}, x))(x)
    np.testing.assert_array_equal(one, nn.MaxPool(2)({}, x))
    tied = jax.grad(lambda x: nn.GlobalMaxPool()({}, x).sum())(jnp.ones((1, 2, 2, 1)))
    assert tied.ravel().tolist() == [1, 0, 0, 0]


def test_norms_over_several_axes():
    x = normal(4, 3, 5)
    for layer in (nn.LayerNorm(axes=(-2, -1)), nn.RMSNorm(axes=(-2, -1))):
        params, _ = layer.init(KEY, x)
        assert params["weight"].shape == (3, 5)
        np.testing.assert_allclose((layer(params, x) ** 2).mean((1, 2)), 1, rtol=1e-4)
    assert fnet.names(nn.LayerNorm(bias=False).init(KEY, x)[0]) == ["weight"]
    assert nn.LayerNorm(elementwise_affine=False).init(KEY, x)[0] == {}


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: nn.BatchNorm(64), r"BatchNorm\(64\) is BatchNorm\(\) here"),
        (lambda: nn.LayerNorm(512), r"LayerNorm's eps is a small number .*got 512"),
        (lambda: nn.BatchNorm(momentum=1.5), "momentum is between 0 and 1, or None"),
        (lambda: nn.GroupNorm(0), "num_groups of at least 1"),
        (lambda: nn.LayerNorm(axes=1), r"last axes, counted from the end"),
        (lambda: nn.RMSNorm(axes=(-2, -1)).init(KEY, jnp.ones(3)), "at least 2 axes"),
        (lambda: nn.BatchNorm().init(KEY, jnp.ones(3)), "at least two axes"),
        (lambda: nn.BatchNorm().init(KEY, jnp.ones((1, 3)), train=True), "more than 1 value per channel"),
        (lambda: nn.GlobalAvgPool()({}, jnp.ones((2, 3))), "at least three axes"),
        (lambda: nn.MaxPool2d((2, 2, 2))({}, jnp.ones((2, 3))), "pools 2 axes, got 3 sizes"),
    ],
)
def test_messages(call, message):
    with pytest.raises(ValueError, match=message):
        call()


ON_FOUR_DEVICES = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from fnet import nn
assert len(jax.devices()) == 4
x = jnp.asarray(np.random.default_rng(0).normal(size=(8, 3, 4)) + np.arange(8)[:, None, None], "float32")
layer = nn.BatchNorm()
params, state = layer.init(jax.random.key(0), x)
f = jax.jit(lambda p, s, x: jax.value_and_grad(lambda p: (lambda y, s: ((y**3).sum(), (y, s)))(
    *layer.apply(p, s, x, train=True)), has_aux=True)(p))
alone = f(params, state, x)
mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
spread = jax.device_put(x, NamedSharding(mesh, P("data")))
both = f(params, state, spread)
assert len(both[0][1][0].sharding.device_set) == 4
jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), alone, both)
print("equal")
"""


def test_a_batch_over_four_devices_has_the_statistics_of_the_whole():
    flags = "--xla_force_host_platform_device_count=4"
    env = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(Path(fnet.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", ON_FOUR_DEVICES], capture_output=True, text=True, env=env)
    assert done.stdout.strip() == "equal", done.stderr
