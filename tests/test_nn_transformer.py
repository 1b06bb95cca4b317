"""Transformer layers and stacks against PyTorch's, with the same weights."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnet
import fnet.functional as F
from fnet import nn

KEY = jax.random.key(0)
E, FEED, CLOSE = 8, 12, {"rtol": 1e-9, "atol": 1e-11}


@pytest.fixture
def torch() -> Any:
    return pytest.importorskip("torch", reason="parity tests need the oracle extra: pip install fnet[oracle]")


def tree_of(module: Any, read: Any) -> dict:
    """The weights of a torch module under fnet's names, in fnet's layout: transposed, and q, k, v apart."""
    flat = {}
    for name, p in module.named_parameters():
        value = read(p)
        if ".in_proj_" in name or name.startswith("in_proj_"):
            owner, kind = name.split("in_proj_")
            for letter, part in zip("qkv", np.split(value, 3), strict=True):
                flat[f"{owner}{letter}_proj.{kind}"] = part.T
        else:
            flat[name] = value.T
    tree: dict = {}
    for name, value in flat.items():
        *path, last = name.split(".")
        node = tree
        for key in path:
            node = node.setdefault(key, {})
        node[last] = value
    return tree


def compare(torch: Any, theirs: Any, ours: Any, inputs: list, tmasks: dict, masks: dict) -> None:
    """Outputs, gradients of inputs and of every parameter, in float64."""
    theirs = theirs.double().eval()
    torch.manual_seed(0)
    for p in theirs.parameters():
        torch.nn.init.normal_(p, std=0.4)
    tin = [torch.tensor(x, requires_grad=True) for x in inputs]
    ty = theirs(*tin, **tmasks)
    dy = np.random.default_rng(9).normal(size=ty.shape)
    ty.backward(torch.tensor(dy))
    with jax.enable_x64(True):
        params = tree_of(theirs, lambda p: p.detach().numpy())
        shapes = jax.eval_shape(lambda: ours.init(KEY, *inputs, **masks)[0])
        assert not fnet.diff(jax.tree.map(np.shape, shapes), jax.tree.map(np.shape, params))

        def run(params: Any, *inputs: Any) -> Any:
            y, pull = jax.vjp(lambda p, *x: ours(p, *x, **masks), params, *inputs)
            return y, *pull(jnp.asarray(dy))

        y, grads, *dx = jax.jit(run)(params, *inputs)
    np.testing.assert_allclose(y, ty.detach(), **CLOSE)
    assert not fnet.diff(grads, tree_of(theirs, lambda p: p.grad.numpy()), **CLOSE)
    for grad, t in zip(dx, tin, strict=True):
        np.testing.assert_allclose(grad, t.grad, **CLOSE)


def draw(*lengths: int) -> list[np.ndarray]:
    return [np.random.default_rng(n).normal(size=(2, n, E)) for n in lengths]


PADDING = np.array([[False] * 4, [False, False, True, True]])


@pytest.mark.parametrize("norm_first, activation, bias", [(False, "relu", True), (True, "gelu", False)])
def test_encoder_layer_is_pytorchs(torch, norm_first, activation, bias):
    options = {"norm_first": norm_first, "bias": bias, "layer_norm_eps": 1e-3}
    theirs = torch.nn.TransformerEncoderLayer(E, 2, FEED, activation=activation, batch_first=True, **options)
    ours = nn.TransformerEncoderLayer(2, FEED, activation=getattr(F, activation), **options)
    later = np.triu(np.ones((4, 4), bool), 1)
    compare(
        torch, theirs, ours, draw(4), {"src_key_padding_mask": torch.tensor(PADDING), "src_mask": torch.tensor(later)},
        {"key_mask": ~PADDING, "mask": ~later},
    )  # fmt: skip


@pytest.mark.parametrize("norm_first, bias", [(False, False), (True, True)])
def test_decoder_layer_is_pytorchs(torch, norm_first, bias):
    theirs = torch.nn.TransformerDecoderLayer(E, 4, FEED, norm_first=norm_first, bias=bias, batch_first=True)
    ours = nn.TransformerDecoderLayer(4, FEED, norm_first=norm_first, bias=bias, causal=True)
    memory_mask = np.random.default_rng(0).random((3, 4)) < 0.3
    tmasks = {
        "tgt_mask": torch.triu(torch.ones(3, 3, dtype=bool), 1),
        "memory_mask": torch.tensor(memory_mask),
        "memory_key_padding_mask": torch.tensor(PADDING & ~PADDING[:1]),
    }
    memory_mask[:, 0] = tmasks["memory_mask"][:, 0] = False
    compare(torch, theirs, ours, draw(3, 4), tmasks, {"memory_mask": ~memory_mask, "memory_key_mask": ~PADDING})


def test_transformer_is_pytorchs(torch):
    tmasks = {"tgt_mask": torch.triu(torch.ones(3, 3, dtype=bool), 1)}
    theirs = torch.nn.Transformer(E, 2, 1, 1, FEED, batch_first=True)
    compare(torch, theirs, nn.Transformer(2, 1, 1, FEED, causal=True), draw(4, 3), tmasks, {})


def test_weights_come_from_pytorch_where_the_inner_width_is_the_outer(torch):
    theirs = torch.nn.TransformerEncoderLayer(E, 2, E, batch_first=True)
    params, _ = fnet.io.from_torch(nn.TransformerEncoderLayer(2, E), theirs.state_dict(), jnp.ones((1, 3, E)))
    np.testing.assert_array_equal(params["linear2"]["weight"], theirs.linear2.weight.detach().numpy().T)
    packed = theirs.self_attn.in_proj_weight.detach().numpy()
    np.testing.assert_array_equal(params["self_attn"]["v_proj"]["weight"], packed[-E:].T)


def test_layers_stacked_are_the_layers_in_a_list():
    x, memory = (x.astype("float32") for x in draw(3, 4))
    layer = nn.TransformerDecoderLayer(2, FEED)
    listed, stacked = (nn.TransformerDecoder(layer, 2, nn.LayerNorm(), stack=stack) for stack in (False, True))
    params, _ = listed.init(KEY, x, memory)
    first, second = params["layers"].values()
    assert (first["linear1"]["weight"] != second["linear1"]["weight"]).any(), "each layer is drawn for itself"
    mask = np.tril(np.ones((3, 3), bool))
    restacked = {**params, "layers": nn.restack(params["layers"])}
    y = jax.jit(stacked)(restacked, x, memory, mask, key_mask=jnp.ones((2, 3), bool))
    np.testing.assert_allclose(y, jax.jit(listed)(params, x, memory, mask), atol=1e-5)


def test_training_drops():
    x = draw(4)[0].astype("float32")
    layer = nn.TransformerEncoderLayer(2, FEED, dropout=0.5, causal=True)
    params, _ = layer.init(KEY, x)
    train = jax.jit(lambda key: layer.apply(params, {}, x, key=key, train=True)[0])
    assert np.abs(train(jax.random.key(1)) - train(jax.random.key(2))).max() > 0.1


def test_a_part_exchanged_decodes_with_a_cache():
    x = draw(5)[0].astype("float32")
    plain = nn.TransformerEncoder(nn.TransformerEncoderLayer(2, FEED, causal=True), 2, stack=True)
    cached = plain.map("layers.self_attn", lambda attn: nn.MultiheadAttention(2, causal=True, cache=5))
    params, _ = plain.init(KEY, x)
    state, step, outputs = cached.init_state(x), jax.jit(cached.apply), []
    for i in range(5):
        y, state = step(params, state, x[:, i : i + 1])
        outputs.append(y)
    np.testing.assert_allclose(np.concatenate(outputs, 1), jax.jit(plain)(params, x), atol=1e-5)


def test_what_does_not_fit_is_named():
    with pytest.raises(TypeError, match="a function such as F.relu or F.gelu, got 'gelu'"):
        nn.TransformerEncoderLayer(2, activation="gelu")
    with pytest.raises(ValueError, match="num_layers of at least 1"):
        nn.TransformerEncoder(nn.TransformerEncoderLayer(2), 0)
    with pytest.raises(ValueError, match="8 features do not divide into num_heads=3") as caught:
        nn.TransformerEncoder(nn.TransformerEncoderLayer(3), 2).init(KEY, jnp.ones((1, 4, E)))
    assert any("part 'layers.0.self_attn'" in note for note in caught.value.__notes__)
