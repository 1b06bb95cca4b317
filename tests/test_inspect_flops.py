"""FLOPs are exact where there is a formula and close to XLA's own count on whole models."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import fnet
from fnet import functional as F
from fnet import init, nn

KEY = jax.random.key(0)
S = jax.ShapeDtypeStruct


def test_layers_with_a_formula():
    linear = fnet.summary(nn.Linear(32, bias=False), S((8, 16), "float32"))
    assert (linear.flops, linear.backward_flops) == (2 * 8 * 16 * 32, 2 * 8 * 16 * 32)
    two = fnet.summary(nn.Sequential(nn.Linear(32, bias=False), nn.Linear(4, bias=False)), S((8, 16), "float32"))
    assert [row.backward_flops for row in two.rows] == [2 * 8 * 16 * 32, 2 * 2 * 8 * 32 * 4]  # the input needs none
    for channels in (3, 32):  # of these, CPUs run other forms
        conv = fnet.summary(nn.Conv(32, 3, bias=False), S((2, 10, 9, channels), "float32"))
        assert conv.flops == conv.backward_flops == 2 * 2 * 8 * 7 * 32 * 9 * channels
    padded = fnet.summary(nn.Conv(8, 3, padding=1, stride=2, groups=2, bias=False), S((1, 8, 8, 4), "float32"))
    assert padded.flops == 2 * 11 * 11 * 2 * 8  # per axis 4 outputs × 3, of which one product is with padding
    stack = fnet.summary(nn.Stack(nn.Linear(16, bias=False), 5), S((8, 16), "float32"))
    assert stack.flops == 5 * 2 * 8 * 16 * 16
    lstm = fnet.summary(nn.LSTM(64), S((8, 50, 32), "float32"))
    assert 0 <= lstm.flops - 2 * 8 * 50 * (32 + 64) * 256 < 0.05 * lstm.flops


def test_any_function_has_rows_by_scope():
    def loss(params: Any, x: Any) -> Any:
        with jax.named_scope("body"):
            with jax.named_scope("first"):
                h = x @ params["a"]
            h = jnp.tanh(h)
        return jnp.sum(h)

    found = fnet.summary(loss, {"a": S((4, 8), "float32")}, S((2, 4), "float32"))
    rows = {row.name: row for row in found.rows}
    assert list(rows) == ["body", "body.first"] and rows["body.first"].flops == 2 * 2 * 4 * 8
    assert rows["body"].flops == 2 * 2 * 4 * 8 + 16 and rows["body.first"].backward_flops == 2 * 2 * 2 * 4 * 8
    assert found.flops == rows["body"].flops + 15 and rows["body.first"].output == "float32[2, 8]"
    assert "backward FLOPs" in found._repr_html_()
    stack = nn.Sequential(blocks=nn.Stack(nn.Sequential(fc=nn.Linear(4)), 3))
    params, _ = jax.eval_shape(lambda key: stack.init(key, jnp.ones((2, 4))), KEY)
    jitted = fnet.summary(jax.jit(stack), params, S((2, 4), "float32"))
    assert [(row.name, row.flops) for row in jitted.rows][-1] == ("blocks.fc", 3 * (2 * 2 * 4 * 4 + 8))
    dearest = fnet.summary(lambda x: jax.lax.cond(x[0] > 0, jnp.tanh, lambda x: jnp.exp(x) * x, x), S((8,), "float32"))
    assert dearest.flops == 16 + 1
    endless = fnet.summary(lambda x: jax.lax.while_loop(lambda x: x[0] > 0, lambda x: x - 1, x), S((8,), "float32"))
    assert endless.backward_flops is None and "no backward pass: " in str(endless) and endless.flops == 8
    with pytest.raises(TypeError, match="a model or a function"):
        fnet.summary({"a": 1})


def cnn() -> Any:
    def block(x: Any, conv1: Any, norm1: Any, conv2: Any, norm2: Any) -> Any:
        return F.relu(norm2(conv2(F.relu(norm1(conv1(x))))) + x)

    def residual() -> Any:
        convs = {f"conv{i}": nn.Conv(32, 3, padding=1, bias=False) for i in (1, 2)}
        return nn.Model(block, **convs, norm1=nn.BatchNorm(), norm2=nn.BatchNorm())

    stem = nn.Sequential(nn.Conv(32, 3, padding=1), nn.BatchNorm(), F.relu)
    down = nn.Conv(32, 3, stride=2, padding=1)
    return nn.Sequential(stem, residual(), down, nn.MaxPool(2), nn.Flatten(), nn.Linear(10))


def gpt(width: int = 192) -> Any:
    def block(x: Any, norm1: Any, attention: Any, norm2: Any, up: Any, down: Any) -> Any:
        x = x + attention(norm1(x))
        return x + down(F.gelu(up(norm2(x)), "tanh"))

    def forward(ids: Any, tokens: Any, positions: Any, block: Any, norm: Any, head: Any) -> Any:
        return head(norm(block(tokens(ids) + positions)))

    part = nn.Model(
        block, norm1=nn.LayerNorm(), attention=nn.MultiheadAttention(4, causal=True), norm2=nn.LayerNorm(),
        up=nn.Linear(4 * width), down=nn.Linear(width),
    )  # fmt: skip
    position = nn.Param((16, width), init.normal(0.02))
    return nn.Model(
        forward, tokens=nn.Embedding(65, width), positions=position, block=part, norm=nn.LayerNorm(), head=nn.Linear(65)
    )


def lstm(scanned: bool) -> Any:
    def unrolled(x: Any, cell: Any) -> Any:  # XLA counts the body of a loop once, whatever its length
        carry, outputs = None, []
        for t in range(x.shape[1]):
            carry = cell(x[:, t], carry)
            outputs.append(carry[0])
        return jnp.stack(outputs, 1)

    return nn.LSTM(64) if scanned else nn.Model(unrolled, cell=nn.LSTMCell(64))


def by_xla(model: Any, x: Any) -> tuple[float, float]:
    """XLA's count of the forward pass, and of it with its gradients, of the forms that are not for CPUs alone."""
    mesh = jax.make_mesh((1,), ("_",), axis_types=(AxisType.Auto,))
    params, state = jax.eval_shape(lambda: model.init(KEY, x))
    given = (params, state, x, jax.eval_shape(lambda p, s, x: model.apply(p, s, x, train=True)[0], params, state, x))
    sharding = NamedSharding(mesh, PartitionSpec())
    given = jax.tree.map(lambda a: S(a.shape, a.dtype, sharding=sharding), given)

    def forward(params: Any, state: Any, x: Any) -> Any:
        return model.apply(params, state, x, train=True)[0]

    def both(params: Any, state: Any, x: Any, cotangent: Any) -> Any:
        outputs, back = jax.vjp(lambda params: forward(params, state, x), params)
        return outputs, back(cotangent)

    return tuple(
        jax.jit(f).lower(*args).compile().cost_analysis()["flops"] for f, args in ((forward, given[:3]), (both, given))
    )  # type: ignore[return-value]


@pytest.mark.parametrize(
    "model, counted, x",
    [
        (cnn(), cnn(), jnp.ones((2, 16, 16, 3))),
        (gpt(), gpt(), jnp.zeros((2, 16), "int32")),
        (lstm(True), lstm(False), jnp.ones((8, 3, 32))),
    ],
    ids=["cnn", "gpt", "lstm"],
)
def test_totals_are_close_to_xla_s(model: Any, counted: Any, x: Any):
    found, (forward, both) = fnet.summary(model, x, train=True), by_xla(counted, x)
    assert abs(found.flops / forward - 1) < 0.05
    assert found.backward_flops is not None and abs((found.flops + found.backward_flops) / both - 1) < 0.05
