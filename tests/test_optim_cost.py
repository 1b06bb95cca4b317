"""Clipping, and what the optimizers cost once compiled."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnet import optim

PARAMS = {
    "body": {"weight": jnp.linspace(-1, 1, 6).reshape(2, 3), "bias": jnp.zeros(3)},
    "head": {"weight": jnp.linspace(0, 1, 3)},
}
GRADS = jax.tree.map(lambda p: jnp.cos(p) + 0.5, PARAMS)


@pytest.mark.parametrize("size", [1e-8, 0.1, 30.0, 1e6])
def test_clip_equals_torch_and_the_exact_form(size):
    torch = pytest.importorskip("torch", reason="parity tests need the oracle extra: pip install fnet[oracle]")
    with jax.enable_x64(True):
        grads = jax.tree.map(lambda g: size * g.astype("float64"), GRADS)
        params = jax.tree.map(jnp.zeros_like, grads)
        tensors = [torch.nn.Parameter(torch.tensor(np.zeros(g.shape))) for g in jax.tree.leaves(grads)]
        for tensor, g in zip(tensors, jax.tree.leaves(grads), strict=True):
            tensor.grad = torch.tensor(np.array(g))
        norm = torch.nn.utils.clip_grad_norm_(tensors, 0.7)
        np.testing.assert_allclose(optim.global_norm(grads), float(norm), rtol=1e-12)
        opt = optim.clip_by_global_norm(optim.sgd(1.0), 0.7)
        after, _ = opt.update(grads, opt.init(params), params)
        for p, tensor in zip(jax.tree.leaves(after), tensors, strict=True):
            np.testing.assert_allclose(-p, tensor.grad, rtol=1e-12)
        exact, _ = optim.clip_by_global_norm(optim.sgd(1.0), 0.7, eps=0.0).update(grads, opt.init(params), params)
        np.testing.assert_allclose(optim.global_norm(exact), min(float(norm), 0.7), rtol=1e-12)


def test_clip_of_zero_and_of_bfloat16():
    opt = optim.clip_by_global_norm(optim.sgd(1.0), 1.0, eps=0.0)
    zero = jax.tree.map(jnp.zeros_like, PARAMS)
    after, _ = opt.update(zero, opt.init(PARAMS), PARAMS)
    assert jax.tree.all(jax.tree.map(np.array_equal, after, PARAMS))
    wide = {"w": jnp.full(10_000, 0.1, "bfloat16")}  # summed in bfloat16 the norm would stop growing
    assert float(optim.global_norm(wide)) == pytest.approx(10.01, rel=1e-3)
    assert float(optim.global_norm({})) == 0.0


def hand_written(params, state, lr=3e-4, b1=0.9, b2=0.999, eps=1e-8, decay=1e-2):
    grads = jax.grad(lambda p: jnp.mean((jnp.tanh(jnp.ones((8, 64)) @ p["a"]) @ p["b"]) ** 2))(params)
    t = state["step"] + 1
    mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state["mu"], grads)
    nu = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, state["nu"], grads)
    c1, c2 = 1 - b1**t, 1 - b2**t
    new = jax.tree.map(lambda p, m, v: p - lr * ((m / c1) / (jnp.sqrt(v / c2) + eps) + decay * p), params, mu, nu)
    return new, {"step": t, "mu": mu, "nu": nu}


def test_adamw_compiles_to_no_more_than_the_same_step_by_hand():
    params = {"a": jnp.ones((64, 64)), "b": jnp.ones((64, 64))}
    opt = optim.adamw(3e-4)
    state = opt.init(params)

    def step(params, state):
        grads = jax.grad(lambda p: jnp.mean((jnp.tanh(jnp.ones((8, 64)) @ p["a"]) @ p["b"]) ** 2))(params)
        return opt.update(grads, state, params)

    def cost(f, *args):
        compiled = jax.jit(f).lower(*args).compile()
        return compiled.cost_analysis(), compiled.as_text()

    ours, text = cost(step, params, state)
    theirs, by_hand = cost(hand_written, params, {slot: state[slot] for slot in ("step", "mu", "nu")})
    scalars = 64  # the bias corrections, once a step
    assert ours["flops"] <= theirs["flops"] + scalars
    assert ours["bytes accessed"] <= theirs["bytes accessed"] + 4 * scalars * 10
    for operation in ("dot(", " fusion(", "sqrt("):
        assert text.count(operation) <= by_hand.count(operation) + 1, operation


def test_sgd_costs_what_it_costs_by_hand():
    params = {"a": jnp.ones((64, 64)), "b": jnp.ones((64, 32))}
    opt = optim.sgd(0.1)

    def flops(f, *args):
        return jax.jit(f).lower(*args).compile().cost_analysis()["flops"]

    ours = flops(opt.update, params, opt.init(params), params)
    by_hand = flops(lambda g, p: jax.tree.map(lambda g, p: p - 0.1 * g, g, p), params, params)
    assert ours <= by_hand + 8


def test_init_compiles_nothing():
    """A program for each shape would take seconds on a model of a hundred shapes."""
    compiled = []

    def listen(event, duration, **_):
        if "backend_compile" in event:
            compiled.append(event)

    params = {str(n): jnp.asarray(np.ones((n, n + 1), np.float32)) for n in range(2, 40)}
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        optim.adam().init(params)
        assert not compiled
        jnp.zeros((61, 67))
        assert compiled  # the listener does listen
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
