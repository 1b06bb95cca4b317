"""Run an optimizer, and the library or the paper it is held against, on the same random trees and gradients."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

ORACLE = "parity tests need the oracle extra: pip install fnet[oracle]"
STEPS = 50
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}  # to compile
SHAPES = {"conv": (2, 1, 3, 4), "wide": (3, 5), "tall": (6, 2), "square": (4, 4), "bias": (4,), "scale": ()}
MATRICES = {name: shape for name, shape in SHAPES.items() if len(shape) == 2}


def draw(seed, shapes=SHAPES, scale=1.0):
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(scale * rng.standard_normal(shape), float) for name, shape in shapes.items()}


def gradients(seed, shapes=SHAPES, steps=STEPS):
    """Gradients whose size changes from step to step and from leaf to leaf."""
    rng = np.random.default_rng(seed)
    sizes = 10 ** rng.uniform(-2, 1, steps)
    return [draw(seed + 1000 * (k + 1), shapes, size) for k, size in enumerate(sizes)]


@functools.cache
def compiled(opt):
    return jax.jit(opt.update, compiler_options=QUICK)


def run(opt, params, grads):
    opt_state = opt.init(params)
    for g in grads:
        params, opt_state = compiled(opt)(g, opt_state, params)
    return params, opt_state


def run_optax(tx, params, grads):
    @jax.jit
    def step(g, state, params):
        updates, state = tx.update(g, state, params)
        return jax.tree.map(lambda p, u: p + u, params, updates), state

    state = tx.init(params)
    for g in grads:
        params, state = step(g, state, params)
    return params


def run_torch(make, params, grads, transpose=False):
    torch = pytest.importorskip("torch", reason=ORACLE)
    turn = (lambda x: np.array(x).T.copy()) if transpose else np.array
    tensors = {name: torch.tensor(turn(p), requires_grad=True) for name, p in params.items()}
    opt = make(torch)(list(tensors.values()))
    for g in grads:
        for name, tensor in tensors.items():
            tensor.grad = torch.tensor(turn(g[name]))
        opt.step()
    return {name: turn(tensor.detach().numpy()) for name, tensor in tensors.items()}


def run_numpy(step, params, grads):
    """``step(p, g, t, memory) -> p`` at each leaf, ``memory`` a dict that it may fill."""
    out = {}
    for name, p in params.items():
        p, memory = np.array(p), {}
        for t, g in enumerate(grads, start=1):
            p = step(p, np.array(g[name]), t, memory)
        out[name] = p
    return out


def assert_close(got, expected, tolerance=1e-10):
    assert set(got) == set(expected)
    for name in got:
        size = np.abs(expected[name]).max(initial=1e-30)
        np.testing.assert_allclose(got[name] / size, expected[name] / size, rtol=0, atol=tolerance, err_msg=name)
