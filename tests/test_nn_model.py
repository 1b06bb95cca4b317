"""The layer contract: init, apply, parts, keys, state, errors."""

from __future__ import annotations

from hashlib import sha256
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from layers import Counter, Scale, double, mlp

import fnet
from fnet import functional as F
from fnet import init, nn

KEY = jax.random.key(0)
X = jnp.linspace(-1, 1, 8 * 4).reshape(8, 4)


def make_mlp() -> nn.Model:
    return nn.Model(mlp, fc1=nn.Linear(16), fc2=nn.Linear(3))


def equal(a: Any, b: Any) -> bool:
    return not fnet.diff(a, b)


def test_params_are_nested_dicts_in_the_order_of_declaration():
    params, state = make_mlp().init(KEY, X)
    assert [(name, leaf.shape) for name, leaf in fnet.named(params, make_mlp())] == [
        ("fc1.weight", (4, 16)),
        ("fc1.bias", (16,)),
        ("fc2.weight", (16, 3)),
        ("fc2.bias", (3,)),
    ]
    assert list(params) == ["fc1", "fc2"] and state == {}
    assert all(type(leaf) is type(X) and leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))


def test_output_is_the_function_of_its_parameters():
    params, _ = make_mlp().init(KEY, X)
    w1, b1, w2, b2 = (leaf for _, leaf in fnet.named(params, make_mlp()))
    np.testing.assert_allclose(make_mlp()(params, X), jnp.tanh(X @ w1 + b1) @ w2 + b2, rtol=1e-6, atol=1e-6)


def test_init_is_abstract_and_runs_under_every_transform():
    model = make_mlp()
    eager = model.init(KEY, X)
    shapes = jax.eval_shape(model.init, KEY, X)
    assert jax.tree.map(lambda a: (a.shape, a.dtype), eager) == jax.tree.map(lambda a: (a.shape, a.dtype), shapes)
    assert not fnet.diff(jax.jit(model.init)(KEY, X), eager, rtol=1e-6)
    ensemble = jax.vmap(model.init, in_axes=(0, None))(jax.random.split(KEY, 3), X)
    assert ensemble[0]["fc1"]["weight"].shape == (3, 4, 16)
    for i, key in enumerate(jax.random.split(KEY, 3)):
        assert not fnet.diff(jax.tree.map(lambda leaf: leaf[i], ensemble), model.init(key, X), rtol=1e-6)  # noqa: B023
    assert equal(model.init(KEY, jax.ShapeDtypeStruct((2, 4), "float32")), eager)
    huge = nn.Sequential(nn.Linear(2**20), nn.Linear(2**20))
    assert fnet.count(jax.eval_shape(huge.init, KEY, jax.ShapeDtypeStruct((1, 2**20), "float32"))) > 2**40


def test_init_runs_no_forward_pass():
    def noisy(x: Any, fc: Any) -> Any:
        assert isinstance(x, jax.core.Tracer)
        return fc(x)

    nn.Model(noisy, fc=nn.Linear(2)).init(KEY, X)


def test_a_parameters_key_is_its_name():
    params, _ = make_mlp().init(KEY, X)
    longer = nn.Model(lambda x, fc0, fc1, fc2: fc2(fc1(fc0(x))), fc0=nn.Linear(4), fc1=nn.Linear(16), fc2=nn.Linear(3))
    assert equal(longer.init(KEY, X)[0]["fc1"], params["fc1"]) and equal(longer.init(KEY, X)[0]["fc2"], params["fc2"])
    high, low = np.frombuffer(sha256(b"fc1.weight").digest()[:8], ">u4").astype(np.uint32)
    key = jax.random.fold_in(jax.random.fold_in(KEY, high), low)
    alone = nn.Linear(16).spec(X)["weight"].init(key, (4, 16), jnp.float32)
    np.testing.assert_array_equal(alone, params["fc1"]["weight"])


def test_initialisers_are_overridden_by_selector():
    params, _ = make_mlp().init(KEY, X, init={"fc2.*": init.zeros, "*.weight": init.constant(2.0)})
    assert float(jnp.abs(params["fc2"]["weight"]).sum()) == 0 and float(params["fc1"]["weight"].min()) == 2.0
    assert float(jnp.abs(params["fc1"]["bias"]).max()) > 0
    with pytest.raises(ValueError, match=r"'\*\.wieght' matches none.*'fc1\.weight'"):
        make_mlp().init(KEY, X, init={"*.wieght": init.zeros})
    with pytest.raises(ValueError, match=r"gave float32\[3\] for 'fc1\.weight', expected float32\[4, 16\]"):
        make_mlp().init(KEY, X, init={"fc1.weight": lambda key, shape, dtype: jnp.zeros(3)})


def residual(x: Any, fc: Any, scale: Any) -> Any:
    return x + scale * fc(x)


def test_nested_models_lists_dicts_and_raw_params():
    block = nn.Model(residual, fc=nn.Linear(4), scale=nn.Param((1,), init.constant(0.5)))

    def body(x: Any, cls: Any, blocks: Any, heads: Any, times: int, act: Any) -> Any:
        assert isinstance(blocks, list) and isinstance(heads, dict) and times == 3 and act is jnp.tanh
        for inner in blocks:
            x = inner(x + cls)
        return {name: head(x) for name, head in heads.items()}

    model = nn.Model(
        body,
        cls=nn.Param((1, 4), init.normal(0.02)),
        blocks=[block] * 11,
        heads={"a": nn.Linear(2), "b": nn.Linear(3)},
        times=3,
        act=jnp.tanh,
    )
    params, _ = model.init(KEY, X)
    names = fnet.names(params)
    assert names[:4] == ["blocks.0.fc.bias", "blocks.0.fc.weight", "blocks.0.scale", "blocks.1.fc.bias"]
    assert [name for name in names if name.endswith("scale")] == [f"blocks.{i}.scale" for i in range(11)]
    assert names[-5:] == ["cls", "heads.a.bias", "heads.a.weight", "heads.b.bias", "heads.b.weight"]
    assert [name for name, _ in fnet.named(params, model)][:3] == ["cls", "blocks.0.fc.weight", "blocks.0.fc.bias"]
    assert {name: y.shape for name, y in model(params, X).items()} == {"a": (8, 2), "b": (8, 3)}
    assert not equal(params["blocks"]["0"], params["blocks"]["1"]), "one value under two names is two sets of weights"
    sub = model["blocks.3"]
    assert sub == block and sub(params["blocks"]["3"], X).shape == (8, 4)
    with pytest.raises(KeyError, match="params has no 'cls'"):
        model(params | {"cls": {}}, X)


def test_one_part_called_twice_shares_its_weights():
    model = nn.Model(lambda x, fc: fc(fc(x)), fc=nn.Linear(4))
    params, _ = model.init(KEY, X)
    assert fnet.names(params) == ["fc.bias", "fc.weight"]
    with pytest.raises(ValueError, match="one set of weights cannot serve both calls"):
        nn.Model(lambda x, fc: fc(fc(x)), fc=nn.Linear(5)).init(KEY, X)


def test_tied_embedding_through_params():
    def tied(ids: Any, embed: Any) -> Any:
        return embed(ids) @ embed.params["weight"].T

    def tied_first(ids: Any, embed: Any) -> Any:
        return embed.params["weight"].T, embed(ids)

    ids = jnp.arange(6).reshape(2, 3)
    model = nn.Model(tied, embed=nn.Embedding(10, 4))
    params, _ = model.init(KEY, ids)
    assert fnet.names(params) == ["embed.weight"] and model(params, ids).shape == (2, 3, 10)
    nn.Model(tied_first, embed=nn.Embedding(10, 4)).init(KEY, ids)
    with pytest.raises(ValueError, match="call the part before .params"):
        nn.Model(lambda x, fc: fc.params["weight"] + fc(x), fc=nn.Linear(4)).init(KEY, X)


def test_a_part_that_is_never_reached_is_an_error():
    model = nn.Model(lambda x, fc, aux, train: fc(x) + (aux(x) if train else 0), fc=nn.Linear(3), aux=nn.Linear(3))
    with pytest.raises(ValueError, match=r"never calls its part\(s\) 'aux' with train=False.*init\(…, train=True\)"):
        model.init(KEY, X)
    assert set(model.init(KEY, X, train=True)[0]) == {"fc", "aux"}


def test_key_and_train_are_filled_in_and_reserved():
    def forward(x: Any, key: Any, train: bool, drop: Any) -> Any:
        return drop(x), key, train

    model = nn.Model(forward, drop=nn.Dropout(0.5))
    (y, key, train), _ = model.apply({}, {}, X, key=KEY, train=True)
    assert train is True and key is KEY and float((y == 0).mean()) > 0.2
    (y, key, train), _ = model.apply({}, {}, X)
    assert train is False and key is None and equal(y, X)
    for name in ("key", "train"):
        with pytest.raises(ValueError, match="filled in by fnet"):
            nn.Model(lambda x, **parts: x, **{name: nn.Linear(2)})
        with pytest.raises(ValueError, match="filled in by fnet"):
            nn.Sequential(**{name: nn.Linear(2)})


def test_dropout_keys_are_by_name_and_by_call():
    x = jnp.ones((100,))
    one = nn.Model(lambda x, drop: (drop(x), drop(x)), drop=nn.Dropout(0.5))
    (first, second), _ = one.apply({}, {}, x, key=KEY, train=True)
    assert not equal(first, second), "each call has a mask of its own"
    two = nn.Model(lambda x, other, drop: (other(x), drop(x)), other=nn.Dropout(0.5), drop=nn.Dropout(0.5))
    (other, again), _ = two.apply({}, {}, x, key=KEY, train=True)
    assert equal(again, first) and not equal(other, first), "adding a part changes nobody else's numbers"


def test_missing_key_names_the_layer():
    model = nn.Sequential(body=nn.Sequential(nn.Linear(4), drop=nn.Dropout(0.4)), head=nn.Linear(2))
    params, state = model.init(KEY, X)
    with pytest.raises(F.MissingKey, match="key") as error:
        model.apply(params, state, X, train=True)
    assert any("in part 'body.drop': Dropout(p=0.4)" in note for note in error.value.__notes__)


def test_state_threads_through_and_is_never_lost():
    model = nn.Model(lambda x, a, b: (a(x), a(x), b(x)), a=Counter(), b=nn.Sequential(Counter(), Counter()))
    params, state = model.init(KEY, X)
    assert params == {} and fnet.names(state) == ["a.count", "b.0.count", "b.1.count"]
    _, new = jax.jit(lambda s: model.apply({}, s, X, train=True))(state)
    assert {name: float(v) for name, v in fnet.named(new)} == {"a.count": 2, "b.0.count": 1, "b.1.count": 1}
    assert float(state["a"]["count"]) == 0
    _, same = model.apply({}, new, X)
    assert equal(same, new) and equal(model.init_state(X), state)
    with pytest.raises(TypeError, match=r"has state.*model\.apply\(params, state, x\)"):
        model(params, X)


def test_inputs_are_pytrees_and_keywords():
    model = nn.Model(lambda batch, fc, scale=1.0: fc(batch["x"]) * scale, fc=nn.Linear(2))
    params, _ = model.init(KEY, {"x": X})
    np.testing.assert_allclose(model(params, {"x": X}, scale=2.0), 2 * model(params, {"x": X}))
    assert nn.Sequential(nn.Model(lambda x, mask: x * mask), nn.Linear(2)).init(KEY, X, mask=X > 0)[0]["1"]
    with pytest.raises(TypeError, match=r"takes 1 input\(s\) \(x\), got 2"):
        make_mlp().apply(params, {}, X, X)


def test_structural_layers_need_no_base_class():
    model = nn.Sequential(Scale(), nn.Linear(2))
    params, _ = model.init(KEY, X)
    assert params["0"]["weight"].shape == (4,) and model(params, X).shape == (8, 2)


def test_apply_must_return_a_pair():
    class Bad:
        def spec(self, x: Any) -> dict:
            return {}

        def apply(self, params: Any, state: Any, x: Any, key: Any = None, train: bool = False) -> Any:
            return x

    with pytest.raises(TypeError, match=r"apply of Bad returned .*, expected \(output, new state\)"):
        nn.Sequential(Bad()).init(KEY, X)


def test_sequential_counts_every_part_and_takes_functions():
    model = nn.Sequential(nn.Linear(5), F.relu, nn.Linear(4), double, head=nn.Linear(3))
    params, _ = model.init(KEY, X)
    assert (
        set(params) == {"0", "2", "head"}
        and model[0] == nn.Linear(5)
        and model[-1] == model["head"]
        and len(model) == 5
    )
    h = jax.nn.relu(X @ params["0"]["weight"] + params["0"]["bias"])
    h = 2 * (h @ params["2"]["weight"] + params["2"]["bias"])
    np.testing.assert_allclose(
        model(params, X), h @ params["head"]["weight"] + params["head"]["bias"], rtol=1e-5, atol=1e-6
    )
    assert nn.Sequential()({}, X) is X
    for bad, message in (([nn.Linear(2)], "unpack it"), (nn.Linear, "is the class Linear"), (3, "expected a layer")):
        with pytest.raises(TypeError, match=message):
            nn.Sequential(bad)


def test_construction_errors():
    with pytest.raises(TypeError, match=r"mlp has no parameter 'fc3'.*'fc2'|mlp has no parameter 'fc3'.*'fc1'"):
        nn.Model(mlp, fc1=nn.Linear(2), fc3=nn.Linear(2))
    with pytest.raises(TypeError, match="is the class Linear"):
        nn.Model(mlp, fc1=nn.Linear)
    with pytest.raises(TypeError, match="takes a function"):
        nn.Model(nn.Linear(2))
    with pytest.raises(AttributeError, match=r"use F\.relu"):
        nn.ReLU  # noqa: B018
    with pytest.raises(TypeError, match=r"needs one random key such as jax\.random\.key\(0\), got 0"):
        make_mlp().init(0, X)
    with pytest.raises(TypeError, match="needs one random key"):
        make_mlp().init(jax.random.split(KEY), X)


def test_wrong_width_names_path_layer_and_shapes():
    model = nn.Sequential(encoder=nn.Sequential(nn.Linear(6), make_mlp()), head=nn.Linear(2))
    params, state = model.init(KEY, X)
    params["encoder"]["1"]["fc2"]["weight"] = jnp.ones((7, 3))
    for call in (model.apply, jax.jit(model.apply)):
        with pytest.raises(ValueError, match="16.*7|7.*16") as error:
            call(params, state, X)
        notes = [note for note in error.value.__notes__ if note.startswith("in part")]
        assert notes == ["in part 'encoder.1.fc2': Linear(3) called with (float32[8, 16])"]


def test_missing_parameters_are_named():
    model = make_mlp()
    params, _ = model.init(KEY, X)
    with pytest.raises(KeyError, match="'weight'") as error:
        model({"fc1": params["fc1"], "fc_2": params["fc2"]}, X)
    assert any("params has no 'weight' of shape (16, 3)" in note for note in error.value.__notes__)
    assert any("in part 'fc2'" in note for note in error.value.__notes__)


def test_integer_input_says_how_to_fix_it():
    with pytest.raises(TypeError, match=r"x / 255|ToFloat") as error:
        nn.Sequential(nn.Flatten(), fc=nn.Linear(2)).init(KEY, jnp.ones((2, 4), "uint8"))
    assert any("in part 'fc'" in note for note in error.value.__notes__)


def test_a_layer_computes_in_its_weights_dtype():
    model = make_mlp()
    params, _ = model.init(KEY, X)
    assert model(fnet.cast(params, jnp.bfloat16), X).dtype == jnp.bfloat16
    assert model(params, X.astype(jnp.bfloat16)).dtype == jnp.float32


def test_a_bound_part_does_not_outlive_the_call():
    kept = []
    model = nn.Model(lambda x, fc: (kept.append(fc), fc(x))[1], fc=nn.Linear(2))
    params, _ = model.init(KEY, X)
    model(params, X)
    with pytest.raises(RuntimeError, match="was used after the forward"):
        kept[-1](X)


def test_parts_open_named_scopes():
    model = nn.Sequential(body=make_mlp(), act=F.relu)
    params, _ = model.init(KEY, X)
    scopes = {str(eqn.source_info.name_stack) for eqn in jax.make_jaxpr(model)(params, X).jaxpr.eqns}
    assert {"body/fc1", "body", "body/fc2", "act"} <= scopes


def test_a_state_of_another_kind_is_refused():
    class Drift(Counter):
        def apply(self, params: Any, state: Any, x: Any, key: Any = None, train: bool = False) -> Any:
            return x, {"count": jnp.zeros(3)} if train else {}

    state = nn.Sequential(Counter()).init_state(X)
    for train, message in ((True, r"'count': shape \(\) and \(3,\)"), (False, "'count': only in the first")):
        with pytest.raises(TypeError, match=message):
            nn.Sequential(Drift()).apply({}, state, X, train=train)


def test_override_of_initialisers_leaves_the_state_alone():
    model = nn.Sequential(Counter(), nn.Linear(2))
    assert equal(model.init(KEY, X, init={"*": init.ones})[1], model.init_state(X))


@pytest.mark.parametrize("rule", [init.orthogonal(), init.kaiming_normal(), init.lecun_normal()])
def test_an_initialiser_of_matrices_leaves_the_vectors_that_its_selector_matches(rule: Any):
    model = nn.Sequential(nn.Conv(4, 3), nn.BatchNorm(), nn.Stack(nn.Residual(nn.LayerNorm()), 2), nn.Flatten())
    x = jnp.ones((2, 5, 5, 3))
    params, _ = model.init(KEY, x, init={"*.weight": rule})
    start, _ = model.init(KEY, x)
    assert not equal(params["0"]["weight"], start["0"]["weight"])
    assert equal(params["1"], start["1"]) and equal(params["2"], start["2"])  # (2, C) stacked vectors are vectors
    with pytest.raises(ValueError, match="axes"):
        model.init(KEY, x, init={"1.weight": rule})


def test_initial_values_are_strongly_typed_and_errors_name_the_parameter():
    weak = {"*": lambda key, shape, dtype: jnp.broadcast_to(0.5, shape)}
    params, _ = nn.Linear(2).init(KEY, X, init=weak)
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(params))
    as_numpy = {"*": lambda key, shape, dtype: np.ones(shape, dtype)}
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(nn.Linear(2).init(KEY, X, init=as_numpy)))
    with pytest.raises(ValueError, match="orthogonal") as error:
        make_mlp().init(KEY, X, init={"*.bias": init.orthogonal()})
    assert any("while drawing 'fc1.bias'" in note for note in error.value.__notes__)


def test_tuples_of_layers_keep_their_type():
    class Pair(NamedTuple):
        a: Any
        b: Any

    def forward(x: Any, pair: Any, two: Any) -> Any:
        assert type(two) is tuple
        return two[1](two[0](pair.b(pair.a(x))))

    model = nn.Model(forward, pair=Pair(nn.Linear(3), nn.Linear(4)), two=(nn.Linear(5), nn.Linear(6)))
    params, _ = model.init(KEY, X)
    assert model(params, X).shape == (8, 6) and sorted(params["pair"]) == ["0", "1"]


def test_short_call_passes_through_combinators():
    for layer in (nn.Remat(nn.Linear(4)), nn.Stack(nn.Linear(4), 2), nn.Ensemble(nn.Linear(4), 2)):
        model = nn.Sequential(layer)
        params, _ = model.init(KEY, X)
        model(params, X)
    for stateful in (nn.Remat(Counter()), nn.Stack(Counter(), 2), nn.Model(lambda x, m: x + m, m=BUFFER)):
        with pytest.raises(TypeError, match="has state"):
            nn.Sequential(stateful)({}, X)


BUFFER = nn.Param((), init.zeros, trainable=False)


def test_what_a_newcomer_types_gets_an_answer():
    with pytest.raises(TypeError, match=r"Linear\(in, out\) is Linear\(out\) here"):
        nn.Linear(64, 128)
    params, _ = make_mlp().init(KEY, X)
    with pytest.raises(TypeError, match=r"apply takes \(params, state, \*inputs\).*float32\[8, 4\]"):
        make_mlp().apply(params, X)
    with pytest.raises(TypeError, match="mlp also needs x: as inputs"):
        make_mlp()(params)
    with pytest.raises(TypeError, match="mlp also needs fc2"):
        nn.Model(mlp, fc1=nn.Linear(3)).init(KEY, X)
    with pytest.raises(TypeError, match=r'jax\.ShapeDtypeStruct\(\(4, 2\), "float32"\)'):
        make_mlp().init(KEY, (4, 2))
    with pytest.raises(TypeError, match="returned None; does it end without a return"):
        nn.Model(lambda x, fc: None, fc=nn.Linear(2)).init(KEY, X)
    for call in (lambda: make_mlp()(X), lambda: make_mlp()(X, params), lambda: nn.Linear(3)(X)):
        with pytest.raises(TypeError, match=r"holds no arrays, .*model\(params, x\), .*got float32\[8, 4\]"):
            call()
    of_model = {
        "parameters": r"params, state = model\.init\(key, x\)",
        "eval": "train=False is the default",
        "fc1": r"the part is model\['fc1'\], and its parameters are params\['fc1'\]",
        "other": "'Model' object has no attribute 'other'",
    }
    for name, message in of_model.items():
        with pytest.raises(AttributeError, match=message):
            getattr(make_mlp(), name)
    answers = {"Module": r"nn\.Model\(function", "CrossEntropyLoss": r"F\.cross_entropy", "Linaer": "Linear"}
    for name, message in answers.items():
        with pytest.raises(AttributeError, match=message):
            getattr(nn, name)
