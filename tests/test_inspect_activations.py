"""Outputs of parts are captured and changed by name, through every combinator."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from layers import Counter, mlp

from fnet import functional as F
from fnet import inspect, nn

KEY = jax.random.key(0)
X = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4)), jnp.float32)


def model_of() -> Any:
    body = nn.Model(mlp, fc1=nn.Linear(6), fc2=nn.Linear(4))
    inner = nn.Sequential(up=nn.Linear(4), act=F.relu)
    return nn.Sequential(
        body=body, count=Counter(), blocks=nn.Stack(nn.Residual(inner), 3),
        remat=nn.Remat(nn.Sequential(fc=nn.Linear(4))), norm=nn.BatchNorm(), act=F.relu,
        many=nn.Ensemble(nn.Sequential(fc=nn.Linear(2)), 5),
    )  # fmt: skip


def test_every_part_s_output_comes_out_and_nothing_else_changes():
    model = model_of()
    params, state = model.init(KEY, X)
    output, new = model.apply(params, state, X, train=True)
    found = jax.jit(lambda p, s, x: (lambda a: (a.values, a.output, a.state))(
        inspect.activations(model, p, s, x, train=True)))(params, state, X)  # fmt: skip
    values = inspect.activations(model, params, state, X, train=True)
    assert jax.tree.structure(values.state) == jax.tree.structure(new)
    for a, b in zip(jax.tree.leaves((values.values, values.output, values.state)), jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(values.output, output)
    jax.tree.map(np.testing.assert_array_equal, values.state, new)
    fc1, fc2 = params["body"]["fc1"], params["body"]["fc2"]
    h = jnp.tanh(X @ fc1["weight"] + fc1["bias"])
    np.testing.assert_allclose(values["body"], h @ fc2["weight"] + fc2["bias"], rtol=1e-5, atol=1e-6)
    assert values["body.fc1"].shape == (3, 6) and values["many.fc"].shape == (5, 3, 2)
    assert values["blocks.up"].shape == (3, 3, 4) and values["blocks"].shape == (3, 4)
    np.testing.assert_array_equal(values["blocks.act"], np.maximum(values["blocks.up"], 0))
    np.testing.assert_allclose(values["blocks"], values["count"] + np.sum(values["blocks.act"], 0), rtol=1e-5)
    np.testing.assert_array_equal(values["remat.fc"], values["remat"])
    np.testing.assert_array_equal(values["act"], np.maximum(values["norm"], 0))
    assert "blocks.act" in str(values) and "<table>" in values._repr_html_()


def test_dtypes_are_those_of_the_params():
    model = nn.Sequential(blocks=nn.Stack(nn.Linear(4), 2), head=nn.Linear(2))
    params, state = model.init(KEY, X)
    half = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
    assert inspect.activations(model, half, state, X)["blocks"].dtype == jnp.bfloat16


def test_patches_change_what_follows_and_are_differentiable():
    model = nn.Sequential(a=nn.Linear(4), blocks=nn.Stack(nn.Sequential(fc=nn.Linear(4)), 2), head=nn.Linear(2))
    params, state = model.init(KEY, X)
    off = inspect.activations(model, params, state, X, select="head", patch={"blocks.fc": jnp.zeros_like})
    np.testing.assert_allclose(off.output, jnp.broadcast_to(params["head"]["bias"], (3, 2)))
    assert list(off.values) == ["head"]
    steer = jnp.ones(4)

    def steered(v: Any) -> Any:
        return jnp.sum(inspect.activations(model, params, state, X, patch={"a": lambda h: h + v}).output)

    assert np.abs(jax.grad(steered)(steer)).max() > 0
    with pytest.raises(ValueError, match=r"patch of 'a' turned float32\[3, 4\] into float32\[3, 2\]"):
        inspect.activations(model, params, state, X, patch={"a": lambda h: h[:, :2]})
    with pytest.raises(ValueError, match="did you mean 'head'"):
        inspect.activations(model, params, state, X, select="hed")


def test_a_part_inside_a_transform_of_the_forward_is_refused_by_name():
    model = nn.Model(lambda x, fc: jax.vmap(fc)(x), fc=nn.Linear(2))
    params, state = model.init(KEY, X)
    with pytest.raises(nn.TransformError, match="'fc'"):
        inspect.activations(model, params, state, X)


def test_a_dead_relu_is_found():
    model = nn.Sequential(fc=nn.Linear(5), act=F.relu, head=nn.Linear(2))
    params, state = model.init(KEY, X)
    params["fc"]["bias"] = params["fc"]["bias"].at[jnp.array([1, 4])].set(-100.0)
    found = inspect.activations(model, params, state, X)
    dead = found.dead("act")
    assert dead[1] and dead[4] and np.array_equal(found.dead("fc"), dead)
    row = next(line for line in str(found).splitlines() if line.startswith("act"))
    assert f"{np.mean(dead):.1%}" in row
