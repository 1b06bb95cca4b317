"""JAX transforms inside and around a forward: what just works, and what is refused by name."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from layers import Counter, mlp

import fnet
from fnet import nn

KEY = jax.random.key(0)
X = jnp.linspace(-1, 1, 8 * 4).reshape(8, 4)

INNER = {
    "vmap": lambda f: jax.vmap(f),
    "checkpoint": lambda f: jax.checkpoint(f),
    "jit": lambda f: jax.jit(f),
    "scan": lambda f: lambda x: jax.lax.scan(lambda carry, row: (carry, f(row)), 0, x)[1],
    "map": lambda f: lambda x: jax.lax.map(f, x),
    "cond": lambda f: lambda x: jax.lax.cond(x.sum() > -1e9, f, jnp.tanh, x),
    "grad": lambda f: lambda x: jax.grad(lambda v: f(v).sum())(x),
}


@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("outer", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_plain_parts_work_under_any_inner_transform(inner: str, outer: Any):
    model = nn.Model(lambda x, fc: INNER[inner](fc)(x), fc=nn.Sequential(nn.Linear(4), jnp.tanh))
    params, state = model.init(KEY, X)
    w, b = params["fc"]["0"]["weight"], params["fc"]["0"]["bias"]
    expected = INNER[inner](lambda v: jnp.tanh(v @ w + b))(X)
    y, _ = outer(lambda p, x: model.apply(p, state, x, key=KEY, train=True))(params, X)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
    grads = jax.grad(lambda p: outer(model)(p, X).sum())(params)
    assert fnet.names(grads) == fnet.names(params)


@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("outer", [lambda f: f, jax.jit, jax.vmap], ids=["eager", "jit", "vmap"])
@pytest.mark.parametrize("nested", [False, True])
def test_a_keyed_part_under_an_inner_transform_is_refused(inner: str, outer: Any, nested: bool):
    part = nn.Sequential(drop=nn.Dropout(0.5)) if nested else nn.Dropout(0.5)
    model = nn.Model(lambda x, drop: INNER[inner](drop)(x), drop=part)
    run = outer(lambda x: model.apply({}, {}, x, key=KEY, train=True)[0])
    x = X[None] if outer is jax.vmap else X
    with (
        jax.checking_leaks(),
        pytest.raises(nn.TransformError, match=r"part 'drop' .* needs a key.*nn\.Remat.*nn\.Stack"),
    ):
        run(x)
    assert model.apply({}, {}, X)[0].shape == X.shape, "without training it needs no key, and works"


@pytest.mark.parametrize("inner", ["vmap", "checkpoint", "jit", "scan"])
@pytest.mark.parametrize("nested", [False, True])
def test_a_stateful_part_under_an_inner_transform_is_refused(inner: str, nested: bool):
    part = nn.Sequential(count=Counter()) if nested else Counter()
    model = nn.Model(lambda x, count: INNER[inner](count)(x), count=part)
    state = model.init_state(X)
    with pytest.raises(nn.TransformError, match=r"part 'count' .* changes its state"):
        model.apply({}, state, X, train=True)
    y, after = model.apply({}, state, X)
    assert y.shape == X.shape and not fnet.diff(after, state), "in evaluation the state does not change: allowed"


def test_explicit_key_and_train_lift_the_refusal():
    def forward(x: Any, key: Any, drop: Any, count: Any) -> Any:
        keys = jax.random.split(key, len(x))
        return jax.vmap(lambda row, k: drop(row, key=k))(x, keys), jax.vmap(lambda row: count(row, train=False))(x)

    model = nn.Model(forward, drop=nn.Dropout(0.5), count=Counter())
    (masked, _), _ = model.apply({}, model.init_state(X), jnp.ones((64, 64)), key=KEY, train=True)
    assert len(np.unique(np.asarray(masked), axis=0)) == 64, "a mask of its own for every row"


def test_no_tracer_leaks_and_no_retrace():
    model = nn.Model(mlp, fc1=nn.Linear(16), fc2=nn.Sequential(nn.Linear(3), nn.Dropout(0.5), Counter()))
    params, state = model.init(KEY, X)
    with jax.checking_leaks():
        _, new = jax.jit(lambda p, s, x: model.apply(p, s, x, key=KEY, train=True))(params, state, X)
    assert int(new["fc2"]["2"]["count"]) == 1
    traces = []

    def apply(m: Any, p: Any, x: Any) -> Any:
        traces.append(1)
        return m.apply(p, state, x)[0]

    jitted = jax.jit(apply, static_argnums=0)
    jitted(model, params, X)
    jitted(nn.Model(mlp, fc1=nn.Linear(16), fc2=nn.Sequential(nn.Linear(3), nn.Dropout(0.5), Counter())), params, X)
    assert len(traces) == 1, "an equal model does not retrace as a static argument"


def test_models_go_through_outer_transforms():
    model = nn.Model(mlp, fc1=nn.Linear(16), fc2=nn.Linear(3))
    params, _ = model.init(KEY, X)
    y = model(params, X)
    np.testing.assert_allclose(jax.vmap(model, (None, 0))(params, X), y, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(jax.checkpoint(model)(params, X), y, rtol=1e-5, atol=1e-6)
    tangents = jax.tree.map(jnp.ones_like, params)
    _, jvp = jax.jvp(lambda p: model(p, X), (params,), (tangents,))
    eps = 1e-3
    ahead, behind = (model(jax.tree.map(lambda p, t: p + e * t, params, tangents), X) for e in (eps, -eps))  # noqa: B023
    np.testing.assert_allclose(jvp, (ahead - behind) / (2 * eps), rtol=1e-3, atol=2e-3)  # float32: 1e-7 / eps
    drop = nn.Sequential(nn.Dropout(0.5))
    masks = jax.vmap(lambda k: drop.apply({}, {}, jnp.ones(64), key=k, train=True)[0])(jax.random.split(KEY, 4))
    assert len(np.unique(np.asarray(masks), axis=0)) == 4


def optional_noise(x: Any, key: Any, train: bool) -> Any:
    return x + jax.random.normal(key, x.shape) if train and key is not None else x


def test_a_key_that_would_repeat_is_never_left_out_in_silence():
    model = nn.Model(lambda x, noise: jax.vmap(noise)(x), noise=nn.Model(optional_noise))
    with pytest.raises(nn.TransformError, match=r"part 'noise' .* needs a key"):
        model.apply({}, {}, X, key=KEY, train=True)
    np.testing.assert_array_equal(model.apply({}, {}, X, train=True)[0], X)
    for part in (nn.Stack(nn.Linear(4), 2), nn.Remat(nn.Linear(4)), nn.Ensemble(nn.Linear(4), 2)):
        rows = nn.Model(lambda x, part: jax.vmap(part)(x), part=part)
        params, _ = rows.init(KEY, X)
        assert rows.apply(params, {}, X, key=KEY, train=True)[0].shape[0] == 8, "no key is needed: it works"
    for part in (nn.Stack(nn.Dropout(0.5), 2), nn.Remat(nn.Dropout(0.5)), nn.Ensemble(nn.Dropout(0.5), 2)):
        with pytest.raises(nn.TransformError, match="needs a key"):
            nn.Model(lambda x, part: jax.vmap(part)(x), part=part).apply({}, {}, X, key=KEY, train=True)


def test_a_key_is_checked_where_it_is_given():
    for bad in (0, jax.random.split(KEY)):
        with pytest.raises(TypeError, match="apply needs one random key"):
            nn.Sequential(nn.Dropout(0.5)).apply({}, {}, X, key=bad, train=True)
