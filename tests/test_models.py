"""Every reference model: the published number of parameters, one step of training under jit, its options."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnet
from fnet import functional as F
from fnet import models, nn, optim, train

KEY = jax.random.key(0)
LARGE = jax.ShapeDtypeStruct((1, 224, 224, 3), "float32")
SMALL = jax.ShapeDtypeStruct((1, 32, 32, 3), "float32")

# torchvision's documentation; He et al. 2016, table 6, for CIFAR.
PUBLISHED = {
    "resnet18": (11_689_512, LARGE), "resnet34": (21_797_672, LARGE), "resnet50": (25_557_032, LARGE),
    "resnet101": (44_549_160, LARGE), "mobilenet_v2": (3_504_872, LARGE), "convnext_tiny": (28_589_128, LARGE),
    "vit": (86_567_656, LARGE), "resnet20": (0.27e6, SMALL), "resnet32": (0.46e6, SMALL), "resnet56": (0.85e6, SMALL),
    "gpt": (124_439_808, jax.ShapeDtypeStruct((1, 8), "int32")),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_as_many_parameters_as_published(name):
    number, x = PUBLISHED[name]
    params, _ = jax.eval_shape(getattr(models, name)().init, KEY, x)
    assert fnet.count(params) == number if isinstance(number, int) else abs(fnet.count(params) - number) < 0.01e6


IMAGES = np.random.default_rng(0).random((4, 32, 32, 3)).astype("float32")
IDS = np.random.default_rng(1).integers(0, 20, (4, 6)).astype("int32")
TRAINED: dict[str, tuple[Any, Any]] = {
    "mlp": (models.mlp(3, (16,), dropout=0.1), IMAGES),
    "lenet": (models.lenet(3), IMAGES[:, 2:30, 2:30, :1]),
    "vit": (models.vit(3, 32, 8, 2, 2, 16, 32, dropout=0.1), IMAGES),
    "gpt": (models.gpt(20, 8, 2, 2, 16, dropout=0.1, bias=False), IDS),
    "llama": (models.llama(20, 1, 2, 16, 24, tied=True), IDS),
    "bert": (models.bert(20, 8, 1, 2, 16, 32), IDS),
}
# Those that take long to compile: traced only.
TRACED: dict[str, tuple[Any, Any]] = {
    "resnet20": (models.resnet20(3), IMAGES),
    "mobilenet_v2": (models.mobilenet_v2(3, width_mult=0.1), IMAGES),
    "convnext": (models.convnext((1, 1), (8, 16), 3), IMAGES),
}


def started(model: Any, x: Any) -> tuple[Any, Any, Any]:
    y = x if x.ndim == 2 else np.arange(4, dtype="int32") % 3
    opt = optim.adam(3e-3)
    step = train.make_step(train.supervised(model, F.cross_entropy), opt)
    return step, jax.eval_shape(lambda: train.start(model, opt, KEY, x)), y


@pytest.mark.parametrize("name", TRAINED)
def test_a_few_steps_lower_the_loss(name):
    model, x = TRAINED[name]
    step, _, y = started(model, x)
    run, losses = train.start(model, optim.adam(3e-3), KEY, x), []
    for _ in range(8):
        run, metrics = step(run, (x, y))
        losses.append(float(metrics["loss"]))
    assert np.isfinite(losses).all() and losses[-1] < losses[0]


@pytest.mark.parametrize("name", TRACED)
def test_a_step_keeps_every_shape(name):
    model, x = TRACED[name]
    step, run, y = started(model, x)
    after, metrics = jax.eval_shape(step, run, (x, y))
    assert not fnet.diff(after, run) and metrics["loss"].shape == ()


def test_a_gpt_of_a_list_of_blocks_computes_what_the_stacked_one_does():
    stacked, listed = (models.gpt(20, 8, 2, 2, 16, stacked=stacked) for stacked in (True, False))
    params, _ = stacked.init(KEY, IDS)
    blocks = nn.unstack(params["h"])
    assert set(fnet.tree.names(listed.init(KEY, IDS)[0])) == set(fnet.tree.names(params | {"h": blocks}))
    np.testing.assert_allclose(listed(params | {"h": blocks}, IDS), stacked(params, IDS), atol=1e-5)


def test_the_initial_values_of_gpt_are_gpt2s():
    model = models.gpt(50, 16, num_layers=4, num_heads=2, width=64)
    params, _ = model.init(KEY, IDS, init=models.gpt_init(4))
    stds = {name: float(jnp.std(leaf)) for name, leaf in fnet.named(params)}
    np.testing.assert_allclose(stds["h.attn.q_proj.weight"], 0.02, rtol=0.05)
    np.testing.assert_allclose(stds["h.c_proj.weight"], 0.02 / 8**0.5, rtol=0.05)
    np.testing.assert_allclose(stds["h.attn.out_proj.weight"], 0.02 / 8**0.5, rtol=0.05)
    assert not params["h"]["c_fc"]["bias"].any() and (params["ln_f"]["weight"] == 1).all()
    assert abs(float(F.cross_entropy(model(params, IDS), (IDS + 7) % 20)) - np.log(50)) < 0.2, "near the uniform one"
    params, _ = models.resnet20().init(KEY, IMAGES, init=models.RESNET_INIT)
    np.testing.assert_allclose(jnp.std(params["layer3"]["2"]["conv2"]["weight"]), (2 / (9 * 64)) ** 0.5, rtol=0.05)


def test_unet_sees_the_time_and_odd_sizes():
    model = models.unet(2, (8, 16), timed=True)
    x, t = jnp.asarray(IMAGES[:2, :13, :9]), jnp.array([0.0, 50.0])
    params, _ = model.init(KEY, x, t)
    forward = jax.jit(model)
    y = forward(params, x, t)
    assert y.shape == (2, 13, 9, 2) and not np.allclose(y, forward(params, x, t[::-1]))
    plain = models.unet(3, (8, 16))
    assert jax.eval_shape(lambda: plain(plain.init(KEY, x)[0], x)).shape == (2, 13, 9, 3)


@pytest.mark.parametrize(
    "timed, time, error, message",
    [
        (True, (), TypeError, r"unet: .*timed=True.*model\(params, x, time\), got no time"),
        (False, (np.ones(4),), TypeError, r"unet: got a time.*models.unet\(…, timed=True\)"),
        (True, (0.5,), ValueError, r"unet: time has shape \(\), expected \(4,\).*jnp.full\(4, time\)"),
        (True, (np.ones((4, 1)),), ValueError, r"unet: time has shape \(4, 1\), expected \(4,\)"),
    ],
)
def test_a_time_that_a_unet_cannot_take_is_named(timed, time, error, message):
    with pytest.raises(error, match=message):
        jax.eval_shape(models.unet(3, (8, 16), timed=timed).init, KEY, IMAGES, *time)


@pytest.mark.parametrize("shape", [(4, 48, 48, 3), (4, 35, 35, 3), (4, 64, 16, 3), (32, 32, 3)])
def test_a_vit_takes_images_of_its_size_alone(shape):
    with pytest.raises(
        ValueError, match=r"vit: images have shape.*expected \(batch, 32, 32, channels\).*image_size=32"
    ):
        jax.eval_shape(TRAINED["vit"][0].init, KEY, np.ones(shape, "float32"))


def test_vae_draws_with_a_key_and_its_bound_is_the_formula():
    model, x = models.vae(3, 8), jnp.asarray(IMAGES[:, :28, :28, :1])
    params, _ = model.init(KEY, x)
    logits, mean, log_var = model(params, x)
    drawn, same, _ = model.apply(params, {}, x, key=KEY)[0]
    np.testing.assert_array_equal(mean, same)
    assert not np.allclose(logits, drawn)
    bound = models.elbo(x, logits, mean, log_var)
    p = 1 / (1 + np.exp(-np.asarray(logits, "float64")))
    expected = (x * np.log(p) + (1 - x) * np.log(1 - p)).sum((1, 2, 3))
    expected -= 0.5 * (np.square(mean) + np.exp(log_var) - 1 - log_var).sum(-1)
    np.testing.assert_allclose(bound, expected, rtol=1e-4)
    with pytest.raises(ValueError, match="multiple of 4"):
        models.vae(size=30)


def test_lstm_goes_on_from_its_state():
    model = models.lstm_lm(20, 16, tied=True, dropout=0.1)
    params, _ = model.init(KEY, IDS)
    whole, last = model(params, IDS)
    first, state = model(params, IDS[:, :4])
    second, state = model(params, IDS[:, 4:], state)
    np.testing.assert_allclose(jnp.concatenate([first, second], 1), whole, rtol=1e-5, atol=1e-6)
    assert not fnet.diff(state, last, rtol=1e-5, atol=1e-6)
