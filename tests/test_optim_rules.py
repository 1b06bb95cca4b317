"""Update rules against torch.optim and optax, and the properties that every rule has."""

from __future__ import annotations

import dataclasses
import functools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fnet import optim
from fnet.tree import named

STEPS = 20
RULES = {
    "sgd": optim.sgd(0.1),
    "momentum": optim.sgd(0.1, momentum=0.9, dampening=0.3, weight_decay=0.1),
    "nesterov": optim.sgd(0.1, momentum=0.9, nesterov=True),
    "adamw": optim.adamw(1e-2, betas=(0.8, 0.99), weight_decay=0.1),
    "centered": optim.rmsprop(1e-2, alpha=0.9, momentum=0.5, centered=True, weight_decay=0.1),
    "adagrad": optim.adagrad(1e-2, lr_decay=0.1, weight_decay=0.1, initial_accumulator_value=0.2),
}
every_rule = pytest.mark.parametrize("opt", RULES.values(), ids=RULES)


def tree_of(draw, dtype=np.float32):
    """A nested tree with matrices, a vector, a scalar and an empty array, its values by ``draw(shape)``."""
    made = {
        "stem": {"weight": draw((3, 4)), "bias": draw((4,))},
        "blocks": [{"weight": draw((2, 3, 2))}, {"weight": draw((5,))}],
        "scale": draw(()),
        "empty": draw((0, 2)),
    }
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), made)


def random_tree(seed, dtype=np.float32, scale=1.0):
    rng = np.random.default_rng(seed)
    return tree_of(lambda shape: scale * rng.standard_normal(shape), dtype)


def gradients(seed, dtype=np.float32):
    """Gradients of very different sizes from leaf to leaf and from step to step."""
    rng = np.random.default_rng(seed)
    return [tree_of(lambda shape: 10 ** rng.uniform(-3, 2) * rng.standard_normal(shape), dtype) for _ in range(STEPS)]


@functools.cache
def compiled(opt):
    return jax.jit(opt.update)


def run(opt, params, grads, opt_state=None, update=None):
    opt_state = opt.init(params) if opt_state is None else opt_state
    update = update or compiled(opt)
    for g in grads:
        params, opt_state = update(g, opt_state, params)
    return params, opt_state


def run_torch(rule, config, params, grads):
    """After torch's steps: the parameters, their largest magnitudes on the way, and the state, name by name."""
    torch = pytest.importorskip("torch", reason="parity tests need the oracle extra: pip install fnet[oracle]")
    leaves, structure = jax.tree.flatten(params)
    tensors = [torch.tensor(np.array(leaf), requires_grad=True) for leaf in leaves]
    opt = getattr(torch.optim, rule)(tensors, **config)
    reach = [np.abs(leaf).max(initial=0) for leaf in leaves]
    for g in grads:
        for tensor, leaf in zip(tensors, jax.tree.leaves(g), strict=True):
            tensor.grad = torch.tensor(np.array(leaf))
        opt.step()
        reach = [max(r, np.abs(t.detach().numpy()).max(initial=0)) for r, t in zip(reach, tensors, strict=True)]
    slots = {
        name: structure.unflatten([opt.state[t][name].numpy() for t in tensors])
        for name, value in opt.state[tensors[0]].items()
        if value is not None and value.shape == tensors[0].shape
    }
    return structure.unflatten([t.detach().numpy() for t in tensors]), structure.unflatten(reach), slots


def assert_close(a, b, tolerance, sizes=None):
    """Each leaf within ``tolerance`` of its largest magnitude, or of its size in ``sizes``."""
    a, b, sizes = dict(named(a)), dict(named(b)), dict(named(sizes))
    assert list(a) == list(b)
    for name in a:
        x, y = np.asarray(a[name]), np.asarray(b[name])
        assert x.dtype == y.dtype and x.shape == y.shape, name
        size = max(sizes.get(name, np.abs(y).max(initial=0)), 1e-30)
        np.testing.assert_allclose(x / size, y / size, rtol=0, atol=tolerance, err_msg=name)


def same(a, b):
    return jax.tree.structure(a) == jax.tree.structure(b) and all(
        np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


unit = st.floats(0.0, 1.0)
off_or_unit = st.one_of(st.just(0.0), unit)
rate = st.floats(-4, 0).map(lambda e: 10.0**e)
eps = st.floats(-10, -4).map(lambda e: 10.0**e)
common = {"lr": rate, "weight_decay": off_or_unit, "maximize": st.booleans()}
# b2 well under b1² divides a gradient by the root of a smaller one: any rounding then grows without bound.
adams = st.fixed_dictionaries(
    {**common, "betas": st.tuples(st.floats(0.0, 0.95), st.floats(0.9, 0.9999)), "eps": eps, "lr": rate}
)
# Centered variances below rounding are clamped here and NaN in torch, which alpha >= 0.5 keeps away from.
alphas = st.one_of(
    st.fixed_dictionaries({"centered": st.just(False), "alpha": st.floats(0.0, 0.9999)}),
    st.fixed_dictionaries({"centered": st.just(True), "alpha": st.floats(0.5, 0.9999)}),
)
FAMILIES = {
    "sgd": st.one_of(
        st.fixed_dictionaries({**common, "momentum": unit, "dampening": st.floats(0, 0.99)}),
        st.fixed_dictionaries({**common, "momentum": st.floats(0.01, 1.0), "nesterov": st.booleans()}),
    ),
    "adam": adams,
    "adamw": adams,
    "rmsprop": st.tuples(st.fixed_dictionaries({**common, "eps": eps, "momentum": off_or_unit}), alphas).map(
        lambda pair: pair[0] | pair[1]
    ),
    "adagrad": st.fixed_dictionaries(
        {**common, "lr_decay": off_or_unit, "initial_accumulator_value": off_or_unit, "eps": eps}
    ),
}
TORCH = {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW", "rmsprop": "RMSprop", "adagrad": "Adagrad"}


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("float64", 1e-12)])
@pytest.mark.parametrize("rule", FAMILIES)
def test_equals_torch_for_any_hyperparameters(rule, dtype, tolerance):
    @settings(max_examples=6, deadline=None, derandomize=True, database=None)
    @given(FAMILIES[rule], st.integers(0, 2**31), st.sampled_from([0.01, 1.0]))
    def check(config, seed, scale):
        if dtype == "float32":  # a large rate on a short memory amplifies the rounding of either library
            config = config | {"lr": min(config["lr"], 0.1)}
            config |= {"alpha": max(config["alpha"], 0.5)} if "alpha" in config else {}
        with jax.enable_x64(dtype == "float64"):
            params, grads = random_tree(seed, dtype, scale), gradients(seed + 1, dtype)
            opt = getattr(optim, rule)(**config)
            ours, _ = run(opt, params, grads, update=opt.update)  # eager: a compilation an example takes longer
            theirs, reach, _ = run_torch(TORCH[rule], config, params, grads)
            assert_close(ours, theirs, tolerance, reach)  # a parameter may end near 0 after a long way

    check()


@pytest.mark.parametrize(
    ("rule", "config", "slots"),
    [
        ("sgd", {"momentum": 0.9, "dampening": 0.1}, {"momentum": "momentum_buffer"}),
        ("adam", {}, {"mu": "exp_avg", "nu": "exp_avg_sq"}),
        ("rmsprop", {"alpha": 0.999, "momentum": 0.5}, {"nu": "square_avg", "momentum": "momentum_buffer"}),
        ("rmsprop", {"centered": True}, {"mu": "grad_avg"}),
        ("adagrad", {"initial_accumulator_value": 0.5}, {"sum": "sum"}),
    ],
)
def test_slots_are_torchs(rule, config, slots):
    """In float32 as well, where 1 - 0.999 alone would be off by 1e-5."""
    params, grads = random_tree(0), gradients(1)
    _, state = run(getattr(optim, rule)(**config), params, grads)
    _, _, theirs = run_torch(TORCH[rule], config, params, grads)
    for ours, name in slots.items():
        assert_close(state[ours], theirs[name], 1e-6)


def test_defaults_are_torchs():
    torch = pytest.importorskip("torch", reason="parity tests need the oracle extra: pip install fnet[oracle]")
    for ours, theirs in TORCH.items():
        opt = getattr(torch.optim, theirs)([torch.nn.Parameter(torch.ones(1))])
        mine = getattr(optim, ours)()
        for field in dataclasses.fields(mine):
            assert getattr(mine, field.name) == opt.defaults[field.name], (ours, field.name)


@pytest.mark.parametrize("rule", ["sgd", "nesterov", "adam", "adamw", "rmsprop", "rmsprop momentum"])
def test_equals_optax_where_it_means_the_same(rule):
    optax = pytest.importorskip("optax", reason="parity tests need the oracle extra: pip install fnet[oracle]")
    ours, theirs = {
        "sgd": (optim.sgd(0.1, momentum=0.9), optax.sgd(0.1, momentum=0.9)),
        "nesterov": (optim.sgd(0.1, momentum=0.9, nesterov=True), optax.sgd(0.1, momentum=0.9, nesterov=True)),
        "adam": (optim.adam(0.1, betas=(0.8, 0.99)), optax.adam(0.1, b1=0.8, b2=0.99)),
        "adamw": (optim.adamw(0.1, weight_decay=0.1), optax.adamw(0.1, weight_decay=0.1)),
        "rmsprop": (optim.rmsprop(0.1, alpha=0.9), optax.rmsprop(0.1, decay=0.9, eps=1e-8, eps_in_sqrt=False)),
        "rmsprop momentum": (
            optim.rmsprop(0.1, alpha=0.9, momentum=0.5),
            optax.rmsprop(0.1, decay=0.9, eps=1e-8, eps_in_sqrt=False, momentum=0.5),
        ),
    }[rule]
    with jax.enable_x64(True):
        params, grads = random_tree(0, "float64"), gradients(1, "float64")
        got, _ = run(ours, params, grads)
        state = theirs.init(params)
        for g in grads:
            updates, state = theirs.update(g, state, params)
            params = optax.apply_updates(params, updates)
        assert_close(got, params, 1e-12)


@every_rule
def test_rate_zero_changes_nothing(opt):
    params = random_tree(0)
    after, _ = run(dataclasses.replace(opt, lr=0.0), params, gradients(1))
    assert same(after, params)


@every_rule
def test_jit_equals_eager(opt):
    params, grads = random_tree(0), gradients(1)[:4]
    eager, compiled = run(opt, params, grads, update=opt.update), run(opt, params, grads)
    assert_close(eager, compiled, 1e-6)  # fused multiply-adds round differently


@every_rule
def test_leaves_do_not_depend_on_their_place_in_the_tree(opt):
    params, grads = random_tree(0), gradients(1)
    alone, _ = run(opt, params["blocks"][1], [g["blocks"][1] for g in grads])
    together, _ = run(opt, params, grads)
    assert_close(alone, together["blocks"][1], 1e-6)


@every_rule
def test_resume_is_exact(opt):
    params, grads = random_tree(0), gradients(1)
    whole = run(opt, params, grads)
    half = run(opt, params, grads[:7])
    assert same(run(opt, half[0], grads[7:], pickle.loads(pickle.dumps(half[1]))), whole)


@every_rule
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_scan_keeps_structure_shapes_and_dtypes(opt, dtype):
    params, grads = random_tree(0, dtype), gradients(1, dtype)
    stacked = jax.tree.map(lambda *gs: jnp.stack(gs), *grads)
    start = (params, opt.init(params))
    (end, state), _ = jax.lax.scan(lambda carry, g: (opt.update(g, carry[1], carry[0]), None), start, stacked)
    assert same(jax.tree.map(lambda x: x.dtype == jnp.dtype(dtype), end), jax.tree.map(lambda x: True, params))
    looped, _ = run(opt, params, grads)
    assert_close(*(jax.tree.map(lambda x: x.astype("float32"), t) for t in (end, looped)), 1e-6)
    assert int(state["step"]) == STEPS


@every_rule
def test_bfloat16_parameters_are_updated_in_float32_and_rounded(opt):
    params, grads = random_tree(0, "bfloat16"), gradients(1, "bfloat16")[:1]
    wide = [jax.tree.map(lambda x: x.astype("float32"), tree) for tree in (params, grads[0])]
    (got, state), (exact, exact_state) = run(opt, params, grads), run(opt, wide[0], wide[1:])
    assert same(got, jax.tree.map(lambda x: x.astype("bfloat16"), exact))
    assert same({slot: state[slot] for slot in opt.slots}, {slot: exact_state[slot] for slot in opt.slots})


@every_rule
def test_float32_parameters_stay_float32_under_x64(opt):
    with jax.enable_x64(True):
        params, grads = random_tree(0), gradients(1)[:3]
        after, state = run(opt, params, grads)
        assert {leaf.dtype for leaf in jax.tree.leaves(after)} == {jnp.dtype("float32")}
        assert {leaf.dtype for slot in opt.slots for leaf in jax.tree.leaves(state[slot])} <= {jnp.dtype("float32")}
        assert optim.get_hyper(state, "lr").dtype == jnp.dtype("float64")
    assert_close(after, run(opt, params, grads)[0], 1e-6)


@every_rule
def test_solves_a_quadratic(opt):
    """Rosenbrock's valley is for rules with tuned rates; a bowl must work with any of them."""
    opt = dataclasses.replace(opt, lr=0.1, weight_decay=0.0)
    if isinstance(opt, optim.adagrad):
        opt = dataclasses.replace(opt, lr=1.0, lr_decay=0.0)  # its rate falls by itself
    params = {"x": jnp.array([1.0, -2.0])}
    grad = jax.grad(lambda p: jnp.sum(jnp.array([1.0, 3.0]) * p["x"] ** 2))
    start = (params, opt.init(params))
    (params, _), _ = jax.lax.scan(lambda c, _: (opt.update(grad(c[0]), c[1], c[0]), None), start, length=500)
    assert float(jnp.abs(params["x"]).max()) < 0.2  # RMSprop hovers at about lr


def test_constant_gradient_gives_no_nan_in_centered_rmsprop():
    """There nu - mu² tends to 0 and rounding takes it below."""
    opt = optim.rmsprop(1e-3, alpha=0.5, centered=True)
    params, _ = run(opt, {"w": jnp.ones(100)}, [{"w": jnp.linspace(0.1, 3.0, 100)}] * 100)
    assert np.isfinite(np.asarray(params["w"])).all()


def test_zero_gradients_give_no_nan():
    for opt in RULES.values():
        params, _ = run(opt, {"w": jnp.ones(3)}, [{"w": jnp.zeros(3)}] * 3)
        assert np.isfinite(np.asarray(params["w"])).all()


def test_bias_correction_keeps_its_digits():
    with jax.enable_x64(False):
        state = optim.adam(betas=(0.0, 0.9999)).init({})
        hyper = optim.adam(betas=(0.0, 0.9999))._in_use(state["hyper"])
        for t in (1, 2, 20, 1000, 10**6):
            for name, b in (("b1", 0.0), ("b2", 0.9999)):
                got = hyper[name].correction(jnp.float32(t))
                np.testing.assert_allclose(float(got), -np.expm1(t * np.log1p(-(1 - b))) if b else 1.0, rtol=5e-7)
