"""Rules that look at the whole tree: learning-rate-free, schedule-free, L-BFGS and SAM."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fnet
from fnet import functional as F
from fnet import nn, optim, train
from fnet.optim.line_search import Trial, strong_wolfe
from fnet.tree import HOLE, named

STEPS = 50
rate = st.floats(-3, 0).map(lambda e: 10.0**e)
off_or_small = st.one_of(st.just(0.0), st.floats(0.001, 0.2))
eps = st.floats(-9, -5).map(lambda e: 10.0**e)
betas = st.tuples(st.floats(0.5, 0.95), st.floats(0.95, 0.999))


def tree(seed, scale=1.0):
    rng = np.random.default_rng(seed)
    return {
        "stem": {
            "weight": jnp.asarray(scale * rng.standard_normal((3, 4))),
            "bias": jnp.asarray(rng.standard_normal(4)),
        },
        "blocks": [jnp.asarray(scale * rng.standard_normal((2, 2))), jnp.asarray(rng.standard_normal(()))],
    }


def gradients(seed):
    """Noise of many sizes around one direction, without which no rate would be found."""
    rng, drift = np.random.default_rng(seed), tree(seed)
    noise = [tree(seed * 1000 + t, 10 ** rng.uniform(-2, 0.3)) for t in range(STEPS)]
    return [jax.tree.map(lambda a, b: a + 2 * b, n, drift) for n in noise]


@functools.cache
def compiled(opt):
    return jax.jit(opt.update)


def run(opt, params, grads):
    state = opt.init(params)
    for g in grads:
        params, state = compiled(opt)(g, state, params)
    return params, state


def run_optax(opt, params, grads):
    optax = pytest.importorskip("optax", reason="parity tests need the oracle extra: pip install fnet[oracle]")
    state, update = opt.init(params), jax.jit(opt.update)
    for g in grads:
        updates, state = update(g, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def contrib():
    pytest.importorskip("optax", reason="parity tests need the oracle extra: pip install fnet[oracle]")
    from optax import contrib

    return contrib


def assert_close(a, b, tolerance=1e-10):
    a, b = dict(named(a)), dict(named(b))
    assert list(a) == list(b)
    for name in a:
        size = max(np.abs(b[name]).max(initial=0), 1e-30)
        np.testing.assert_allclose(np.asarray(a[name]) / size, np.asarray(b[name]) / size, atol=tolerance, rtol=0)


def flatten(grads):
    """A list of trees as rows of numbers."""
    return np.stack([np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(g)]) for g in grads])


# Learning-rate-free


@settings(max_examples=2)
@given(st.integers(0, 99), betas, eps, off_or_small, st.booleans(), st.one_of(st.none(), st.floats(0.8, 0.99)))
def test_prodigy_equals_optax(seed, betas, eps, decay, safeguard, beta3):
    both = {"betas": betas, "eps": eps, "weight_decay": decay, "beta3": beta3, "safeguard_warmup": safeguard}
    with jax.enable_x64(True):
        theirs = contrib().prodigy(0.7, estim_lr0=1e-3, estim_lr_coef=0.9, **both)
        ours = optim.prodigy(0.7, d0=1e-3, d_coef=0.9, use_bias_correction=True, **both)
        params, grads = tree(seed), gradients(seed + 1)
        got, state = run(ours, params, grads)
        expected, their_state = run_optax(theirs, params, grads)
        assert_close(got, expected)
        np.testing.assert_allclose(state["d"], their_state.estim_lr, rtol=1e-10)


@settings(max_examples=2)
@given(st.integers(0, 99), betas, eps, off_or_small)
def test_dadapt_adamw_equals_optax(seed, betas, eps, decay):
    both = {"betas": betas, "eps": eps, "weight_decay": decay}
    with jax.enable_x64(True):
        theirs = contrib().dadapt_adamw(0.7, estim_lr0=1e-3, **both)
        ours = optim.dadapt_adamw(0.7, d0=1e-3, use_bias_correction=True, **both)
        params, grads = tree(seed), gradients(seed + 1)
        got, state = run(ours, params, grads)
        expected, their_state = run_optax(theirs, params, grads)
        assert_close(got, expected)
        np.testing.assert_allclose(state["d"], their_state.estim_lr, rtol=1e-10)


def prodigy_paper(x, grads, gamma, b1, b2, eps, d):
    """Algorithm 4 of arXiv 2306.06101, its ε beside the new estimate as in the authors' code."""
    x0, r, s, m, v = x, 0.0, 0 * x, 0 * x, 0 * x
    for g in grads:
        m = b1 * m + (1 - b1) * d * g
        v = b2 * v + (1 - b2) * d**2 * g**2
        r = np.sqrt(b2) * r + (1 - np.sqrt(b2)) * gamma * d**2 * np.dot(g, x0 - x)
        s = np.sqrt(b2) * s + (1 - np.sqrt(b2)) * gamma * d**2 * g
        step, d = gamma * d, max(d, r / np.abs(s).sum())
        x = x - step * m / (np.sqrt(v) + d * eps)
    return x, d


def dadapt_adam_paper(x, grads, gamma, b1, b2, eps, d):
    """Algorithm 5 of arXiv 2301.07733."""
    r, s, m, v, root = 0.0, 0 * x, 0 * x, 0 * x, np.sqrt(b2)
    for g in grads:
        r = root * r + (1 - root) * gamma * d * np.dot(g, s / (np.sqrt(v) + eps))
        m = b1 * m + (1 - b1) * d * gamma * g
        v = b2 * v + (1 - b2) * g**2
        s = root * s + (1 - root) * gamma * d * g
        x = x - m / (np.sqrt(v) + eps)
        d = max(d, r / ((1 - root) * np.abs(s).sum()))
    return x, d


def dadapt_sgd_paper(x, grads, gamma, beta, d):
    """Algorithm 4 of arXiv 2301.07733."""
    z, s, total, norm = x, 0 * x, 0.0, np.linalg.norm(grads[0])
    for g in grads:
        step = d * gamma / norm
        total += step * np.dot(g, s)
        s, z = s + step * g, z - step * g
        x = beta * x + (1 - beta) * z
        d = max(d, 2 * total / np.linalg.norm(s))
    return x, d


@pytest.mark.parametrize(
    ("ours", "paper"),
    [
        (
            optim.prodigy(0.7, betas=(0.8, 0.95), eps=1e-6, d0=1e-3),
            lambda x, grads: prodigy_paper(x, grads, 0.7, 0.8, 0.95, 1e-6, 1e-3),
        ),
        (
            optim.dadapt_adamw(0.7, betas=(0.8, 0.95), eps=1e-6, d0=1e-3),
            lambda x, grads: dadapt_adam_paper(x, grads, 0.7, 0.8, 0.95, 1e-6, 1e-3),
        ),
        (optim.dadapt_sgd(0.7, d0=1e-3), lambda x, grads: dadapt_sgd_paper(x, grads, 0.7, 0.0, 1e-3)),
        (optim.dadapt_sgd(0.7, 0.8, d0=1e-3), lambda x, grads: dadapt_sgd_paper(x, grads, 0.7, 0.8, 1e-3)),
    ],
    ids=["prodigy", "dadapt_adamw", "dadapt_sgd", "dadapt_sgd momentum"],
)
def test_equal_the_papers(ours, paper):
    with jax.enable_x64(True):
        params, grads = tree(0), gradients(1)
        got, state = run(ours, params, grads)
        x, d = paper(flatten([params])[0], flatten(grads))
    np.testing.assert_allclose(flatten([got])[0], x, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(state["d"], d, rtol=1e-10)
    assert d > 1e-3, "the estimate grew, or this tests little"


@pytest.mark.parametrize("make", [optim.prodigy, optim.dadapt_adamw, optim.dadapt_sgd])
def test_the_estimate_survives_rates_and_gradients_of_zero(make):
    """A warm-up from 0 gives 0/0 for the estimate; so does a first batch without a gradient."""
    opt = make(optim.warmup(1.0, 2, start=0.0))
    params = {"w": jnp.array([3.0, -2.0])}
    _, state = run(opt, params, [{"w": jnp.zeros(2)}, *[params] * 3])
    assert float(state["d"]) >= np.float32(1e-6) and np.isfinite(float(state["d"]))


def test_each_group_has_its_own_estimate():
    opt = optim.groups({"a": optim.prodigy(d0=1e-2), "b": optim.prodigy(d0=1e-2), "c": None})
    params = {"a": jnp.ones(2), "b": 100 * jnp.ones(2), "c": jnp.ones(1)}
    state = opt.init(params)
    for _ in range(20):
        params, state = opt.update(params, state, params)
    assert set(state["d"]) == {"0", "1"} and float(state["d"]["1"]) > 2 * float(state["d"]["0"])
    assert state["start"]["c"] is HOLE


# Schedule-free


@settings(max_examples=2)
@given(st.integers(0, 99), rate, st.floats(0.5, 0.98), off_or_small, st.sampled_from([0.0, 1.0, 2.0]))
def test_schedule_free_sgd_equals_optax(seed, lr, b1, decay, power):
    lr = lr * 0.1
    with jax.enable_x64(True):
        theirs = contrib().schedule_free_sgd(lr, b1=b1, weight_decay=decay, weight_lr_power=power)
        ours = optim.schedule_free_sgd(lr, b1, decay, weight_lr_power=power)
        params, grads = tree(seed), gradients(seed + 1)
        got, state = run(ours, params, grads)
        expected, their_state = run_optax(theirs, params, grads)
        assert_close(got, expected)
        x = contrib().schedule_free_eval_params(their_state, expected)
        assert_close(ours.eval_params(state, got), x, 1e-9)  # divided by b1 after all steps


@settings(max_examples=2)
@given(st.integers(0, 99), rate, betas, eps, off_or_small)
def test_schedule_free_adamw_equals_optax(seed, lr, betas, eps, decay):
    with jax.enable_x64(True):
        theirs = contrib().schedule_free_adamw(lr, b1=betas[0], b2=betas[1], eps=eps, weight_decay=decay)
        ours = optim.schedule_free_adamw(lr, betas, eps, decay)
        params, grads = tree(seed), gradients(seed + 1)
        got, state = run(ours, params, grads)
        expected, their_state = run_optax(theirs, params, grads)
        assert_close(got, expected)
        assert_close(ours.eval_params(state, got), contrib().schedule_free_eval_params(their_state, expected), 1e-9)


def schedule_free_paper(z, grads, rates, b1, b2, eps, decay, r, power):
    """Algorithm 1 of arXiv 2405.15682, with x as a sequence of its own and weights t^r · (largest rate)^power."""
    x, v, total = z, 0 * z, 0.0
    for t, (g, lr) in enumerate(zip(grads, rates, strict=True), 1):
        y = (1 - b1) * z + b1 * x
        v = b2 * v + (1 - b2) * g**2
        z = z - lr * g / (np.sqrt(v / (1 - b2**t)) + eps) - lr * decay * y
        weight = t**r * max(rates[:t]) ** power
        total += weight
        c = weight / total if total else 0.0
        x = (1 - c) * x + c * z
    return x, (1 - b1) * z + b1 * x


def test_schedule_free_adamw_equals_the_paper():
    rates = [0.0, 0.01, 0.02, 0.03] + [0.025] * (STEPS - 4)
    opt = optim.schedule_free_adamw(lambda step: jnp.asarray(rates)[step], (0.8, 0.99), 1e-6, 0.1, r=1.0)
    with jax.enable_x64(True):
        params, grads = tree(0), gradients(1)
        got, state = run(opt, params, grads)
        shipped = opt.eval_params(state, got)
        x, y = schedule_free_paper(flatten([params])[0], flatten(grads), rates, 0.8, 0.99, 1e-6, 0.1, 1.0, 2.0)
        np.testing.assert_allclose(flatten([got])[0], y, rtol=1e-10, atol=1e-11)
        np.testing.assert_allclose(flatten([shipped])[0], x, rtol=1e-10, atol=1e-11)


def test_the_schedule_free_average_of_16_bit_parameters_is_kept_in_float32():
    """y moves by less than bfloat16 can show; x, recovered from it, would stand still."""
    opt = optim.schedule_free_sgd(1e-4, 0.9)
    grads = [{"w": jnp.full(2, -1.0)}] * 100
    narrow = {"w": jnp.ones(2, "bfloat16"), "v": jnp.zeros(1)}
    grads = [{**g, "v": jnp.zeros(1)} for g in grads]
    after, state = run(opt, narrow, grads)
    wide, wide_state = run(opt, {**narrow, "w": jnp.ones(2)}, grads)
    assert state["x"]["v"] is HOLE and wide_state["x"]["w"] is HOLE
    np.testing.assert_allclose(state["x"]["w"], opt.eval_params(wide_state, wide)["w"], rtol=1e-5)
    assert opt.eval_params(state, after)["w"].dtype == jnp.bfloat16


def test_eval_params_in_groups_leave_the_rest_alone():
    opt = optim.groups({"a": optim.schedule_free_sgd(0.1), "b": optim.sgd(0.1), "c": None})
    params = {"a": jnp.ones(2), "b": jnp.ones(2), "c": jnp.ones(1)}
    state = opt.init(params)
    for _ in range(3):
        params, state = opt.update(params, state, params)
    x = opt.eval_params(state, params)
    assert x["b"] is params["b"] and x["c"] is params["c"] and float(jnp.abs(x["a"] - params["a"]).max()) > 1e-3
    with pytest.raises(ValueError, match="made by another optimizer"):
        optim.schedule_free_sgd().eval_params(optim.sgd().init(params), params)


# L-BFGS


def rosenbrock(p):
    x = jnp.concatenate([p["a"], p["b"].ravel()])
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


START = {"a": np.array([-1.2, 1.0, -0.5]), "b": np.array([[0.3, 2.0]])}


def torch_lbfgs(loss, start, steps, line_search="strong_wolfe", lr=1.0, history=10):
    torch = pytest.importorskip("torch", reason="parity tests need the oracle extra: pip install fnet[oracle]")
    tensors = {name: torch.tensor(value, requires_grad=True) for name, value in start.items()}
    options = {"max_iter": 1, "max_eval": 26, "history_size": history, "line_search_fn": line_search}
    opt, seen = torch.optim.LBFGS(list(tensors.values()), lr=lr, **options), []

    def closure():
        opt.zero_grad()
        value = loss(torch, tensors)
        value.backward()
        return value

    for _ in range(steps):
        opt.step(closure)
        seen.append({name: tensor.detach().numpy().copy() for name, tensor in tensors.items()})
    return seen


def ours_lbfgs(opt, loss, start, steps):
    params = jax.tree.map(jnp.asarray, start)
    state, seen, value_and_grad = opt.init(params), [], jax.value_and_grad(loss)

    @jax.jit
    def step(params, state):
        value, grads = value_and_grad(params)
        return opt.update(grads, state, params, loss=value, value_and_grad=value_and_grad)

    for _ in range(steps):
        params, state = step(params, state)
        seen.append(params)
    return seen, state


def torch_rosenbrock(torch, p):
    x = torch.cat([p["a"], p["b"].ravel()])
    return torch.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


@pytest.mark.parametrize(("history", "lr", "steps"), [(10, 1.0, 25), (3, 0.5, 20)])
def test_lbfgs_iterates_are_torchs(history, lr, steps, x64):
    got, _ = ours_lbfgs(optim.lbfgs(lr, history_size=history), rosenbrock, START, steps)
    expected = torch_lbfgs(torch_rosenbrock, START, steps, lr=lr, history=history)
    for t, (ours, theirs) in enumerate(zip(got, expected, strict=True)):
        for name in START:  # each iteration in the curved valley magnifies rounding
            np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-7 if t > 10 else 1e-10, atol=1e-10)


def test_lbfgs_without_line_search_is_torchs(x64):
    def bowl(p):
        return 0.5 * jnp.sum(jnp.arange(1.0, 4.0) * p["a"] ** 2) + jnp.sum(jnp.cosh(p["b"]))

    def torch_bowl(torch, p):
        return 0.5 * (torch.arange(1.0, 4.0) * p["a"] ** 2).sum() + torch.cosh(p["b"]).sum()

    got, _ = ours_lbfgs(optim.lbfgs(0.5, line_search_fn=None), bowl, START, 15)
    expected = torch_lbfgs(torch_bowl, START, 15, line_search=None, lr=0.5)
    for ours, theirs in zip(got, expected, strict=True):
        for name in START:
            np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-10, atol=1e-10)


def test_lbfgs_solves_rosenbrock_in_float32():
    got, state = ours_lbfgs(optim.lbfgs(), rosenbrock, jax.tree.map(np.float32, START), 60)
    assert all(float(jnp.abs(leaf - 1).max()) < 1e-3 for leaf in jax.tree.leaves(got[-1]))
    assert state["s"]["b"].shape == (10, 1, 2) and int(state["pairs"]) > 10


def test_lbfgs_solves_logistic_regression_inside_the_training_step(x64):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 5))
    y = (x @ rng.standard_normal(5) + rng.standard_normal(60) > 0).astype("int32")
    model, opt = nn.Linear(2), optim.lbfgs()

    def loss(params, state, batch, *, key=None, train=False):
        penalty = 0.01 * sum(jnp.sum(p**2) for p in jax.tree.leaves(params))
        return F.cross_entropy(model(params, batch[0]), batch[1]) + penalty, (state, {})

    run, step = train.start(model, opt, jax.random.key(0), x), train.make_step(loss, opt)
    run = run._replace(params=fnet.cast(run.params, "float64"))
    run = run._replace(opt_state=opt.init(run.params))
    for _ in range(20):
        run, _ = step(run, (x, y))
    gradient = jax.grad(lambda p: loss(p, {}, (x, y))[0])(run.params)
    assert float(optim.global_norm(gradient)) < 1e-5, "a minimum, as far as PyTorch's tolerances go"


def test_lbfgs_stands_still_at_a_minimum_and_bends_around_infinite_losses():
    opt = optim.lbfgs()
    params = {"w": jnp.zeros(2)}
    loss = jax.value_and_grad(lambda p: jnp.sum(p["w"] ** 2))
    value, grads = loss(params)
    after, state = opt.update(grads, opt.init(params), params, loss=value, value_and_grad=loss)
    np.testing.assert_array_equal(after["w"], 0)
    assert int(state["pairs"]) == 0

    barrier, _ = ours_lbfgs(opt, lambda p: jnp.sum(p["w"] - jnp.log(p["w"])), {"w": np.float32([1e-3, 5.0])}, 30)
    np.testing.assert_allclose(barrier[-1]["w"], 1.0, atol=1e-3)


def test_lbfgs_takes_the_loss_itself_when_update_gets_none():
    opt, params = optim.lbfgs(), {"w": jnp.array([3.0, -2.0])}
    loss = jax.value_and_grad(lambda p: jnp.sum(p["w"] ** 4))
    value, grads = loss(params)
    with_loss, _ = opt.update(grads, opt.init(params), params, loss=value, value_and_grad=loss)
    without, _ = opt.update(grads, opt.init(params), params, value_and_grad=loss)
    np.testing.assert_array_equal(with_loss["w"], without["w"])


def test_lbfgs_climbs_with_maximize():
    def hill(p):
        return -jnp.sum((p["w"] - 1) ** 4)

    got, _ = ours_lbfgs(optim.lbfgs(maximize=True), hill, {"w": np.float32([3.0, -2.0])}, 30)
    np.testing.assert_allclose(got[-1]["w"], 1.0, atol=0.05)


def wavy(cosh, sin, t, stretch, shift):
    return cosh(stretch * t / 10 - 1.5) + 2 * sin(3 * t + shift) - 0.5 * t


@jax.jit
def searched(first, stretch, shift):
    """The trial at 0 and the one found on a wavy line, the way down from 0 and its sign."""
    down = jnp.where(jax.grad(lambda t: wavy(jnp.cosh, jnp.sin, t, stretch, shift))(0.0) < 0, 1.0, -1.0)

    def at(t):
        value, slope = jax.value_and_grad(lambda t: wavy(jnp.cosh, jnp.sin, t * down, stretch, shift))(t)
        return Trial(t, value, slope, ())

    start = at(jnp.zeros(()))
    return start, strong_wolfe(at, start, first, smallest=1e-9), down


def lines():
    rng = np.random.default_rng(0)
    for _ in range(200):
        yield rng.uniform(0.05, 3.0), rng.uniform(0.1, 20.0), rng.uniform(-2.0, 2.0)


def test_line_search_ends_at_a_strong_wolfe_point(x64):
    for line in lines():
        start, end, _ = searched(*line)
        assert float(end.value) <= float(start.value) + 1e-4 * float(end.t) * float(start.slope)
        assert abs(float(end.slope)) <= 0.9 * abs(float(start.slope)) and float(end.t) > 0


def test_line_search_takes_torchs_steps(x64):
    torch = pytest.importorskip("torch", reason="parity tests need the oracle extra: pip install fnet[oracle]")
    from torch.optim.lbfgs import _strong_wolfe

    calls = []
    for first, stretch, shift in lines():
        start, end, down = searched(first, stretch, shift)
        way = torch.tensor([float(down)], dtype=torch.float64)

        def objective(x, t, d, stretch=stretch, shift=shift):
            at = (x + t * d).detach().requires_grad_()
            value = wavy(torch.cosh, torch.sin, at, stretch, shift).sum()
            return value.item(), torch.autograd.grad(value, at)[0]

        zero = torch.zeros(1, dtype=torch.float64)
        value, grad = objective(zero, 0.0, way)
        *_, t, count = _strong_wolfe(objective, zero, first, way, value, grad, grad.dot(way))
        np.testing.assert_allclose(float(end.t), float(t), rtol=1e-7)  # a cubic through two close points loses digits
        calls.append(count)
    assert max(calls) > 4, "the lines need every part of the search"


# SAM


def quadratic(p):
    return 0.5 * jnp.sum(jnp.array([1.0, 10.0]) * p["w"] ** 2) + 0.5 * jnp.sum(p["v"] ** 2)


POINT = {"w": np.array([1.0, -2.0]), "v": np.array([[0.5]])}


@pytest.mark.parametrize("adaptive", [False, True])
def test_sam_equals_its_closed_form_on_a_quadratic(adaptive, x64):
    opt = optim.sam(optim.sgd(0.1, momentum=0.9), rho=0.3, adaptive=adaptive)
    got, state = ours_lbfgs(opt, quadratic, POINT, 10)
    assert set(state) == {"step", "hyper", "momentum"}
    p, h, b = np.array([1.0, -2.0, 0.5]), np.array([1.0, 10.0, 1.0]), 0.0
    for t in range(10):
        g, size = h * p, np.abs(p) if adaptive else 1.0
        there = p + 0.3 * size**2 * g / np.linalg.norm(size * g)
        b = 0.9 * b + h * there
        p = p - 0.1 * b
        np.testing.assert_allclose(np.append(got[t]["w"], got[t]["v"]), p, rtol=1e-12, atol=1e-14)


def test_sam_equals_optax(x64):
    optax = pytest.importorskip("optax", reason="parity tests need the oracle extra: pip install fnet[oracle]")
    adversary = optax.chain(optax.contrib.normalize(), optax.sgd(0.3))
    theirs = optax.contrib.sam(optax.adam(0.1), adversary, sync_period=2, opaque_mode=True)
    got, _ = ours_lbfgs(optim.sam(optim.adam(0.1), rho=0.3), quadratic, POINT, 50)
    params = jax.tree.map(jnp.asarray, POINT)
    state, grad = theirs.init(params), jax.grad(quadratic)
    step = jax.jit(lambda p, s: theirs.update(grad(p), s, p, grad_fn=lambda q, _: grad(q)))
    for _ in range(50):
        updates, state = step(params, state)
        params = optax.apply_updates(params, updates)
    assert_close(got[-1], params)


def test_sam_perturbs_what_is_trained_and_hands_the_sharp_loss_on():
    opt = optim.sam(optim.groups({"v": None, "w": optim.lbfgs()}), rho=0.5)
    params = jax.tree.map(lambda x: jnp.asarray(x, "float32"), POINT)
    points = []

    def value_and_grad(p):
        points.append(p["v"])
        return jax.value_and_grad(lambda live: quadratic({**p, "w": live["w"]}))(opt.trainable(p))

    value, grads = value_and_grad(params)
    after, _ = opt.update(grads, opt.init(params), params, loss=value, value_and_grad=value_and_grad)
    assert after["v"] is params["v"] and all(v is params["v"] for v in points)

    def sharp(w):
        g = jnp.array([1.0, 10.0]) * w
        return quadratic({"v": params["v"], "w": w + 0.5 * g / jnp.linalg.norm(g)})

    assert float(sharp(after["w"])) < float(sharp(params["w"])), "the line search descended the sharp loss"


def test_sam_at_a_stationary_point_stays():
    opt, params = optim.sam(optim.sgd(0.1)), {"w": jnp.zeros(2), "v": jnp.zeros((1, 1))}
    value_and_grad = jax.value_and_grad(quadratic)
    after, _ = opt.update(value_and_grad(params)[1], opt.init(params), params, value_and_grad=value_and_grad)
    np.testing.assert_array_equal(after["w"], 0)


# Errors, and the training step


@pytest.mark.parametrize("opt", [optim.lbfgs(), optim.sam(optim.sgd(0.1))], ids=["lbfgs", "sam"])
def test_what_needs_value_and_grad_says_so(opt):
    params = {"w": jnp.ones(2)}
    with pytest.raises(ValueError, match=r"(lbfgs|sam) evaluates the loss at other.*value_and_grad=.*make_st"):
        opt.update(params, opt.init(params), params)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: optim.prodigy(d0=0.0), ValueError, "prodigy: d0, the first estimate, must be a number above 0"),
        (lambda: optim.dadapt_sgd(d0="a"), ValueError, "dadapt_sgd: d0, the first estimate, must be a number above 0"),
        (lambda: optim.prodigy(betas=0.9), TypeError, "prodigy: betas must be a pair"),
        (lambda: optim.schedule_free_sgd(momentum=0.0), ValueError, "schedule_free_sgd: the momentum β1 must be"),
        (lambda: optim.schedule_free_adamw(betas=(1.0, 0.9)), ValueError, "schedule_free_adamw: the momentum β1"),
        (lambda: optim.schedule_free_adamw(betas=0.9), TypeError, "betas must be a pair such as (0.9, 0.999), got 0.9"),
        (lambda: optim.schedule_free_sgd(r=-1.0), ValueError, "schedule_free_sgd: r must be a number of at least 0"),
        (lambda: optim.lbfgs(history_size=0), ValueError, "lbfgs: history_size must be an integer of at least 1"),
        (lambda: optim.lbfgs(line_search_fn="zoom"), ValueError, 'line_search_fn must be "strong_wolfe" or None'),
        (lambda: optim.lbfgs(tolerance_grad=-1), ValueError, "lbfgs: tolerance_grad must not be negative, got -1"),
        (lambda: optim.sam(optim.sgd(), rho=-0.1), ValueError, "sam: rho must be a finite number of at least 0"),
        (lambda: optim.sam(0.05, optim.sgd()), TypeError, "sam wraps an optimizer"),
    ],
)
def test_bad_configurations_are_named(make, error, message):
    with pytest.raises(error) as raised:
        make()
    assert message in str(raised.value)


@pytest.mark.parametrize(
    "opt",
    [
        optim.prodigy(d0=1e-3),
        optim.dadapt_adamw(d0=1e-3),
        optim.dadapt_sgd(d0=1e-2),
        optim.schedule_free_sgd(1.0),
        optim.schedule_free_adamw(0.1),
        optim.lbfgs(),
        optim.sam(optim.adam(0.05)),
    ],
    ids=lambda opt: type(opt).__name__,
)
def test_trains_and_evaluates(opt):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, 6)).astype("float32")
    y = (x @ rng.standard_normal((6, 3))).argmax(1).astype("int32")
    model = nn.Linear(3)
    loss = train.supervised(model, F.cross_entropy)
    run, step = train.start(model, opt, jax.random.key(0), x), train.make_step(loss, opt)
    first = float(loss(run.params, run.state, (x, y))[0])
    for _ in range(60):
        run, _ = step(run, (x, y))
    shipped = opt.eval_params(run.opt_state, run.params)
    assert float(loss(shipped, run.state, (x, y))[0]) < 0.35 * first
