"""Rules for matrices: Muon, SOAP and Shampoo, against PyTorch and their papers."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from optim_oracles import (
    MATRICES,
    ORACLE,
    SHAPES,
    assert_close,
    compiled,
    draw,
    gradients,
    run,
    run_numpy,
    run_torch,
)

from fnet import optim
from fnet.tree import HOLE, named

# Muon


@pytest.mark.parametrize("adjust", ["original", "match_rms_adamw"])
@pytest.mark.parametrize("nesterov", [True, False])
def test_muon_equals_torch_when_both_iterate_in_float64(x64, monkeypatch, adjust, nesterov):
    torch = pytest.importorskip("torch", reason=ORACLE)
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda tensor: tensor.clone())
    config = {"lr": 0.02, "weight_decay": 0.2, "momentum": 0.9, "nesterov": nesterov, "adjust_lr_fn": adjust}
    params, grads = draw(5, MATRICES), gradients(6, MATRICES)
    expected = run_torch(lambda torch: functools.partial(torch.optim.Muon, **config), params, grads, transpose=True)
    assert_close(run(optim.muon(**config, ns_dtype=None), params, grads)[0], expected)
    assert_close(run(optim.muon(**config, ns_dtype="float64"), params, grads)[0], expected)


def test_muon_in_bfloat16_is_torchs_up_to_its_rounding():
    params, grads = draw(5, MATRICES), gradients(6, MATRICES, steps=5)
    config = {"lr": 0.1, "weight_decay": 0.0}
    expected = run_torch(lambda torch: functools.partial(torch.optim.Muon, **config), params, grads, transpose=True)
    opt = optim.muon(**config)
    # Five updates of 0.1 · √max(1, out/in); bfloat16 has 8 bits, and five iterations multiply their error.
    got, exact = run(opt, params, grads)[0], run(optim.muon(**config, ns_dtype=None), params, grads)[0]
    assert_close(got, expected, 5 * 0.1 * 0.03)
    assert any(np.abs(got[name] - exact[name]).max() > 1e-4 for name in exact)  # it does run in bfloat16


def test_muon_takes_a_kernel_as_a_matrix_of_its_inputs(x64):
    params, grads = draw(7, {"conv": (2, 1, 3, 4)}), gradients(8, {"conv": (2, 1, 3, 4)}, steps=3)
    as_matrix = functools.partial(jax.tree.map, lambda x: x.reshape(6, 4))
    opt = optim.muon(0.1, ns_dtype=None)
    got, expected = run(opt, params, grads)[0], run(opt, as_matrix(params), as_matrix(grads))[0]
    assert_close(as_matrix(got), expected)


@pytest.mark.parametrize("shape", [(3, 8), (8, 3), (5, 5)])
def test_muon_moves_along_the_nearest_orthogonal_matrix(x64, shape):
    """With coefficients whose iteration converges, the step is the polar factor U Vᵀ of the gradient."""
    g = np.random.default_rng(0).standard_normal(shape)
    u, _, vt = np.linalg.svd(g, full_matrices=False)
    opt = optim.muon(1.0, weight_decay=0.0, ns_coefficients=(1.875, -1.25, 0.375), ns_steps=40, ns_dtype=None)
    after, _ = opt.update({"w": jnp.asarray(g)}, opt.init({"w": jnp.zeros(shape)}), {"w": jnp.zeros(shape)})
    np.testing.assert_allclose(-after["w"], np.sqrt(max(1, shape[1] / shape[0])) * u @ vt, atol=1e-12)


def test_muon_says_who_takes_what_is_no_matrix():
    with pytest.raises(ValueError, match=r"'bias' \(2 in all\) has shape \(4,\).*optim.groups\(\{'bias': optim.adamw"):
        optim.muon().init(draw(0))
    with pytest.raises(ValueError, match=r"muon is for matrices, and 'b' .* has shape \(3,\) in a layer"):
        optim.muon(stacked="*").init({"b": jnp.ones((2, 3))})
    opt = optim.groups({("bias", "scale"): optim.adamw(), "*": optim.muon()})
    params = draw(0)
    after, state = compiled(opt)(params, opt.init(params), params)
    assert state["momentum"]["bias"] is HOLE and state["mu"]["square"] is HOLE
    assert all(np.any(after[name] != params[name]) for name in params)


# SOAP


def soap_step(freq, longest, lr=0.02, b1=0.9, b2=0.8, shampoo=0.8, eps=1e-8, decay=0.1):
    """A transcription of the authors' code, its averages kept in the rotated coordinates as there."""

    def there(x, bases):
        for axis, q in enumerate(bases):
            x = x if q is None else np.moveaxis(np.tensordot(x, q, axes=[[axis], [0]]), -1, axis)
        return x

    def back(x, bases):
        return there(x, [None if q is None else q.T for q in bases])

    def step(p, g, t, s):
        shape = p.shape
        if p.ndim > 1:
            p, g = p.reshape(-1, shape[-1]), g.reshape(-1, shape[-1])
        wanted = [axis for axis in range(p.ndim) if p.ndim > 1 and p.shape[axis] <= longest]

        def gather():
            for axis in wanted:
                others = [a for a in range(p.ndim) if a != axis]
                s["gg"][axis] = shampoo * s["gg"][axis] + (1 - shampoo) * np.tensordot(g, g, axes=[others, others])

        if t == 1:
            s.update(m=np.zeros_like(p), v=np.zeros_like(p), gg={a: np.zeros((p.shape[a],) * 2) for a in wanted})
            gather()
            s["q"] = [np.linalg.eigh(s["gg"][a])[1][:, ::-1] if a in wanted else None for a in range(p.ndim)]
            return p.reshape(shape)
        count = t - 1
        rotated = there(g, s["q"])
        s["m"] = b1 * s["m"] + (1 - b1) * rotated
        s["v"] = b2 * s["v"] + (1 - b2) * rotated**2
        size = lr * np.sqrt(1 - b2**count) / (1 - b1**count)
        p = p - size * back(s["m"] / (np.sqrt(s["v"]) + eps), s["q"])
        p = p - lr * decay * p
        m = back(s["m"], s["q"])
        gather()
        if count % freq == 0:
            for axis in wanted:
                q, gg = s["q"][axis], s["gg"][axis]
                order = np.argsort(-np.diag(q.T @ gg @ q))
                s["v"] = np.take(s["v"], order, axis)
                s["q"][axis] = np.linalg.qr(gg @ q[:, order])[0]
        s["m"] = there(m, s["q"])
        return p.reshape(shape)

    return step


# A side much longer than the other has a null space at first, where any basis is right: such sides are left out.
SOAP_SHAPES = {"conv": (2, 2, 1, 4), "square": (4, 4), "near": (3, 4), "tall": (7, 3), "bias": (4,), "scale": ()}


def test_soap_averages_its_matrices_as_b2_unless_told_otherwise():
    params = {"w": jnp.ones((2, 2))}
    default, told = optim.soap(betas=(0.9, 0.8)), optim.soap(betas=(0.9, 0.99), shampoo_beta=0.8)
    sides = [compiled(opt)(params, opt.init(params), params)[1]["left"]["w"] for opt in (default, told)]
    np.testing.assert_array_equal(*sides)


@pytest.mark.parametrize(("freq", "longest"), [(1, 4), (3, 3)])
def test_soap_follows_its_reference(x64, freq, longest):
    params, grads = draw(9, SOAP_SHAPES), gradients(10, SOAP_SHAPES)
    opt = optim.soap(
        0.02, (0.9, 0.8), weight_decay=0.1, shampoo_beta=0.8, precondition_frequency=freq, max_precond_dim=longest
    )
    expected = run_numpy(soap_step(freq, longest), params, grads)
    assert_close(run(opt, params, grads)[0], expected, 1e-8)  # bases amplify rounding by the inverse of their gaps


def test_soap_keeps_orthonormal_bases_and_leaves_out_long_sides():
    params, grads = draw(11), gradients(12, steps=12)
    _, state = run(optim.soap(precondition_frequency=2, max_precond_dim=5), params, grads)
    assert {name for name, _ in named(state["left_basis"])} == {"square", "wide"}
    assert {name for name, _ in named(state["right_basis"])} == {"conv", "square", "tall", "wide"}
    for side in ("left_basis", "right_basis"):
        for _, q in named(state[side]):
            np.testing.assert_allclose(q.T @ q, np.eye(len(q)), atol=1e-5)


# Shampoo


def shampoo_step(freq, longest, momentum, beta2, graft, lr=0.05, eps=1e-3, decay=0.1):
    """Algorithms 1 and 2 their roots by singular values; a side above ``longest`` has a diagonal."""

    def step(p, g, t, s):
        shape = p.shape
        view = (-1, shape[-1]) if p.ndim > 1 else (-1,)
        mean = g if not momentum else momentum * s.get("mean", 0) + (1 - momentum) * g
        s["mean"] = mean
        full, out = g.reshape(view), mean.reshape(view)
        keep, new = (1, 1) if beta2 is None else (beta2, 1 - beta2)
        mass = 1 if beta2 is None else 1 - beta2**t
        for axis in range(full.ndim):
            others = [a for a in range(full.ndim) if a != axis]
            gg = np.tensordot(full, full, axes=[others, others])
            gg = gg if len(gg) <= longest else np.diag(np.diag(gg))
            s[axis] = keep * s.get(axis, 0) + new * gg
            if (t - 1) % freq == 0:
                ridge = s[axis] / mass + eps * np.eye(len(gg))
                u, sizes, vt = np.linalg.svd(ridge)
                s["root", axis] = u * sizes ** (-1 / (2 * full.ndim)) @ vt
            out = np.moveaxis(np.tensordot(s["root", axis], out, axes=[[1], [axis]]), 0, axis)
        out = out.reshape(shape)
        s["square"] = keep * s.get("square", 0) + new * g * g
        if graft == "sgd":
            out = out * np.linalg.norm(mean.ravel()) / np.linalg.norm(out.ravel())
        if graft == "diagonal":
            length = np.linalg.norm((mean / np.sqrt(s["square"] / mass + eps)).ravel())
            out = out * length / np.linalg.norm(out.ravel())
        return (1 - lr * decay) * p - lr * out

    return step


@pytest.mark.parametrize(
    ("freq", "longest", "momentum", "beta2", "graft"),
    [(1, 100, 0.0, None, None), (3, 4, 0.9, 0.9, None), (2, 3, 0.9, 0.95, "sgd"), (4, 5, 0.5, None, "diagonal")],
)
def test_shampoo_follows_the_paper(x64, freq, longest, momentum, beta2, graft):
    shapes = {name: SHAPES[name] for name in ("conv", "wide", "bias", "scale")}
    params, grads = draw(13, shapes), gradients(14, shapes)
    opt = optim.shampoo(
        0.05, momentum, beta2, eps=1e-3, weight_decay=0.1, graft=graft, precondition_frequency=freq,
        max_precond_dim=longest,
    )  # fmt: skip
    expected = run_numpy(shampoo_step(freq, longest, momentum, beta2, graft), params, grads)
    assert_close(run(opt, params, grads)[0], expected, 1e-9)  # roots of matrices of condition 1e7


def test_shampoo_on_diagonals_alone_is_adagrad_for_vectors(x64):
    params, grads = draw(1, {"b": (4,)}), gradients(2, {"b": (4,)})
    got, _ = run(optim.shampoo(0.1, eps=1e-20, max_precond_dim=1, precondition_frequency=1), params, grads)
    expected, _ = run(optim.adagrad(0.1, eps=0.0), params, grads)
    assert_close(got, expected)


# What they are for, and what they refuse


def test_they_solve_what_is_badly_scaled():
    """Least squares ‖A W B - C‖² with condition 1e4 on both sides together: preconditioners need no tuning for it."""
    rng = np.random.default_rng(0)

    def bad(n):
        q, _ = np.linalg.qr(rng.standard_normal((n, n)))
        return jnp.asarray(q * np.geomspace(1, 0.1, n) @ q.T, jnp.float32)

    a, b = bad(8), bad(6)
    c = a @ jnp.asarray(rng.standard_normal((8, 6)), jnp.float32) @ b

    def loss(params):
        return jnp.sum((a @ params["w"] @ b - c) ** 2)

    def reached(opt, steps=150):
        def step(carry, _):
            params, state = carry
            return opt.update(jax.grad(loss)(params), state, params), None

        start = {"w": jnp.zeros((8, 6))}
        (params, _), _ = jax.jit(lambda c: jax.lax.scan(step, c, None, steps))((start, opt.init(start)))
        return float(loss(params) / loss(start))

    fall = functools.partial(optim.linear, end=0.0, steps=150)
    adam = reached(optim.adam(fall(0.1)))
    soap = reached(optim.soap(fall(0.1), weight_decay=0.0, precondition_frequency=5))
    shampoo = reached(optim.shampoo(fall(1.0), precondition_frequency=1))
    muon = reached(optim.muon(fall(0.3), weight_decay=0.0))
    assert soap < 0.3 * adam and shampoo < 0.3 * adam and muon < adam < 0.05, (adam, soap, shampoo, muon)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: optim.muon(adjust_lr_fn="rms"), ValueError, 'must be "original" or "match_rms_adamw", got \'rms\''),
        (lambda: optim.muon(ns_steps=0), ValueError, "ns_steps must be an integer from 1 to 99, got 0"),
        (lambda: optim.muon(ns_coefficients=(1.0, 2.0)), ValueError, "ns_coefficients must be three numbers"),
        (lambda: optim.muon(momentum=1.0), ValueError, "muon: momentum must be in [0, 1), got 1.0"),
        (lambda: optim.soap(betas=(0.9,)), TypeError, "soap: betas must be a pair"),
        (lambda: optim.soap(precondition_frequency=0), ValueError, "precondition_frequency must be an integer of at"),
        (lambda: optim.shampoo(max_precond_dim=1.5), ValueError, "max_precond_dim must be an integer of at least 1"),
        (lambda: optim.shampoo(graft="adam"), ValueError, 'graft must be None, "sgd" or "diagonal", got \'adam\''),
    ],
)
def test_bad_configurations_are_named(make, error, message):
    with pytest.raises(error) as raised:
        make()
    assert message in str(raised.value)
