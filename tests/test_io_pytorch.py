"""Weights from PyTorch and back, layer by layer and for whole models: outputs, gradients, a step of training."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnet
from fnet import functional as F
from fnet import io, nn

ORACLE = "comparisons with PyTorch need the oracle extra: pip install fnet[oracle]"
rng = np.random.default_rng(0)


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason=ORACLE)


def image(*shape: int) -> np.ndarray:
    return rng.normal(size=shape).astype("float32")


def channels(x: np.ndarray, first: bool) -> np.ndarray:
    return np.moveaxis(x, -1, 1) if first else np.moveaxis(x, 1, -1)


def randomised(torch: Any, module: Any) -> Any:
    """Every parameter and statistic at random, for many layers begin with zeros and ones that hide mistakes."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if value.dtype.is_floating_point:
                value.copy_(torch.rand_like(value) + 0.5 if "var" in name else torch.randn_like(value) * 0.3)
    return module.eval()


CASES = {
    "linear": (nn.Linear(5), lambda n: n.Linear(4, 5), (3, 4), False),
    "square linear": (nn.Linear(4), lambda n: n.Linear(4, 4), (3, 4), False),
    "conv1d": (nn.Conv(6, 3, 2, 1), lambda n: n.Conv1d(4, 6, 3, 2, 1), (2, 9, 4), True),
    "conv2d": (nn.Conv(6, (3, 2), groups=2), lambda n: n.Conv2d(4, 6, (3, 2), groups=2), (2, 7, 6, 4), True),
    "conv3d": (nn.Conv(3, 2, bias=False), lambda n: n.Conv3d(2, 3, 2, bias=False), (1, 4, 5, 3, 2), True),
    "depthwise": (nn.Conv(8, 3, groups=4), lambda n: n.Conv2d(4, 8, 3, groups=4), (2, 5, 6, 4), True),
    "transposed": (
        nn.ConvTranspose(6, (3, 2), 2, 1, 1, groups=2),
        lambda n: n.ConvTranspose2d(4, 6, (3, 2), 2, 1, 1, groups=2),
        (2, 4, 5, 4),
        True,
    ),
    "batch norm": (nn.BatchNorm(), lambda n: n.BatchNorm2d(4), (3, 5, 5, 4), True),
    "instance norm": (
        nn.InstanceNorm(affine=True, track_running_stats=True),
        lambda n: n.InstanceNorm2d(4, affine=True, track_running_stats=True),
        (3, 5, 5, 4),
        True,
    ),
    "layer norm": (nn.LayerNorm(), lambda n: n.LayerNorm(6), (2, 3, 6), False),
    "group norm": (nn.GroupNorm(2), lambda n: n.GroupNorm(2, 4), (2, 5, 5, 4), True),
    "rms norm": (nn.RMSNorm(), lambda n: n.RMSNorm(6), (2, 3, 6), False),
    "lstm": (
        nn.LSTM(5, 2, bidirectional=True),
        lambda n: n.LSTM(3, 5, 2, bidirectional=True, batch_first=True),
        (2, 4, 3),
        False,
    ),
    "gru": (nn.GRU(5, 2), lambda n: n.GRU(3, 5, 2, batch_first=True), (2, 4, 3), False),
    "elman": (nn.ElmanRNN(5, bias=False), lambda n: n.RNN(3, 5, bias=False, batch_first=True), (2, 4, 3), False),
    "attention": (nn.MultiheadAttention(2), lambda n: n.MultiheadAttention(8, 2, batch_first=True), (2, 5, 8), False),
}


@pytest.mark.parametrize("name", CASES)
def test_each_layer_takes_pytorchs_weights_and_gives_them_back(torch, name):
    layer, build, shape, spatial = CASES[name]
    module, x = randomised(torch, build(torch.nn)), image(*shape)
    params, state = io.from_torch(layer, module, x)
    given = torch.tensor(channels(x, True) if spatial else x)
    expected = module(given, given, given) if name == "attention" else module(given)
    expected = (expected[0] if isinstance(expected, tuple) else expected).detach().numpy()
    found, _ = layer.apply(params, state, jnp.asarray(x))
    np.testing.assert_allclose(found, channels(expected, False) if spatial else expected, rtol=2e-5, atol=2e-5)
    back = io.to_torch(layer, params, state)
    assert {k: v.dtype for k, v in back.items()} == {k: v.dtype for k, v in module.state_dict().items()}
    assert all(torch.equal(back[key], value) for key, value in module.state_dict().items())
    build(torch.nn).load_state_dict(back)


def test_attention_of_other_widths(torch):
    module = randomised(torch, torch.nn.MultiheadAttention(8, 2, kdim=6, vdim=4, batch_first=True))
    q, k, v = image(2, 5, 8), image(2, 3, 6), image(2, 3, 4)
    params, _ = io.from_torch(nn.MultiheadAttention(2), module, q, k, v)
    expected = module(*map(torch.tensor, (q, k, v)))[0].detach()
    np.testing.assert_allclose(nn.MultiheadAttention(2)(params, q, k, v), expected, rtol=2e-5, atol=2e-5)
    back = io.to_torch(nn.MultiheadAttention(2), params)
    assert all(torch.equal(back[key], value) for key, value in module.state_dict().items())
    cached = nn.MultiheadAttention(2, causal=True, cache=7)
    params, state = io.from_torch(cached, randomised(torch, torch.nn.MultiheadAttention(8, 2)), q)
    assert state["k"].shape == (2, 7, 2, 4) and "k" not in io.to_torch(cached, params, state)


def residual(x, conv1, bn1, conv2, bn2, downsample=None):
    h = F.relu(bn1(conv1(x)))
    return F.relu(bn2(conv2(h)) + (x if downsample is None else downsample(x)))


def block(width: int, stride: int) -> nn.Model:
    down = nn.Sequential(nn.Conv(width, 1, stride, bias=False), nn.BatchNorm()) if stride > 1 else None
    return nn.Model(
        residual, conv1=nn.Conv(width, 3, stride, 1, bias=False), bn1=nn.BatchNorm(),
        conv2=nn.Conv(width, 3, 1, 1, bias=False), bn2=nn.BatchNorm(), **({"downsample": down} if down else {}),
    )  # fmt: skip


def resnet(x, conv1, bn1, layer1, layer2, fc):
    h = F.relu(bn1(conv1(x)))
    for block in [*layer1, *layer2]:
        h = block(h)
    return fc(h.mean((1, 2)))


RESNET = nn.Model(
    resnet, conv1=nn.Conv(8, 3, 1, 1, bias=False), bn1=nn.BatchNorm(), layer1=[block(8, 1), block(8, 1)],
    layer2=[block(12, 2)], fc=nn.Linear(5),
)  # fmt: skip


def torch_resnet(torch: Any) -> Any:
    n = torch.nn

    class Block(n.Module):
        def __init__(self, n_in: int, n_out: int, stride: int):
            super().__init__()
            self.conv1, self.bn1 = n.Conv2d(n_in, n_out, 3, stride, 1, bias=False), n.BatchNorm2d(n_out)
            self.conv2, self.bn2 = n.Conv2d(n_out, n_out, 3, 1, 1, bias=False), n.BatchNorm2d(n_out)
            self.downsample = None
            if stride > 1:
                self.downsample = n.Sequential(n.Conv2d(n_in, n_out, 1, stride, bias=False), n.BatchNorm2d(n_out))

        def forward(self, x):
            h = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
            return (h + (x if self.downsample is None else self.downsample(x))).relu()

    class ResNet(n.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.bn1 = n.Conv2d(3, 8, 3, 1, 1, bias=False), n.BatchNorm2d(8)
            self.layer1, self.layer2 = n.Sequential(Block(8, 8, 1), Block(8, 8, 1)), n.Sequential(Block(8, 12, 2))
            self.fc = n.Linear(12, 5)

        def forward(self, x):
            x = self.layer2(self.layer1(self.bn1(self.conv1(x)).relu()))
            return self.fc(x.mean((2, 3)))

    return ResNet()


def encoder_layer(x, self_attn, linear1, linear2, norm1, norm2):
    x = norm1(x + self_attn(x))
    return norm2(x + linear2(F.relu(linear1(x))))


LAYER = nn.Model(
    encoder_layer, self_attn=nn.MultiheadAttention(2), linear1=nn.Linear(16), linear2=nn.Linear(8),
    norm1=nn.LayerNorm(), norm2=nn.LayerNorm(),
)  # fmt: skip
ENCODER = nn.Sequential(embed=nn.Linear(8), encoder=nn.Stack(LAYER, 3), head=nn.Linear(5))
LSTM = nn.Sequential(rnn=nn.LSTM(6), head=nn.Linear(5))


def torch_encoder(torch: Any) -> Any:
    n = torch.nn
    layers = [n.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True) for _ in range(3)]
    return n.Sequential(n.Linear(4, 8), n.Sequential(*layers), n.Linear(8, 5))


def torch_lstm(torch: Any) -> Any:
    n = torch.nn

    class Net(n.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = n.LSTM(4, 6, batch_first=True), n.Linear(6, 5)

        def forward(self, x):
            return self.head(self.rnn(x)[0])

    return Net()


MODELS = {
    "resnet": (RESNET, torch_resnet, (4, 8, 8, 3), None),
    "encoder": (ENCODER, torch_encoder, (3, 6, 4), {r"^0\.": "embed.", r"^1\.": "encoder.", r"^2\.": "head."}),
    "lstm": (LSTM, torch_lstm, (3, 6, 4), None),
}


@pytest.mark.parametrize("name", MODELS)
def test_models_agree_in_evaluation_and_after_a_step_of_training(torch, name):
    model, build, shape, rename = MODELS[name]
    module, x = randomised(torch, build(torch)), image(*shape)
    params, state = io.from_torch(model, module, x, rename=rename)
    parity = io.compare_with_torch(model, params, state, module, x, rename=rename, rtol=1e-5)
    assert parity and ("bn1" in str(parity)) == (name == "resnet"), parity

    y = rng.integers(0, 5, (4,) if name == "resnet" else (3, 6))
    given = torch.tensor(channels(x, True) if name == "resnet" else x)
    module.train()
    sgd = torch.optim.SGD(module.parameters(), 0.1)
    torch.nn.functional.cross_entropy(module(given).reshape(-1, 5), torch.tensor(y).ravel()).backward()
    sgd.step()

    @jax.jit
    def step(params, state):
        def loss(params):
            logits, new = model.apply(params, state, jnp.asarray(x), train=True)
            return F.cross_entropy(logits, jnp.asarray(y)), new

        grads, state_after = jax.grad(loss, has_aux=True)(params)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), state_after

    trained = step(params, state)
    expected = io.from_torch(model, module, x, rename=rename)
    assert not fnet.diff(trained, expected, rtol=1e-4, atol=1e-5)


def test_parity_names_the_first_part_that_differs(torch):
    module, x = randomised(torch, torch_resnet(torch)), image(2, 8, 8, 3)
    params, state = io.from_torch(RESNET, module, x)
    with torch.no_grad():
        module.layer1[1].bn1.running_mean += 1
    parity = io.compare_with_torch(RESNET, params, state, module, x)
    assert not parity and parity.first == "layer1.1.bn1"
    assert "the first that differs is 'layer1.1.bn1'" in str(parity) and not module.training

    class Nothing(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return {"logits": self.inner(x)}

    with pytest.raises(ValueError, match="no part with an array for output.*rename"):
        io.compare_with_torch(RESNET, params, state, Nothing(module), x, rename=lambda name: None)


def test_what_does_not_fit_is_listed_at_once():
    model = nn.Sequential(fc1=nn.Linear(4), fc2=nn.Linear(2))
    theirs = {
        "fc1.weight": np.ones((4, 3)), "fc1.bias": np.ones(5), "fc_2.weight": np.ones((2, 4)), "fc2.bias": np.ones(2),
        "extra": np.ones(1),
    }  # fmt: skip
    with pytest.raises(io.FileError) as error:
        io.from_torch(model, theirs, jnp.ones((1, 3)))
    text = str(error.value)
    assert "needs, and is not there (1):\n    fc2.weight   (there is 'fc_2.weight' [2, 4]?)" in text
    assert "has no place for (2):\n    fc_2.weight\n    extra" in text
    assert "fc1.bias: PyTorch's [5] does not turn into fc1.bias [4]" in text and "rename=" in text
    with pytest.warns(UserWarning, match="taken in part"):
        params, _ = io.from_torch(model, theirs, jnp.ones((1, 3)), strict=False, key=jax.random.key(0))
    assert (params["fc1"]["weight"] == 1).all() and not (params["fc2"]["weight"] == 1).any()
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="give key="):
        io.from_torch(model, theirs, jnp.ones((1, 3)), strict=False)
    fixed = io.from_torch(
        model, theirs | {"fc1.bias": np.ones(4)}, jnp.ones((1, 3)), rename={"extra": None, "fc_": "fc"}
    )
    assert fixed[0]["fc2"]["weight"].shape == (4, 2)
    with pytest.raises(ValueError, match="two arrays the name 'fc2.bias'"):
        io.from_torch(model, theirs, jnp.ones((1, 3)), rename={"fc1": "fc2"})
    for layer, theirs, x in [
        (nn.Linear(1, bias=False), np.ones((1, 5)).T, (1, 5)),
        (nn.Conv(1, 3, bias=False), np.ones((8, 1, 3, 3)), (1, 4, 4, 8)),  # of a convolution with groups=8
    ]:
        with pytest.raises(io.FileError, match="does not turn into weight"):
            io.from_torch(layer, {"weight": theirs}, jnp.ones(x))
    kernel = np.arange(10.0).reshape(2, 5, 1, 1)  # a 1x1 convolution is a linear layer
    linear, _ = io.from_torch(nn.Linear(2, bias=False), {"weight": kernel}, jnp.ones((1, 5)))
    assert np.array_equal(linear["weight"], kernel[..., 0, 0].T)
    with pytest.raises(TypeError, match="give an input, or its jax.ShapeDtypeStruct"):
        io.from_torch(nn.Linear(2), {"weight": kernel})
    with pytest.raises(TypeError, match="takes a path, a state_dict or a torch module, got list"):
        io.from_torch(model, [1], jnp.ones((1, 3)))
    with pytest.raises(io.FileError, match=r"no state_dict: it has 'model', 'epoch'.*read_torch\(path\)\['model'\]"):
        io.from_torch(model, {"model": {"weight": kernel}, "epoch": 3}, jnp.ones((1, 3)))


def test_a_linear_after_flattening_has_its_rows_put_in_order(torch):
    module = torch.nn.Sequential(torch.nn.Conv2d(1, 3, 2), torch.nn.Flatten(), torch.nn.Linear(3 * 4 * 5, 2))
    model, x = nn.Sequential(nn.Conv(3, 2), nn.Flatten(), nn.Linear(2)), image(2, 5, 6, 1)
    params, state = io.from_torch(model, module, x, flattened={"2": (4, 5, 3)})
    assert io.compare_with_torch(model, params, state, module, x).first == "1", "Flatten itself orders otherwise"
    np.testing.assert_allclose(
        model(params, x), module(torch.tensor(channels(x, True))).detach(), rtol=1e-4, atol=1e-5
    )
    with pytest.raises(ValueError, match="does not fit"):
        io.from_torch(model, module, x, flattened={"2": (4, 5, 4)})


def test_gated_blocks_experts_and_bilinear_layers(torch):
    moe = nn.Sequential(moe=nn.MoE(nn.SwiGLU(6), 3))
    names = {"moe.router.weight": (3, 4)} | {
        f"moe.experts.{i}.{name}_proj.weight": (4, 6) if name == "down" else (6, 4)
        for i in range(3) for name in ("gate", "up", "down")
    }  # fmt: skip
    theirs = {name: image(*shape) for name, shape in names.items()}
    params, state = io.from_torch(moe, theirs, jnp.ones((2, 5, 4)))
    np.testing.assert_array_equal(
        params["moe"]["experts"]["down_proj"]["weight"][2], theirs["moe.experts.2.down_proj.weight"].T
    )
    back = io.to_torch(moe, params, {})
    assert set(back) == set(theirs) and all((back[name].numpy() == theirs[name]).all() for name in theirs)
    module, x = torch.nn.Bilinear(3, 4, 5), (image(2, 3), image(2, 4))
    params, _ = io.from_torch(nn.Bilinear(5), module, *x)
    np.testing.assert_allclose(
        nn.Bilinear(5)(params, *x), module(*map(torch.tensor, x)).detach(), rtol=1e-5, atol=1e-5
    )
    assert torch.equal(io.to_torch(nn.Bilinear(5), params)["weight"], module.weight)


def test_stacked_layers_come_from_numbered_ones_and_go_back():
    model = nn.Sequential(blocks=nn.Ensemble(nn.Stack(nn.Remat(nn.Sequential(fc=nn.Linear(3))), 2), 2))
    theirs = {
        f"blocks.{i}.{j}.fc.{name}": image(*shape)
        for i in range(2) for j in range(2) for name, shape in (("weight", (3, 3)), ("bias", (3,)))
    }  # fmt: skip
    params, _ = io.from_torch(model, theirs, jnp.ones((1, 3)))
    np.testing.assert_array_equal(params["blocks"]["fc"]["weight"][1, 0], theirs["blocks.1.0.fc.weight"].T)
    pytest.importorskip("torch", reason=ORACLE)
    back = io.to_torch(model, params)
    assert set(back) == set(theirs) and all((back[name].numpy() == theirs[name]).all() for name in theirs)
