"""Layers as values: equality, hash, pickle, surgery, printing."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from layers import mlp

import fnet
from fnet import functional as F
from fnet import init, nn

KEY = jax.random.key(0)


def make(width: int = 16, act: Any = F.relu) -> nn.Model:
    body = nn.Model(mlp, fc1=nn.Linear(width), fc2=nn.Linear(3))
    return nn.Sequential(nn.Flatten(), body=body, act=act, drop=nn.Dropout(0.5), head=nn.Linear(2))


def test_equal_configurations_are_equal():
    assert make() == make() and hash(make()) == hash(make()) and make() is not make()
    assert make(8) != make() and make(act=F.gelu) != make()
    assert make(act=partial(F.gelu, approximate="tanh")) == make(act=partial(F.gelu, approximate="tanh"))
    assert make(act=partial(F.gelu, approximate="tanh")) != make(act=F.gelu)
    assert make(act=lambda x: x) != make(act=lambda x: x), "lambdas compare by identity"
    assert len({make(), make(), make(8)}) == 2


def test_the_order_of_parts_and_the_types_of_values_count():
    a, b = nn.Sequential(n=nn.Linear(4), m=nn.Linear(4)), nn.Sequential(m=nn.Linear(4), n=nn.Linear(4))
    assert a != b
    x = jnp.ones((2, 4))
    params, _ = a.init(KEY, x)
    jitted = jax.jit(lambda model, p, x: model(p, x), static_argnums=0)
    for model in (a, b):
        np.testing.assert_allclose(jitted(model, params, x), model(params, x), rtol=1e-5, atol=1e-6)
    values = [1, 1.0, True, [1], (1,)]
    models = [nn.Model(times, n=value) for value in values]
    assert len(set(models)) == len(values) and nn.Model(times, n=[1]) == nn.Model(times, n=[1])


def times(x: Any, n: Any) -> Any:
    return x * n if not isinstance(n, list | tuple) else x


def scaled(x: Any, drop: Any, scale: float, shape: Any, train: bool = False) -> Any:
    return drop(x) * scale, train, shape


def test_a_partial_forward_keeps_its_signature_and_its_arguments():
    model = nn.Model(partial(scaled, scale=2.0, shape=[1, 2]), drop=nn.Dropout(0.5))
    (_, train, shape), _ = model.apply({}, {}, jnp.ones(4), key=KEY, train=True)
    assert train is True and shape == [1, 2] and type(shape) is list
    assert model == nn.Model(partial(scaled, shape=[1, 2], scale=2.0), drop=nn.Dropout(0.5))
    with pytest.raises(TypeError, match=r"takes 1 input"):
        model.apply({}, {}, jnp.ones(4), jnp.ones(4))


def test_pickle_round_trip_and_hash_in_another_process():
    for model in (
        make(),
        make(act=partial(F.gelu, approximate="tanh")),
        nn.Linear(3),
        nn.Embedding(5, 3, padding_idx=1),
    ):
        hash(model)
        back = pickle.loads(pickle.dumps(model))
        assert back == model and hash(back) == hash(model) and repr(back) == repr(model)
    model = nn.Sequential(nn.Linear(3), F.relu)
    hash(model)
    code = (
        "import pickle, sys; from fnet import nn, functional as F\n"
        "m = pickle.loads(sys.stdin.buffer.read()); n = nn.Sequential(nn.Linear(3), F.relu)\n"
        "assert m == n and hash(m) == hash(n) and m in {n}"
    )
    subprocess.run([sys.executable, "-c", code], input=pickle.dumps(model), check=True)


def test_a_lambda_says_so_when_pickled():
    with pytest.raises(pickle.PicklingError, match="'act' is .*lambda.*Define it with def"):
        pickle.dumps(nn.Sequential(act=lambda x: x))
    with pytest.raises(pickle.PicklingError, match="'forward' is .*lambda"):
        pickle.dumps(nn.Model(lambda x: x))
    with pytest.raises(pickle.PicklingError, match="'0' is .*lambda"):
        pickle.dumps(nn.Sequential(jax.jit(lambda x: x)))
    assert copy.deepcopy(nn.Model(lambda x: x)) is not None


def test_arrays_as_hyperparameters_are_refused():
    @dataclass(frozen=True)
    class Shift(nn.Layer):
        by: Any

        def apply(self, params: Any, state: Any, x: Any, key: Any = None, train: bool = False) -> Any:
            return x + self.by, state

    assert Shift(1.0) == Shift(1.0) and Shift(np.float32(1.0)) == Shift(1.0) and Shift([1, 2]) == Shift((1, 2))
    for array in (np.ones(3), jnp.ones(3)):
        with pytest.raises(TypeError, match=r"Shift\.by is an array of shape \(3,\)"):
            Shift(array)
        with pytest.raises(TypeError, match="part 'table' is an array"):
            nn.Model(lambda x, table: x + table, table=array)
    with pytest.raises(TypeError, match="does not hash"):
        Shift({1, 2})


def test_models_are_immutable():
    with pytest.raises(AttributeError, match="immutable"):
        make().head = nn.Linear(3)
    with pytest.raises(AttributeError):
        nn.Linear(3).bias = False


def test_replace_gives_a_new_value():
    model = make()
    assert model.replace("head", nn.Linear(5))["head"] == nn.Linear(5) and model["head"] == nn.Linear(2)
    deep = model.replace("body.fc1", nn.Linear(99))
    assert deep["body.fc1"] == nn.Linear(99) and deep["body.fc2"] == nn.Linear(3)
    assert deep.replace("body.fc1", nn.Linear(16)) == model and type(deep) is nn.Sequential
    listed = nn.Model(lambda x, blocks: x, blocks=[nn.Linear(1), nn.Linear(2)])
    assert listed.replace("blocks.1", nn.Linear(3))["blocks"] == [nn.Linear(1), nn.Linear(3)]
    with pytest.raises(KeyError, match="no part 'hed'.*'head'"):
        model.replace("hed", nn.Linear(5))


def test_replace_checks_like_the_constructor():
    for bad, message in ((3, "expected a layer"), (nn.Linear, "is the class Linear"), ([nn.Linear(1)], "unpack it")):
        with pytest.raises(TypeError, match=message):
            make().replace("head", bad)
    nested = nn.Model(lambda x, bl: x, bl=[{"a": nn.Linear(4)}])
    assert nested.replace("bl.0.a", nn.Linear(5))["bl"] == [{"a": nn.Linear(5)}]
    assert nested.replace("bl.0", [nn.Linear(5)])["bl.0.0"] == nn.Linear(5)
    with pytest.raises(TypeError, match="names are strings: '1'"):
        nn.Model(lambda x, heads: x, heads={1: nn.Linear(2)})
    with pytest.raises(TypeError, match=r"cannot read the parameters"):
        nn.Model(max)
    model = nn.Sequential(nn.Linear(4), jnp.tanh, head=nn.Linear(2))
    assert "head" in model and "tail" not in model and model[:2] == nn.Sequential(nn.Linear(4), jnp.tanh)


def test_user_layers_cannot_break_the_tools():
    @dataclass(frozen=True)
    class Split(nn.Layer):
        chunks: int = 2

        def apply(self, params: Any, state: Any, x: Any, key: Any = None, train: bool = False) -> Any:
            return x, state

    class Parts:
        parts = 3

        def spec(self, x: Any) -> Any:
            return {"w": nn.Param((2,), init.ones)}

        def apply(self, params: Any, state: Any, x: Any, key: Any = None, train: bool = False) -> Any:
            return x, state

    model = nn.Sequential(Split(), Parts())
    params, _ = model.init(KEY, jnp.ones(2))
    assert len(str(model).splitlines()) == 3 and [name for name, _ in fnet.named(params, model)] == ["1.w"]
    assert fnet.summary(model, jnp.ones(2)).parameters == 2
    with pytest.raises(TypeError, match=r"Bad\.init would hide Layer\.init"):

        @dataclass(frozen=True)
        class Bad(nn.Layer):
            init: Any = None

            def apply(self, params: Any, state: Any, x: Any, key: Any = None, train: bool = False) -> Any:
                return x, state


def test_map_changes_parts_by_selector():
    block = nn.Sequential(nn.Linear(4), drop=nn.Dropout(0.1))
    model = nn.Model(lambda x, blocks: x, blocks=[block, block])
    quiet = model.map("*.drop", lambda d: nn.Dropout(0.0))
    assert quiet["blocks.0.drop"].p == 0.0 and quiet["blocks.1.0"] == nn.Linear(4) and model["blocks.0.drop"].p == 0.1
    wide = model.map(lambda name, part: isinstance(part, nn.Linear), lambda fc: nn.Linear(2 * fc.out_features))
    assert wide["blocks.1.0"] == nn.Linear(8)
    with pytest.raises(ValueError, match=r"'\*\.dorp' matches none"):
        model.map("*.dorp", lambda d: d)


def test_sub_models_are_values():
    model = make()
    x = jnp.ones((2, 4))
    params, _ = model.init(KEY, x)
    assert model["body"](params["body"], x).shape == (2, 3)


def test_text_and_html_trees():
    model = nn.Model(lambda x, blocks, head: x, blocks=[make()] * 12, head=nn.Linear(2, bias=False))
    lines = str(model).splitlines()
    assert lines[1:4] == ["├─ blocks: 12 parts", "│  └─ 0 … 11: Sequential", "│     ├─ 0: Flatten()"]
    assert lines[-1] == "└─ head: Linear(2, bias=False)" and "drop: Dropout(p=0.5)" not in lines[-1]
    assert repr(make()).startswith("Sequential(Flatten(), body=Model(mlp, fc1=Linear(16)")
    html = nn.Sequential(**{"<b>": nn.Linear(2)})._repr_html_()
    assert "<details" in html and "&lt;b&gt;" in html and "<b><b>" not in html
    assert repr(nn.Param((2,), init.zeros)) == "Param((2,), zeros)"


@pytest.mark.parametrize(
    ("make_it", "message"),
    [
        (lambda: nn.Linear(0), "at least 1"),
        (lambda: nn.Dropout(1.5), "between 0 and 1"),
        (lambda: nn.Embedding(0, 3), "at least 1"),
        (lambda: nn.Embedding(3, 3, padding_idx=3), "outside the 3 rows"),
        (lambda: nn.Reshape((-1, -1)), "at most one -1"),
        (lambda: nn.LayerNorm((512,)), r"LayerNorm\(\) here"),
        (lambda: nn.BatchNorm(None), "eps is a small number"),
        (lambda: nn.TransformerEncoderLayer(512, 8), r"TransformerEncoderLayer\(nhead\) here"),
        (lambda: nn.Transformer(512, 8), r"Transformer\(d_model, nhead\) is Transformer\(nhead\)"),
        (lambda: nn.LSTM(10, 20).init(KEY, jnp.ones((2, 5, 10))), r"is LSTM\(20\) here"),
        (lambda: nn.LSTM(10, 5).init(KEY, jnp.ones((2, 5, 10))), r"is LSTM\(5\) here"),
        (lambda: nn.LSTM(20, 2, True, True), "dropout is a probability between 0 and 1, got True"),
        (lambda: nn.Dropout(True), "between 0 and 1"),
        (lambda: nn.MultiheadAttention(64, 1), r"is MultiheadAttention\(heads\) here"),
        (
            lambda: nn.ConvTranspose2d(64, 32, 2, 2).init(KEY, jnp.ones((2, 8, 8, 64))),
            r"is ConvTranspose2d\(32, 2\) here",
        ),
        (lambda: nn.LSTM(8, proj_size=8), "smaller than its hidden_size=8"),
        (lambda: nn.Conv2d(3, 64, 7).init(KEY, jnp.ones((2, 96, 96, 3))), r"is Conv2d\(64, 7\) here"),
        (lambda: nn.Param((-1,), init.zeros), "no negative sizes"),
    ],
)
def test_hyperparameters_are_checked_where_they_are_given(make_it: Any, message: str):
    with pytest.raises(ValueError, match=message):
        make_it()


@pytest.mark.parametrize(
    ("make_it", "message"),
    [
        (
            lambda: nn.Conv2d(3, 16, kernel_size=3),
            r"got kernel_size twice.*\(out_channels, kernel_size, .* from the data",
        ),
        (lambda: nn.Linear(3, 4, bias=False), "Linear got bias twice"),
        (lambda: nn.Bilinear(3, 4, 5), "got 3 arguments by position"),
        (lambda: nn.Linear(in_features=3, out_features=4), "Linear has no in_features: sizes of inputs are read from"),
        (lambda: nn.Linear(3, device="cpu"), "fnet.to"),
        (lambda: nn.LSTM(3, batch_first=True), "the batch is always the first axis"),
        (lambda: nn.MultiheadAttention(8, 0.1, True, False), "got 4 arguments by position"),
        (lambda: nn.Linear(3, bais=True), "unexpected keyword argument 'bais'"),
    ],
)
def test_layers_written_as_in_pytorch_are_told_what_to_write(make_it: Any, message: str):
    with pytest.raises(TypeError, match=message):
        make_it()


def test_a_layer_with_an_init_of_its_own_takes_what_that_takes():
    class Own(nn.Linear):
        def __init__(self, in_features: int, out_features: int, bias: bool, scale: float):
            super().__init__(out_features, bias)

    assert Own(1, 2, False, 1.0) == Own(in_features=9, out_features=2, bias=False, scale=1.0)
    with pytest.raises(TypeError, match="Own got bias twice"):
        Own(1, 2, False, 1.0, bias=True)


def test_flatten_and_reshape():
    x = jnp.arange(48.0).reshape(2, 3, 2, 4)
    np.testing.assert_array_equal(nn.Flatten()({}, x), x.reshape(2, 24))
    np.testing.assert_array_equal(nn.Flatten(0, 1)({}, x), x.reshape(6, 2, 4))
    np.testing.assert_array_equal(nn.Flatten(-2)({}, x), x.reshape(2, 3, 8))
    np.testing.assert_array_equal(nn.Reshape((4, -1))({}, x), x.reshape(2, 4, 6))
    with pytest.raises(ValueError, match="flattens axes 1 to -1"):
        nn.Flatten()({}, jnp.ones(3))
    with pytest.raises(ValueError, match="24 values"):
        nn.Reshape((5, -1))({}, x)


def test_embedding_padding_row_is_zero_and_stays():
    layer = nn.Embedding(5, 3, padding_idx=-1)
    params, _ = layer.init(KEY, jnp.zeros((1,), "int32"))
    assert float(jnp.abs(params["weight"][4]).sum()) == 0 < float(jnp.abs(params["weight"][3]).sum())
    grads = jax.grad(lambda p: layer(p, jnp.array([4, 1])).sum())(params)
    np.testing.assert_array_equal(grads["weight"].sum(1), [0, 3, 0, 0, 0])


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("ZeroPad2d", r"F\.pad"),
        ("LazyConv2d", r"nn\.Conv2d"),
        ("SyncBatchNorm", r"nn\.BatchNorm"),
        ("init", r"fnet\.init"),
    ],
)
def test_what_has_another_name_here_is_an_error_with_that_name(name: str, fix: str):
    with pytest.raises(AttributeError, match=fix):
        getattr(nn, name)


@pytest.mark.parametrize(
    "layer",
    [nn.MultiheadAttention(2), nn.GroupNorm(2), nn.AdaptiveAvgPool1d(3), nn.Upsample(7, mode="linear"),
     nn.GlobalAvgPool(), nn.GlobalMaxPool()],
)  # fmt: skip
def test_an_empty_batch_gives_an_empty_output(layer: Any):
    params, state = layer.init(KEY, jnp.ones((3, 5, 8)))
    full, _ = layer.apply(params, state, jnp.ones((3, 5, 8)))
    assert layer.apply(params, state, jnp.ones((0, 5, 8)))[0].shape == (0, *full.shape[1:])
