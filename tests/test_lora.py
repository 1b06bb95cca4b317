"""Low-rank adapters: the formula, what is trained, stacks, convolutions, attention, files, messages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnet
import fnet.functional as F
from fnet import lora, nn, optim

KEY = jax.random.key(0)


def forward(x: Any, conv: Any, attend: Any, blocks: Any, head: Any) -> Any:
    h = conv(x).reshape(x.shape[0], -1, 8)
    return head(blocks(h + attend(h)).mean(1))


MODEL = nn.Model(
    forward, conv=nn.Conv(8, 3, padding=1), attend=nn.MultiheadAttention(2),
    blocks=nn.Stack(nn.Residual(nn.Linear(8)), 3), head=nn.Linear(5),
)  # fmt: skip
X, Y = jax.random.normal(KEY, (6, 4, 4, 3)), jnp.arange(6) % 5
PARAMS, _ = jax.jit(MODEL.init)(KEY, X)
SELECTOR = ["*.weight"]


def adapt(**kw: Any) -> Any:
    return lora.init(jax.random.key(1), PARAMS, SELECTOR, stacked="blocks.*", **{"rank": 2, **kw})


def test_it_starts_as_the_identity_with_names_of_the_weights():
    adapters = adapt(alpha=16)
    names = [name for name in fnet.names(PARAMS) if name.endswith("weight")]
    assert fnet.names(adapters) == [f"{name}.{part}" for name in names for part in "ab"]
    shapes = {name: leaf.shape for name, leaf in fnet.named(adapters)}
    assert shapes["conv.weight.a"] == (3, 3, 3, 2) and shapes["conv.weight.b"] == (2, 8)
    assert shapes["blocks.weight.a"] == (3, 8, 2) and shapes["blocks.weight.b"] == (3, 2, 8)
    assert shapes["attend.q_proj.weight.a"] == (8, 2) and not fnet.diff(lora.merge(PARAMS, adapters), PARAMS)
    a = adapters["conv"]["weight"].a
    assert abs(a).max() <= 27**-0.5 and abs(a).std() > 0.2 * 27**-0.5
    # Keys are by name: one weight more changes no other, and layers of a stack differ.
    alone = lora.init(jax.random.key(1), PARAMS, "head.weight", rank=2)
    np.testing.assert_array_equal(alone["head"]["weight"].a, adapters["head"]["weight"].a)
    assert len(np.unique(adapters["blocks"]["weight"].a[:, 0, 0])) == 3


def test_merge_adds_the_scaled_product_and_unmerge_takes_it_away():
    adapters = jax.tree.map(lambda x: x + 0.1, adapt(alpha=6))
    merged = lora.merge(PARAMS, adapters)
    for name, adapter in [("head", adapters["head"]["weight"]), ("conv", adapters["conv"]["weight"])]:
        w = PARAMS[name]["weight"]
        want = w + 6 / 2 * (adapter.a.reshape(-1, 2) @ adapter.b).reshape(w.shape)
        np.testing.assert_allclose(merged[name]["weight"], want, rtol=1e-5, atol=1e-6)
    stack = adapters["blocks"]["weight"]
    want = PARAMS["blocks"]["weight"] + 3 * np.einsum("nir,nro->nio", stack.a, stack.b)
    np.testing.assert_allclose(merged["blocks"]["weight"], want, rtol=1e-5, atol=1e-6)
    assert merged["head"]["bias"] is PARAMS["head"]["bias"]
    assert not fnet.diff(lora.unmerge(merged, adapters), PARAMS, atol=1e-5)
    low = lora.merge(fnet.cast(PARAMS, jnp.bfloat16), adapters)
    assert low["head"]["weight"].dtype == jnp.bfloat16
    # A layer of a Stack is the layer with that layer's adapter.
    one = {"weight": lora.Adapter(stack.a[1], stack.b[1], stack.alpha)}
    alone = lora.merge(nn.unstack(PARAMS["blocks"])["1"], one)
    np.testing.assert_allclose(alone["weight"], merged["blocks"]["weight"][1], rtol=1e-5, atol=1e-6)


def test_training_moves_the_adapters_alone_and_reaches_the_loss(tmp_path: Path):
    adapters = adapt(alpha=8)
    opt = optim.adamw(0.05, weight_decay=0.1)

    def loss(adapters: Any) -> jax.Array:
        return F.cross_entropy(MODEL(lora.merge(PARAMS, adapters), X), Y)

    @jax.jit
    def step(adapters: Any, opt_state: Any) -> Any:
        value, grads = jax.value_and_grad(loss)(adapters)
        return *opt.update(grads, opt_state, adapters), value

    opt_state, values = opt.init(adapters), []
    for _ in range(30):
        adapters, opt_state, value = step(adapters, opt_state)
        values.append(float(value))
    assert values[-1] < 0.3 * values[0]
    assert adapters["head"]["weight"].alpha == 8, "a constant, which nothing decays"
    # A file gives them back, alpha and all.
    fnet.save(tmp_path / "adapters.safetensors", adapters)
    again = fnet.load(tmp_path / "adapters.safetensors")
    assert jax.tree.structure(again) == jax.tree.structure(adapters) and not fnet.diff(again, adapters)
    np.testing.assert_allclose(loss(again), loss(adapters), rtol=1e-6)


def test_the_gradient_is_that_of_the_product_written_out():
    adapter = jax.tree.map(lambda x: x + 0.1, lora.init(KEY, PARAMS["head"], "weight", rank=2, alpha=4))
    x = jax.random.normal(KEY, (7, 8))
    head = nn.Linear(5)
    grads = jax.grad(lambda ad: jnp.sin(head(lora.merge(PARAMS["head"], ad), x)).sum())(adapter)["weight"]

    def by_hand(a: Any, b: Any) -> jax.Array:  # the two-branch form of the paper's figure 1
        y = x @ PARAMS["head"]["weight"] + PARAMS["head"]["bias"] + 2 * (x @ a) @ b
        return jnp.sin(y).sum()

    want = jax.grad(by_hand, (0, 1))(adapter["weight"].a, adapter["weight"].b)
    np.testing.assert_allclose(grads.a, want[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(grads.b, want[1], rtol=1e-4, atol=1e-5)


def test_init_is_abstract_and_vmapped():
    def make(key: Any) -> Any:
        return lora.init(key, PARAMS, "head.weight", rank=3)

    shapes = jax.eval_shape(lambda key, params: lora.init(key, params, "head.weight", rank=3), KEY, PARAMS)
    assert shapes["head"]["weight"].a.shape == (8, 3) and shapes["head"]["weight"].b.shape == (3, 5)
    many = jax.vmap(make)(jax.random.split(KEY, 4))
    assert many["head"]["weight"].a.shape == (4, 8, 3)
    merged = jax.vmap(lora.merge, (None, 0))(PARAMS["head"], many["head"])
    assert merged["weight"].shape == (4, 8, 5)


def test_messages():
    with pytest.raises(ValueError, match=r"rank=6 is more than 'head\.weight' can have, a matrix of 8 x 5"):
        lora.init(KEY, PARAMS, "head.weight", rank=6)
    with pytest.raises(ValueError, match=r"matches 'head\.bias' of shape \(5,\), and it is no matrix.*\*\.weight"):
        lora.init(KEY, PARAMS, "head.*", rank=2)
    with pytest.raises(ValueError, match=r"'blocks\.bias' of shape \(3, 8\), and a layer of it is no matrix"):
        lora.init(KEY, PARAMS, "blocks.bias", rank=2, stacked="blocks.*")
    with pytest.raises(ValueError, match="did you mean"):
        lora.init(KEY, PARAMS, "hed.weight")
    with pytest.raises(ValueError, match="rank=0"):
        lora.init(KEY, PARAMS, "head.weight", rank=0)
    with pytest.raises(ValueError, match="which is int32; adapters are for floats"):
        lora.init(KEY, {"table": jnp.ones((9, 9), int)}, "table")
    adapters = lora.init(KEY, PARAMS, "head.weight", rank=2)
    with pytest.raises(ValueError, match=r"adapter for 'head\.weight', which is no parameter"):
        lora.merge({"body": PARAMS["head"]}, adapters)
    with pytest.raises(ValueError, match=r"adapter for 'head\.weight' is of shape \(8, 5\), the weight \(8, 4\)"):
        lora.merge({"head": {"weight": jnp.ones((8, 4))}}, adapters)
    with pytest.raises(TypeError, match=r"'head\.weight' is a .*, expected what lora\.init gave"):
        lora.merge(PARAMS, {"head": {"weight": jnp.ones(3)}})
