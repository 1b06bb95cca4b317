"""Derivatives by name against jax's own and closed forms, and the check of gradients on planted faults."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import fnet
from fnet import autograd, nn

X = jnp.linspace(-1, 1, 15).reshape(5, 3)
MODEL = nn.Sequential(fc1=nn.Linear(4), act=jnp.tanh, fc2=nn.Linear(2))
PARAMS, _ = MODEL.init(jax.random.key(0), X)


def loss(params, x):
    return jnp.mean(MODEL(params, x) ** 2)


def test_selected_leaves_get_jaxs_gradients_and_others_no_work():
    value, grads = autograd.value_and_grad(loss, "fc2.*")(PARAMS, X)
    expected = jax.grad(loss)(PARAMS, X)
    assert fnet.names(grads) == ["fc2.bias", "fc2.weight"] and float(value) == float(loss(PARAMS, X))
    for name, grad in fnet.named(grads):
        np.testing.assert_allclose(grad, fnet.get(expected, name), rtol=1e-6)
    whole, part = (
        jax.jit(autograd.grad(loss, s)).lower(PARAMS, X).compile().cost_analysis()["flops"] for s in ("*", "fc2.*")
    )
    assert part < 0.8 * whole
    with pytest.raises(ValueError, match=r"fc3.*fc2"):
        autograd.grad(loss, "fc3.*")(PARAMS, X)


def test_integers_are_passed_over_and_aux_comes_along():
    params = {"w": jnp.ones(2), "count": jnp.arange(2)}
    grads, aux = autograd.grad(lambda p: (jnp.sum(p["w"] * p["count"]), "more"), has_aux=True)(params)
    assert aux == "more" and grads["count"] is fnet.tree.HOLE
    np.testing.assert_array_equal(grads["w"], [0, 1])


def test_jacobians_and_hessians_have_the_shapes_of_names():
    for x in (X, X[:1]):  # more outputs than parameters of the bias, and fewer
        found = autograd.jacobian(MODEL, "fc1.bias")(PARAMS, x)
        expected = jax.jacrev(MODEL)(PARAMS, x)["fc1"]["bias"]
        assert found["fc1"]["bias"].shape == (len(x), 2, 4)
        np.testing.assert_allclose(found["fc1"]["bias"], expected, rtol=1e-5, atol=1e-6)
    second = autograd.hessian(loss, "fc2.*")(PARAMS, X)
    h = jnp.tanh(X @ PARAMS["fc1"]["weight"] + PARAMS["fc1"]["bias"])
    expected = np.einsum("ni,nj,ab->iajb", h, h, np.eye(2)) / 5
    np.testing.assert_allclose(second["fc2"]["weight"]["fc2"]["weight"], expected, rtol=1e-5, atol=1e-6)


def test_products_with_vectors():
    v = jax.tree.map(lambda p: jnp.cos(jnp.arange(p.size, dtype=p.dtype)).reshape(p.shape), PARAMS)
    h = jax.hessian(lambda flat: loss(unravel(flat), X))
    flat, unravel = ravel_pytree(PARAMS)
    np.testing.assert_allclose(
        ravel_pytree(autograd.hvp(loss, PARAMS, v, X))[0],
        h(flat) @ ravel_pytree(v)[0],
        rtol=1e-4, atol=1e-6,
    )  # fmt: skip
    value, slope = autograd.jvp(MODEL, PARAMS, v, X)
    cotangent = jnp.sin(jnp.arange(10.0)).reshape(5, 2)
    same, grads = autograd.vjp(MODEL, PARAMS, cotangent, X)
    np.testing.assert_array_equal(value, same)
    inner = sum(float(jnp.vdot(a, b)) for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(v), strict=True))
    np.testing.assert_allclose(inner, jnp.vdot(cotangent, slope), rtol=1e-5)
    with pytest.raises(ValueError, match="cotangent must have.*the array"):
        autograd.vjp(MODEL, PARAMS, cotangent[0], X)
    with pytest.raises(ValueError, match=r"direction must have.*fc2"):
        autograd.hvp(loss, PARAMS, {"fc1": v["fc1"]}, X)


def test_gradients_of_examples_average_to_the_batchs():
    y = jnp.arange(5.0)

    def fit(params, x, y):
        return jnp.mean((MODEL(params, x)[:, 0] - y) ** 2)

    grads = autograd.per_example(fit, "fc1.*")(PARAMS, X, y)
    assert grads["fc1"]["weight"].shape == (5, 3, 4)
    mean = jax.tree.map(lambda g: g.mean(0), grads)
    np.testing.assert_allclose(mean["fc1"]["weight"], jax.grad(fit)(PARAMS, X, y)["fc1"]["weight"], rtol=1e-5)
    with pytest.raises(ValueError, match="one first axis"):
        autograd.per_example(fit)(PARAMS, X, y[:3])


@jax.custom_vjp
def wrong_in_one(x):
    return x**3


wrong_in_one.defvjp(lambda x: (x**3, x), lambda x, g: ((3 * x**2 * g).at[7].multiply(1 + 1e-5),))


@jax.custom_jvp
def wrong_forward(x):
    return x**2


wrong_forward.defjvp(lambda primals, tangents: (primals[0] ** 2, 2.001 * primals[0] * tangents[0]))


def test_the_check_passes_what_is_right_and_names_what_is_wrong():
    report = autograd.check_gradients(MODEL, PARAMS, X)
    assert report and len(report.rows) == 4 * 2 * 2 and "all derivatives agree" in str(report)
    params = {"good": jnp.linspace(0.5, 1, 9), "bad": jnp.linspace(0.5, 1, 900)}
    report = autograd.check_gradients(lambda p: wrong_in_one(p["bad"]), params, selector="bad", modes=["reverse"])
    assert len(report.failed) == 2, "one element of 900 is wrong by 1e-5 of itself"
    report = autograd.check_gradients(lambda p: jnp.sum(p["good"] ** 2) + wrong_forward(p["bad"]).sum(), params)
    assert not report and {row.name for row in report.failed} == {"bad"}
    assert "bad" in str(report).splitlines()[1] and "4 of 8 derivatives differ" in str(report)


def test_one_wrong_element_among_hundreds_shows():
    def f(p):
        return jnp.sum(jnp.where(jnp.arange(900) == 7, jax.lax.stop_gradient(1e-5 * p) + p, p) ** 2)

    assert not autograd.check_gradients(f, jnp.linspace(0.5, 1, 900))
    with pytest.raises(TypeError, match="no leaf"):
        autograd.check_gradients(lambda p: 1.0, jnp.arange(3))
    with pytest.raises(TypeError, match="returns no floats"):
        autograd.check_gradients(lambda p: jnp.argmax(p), jnp.ones(3))
    assert not autograd.check_gradients(lambda p: jnp.sum(jnp.sqrt(p)), jnp.array([-1.0, 1.0])), "NaN is no agreement"
    with pytest.raises(ValueError, match="modes="):
        autograd.check_gradients(jnp.sum, jnp.ones(2), modes=["backward"])
