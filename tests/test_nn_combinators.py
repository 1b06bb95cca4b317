"""Combinators against the same layers written out by hand: numbers, gradients, state, keys, names."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from layers import Counter

import fnet
from fnet import init, nn

KEY = jax.random.key(0)
X = jnp.linspace(-1, 1, 8 * 4).reshape(8, 4)


def block(x: Any, shift: Any = 0.0, *, fc: Any, drop: Any, count: Any) -> Any:
    return x + drop(count(jnp.tanh(fc(x)))) + shift


def make(p: float = 0.0) -> nn.Model:
    return nn.Model(block, fc=nn.Linear(4), drop=nn.Dropout(p), count=Counter())


def test_stack_is_its_layers_in_a_row():
    model = nn.Sequential(blocks=nn.Stack(make(), 5), head=nn.Linear(2))
    params, state = model.init(KEY, X)
    assert [(name, leaf.shape) for name, leaf in fnet.named(params, model)][:2] == [
        ("blocks.fc.weight", (5, 4, 4)),
        ("blocks.fc.bias", (5, 4)),
    ]
    assert state["blocks"]["count"]["count"].shape == (5,)
    rows = np.asarray(params["blocks"]["fc"]["weight"]).reshape(5, -1)
    assert len(np.unique(rows, axis=0)) == 5, "each layer is drawn alone"

    def by_hand(params: Any, x: Any) -> Any:
        for layer in nn.unstack(params["blocks"]).values():
            x = x + jnp.tanh(x @ layer["fc"]["weight"] + layer["fc"]["bias"])
        return x @ params["head"]["weight"] + params["head"]["bias"]

    def ours(params: Any, x: Any) -> Any:
        return model.apply(params, state, x, train=True)[0]

    np.testing.assert_allclose(ours(params, X), by_hand(params, X), rtol=1e-5, atol=1e-5)
    grads, expected = (jax.grad(lambda p: jnp.sum(f(p, X) ** 2))(params) for f in (ours, by_hand))  # noqa: B023
    assert not fnet.diff(grads, expected, rtol=1e-4, atol=1e-4)
    _, new = model.apply(params, state, X, train=True)
    np.testing.assert_array_equal(new["blocks"]["count"]["count"], np.ones(5))
    assert not fnet.diff(nn.restack(nn.unstack(params["blocks"])), params["blocks"])


def test_stack_broadcasts_the_other_inputs_and_splits_the_key():
    stack = nn.Stack(make(0.5), 3)
    params, state = stack.init(KEY, X)
    params = jax.tree.map(lambda leaf: leaf.at[:].set(leaf[0]), params)
    one, _ = make().apply(
        jax.tree.map(lambda leaf: leaf[0], params), jax.tree.map(lambda s: s[0], state), X, 1.0, train=True
    )
    out, _ = nn.Stack(make(), 1).apply(
        *(jax.tree.map(lambda leaf: leaf[:1], t) for t in (params, state)), X, 1.0, train=True
    )
    np.testing.assert_allclose(out, one, rtol=1e-6, atol=1e-6)
    drop = nn.Stack(nn.Dropout(0.5), 2)
    twice, _ = drop.apply({}, {}, jnp.ones(4000), key=KEY, train=True)
    assert 0.2 < float((twice == 4).mean()) < 0.3, "two masks of their own leave a quarter; one mask would leave a half"


def test_what_a_stack_keeps_for_its_gradient_changes_no_number(monkeypatch):
    stack, results = nn.Stack(make(0.5), 3), []
    params, state = stack.init(KEY, X)
    loss = lambda p: jnp.sum(stack.apply(p, state, X, key=KEY, train=True)[0] ** 2)  # noqa: E731
    for less in (True, False):
        monkeypatch.setattr("fnet.nn.combinators._keeping_less_is_faster", lambda less=less: less)
        gradient = jax.grad(lambda p: loss(p))
        results.append(jax.jit(lambda p: jax.jvp(gradient, (p,), (p,)))(params))  # noqa: B023
        assert ("remat" in str(jax.make_jaxpr(gradient)(params))) == less
    assert not fnet.diff(*results, rtol=1e-5, atol=1e-6)


def test_override_of_a_stacked_initialiser_is_per_layer():
    params, _ = nn.Stack(make(), 3).init(KEY, X, init={"fc.weight": init.orthogonal()})
    for w in params["fc"]["weight"]:
        np.testing.assert_allclose(w.T @ w, np.eye(4), atol=1e-5)
    nested, _ = nn.Ensemble(nn.Stack(nn.Linear(4), 3), 2).init(KEY, X)
    assert nested["weight"].shape == (2, 3, 4, 4) and len(np.unique(np.asarray(nested["weight"]))) == 2 * 3 * 16


def test_remat_changes_no_number():
    plain, remat = nn.Sequential(body=make(0.5)), nn.Sequential(body=nn.Remat(make(0.5)))
    params, state = plain.init(KEY, X)
    assert not fnet.diff(remat.init(KEY, X), (params, state))

    def loss(model: Any) -> Any:
        return lambda p: jnp.sum(model.apply(p, state, X, key=KEY, train=True)[0] ** 2)

    assert not fnet.diff(jax.grad(loss(plain))(params), jax.grad(loss(remat))(params), rtol=1e-5, atol=1e-6)
    assert "remat" in str(jax.make_jaxpr(jax.grad(loss(remat)))(params))
    _, new = remat.apply(params, state, X, key=KEY, train=True)
    assert float(new["body"]["count"]["count"]) == 1


def test_ensemble_is_its_members_side_by_side():
    model = nn.Ensemble(nn.Sequential(nn.Linear(3), drop=nn.Dropout(0.5)), 4)
    params, state = model.init(KEY, X)
    y = model(params, X)
    for i, member in enumerate(nn.unstack(params).values()):
        np.testing.assert_allclose(y[i], X @ member["0"]["weight"] + member["0"]["bias"], rtol=1e-5, atol=1e-6)
    masked, _ = model.apply(params, state, jnp.ones((64, 4)), key=KEY, train=True)
    assert len({tuple(np.asarray(m == 0).ravel()) for m in masked}) == 4, "each member has a mask of its own"


def test_residual_and_shape_errors():
    params, _ = nn.Residual(nn.Linear(4)).init(KEY, X)
    np.testing.assert_allclose(
        nn.Residual(nn.Linear(4))(params, X), X + X @ params["weight"] + params["bias"], rtol=1e-5, atol=1e-6
    )
    for layer in (nn.Residual(nn.Linear(5)), nn.Stack(nn.Linear(5), 2)):
        with pytest.raises(ValueError, match=r"float32\[8, 4\] went in, float32\[8, 5\] came out"):
            layer.init(KEY, X)
    with pytest.raises(ValueError, match="n of at least 1"):
        nn.Stack(nn.Linear(4), 0)
    with pytest.raises(TypeError, match="takes a layer first"):
        nn.Remat(jnp.tanh)
    with pytest.raises(ValueError, match="without gaps"):
        nn.restack({"0": {}, "2": {}})
    with pytest.raises(ValueError, match="one leading size"):
        nn.unstack({"a": jnp.ones(2), "b": jnp.ones(3)})


def test_combinators_are_values_and_keep_names():
    model = nn.Sequential(blocks=nn.Stack(nn.Remat(make(0.1)), 3))
    assert model == nn.Sequential(blocks=nn.Stack(nn.Remat(make(0.1)), 3)) and hash(model["blocks"])
    assert model.map("*.drop", lambda d: nn.Dropout(0.0))["blocks.drop"] == nn.Dropout(0.0)
    assert model["blocks.fc"] == nn.Linear(4) and type(model.replace("blocks.fc", nn.Linear(9))["blocks"]) is nn.Stack
    assert str(model).splitlines()[1] == "└─ blocks: Stack(Remat(block), 3)"
    drop = nn.Model(lambda x, drop: nn.Remat(nn.Dropout(0.5)) and drop(x), drop=nn.Stack(nn.Dropout(0.5), 2))
    with pytest.raises(ValueError, match="key"):
        drop.apply({}, {}, X, train=True)


def test_mixed_precision_is_a_cast_of_the_params():
    for layer in (nn.Residual(nn.Linear(4)), nn.Stack(nn.Sequential(nn.Linear(4), jnp.tanh), 3), nn.Stack(make(), 2)):
        model = nn.Sequential(layer)
        params, state = model.init(KEY, X)
        low, _ = model.apply(fnet.cast(params, jnp.bfloat16), state, X)
        high, _ = model.apply(params, state, X)
        np.testing.assert_allclose(low.astype("float32"), high, rtol=0.05, atol=0.05)
