"""Rules that see a whole layer: LAMB, LARS, Adafactor, Muon, SOAP and Shampoo, against libraries and their papers."""

from __future__ import annotations

import functools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

import fnet
from fnet import optim
from fnet.tree import HOLE, named

ORACLE = "parity tests need the oracle extra: pip install fnet[oracle]"
STEPS = 50
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
    return jax.jit(opt.update)


def run(opt, params, grads, update=None):
    opt_state = opt.init(params)
    for g in grads:
        params, opt_state = (update or compiled(opt))(g, opt_state, params)
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


rates = st.floats(-4, -1).map(lambda e: 10.0**e)
off_or = st.one_of(st.just(0.0), st.floats(0.0, 0.5))
seeds = st.integers(0, 1000)
few = settings(max_examples=3)  # each compiles, and each has 50 steps

# LAMB and LARS


@few
@given(lr=rates, betas=st.tuples(st.floats(0.5, 0.95), st.floats(0.9, 0.999)), weight_decay=off_or, seed=seeds)
def test_lamb_equals_optax(lr, betas, weight_decay, seed):
    optax = pytest.importorskip("optax", reason=ORACLE)
    with jax.enable_x64(True):
        params, grads = {**draw(seed), "zero": jnp.zeros(3)}, gradients(seed)
        grads = [{**g, "zero": g["square"][0, :3]} for g in grads]
        got, _ = run(optim.lamb(lr, betas, weight_decay=weight_decay), params, grads)
        expected = run_optax(optax.lamb(lr, *betas, weight_decay=weight_decay), params, grads)
        assert_close(got, expected)


@few
@given(lr=rates, momentum=st.floats(0.1, 0.95), weight_decay=off_or, eps=off_or, nesterov=st.booleans(), seed=seeds)
def test_lars_equals_optax(lr, momentum, weight_decay, eps, nesterov, seed):
    optax = pytest.importorskip("optax", reason=ORACLE)
    with jax.enable_x64(True):
        params, grads = {**draw(seed), "zero": jnp.zeros(3)}, gradients(seed)
        grads = [{**g, "zero": g["square"][0, :3]} for g in grads]
        opt = optim.lars(lr, momentum, weight_decay, 0.02, eps, nesterov, joint_norm=True)
        tx = optax.lars(lr, weight_decay, trust_coefficient=0.02, eps=eps, momentum=momentum, nesterov=nesterov)
        assert_close(run(opt, params, grads)[0], run_optax(tx, params, grads))


@pytest.mark.parametrize(("momentum", "weight_decay"), [(0.9, 0.1), (0.0, 0.0), (0.5, 0.3)])
def test_lars_follows_the_paper(x64, momentum, weight_decay):
    def step(p, g, t, memory):  # Algorithm 1, the local rate by equation (6)
        local = (
            0.02 * np.linalg.norm(p.ravel()) / (np.linalg.norm(g.ravel()) + weight_decay * np.linalg.norm(p.ravel()))
        )
        memory["v"] = momentum * memory.get("v", 0) + 0.3 * local * (g + weight_decay * p)
        return p - memory["v"]

    params, grads = draw(1), gradients(2)
    opt = optim.lars(0.3, momentum, weight_decay, trust_coefficient=0.02)
    assert_close(run(opt, params, grads)[0], run_numpy(step, params, grads))


# Adafactor


@few
@given(
    lr=st.sampled_from([0.5, 0.05, 1e-3]),
    decay=st.floats(-1.0, -0.1),
    eps=st.sampled_from([(None, 1e-3), (1e-3, 0.5), (0.3, 1e-2)]),
    d=st.floats(1.0, 2.0),
    weight_decay=off_or,
    maximize=st.booleans(),
    seed=seeds,
)
def test_adafactor_equals_torch(lr, decay, eps, d, weight_decay, maximize, seed):
    config = {"lr": lr, "beta2_decay": decay, "eps": eps, "d": d, "weight_decay": weight_decay, "maximize": maximize}
    with jax.enable_x64(True):
        params, grads = draw(seed), gradients(seed)
        expected = run_torch(lambda torch: functools.partial(torch.optim.Adafactor, **config), params, grads)
        assert_close(run(optim.adafactor(**config), params, grads)[0], expected)


@pytest.mark.parametrize(("least", "scale", "beta1"), [(2, True, 0.0), (4, False, 0.9), (None, True, 0.9)])
def test_adafactor_equals_optax(x64, least, scale, beta1):
    optax = pytest.importorskip("optax", reason=ORACLE)
    # optax.adafactor link by link, with its decay in float64: there t^-0.8 is rounded to float32.
    links = [
        optax.scale_by_factored_rms(
            min_dim_size_to_factor=128 if least is None else least,
            decay_rate_fn=lambda i, exponent: 1.0 - jnp.asarray(i + 1, jnp.float64) ** -exponent,
        ),
        optax.clip_by_block_rms(0.9),
        optax.scale(0.05),
        *([optax.scale_by_param_block_rms(1e-3)] if scale else []),
        *([optax.ema(beta1, debias=False, accumulator_dtype=jnp.float64)] if beta1 else []),
        optax.add_decayed_weights(0.01),
        optax.scale(-1.0),
    ]
    opt = optim.adafactor(
        0.05, d=0.9, weight_decay=0.01, beta1=beta1, semantics="optax", scale_parameter=scale,
        min_dim_size_to_factor=least,
    )  # fmt: skip
    shapes = {**SHAPES, "large": (130, 2, 129)}
    params, grads = draw(3, shapes), gradients(4, shapes)
    assert_close(run(opt, params, grads)[0], run_optax(optax.chain(*links), params, grads))
    assert (opt.init(params)["nu"]["square"] is HOLE) == (least is not None)
    assert opt.init(params)["row"]["large"].shape == (2, 129) and opt.init(params)["col"]["large"].shape == (130, 2)


def test_adafactor_keeps_only_rows_and_columns():
    state = optim.adafactor().init(draw(0))
    assert state["row"]["conv"].shape == (2, 1, 3) and state["col"]["conv"].shape == (2, 1, 4)
    assert state["nu"]["conv"] is HOLE and state["row"]["bias"] is HOLE and state["nu"]["scale"].shape == ()


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
    """Algorithms 1 and 2 with the matrix power of scipy; a side above ``longest`` has a diagonal."""

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
                s["root", axis] = np.real(scipy.linalg.fractional_matrix_power(ridge, -1 / (2 * full.ndim)))
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


# Stacked layers


def stacked_rules():
    selector = {"stacked": ("blocks.*",)}
    yield "lamb", lambda **s: optim.lamb(0.1, weight_decay=0.1, **s), selector
    yield "lars", lambda **s: optim.lars(0.1, weight_decay=0.1, **s), selector
    yield "adafactor", lambda **s: optim.adafactor(0.1, beta1=0.9, **s), selector
    yield "adafactor optax", lambda **s: optim.adafactor(semantics="optax", min_dim_size_to_factor=3, **s), selector
    yield "muon", lambda **s: optim.muon(0.1, ns_dtype=None, **s), {"stacked": "blocks.*"}
    yield "soap", lambda **s: optim.soap(0.1, precondition_frequency=2, max_precond_dim=4, **s), selector
    yield "shampoo", lambda **s: optim.shampoo(0.1, momentum=0.9, graft="diagonal", **s), selector


every_stacked_rule = pytest.mark.parametrize(
    ("make", "selector"), [pytest.param(make, s, id=name) for name, make, s in stacked_rules()]
)


def layers_of(tree):
    """A tree with ``blocks.0 …`` in place of one with a leading axis under ``blocks``."""
    return {"blocks": [jax.tree.map(lambda x, i=i: x[i], tree["blocks"]) for i in range(3)], "head": tree["head"]}


def stacked_tree(seed, vectors):
    shapes = {"conv": (3, 1, 2, 2, 4), **({"bias": (3, 4), "scale": (3,)} if vectors else {})}
    return {"blocks": draw(seed, shapes), "head": draw(seed + 1, {"fc": (4, 3)})}


@every_stacked_rule
def test_stacked_layers_are_as_separate_layers(x64, make, selector):
    vectors = not isinstance(make(), optim.muon)
    trees = [stacked_tree(seed, vectors) for seed in range(6)]
    stacked, separate = make(**selector), make()
    update = jax.jit(stacked.update)
    got, state = run(stacked, trees[0], trees[1:], update)
    expected, apart = run(separate, layers_of(trees[0]), [layers_of(g) for g in trees[1:]], jax.jit(separate.update))
    assert_close(dict(named(layers_of(got))), dict(named(expected)), 1e-9)
    for slot in stacked.slots:
        shapes = {name: x.shape for name, x in named(layers_of(state[slot]))}
        assert shapes == {name: x.shape for name, x in named(apart[slot])}, slot
    whole, _ = run(make(), trees[0], trees[1:], jax.jit(make().update)) if vectors else (None, None)
    if whole is not None:  # an unmarked stack is one parameter, and that is something else
        assert any(not np.allclose(a, b) for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(got), strict=True))


def test_decompositions_run_only_when_they_are_due():
    """Under vmap over layers a branch must stay a branch, else every step would pay for an eigendecomposition."""
    params = {"blocks": {"fc": jnp.ones((3, 4, 4))}, "fc": jnp.ones((4, 4))}

    def outside_branches(jaxpr):
        names = []
        for eqn in jaxpr.eqns:
            names.append(eqn.primitive.name)
            if eqn.primitive.name != "cond":
                for value in eqn.params.values():
                    inner = getattr(value, "jaxpr", None)
                    names += outside_branches(inner) if hasattr(inner, "eqns") else []
        return names

    for opt in (optim.soap(stacked="blocks.*"), optim.shampoo(stacked="blocks.*")):
        names = outside_branches(jax.make_jaxpr(opt.update)(params, opt.init(params), params).jaxpr)
        assert "cond" in names and not {"eigh", "qr", "geqrf", "householder_product"} & set(names)


def test_selectors_of_stacks_are_checked_and_named():
    params = {"blocks": {"fc": jnp.ones((3, 2, 2))}, "scale": jnp.ones(())}
    with pytest.raises(ValueError, match=r"'block.\*' matches none of the 2 names.*'blocks.fc'"):
        optim.lamb(stacked="block.*").init(params)
    with pytest.raises(ValueError, match=r"lamb: stacked='\*' matches 'scale', a scalar"):
        optim.lamb(stacked="*").init(params)
    optim.lamb(stacked=fnet.tree.optional("block.*")).init(params)
    opt = optim.lamb(stacked=["blocks.*"])
    assert opt == optim.lamb(stacked=("blocks.*",)) and hash(opt) == hash(pickle.loads(pickle.dumps(opt)))
    assert repr(opt).endswith("stacked=('blocks.*',))") and "stacked" not in repr(optim.lamb())
    for rule in (opt, optim.muon(ns_dtype=jnp.float32), optim.adafactor(stacked="a"), optim.soap(), optim.shampoo()):
        assert eval(repr(rule), vars(optim)) == rule


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
        (lambda: optim.adafactor(eps=1e-3), TypeError, "adafactor: eps must be a pair such as (None, 1e-3), got 0.001"),
        (lambda: optim.adafactor(beta2_decay=0.8), ValueError, "beta2_decay must not be above 0, got 0.8"),
        (lambda: optim.adafactor(semantics="keras"), ValueError, 'must be "torch" or "optax", got \'keras\''),
        (lambda: optim.adafactor(d=0.0), ValueError, "adafactor: d must be above 0"),
        (lambda: optim.lars(nesterov=True, momentum=0.0), ValueError, "lars: nesterov needs momentum > 0"),
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
