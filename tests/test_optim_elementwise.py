"""Rules that treat each element alone, and NovoGrad: against torch.optim, optax, and the papers in numpy."""

from __future__ import annotations

import contextlib
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from fnet import functional as F
from fnet import nn, optim, train
from fnet.optim.adam_variants import average_length
from fnet.optim.hyper import decay_of

STEPS = 50
SHAPES = {"head": {"weight": (2, 3)}, "scale": ()}  # few, as each shape compiles each operation


def is_shape(node):
    return isinstance(node, tuple)


def trees(seed, count, dtype, spread):
    """Random trees, their sizes ``spread`` powers of ten apart."""
    rng = np.random.default_rng(seed)

    def draw(shape):
        return np.asarray(10 ** rng.uniform(-spread, spread) * rng.standard_normal(shape), dtype)

    return [jax.tree.map(draw, SHAPES, is_leaf=is_shape) for _ in range(count)]


def problem(seed, dtype="float64"):
    return trees(seed, 1, dtype, 0)[0], trees(seed + 1, STEPS, dtype, 1.5)


def run(opt, params, grads, jit=True):
    """The parameters after each step, and the last state."""
    update = jax.jit(opt.update) if jit else opt.update
    params = jax.tree.map(jnp.asarray, params)
    opt_state, path = opt.init(params), []
    for g in grads:
        params, opt_state = update(g, opt_state, params)
        path.append(params)
    return path, opt_state


def assert_paths_close(ours, theirs, tolerance):
    """At every step, each leaf within ``tolerance`` of its largest magnitude on the way."""
    for a, b in zip(map(list, zip(*map(jax.tree.leaves, ours), strict=True)), columns(theirs), strict=True):
        size = max(np.abs(b).max(), 1e-30)
        np.testing.assert_allclose(np.stack(a) / size, b / size, rtol=0, atol=tolerance)


def columns(path):
    return [np.stack(leaf) for leaf in zip(*map(jax.tree.leaves, path), strict=True)]


# Against torch

unit = st.floats(0.0, 1.0)
off_or_unit = st.one_of(st.just(0.0), unit)
rate = st.floats(-4, 0).map(lambda e: 10.0**e)
eps = st.floats(-10, -4).map(lambda e: 10.0**e)
betas = st.tuples(st.floats(0.0, 0.95), st.floats(0.9, 0.9999))
common = {"lr": rate, "weight_decay": off_or_unit, "maximize": st.booleans()}
adams = {**common, "betas": betas, "eps": eps}
decoupled = {**adams, "decoupled_weight_decay": st.booleans()}

TORCH = {
    "adam": ("Adam", {**adams, "amsgrad": st.just(True)}),
    "adamw": ("AdamW", {**adams, "amsgrad": st.just(True)}),
    "nadam": ("NAdam", {**decoupled, "momentum_decay": st.one_of(st.just(0.0), st.floats(1e-4, 1.0))}),
    "radam": ("RAdam", {**decoupled, "betas": st.tuples(st.floats(0.0, 0.95), st.floats(0.3, 0.9999))}),
    "adamax": ("Adamax", adams),
    "adadelta": ("Adadelta", {**common, "rho": st.floats(0.0, 0.9999), "eps": eps}),
    "rprop": (
        "Rprop",
        {
            "lr": rate,
            "etas": st.tuples(st.floats(0.1, 0.9), st.floats(1.1, 2.0)),
            "step_sizes": st.tuples(st.floats(1e-6, 1e-2), st.floats(0.1, 50.0)),
            "maximize": st.booleans(),
        },
    ),
    "asgd": (
        "ASGD",
        {**common, "lambd": off_or_unit, "alpha": unit, "t0": st.sampled_from([0.0, 7.0, 20.5, 1e6])},
    ),
}


@contextlib.contextmanager
def torch_in(dtype):
    """torch, its scalars in ``dtype``: NAdam and ASGD keep products and rates as tensors of the default type."""
    torch = pytest.importorskip("torch", reason="parity tests need the oracle extra: pip install fnet[oracle]")
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        yield torch
    finally:
        torch.set_default_dtype(before)


def run_torch(torch, rule, config, params, grads):
    """The parameters after each step, and what torch remembers of each leaf."""
    leaves, structure = jax.tree.flatten(params)
    tensors = [torch.tensor(leaf, requires_grad=True) for leaf in leaves]
    opt, path = getattr(torch.optim, rule)(tensors, **config), []
    for g in grads:
        for tensor, leaf in zip(tensors, jax.tree.leaves(g), strict=True):
            tensor.grad = torch.tensor(leaf)
        opt.step()
        path.append(structure.unflatten([tensor.detach().numpy().copy() for tensor in tensors]))
    names = list(opt.state[tensors[0]])
    return path, {name: structure.unflatten([opt.state[t][name].numpy() for t in tensors]) for name in names}


@pytest.mark.parametrize("rule", TORCH)
def test_equals_torch_for_any_hyperparameters(rule, x64):
    name, configs = TORCH[rule]

    @settings(max_examples=4, phases=[Phase.generate])  # shrinking a failure takes minutes
    @given(st.fixed_dictionaries(configs), st.integers(0, 2**31))
    def check(config, seed):
        params, grads = problem(seed)
        with torch_in("float64") as torch:
            ours, _ = run(getattr(optim, rule)(**config), params, grads, jit=False)
            theirs, _ = run_torch(torch, name, config, params, grads)
            assert_paths_close(ours, theirs, 1e-11)

    check()


@pytest.mark.parametrize("rule", TORCH)
def test_equals_torch_in_float32(rule):
    """With the defaults, since some hyperparameters, such as lr = weight_decay = 1, magnify the last digit."""
    params, grads = problem(7, "float32")
    with torch_in("float32") as torch:
        config = {} if rule == "adadelta" else {"lr": 0.01}
        config |= {"amsgrad": True} if rule.startswith("adam") and rule != "adamax" else {}
        ours, _ = run(getattr(optim, rule)(**config), params, grads)
        theirs, _ = run_torch(torch, TORCH[rule][0], config, params, grads)
        assert_paths_close(ours, theirs, 2e-6)


@pytest.mark.parametrize(
    ("rule", "config", "slots"),
    [
        ("adam", {"amsgrad": True}, {"mu": "exp_avg", "nu": "exp_avg_sq", "nu_max": "max_exp_avg_sq"}),
        ("nadam", {}, {"mu": "exp_avg", "nu": "exp_avg_sq"}),
        ("radam", {}, {"mu": "exp_avg", "nu": "exp_avg_sq"}),
        ("adamax", {}, {"mu": "exp_avg", "nu": "exp_inf"}),
        ("adadelta", {}, {"nu": "square_avg", "delta": "acc_delta"}),
        ("rprop", {}, {"step_size": "step_size"}),
        ("asgd", {"t0": 10.0}, {"ax": "ax"}),
    ],
)
def test_slots_are_torchs(rule, config, slots, x64):
    params, grads = problem(3)
    with torch_in("float64") as torch:
        _, state = run(getattr(optim, rule)(**config), params, grads, jit=False)
        _, theirs = run_torch(torch, TORCH[rule][0], config, params, grads)
    for ours, name in slots.items():
        assert_paths_close([state[ours]], [theirs[name]], 1e-11)
    if rule == "nadam":
        np.testing.assert_allclose(state["mu_product"], theirs["mu_product"]["scale"], rtol=1e-12)


def test_defaults_are_torchs():
    with torch_in("float32") as torch:
        for ours, (theirs, _) in TORCH.items():
            opt = getattr(torch.optim, theirs)([torch.nn.Parameter(torch.ones(1))])
            mine = getattr(optim, ours)()
            for field in dataclasses.fields(mine):
                assert getattr(mine, field.name) == opt.defaults[field.name], (ours, field.name)


# Against optax: name -> (ours, theirs), each from (optax, config)

OPTAX = {
    "amsgrad": (
        lambda c: optim.adam(c.lr, (c.b1, c.b2), c.eps, amsgrad="corrected"),
        lambda optax, c: optax.amsgrad(c.lr, c.b1, c.b2, c.eps),
    ),
    "nadam": (
        lambda c: optim.nadam(c.lr, (c.b1, c.b2), c.eps, momentum_decay=None),
        lambda optax, c: optax.nadam(c.lr, c.b1, c.b2, c.eps),
    ),
    "nadamw": (
        lambda c: optim.nadam(c.lr, (c.b1, c.b2), c.eps, c.decay, momentum_decay=None, decoupled_weight_decay=True),
        lambda optax, c: optax.nadamw(c.lr, c.b1, c.b2, c.eps, weight_decay=c.decay),
    ),
    "radam": (  # they differ in where ε goes
        lambda c: optim.radam(c.lr, (c.b1, c.b2), 1e-30),
        lambda optax, c: optax.radam(c.lr, c.b1, c.b2, 1e-30),
    ),
    "adamax": (
        lambda c: optim.adamax(c.lr, (c.b1, c.b2), c.eps),
        lambda optax, c: optax.adamax(c.lr, c.b1, c.b2, c.eps),
    ),
    "adadelta": (
        lambda c: optim.adadelta(c.lr, c.b2, c.eps, c.decay),
        lambda optax, c: optax.adadelta(c.lr, c.b2, c.eps, c.decay),
    ),
    "adabelief": (
        lambda c: optim.adabelief(c.lr, (c.b1, c.b2), c.eps),
        lambda optax, c: optax.adabelief(c.lr, c.b1, c.b2, c.eps, c.eps),
    ),
    "yogi": (
        lambda c: optim.yogi(c.lr, (c.b1, c.b2), c.eps, initial_accumulator_value=0.1),
        lambda optax, c: optax.chain(
            momentum_from_zero(optax, optax.scale_by_yogi(c.b1, c.b2, c.eps, initial_accumulator_value=0.1)),
            optax.scale(-c.lr),
        ),
    ),
    "lion": (
        lambda c: optim.lion(c.lr, (c.b1, c.b2), c.decay),
        lambda optax, c: optax.lion(c.lr, c.b1, c.b2, weight_decay=c.decay),
    ),
    "novograd": (
        lambda c: optim.novograd(c.lr, (c.b1, c.b2), c.eps, c.decay),
        lambda optax, c: optax.novograd(c.lr, c.b1, c.b2, c.eps, weight_decay=c.decay),
    ),
    "ademamix": (
        lambda c: optim.ademamix(c.lr, (c.b1, c.b2, 0.99), c.eps, c.decay, alpha=3.0),
        lambda optax, c: optax.contrib.ademamix(c.lr, c.b1, c.b2, 0.99, 3.0, c.eps, weight_decay=c.decay),
    ),
    "adopt": (
        lambda c: optim.adopt(c.lr, (c.b1, c.b2), c.eps),
        lambda optax, c: optax.contrib.adopt(c.lr, c.b1, c.b2, c.eps),
    ),
    "adopt unclipped": (
        lambda c: optim.adopt(c.lr, (c.b1, c.b2), c.eps, clip=False),
        lambda optax, c: optax.contrib.adopt(c.lr, c.b1, c.b2, c.eps, use_clipping=False),
    ),
}


def momentum_from_zero(optax, rule):
    """optax begins Yogi's momentum at the second moment's initial value."""

    def init(params):
        return rule.init(params)._replace(mu=jax.tree.map(jnp.zeros_like, params))

    return optax.GradientTransformation(init, rule.update)


@dataclasses.dataclass
class Config:
    lr: float
    b1: float
    b2: float
    eps: float
    decay: float


def config_of(seed):
    rng = np.random.default_rng(seed)
    lr, eps, decay = 10 ** rng.uniform(-3, -0.5), 10 ** rng.uniform(-9, -4), rng.uniform(0.01, 0.5)
    return Config(lr, rng.uniform(0.1, 0.95), rng.uniform(0.8, 0.9999), eps, decay)


@pytest.mark.parametrize("rule", OPTAX)
def test_equals_optax(rule, x64):
    optax = pytest.importorskip("optax", reason="parity tests need the oracle extra: pip install fnet[oracle]")
    ours, theirs = OPTAX[rule]
    config, (start, grads) = config_of(sum(rule.encode())), problem(len(rule))
    transform, params, path = theirs(optax, config), jax.tree.map(jnp.asarray, start), []
    state, update = transform.init(params), jax.jit(transform.update)
    for g in grads:
        updates, state = update(jax.tree.map(jnp.asarray, g), state, params)
        params = optax.apply_updates(params, updates)
        path.append(params)
    assert_paths_close(run(ours(config), start, grads)[0], path, 1e-11)


def test_amsgrads_two_maxima_differ():
    params, grads = problem(0, "float32")
    raw, corrected = (run(optim.adam(0.1, amsgrad=kind), params, grads)[0][-1] for kind in (True, "corrected"))
    assert any(np.abs(a - b).max() > 1e-2 for a, b in zip(*map(jax.tree.leaves, (raw, corrected)), strict=True))


# Against the papers, leaf by leaf in numpy: each takes the gradients and yields the parameters


def paper_yogi(p, grads, lr, b1, b2, eps, start):
    m, v = 0, start
    for g in grads:
        m = b1 * m + (1 - b1) * g
        v = v - (1 - b2) * np.sign(v - g**2) * g**2
        p = p - lr * m / (np.sqrt(v) + eps)
        yield p


def paper_adan(p, grads, lr, b1, b2, b3, eps, decay, prox):
    """Algorithm 1, whose β are the weights of what is new, with the bias corrections of the authors' code."""
    m = v = n = 0
    for k, g in enumerate(grads, 1):
        difference = g - grads[max(k - 2, 0)]
        m = (1 - b1) * m + b1 * g
        v = (1 - b2) * v + b2 * difference
        n = (1 - b3) * n + b3 * (g + (1 - b2) * difference) ** 2
        eta = lr / (np.sqrt(n / (1 - (1 - b3) ** k)) + eps)
        step = eta * (m / (1 - (1 - b1) ** k) + (1 - b2) * v / (1 - (1 - b2) ** k))
        p = (p - step) / (1 + decay * lr) if prox else p * (1 - decay * lr) - step
        yield p


def paper_ademamix(p, grads, lr, b1, b2, b3, eps, decay, alpha, alpha_steps, b3_steps):
    m1 = m2 = v = 0
    for t, g in enumerate(grads, 1):
        a = min(t * alpha / alpha_steps, alpha)
        mix = (1 - t / b3_steps) * np.log(b3) + t / b3_steps * np.log(b1)
        slow = min(np.exp(np.log(b1) * np.log(b3) / mix), b3) if t < b3_steps else b3
        m1 = b1 * m1 + (1 - b1) * g
        m2 = slow * m2 + (1 - slow) * g
        v = b2 * v + (1 - b2) * g**2
        p = p - lr * ((m1 / (1 - b1**t) + a * m2) / (np.sqrt(v / (1 - b2**t)) + eps) + decay * p)
        yield p


def paper_novograd(p, grads, lr, b1, b2, eps, decay):
    """With the average of what comes in, as NVIDIA's code has it for ``grad_averaging``."""
    m, v = 0, np.sum(grads[0] ** 2)
    for t, g in enumerate(grads, 1):
        v = v if t == 1 else b2 * v + (1 - b2) * np.sum(g**2)
        m = b1 * m + (1 - b1) * (g / (np.sqrt(v) + eps) + decay * p)
        p = p - lr * m
        yield p


def paper_adabelief(p, grads, lr, b1, b2, eps, decay):
    m = s = 0
    for t, g in enumerate(grads, 1):
        m = b1 * m + (1 - b1) * g
        s = b2 * s + (1 - b2) * (g - m) ** 2 + eps
        p = p * (1 - lr * decay) - lr * m / (1 - b1**t) / (np.sqrt(s / (1 - b2**t)) + eps)
        yield p


def paper_adopt(p, grads, lr, b1, b2, eps, decay):
    m, v = 0, grads[0] ** 2
    yield p
    for t, g in enumerate(grads[1:], 1):
        m = b1 * m + (1 - b1) * np.clip(g / np.maximum(np.sqrt(v), eps), -(t**0.25), t**0.25)
        p = p - lr * (m + decay * p)
        v = b2 * v + (1 - b2) * g**2
        yield p


PAPERS = {
    "yogi": (
        optim.yogi(0.1, (0.8, 0.9), 1e-3, initial_accumulator_value=0.5, bias_correction=False),
        lambda p, grads: paper_yogi(p, grads, 0.1, 0.8, 0.9, 1e-3, 0.5),
    ),
    "adan": (
        optim.adan(0.1, (0.9, 0.7, 0.95), 1e-6, 0.3),
        lambda p, grads: paper_adan(p, grads, 0.1, 0.1, 0.3, 0.05, 1e-6, 0.3, prox=True),
    ),
    "adan no_prox": (
        optim.adan(0.1, (0.9, 0.7, 0.95), 1e-6, 0.3, no_prox=True),
        lambda p, grads: paper_adan(p, grads, 0.1, 0.1, 0.3, 0.05, 1e-6, 0.3, prox=False),
    ),
    "ademamix": (
        optim.ademamix(0.1, (0.8, 0.9, 0.99), 1e-6, 0.2, alpha=4.0, alpha_warmup=30, beta3_warmup=20),
        lambda p, grads: paper_ademamix(p, grads, 0.1, 0.8, 0.9, 0.99, 1e-6, 0.2, 4.0, 30, 20),
    ),
    "novograd": (
        optim.novograd(0.1, (0.8, 0.9), 1e-6, 0.2, grad_averaging=True),
        lambda p, grads: paper_novograd(p, grads, 0.1, 0.8, 0.9, 1e-6, 0.2),
    ),
    "adabelief": (
        optim.adabelief(0.1, (0.8, 0.9), 1e-6, 0.2),
        lambda p, grads: paper_adabelief(p, grads, 0.1, 0.8, 0.9, 1e-6, 0.2),
    ),
    "adopt": (
        optim.adopt(0.1, (0.8, 0.9), 1e-6, 0.2),
        lambda p, grads: paper_adopt(p, grads, 0.1, 0.8, 0.9, 1e-6, 0.2),
    ),
}


@pytest.mark.parametrize("rule", PAPERS)
def test_equals_the_paper(rule, x64):
    opt, paper = PAPERS[rule]
    params, grads = problem(5)
    ours, _ = run(opt, params, grads)
    leaves = [list(paper(p, gs)) for p, gs in zip(jax.tree.leaves(params), columns(grads), strict=True)]
    assert_paths_close(ours, [list(row) for row in zip(*leaves, strict=True)], 1e-11)


# What is particular to one rule


def test_rectified_adam_counts_in_float32_as_in_float64():
    """ρ_5 = 4.9996 for β = 0.9999, and the threshold is 5: the plain formula in float32 cannot tell."""
    for beta in (0.0, 0.5, 0.9, 0.99, 0.999, 0.9999):
        decay = decay_of(jnp.float32(beta), beta)
        for t in (1, 2, 4, 5, 6, 10, 100, 2500, 10**5, 10**7):
            with jax.enable_x64(True):
                exact = 2 / (1 - beta) - 1 - 2 * t * beta**t / (1 - beta**t)
                if t > 10:
                    wide = average_length(decay_of(jnp.asarray(beta), beta), jnp.asarray(float(t)))
                    np.testing.assert_allclose(float(wide), exact, rtol=1e-9)
            got = average_length(decay, jnp.float32(t))
            assert got.dtype == jnp.float32
            np.testing.assert_allclose(float(got), exact, rtol=3e-6, err_msg=f"{beta} {t}")


def test_nothing_divides_by_zero_where_rectified_adam_is_not_tractable():
    params = {"w": jnp.ones(2)}
    for beta in (0.0, 0.5, 0.6, 2 / 3, 0.7, 0.9999):
        opt = optim.radam(0.1, (0.9, beta))
        with jax.debug_nans(True):
            run(opt, params, [{"w": np.ones(2, "float32")}] * 8, jit=False)


def test_averaged_descent_ships_its_average():
    params, grads = problem(1, "float32")
    opt = optim.asgd(0.1, lambd=0.01, t0=8.0)
    path, state = run(opt, params, grads)
    expected = jax.tree.map(lambda *ps: np.mean(ps[9:], 0), *path)  # from update t0 + 2 on
    assert_paths_close([opt.eval_params(state, path[-1])], [expected], 1e-5)
    first = opt.init(params)
    assert_paths_close([opt.eval_params(first, params)], [params], 0)
    low = {"w": jnp.ones(3, "bfloat16"), "count": jnp.arange(2)}
    shipped = opt.eval_params(opt.init(low), low)
    assert shipped["w"].dtype == jnp.bfloat16 and shipped["count"] is low["count"]


def test_resilient_steps_are_no_learning_rate():
    with pytest.raises(TypeError, match="rprop: lr is the first step size .* it is no schedule"):
        optim.rprop(optim.cosine(0.1, 10))
    state = optim.rprop(0.1).init({"w": jnp.ones(2)})
    with pytest.raises(KeyError, match="no hyperparameter 'lr'"):
        optim.set_hyper(state, lr=0.2)
    # Their product with the last gradient underflows, and its sign must not.
    tiny = [{"w": np.full(2, 1e-30, "float32")}] * 2
    _, state = run(optim.rprop(0.1), {"w": jnp.ones(2)}, tiny)
    np.testing.assert_allclose(state["step_size"]["w"], 0.12, rtol=1e-6)


def test_stacked_layers_have_a_second_moment_each():
    rng = np.random.default_rng(0)
    params = {name: rng.standard_normal((2, 3)).astype("float32") for name in "abc"}
    grads = [{name: np.exp(i) * rng.standard_normal((2, 3)).astype("float32") for i, name in enumerate("abc")}] * 3
    stack = lambda tree: {"blocks": {"weight": np.stack([tree[name] for name in "abc"])}}  # noqa: E731
    alone, state = run(optim.novograd(0.1), params, grads)
    together, stacked = run(optim.novograd(0.1, stacked="blocks.*"), stack(params), [stack(g) for g in grads])
    np.testing.assert_allclose(together[-1]["blocks"]["weight"], stack(alone[-1])["blocks"]["weight"], rtol=1e-6)
    np.testing.assert_allclose(stacked["nu"]["blocks"]["weight"], [state["nu"][name] for name in "abc"], rtol=1e-6)
    whole, _ = run(optim.novograd(0.1), stack(params), [stack(g) for g in grads])
    assert np.abs(whole[-1]["blocks"]["weight"] - together[-1]["blocks"]["weight"]).max() > 1e-3


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: optim.adam(amsgrad="raw"), ValueError, 'amsgrad must be False, True or "corrected", got \'raw\''),
        (lambda: optim.adan(betas=(0.9, 0.9)), TypeError, "betas must be a triple such as (0.98, 0.92, 0.99), got"),
        (lambda: optim.lion(betas=0.9), TypeError, "lion: betas must be a pair such as (0.9, 0.99), got 0.9"),
        (lambda: optim.ademamix(betas=(0.9, 0.9, 1.0)), ValueError, "ademamix: b3 must be in [0, 1), got 1.0"),
        (lambda: optim.ademamix(alpha_warmup=-1), ValueError, "alpha_warmup must be a number of updates, 0 or more"),
        (lambda: optim.yogi(initial_accumulator_value=-1), ValueError, "_value must not be negative, got -1"),
        (lambda: optim.rprop(etas=(1.2, 0.5)), ValueError, "etas must be a factor below 1 and one above it"),
        (lambda: optim.rprop(-0.1), ValueError, "rprop: lr must be finite and not negative, got -0.1"),
        (lambda: optim.sophia(update_interval=0), ValueError, "sophia: update_interval must be 1 or more, got 0"),
        (lambda: optim.sophia(update_interval=2.5), TypeError, "update_interval must be a number of updates, got 2.5"),
    ],
)
def test_bad_configurations_are_named(make, error, message):
    with pytest.raises(error) as raised:
        make()
    assert message in str(raised.value)


# Sophia


def test_sophia_equals_the_paper_where_the_hessian_is_diagonal(x64):
    """There Hutchinson's estimate is exact, so the numpy transcription of Algorithm 3 needs no random numbers."""
    lr, b1, b2, eps, decay, gamma, k = 0.1, 0.8, 0.7, 1e-12, 0.2, 0.5, 4
    opt = optim.sophia(lr, (b1, b2), eps, decay, gamma, update_interval=k)
    rng = np.random.default_rng(0)
    cubic, linear = jnp.asarray(rng.standard_normal((2, 30, 5)))
    start = rng.standard_normal(5)

    def value_and_grad(t):
        return jax.value_and_grad(lambda q: jnp.sum(cubic[t] * q["p"] ** 3 / 6 + linear[t] * q["p"]))

    @jax.jit
    def step(t, params, state):
        _, grads = value_and_grad(t)(params)
        key = jax.random.fold_in(jax.random.key(0), t)
        return opt.update(grads, state, params, value_and_grad=value_and_grad(t), key=key)

    params = {"p": jnp.asarray(start)}
    state, p, m, h = opt.init(params), start, 0, 0
    for t in range(30):
        params, state = step(t, params, state)
        g, diagonal = cubic[t] * p**2 / 2 + linear[t], cubic[t] * p
        m = b1 * m + (1 - b1) * g
        h = b2 * h + (1 - b2) * diagonal if t % k == 0 else h
        p = p - lr * decay * p
        p = p - lr * np.clip(m / np.maximum(gamma * h, eps), -1, 1)
        np.testing.assert_allclose(params["p"], p, rtol=1e-11)
        np.testing.assert_allclose(state["hessian"]["p"], h, rtol=1e-11)


def test_hutchinsons_estimate_is_the_diagonal_on_average():
    a = np.random.default_rng(0).standard_normal((6, 6)).astype("float32")
    hessian = a @ a.T

    def loss(params):
        p = jnp.concatenate([params["x"], params["y"]])
        return p @ hessian @ p / 2

    value_and_grad = jax.value_and_grad(loss)
    opt = optim.sophia(betas=(0.0, 0.0), update_interval=1)
    params = {"x": jnp.ones(3), "y": jnp.ones(3)}
    grads, state = value_and_grad(params)[1], opt.init(params)

    def estimate(key):
        return opt.update(grads, state, params, value_and_grad=value_and_grad, key=key)[1]["hessian"]

    drawn = jax.jit(jax.vmap(estimate))(jax.random.split(jax.random.key(0), 20000))
    got = np.concatenate([drawn["x"], drawn["y"]], axis=1)
    error = got.std(0) / np.sqrt(len(got))
    assert got.std(0).min() > 0.1  # x and y draw signs of their own
    np.testing.assert_array_less(np.abs(got.mean(0) - np.diag(hessian)), 5 * error)


def test_sophia_asks_for_what_it_needs():
    params = {"w": jnp.ones(2)}
    opt = optim.sophia()
    with pytest.raises(ValueError, match=r"needs value_and_grad= and key=; train.make_step passes both"):
        opt.update(params, opt.init(params), params)


def test_sophia_trains_in_the_step_without_more_code():
    """Logistic regression by make_step alone, with an estimate every tenth step."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((64, 8)) * 10 ** rng.uniform(-1, 1, 8), jnp.float32)
    y = (x @ rng.standard_normal(8) > 0).astype(jnp.int32)
    model, opt = nn.Linear(2), optim.sophia(0.02, weight_decay=0.0)
    step = train.make_step(train.supervised(model, F.cross_entropy), opt)
    run, losses, diagonals = train.start(model, opt, jax.random.key(0), x), [], []
    for _ in range(300):
        run, metrics = step(run, (x, y))
        losses.append(float(metrics["loss"]))
        diagonals.append(np.asarray(run.opt_state["hessian"]["weight"]))
    assert losses[-1] < 0.15 * losses[0]
    changed = [t for t in range(1, 300) if not np.array_equal(diagonals[t], diagonals[t - 1])]
    assert changed == list(range(10, 300, 10))
