"""What must hold for every update rule and every wrapper, whatever its algorithm.

To add one, append a `Case` to `RULES`: a name, a function that makes the optimizer, and the properties that it is
exempt from, each with the reason. Rates are such that 200 steps solve the bowl in `test_solves_a_bowl`.
"""

from __future__ import annotations

import collections
import functools
import pickle
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnet import optim
from fnet.tree import HOLE, named, optional


class Case(NamedTuple):
    id: str
    make: Callable[[], optim.Optimizer]
    exempt: Mapping[str, str] = {}  # property -> the reason why it cannot hold


muon_and_adamw = {
    # In float32: eager and compiled code round bfloat16 at other places.
    optional(("*.bias", "scale")): optim.adamw(0.05),
    "*": optim.muon(0.02, weight_decay=0.01, ns_dtype=None),
}
RULES = [
    Case("sgd", lambda: optim.sgd(0.1)),
    Case("sgd momentum", lambda: optim.sgd(0.02, momentum=0.9, dampening=0.3, weight_decay=0.01)),
    Case("sgd nesterov", lambda: optim.sgd(0.02, momentum=0.9, nesterov=True)),
    Case("adam", lambda: optim.adam(0.05, weight_decay=0.01)),
    Case("adamw", lambda: optim.adamw(0.05, betas=(0.8, 0.99))),
    Case("rmsprop", lambda: optim.rmsprop(0.02)),
    Case("rmsprop centered", lambda: optim.rmsprop(0.01, alpha=0.9, momentum=0.5, centered=True, weight_decay=0.01)),
    Case("adagrad", lambda: optim.adagrad(0.5, lr_decay=0.001, initial_accumulator_value=0.1)),
    Case("adam amsgrad", lambda: optim.adam(0.05, weight_decay=0.01, amsgrad=True)),
    Case("adamw amsgrad corrected", lambda: optim.adamw(0.05, amsgrad="corrected")),
    Case("nadam", lambda: optim.nadam(0.05, weight_decay=0.01)),
    Case("nadam constant momentum", lambda: optim.nadam(0.05, momentum_decay=None, decoupled_weight_decay=True)),
    Case("radam", lambda: optim.radam(0.05, betas=(0.9, 0.99))),
    Case("adamax", lambda: optim.adamax(0.05)),
    Case("adadelta", lambda: optim.adadelta(30.0)),
    Case("adabelief", lambda: optim.adabelief(0.05, weight_decay=0.01)),
    Case("yogi", lambda: optim.yogi(0.05)),
    Case("adopt", lambda: optim.adopt(0.05, weight_decay=0.01)),
    Case("adan", lambda: optim.adan(0.05, weight_decay=0.01)),
    Case("ademamix", lambda: optim.ademamix(0.05, alpha=1.0, alpha_warmup=500, beta3_warmup=500)),
    Case("novograd", lambda: optim.novograd(0.02, weight_decay=0.01)),
    Case("lion", lambda: optim.lion(0.02, betas=(0.9, 0.95), weight_decay=0.01)),
    Case(
        "rprop",
        lambda: optim.rprop(0.02),
        {"lr 0": "its lr is the first step size, which adapts between two bounds above 0"},
    ),
    Case("asgd", lambda: optim.asgd(0.1, t0=100.0)),
    Case("sophia", lambda: optim.sophia(0.05, gamma=0.5, weight_decay=0.01, update_interval=2)),
    Case("lamb", lambda: optim.lamb(0.03, weight_decay=0.01)),
    Case("lars", lambda: optim.lars(0.5, trust_coefficient=0.01, weight_decay=0.01)),
    Case("adafactor", lambda: optim.adafactor(0.05, weight_decay=0.01)),
    Case("adafactor optax", lambda: optim.adafactor(0.05, beta1=0.5, semantics="optax", min_dim_size_to_factor=2)),
    Case("muon and a companion", lambda: optim.groups(muon_and_adamw)),
    Case("soap", lambda: optim.soap(0.05, precondition_frequency=2)),
    Case("shampoo", lambda: optim.shampoo(0.5, eps=1e-2)),
    Case("prodigy", lambda: optim.prodigy(d0=1e-2)),
    Case("prodigy decay", lambda: optim.prodigy(0.9, beta3=0.9, use_bias_correction=True, weight_decay=0.001, d0=1e-2)),
    Case("dadapt_adamw", lambda: optim.dadapt_adamw(use_bias_correction=True, weight_decay=0.001, d0=1e-2)),
    Case("dadapt_sgd", lambda: optim.dadapt_sgd(momentum=0.5, weight_decay=0.001, d0=1e-1)),
    Case("schedule_free_sgd", lambda: optim.schedule_free_sgd(0.2, weight_decay=0.001)),
    Case("schedule_free_adamw", lambda: optim.schedule_free_adamw(0.1, weight_decay=0.001, r=1.0)),
    Case("lbfgs", lambda: optim.lbfgs(history_size=4)),
    Case("lbfgs fixed step", lambda: optim.lbfgs(0.5, history_size=4, line_search_fn=None)),
    Case("sam", lambda: optim.sam(optim.sgd(0.1), rho=0.01)),
    Case("sam adaptive", lambda: optim.sam(optim.adam(0.05), rho=0.01, adaptive=True)),
    Case("ema", lambda: optim.ema(optim.adam(0.05), 0.9)),
    Case("ema debias", lambda: optim.ema(optim.sgd(0.1), 0.9, debias=True)),
    Case("swa", lambda: optim.swa(optim.adam(0.05), start=100, every=2)),
    Case("lookahead", lambda: optim.lookahead(optim.adam(0.1), k=2, alpha=0.5)),
]

PROPERTIES = {
    "lr 0": "a learning rate of 0 changes nothing",
    "jit": "the compiled update equals the eager one",
    "order": "the order of the leaves in the tree changes nothing",
    "resume": "a saved state goes on to the same numbers",
    "bfloat16": "parameters in bfloat16 move and stay bfloat16",
    "scan": "structure, shapes and dtypes stay as they are",
    "groups": "a group is treated as if it were alone",
    "retrace": "a changed hyperparameter needs no new compilation",
    "x64": "parameters in float32 stay so in 64-bit mode",
    "flat": "gradients of zero give finite parameters",
    "bowl": "200 steps solve a bowl",
}


def every_rule(property):
    """Run a test for each rule that is not exempt from the property."""
    return pytest.mark.parametrize(
        "case",
        [
            pytest.param(case, id=case.id, marks=[pytest.mark.skip(reason=case.exempt[property])])
            if property in case.exempt
            else pytest.param(case, id=case.id)
            for case in RULES
        ],
    )


def params_of(dtype="float32", order=dict):
    """Matrices, a vector and a scalar, among leaves that nobody trains."""
    rng = np.random.default_rng(0)
    draw = {name: jnp.asarray(rng.standard_normal(shape), dtype) for name, shape in SHAPES.items()}
    body = order({"bias": draw["body.bias"], "weight": draw["body.weight"]})
    rest = {"head": order({"weight": draw["head.weight"]}), "scale": draw["scale"]}
    return order({"body": body, "count": jnp.arange(3), **rest, "seed": jax.random.key(1)})


SHAPES = {"body.bias": (3,), "body.weight": (2, 3), "head.weight": (3, 2), "scale": ()}


def bowls(params, t):
    """A loss whose minimum moves with the step, the same function of a leaf wherever that stands."""

    def one(p):
        at = jnp.arange(p.size, dtype="float32").reshape(p.shape)
        return jnp.sum((1 + at / p.size) * (p.astype(jnp.promote_types(p.dtype, "float32")) - jnp.sin(at + t)) ** 2)

    return sum(one(p) for p in jax.tree.leaves(params))


def flat(params, t):
    return sum(jnp.sum(0 * p) for p in jax.tree.leaves(params))


def step(opt, loss, params, opt_state, t, group=None):
    """One training step, with all that a rule may ask for; ``group`` gives the key that group would get."""

    def value_and_grad(params):
        return jax.value_and_grad(loss)(opt.trainable(params), t)

    value, grads = value_and_grad(params)
    key = jax.random.fold_in(jax.random.key(0), t)
    key = key if group is None else jax.random.fold_in(key, group)
    return opt.update(grads, opt_state, params, loss=value, value_and_grad=value_and_grad, key=key)


TRACES = collections.Counter()


@functools.cache
def compiled(opt):
    def update(params, opt_state, t):
        TRACES[opt] += 1
        return step(opt, bowls, params, opt_state, t)

    return jax.jit(update)


def eager(opt, loss=bowls, group=None):
    return functools.partial(step, opt, loss, group=group)


def run(opt, params, steps=3, opt_state=None, first=0, step=None):
    opt_state = opt.init(params) if opt_state is None else opt_state
    for t in range(first, first + steps):
        params, opt_state = (step or compiled(opt))(params, opt_state, jnp.int32(t))
    return params, opt_state


def floats(opt, params):
    return dict(named(opt.trainable(params)))


def same(a, b):
    def plain(x):
        return jax.random.key_data(x) if jnp.issubdtype(jnp.result_type(x), jax.dtypes.prng_key) else x

    return jax.tree.structure(a) == jax.tree.structure(b) and all(
        np.array_equal(plain(x), plain(y)) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def assert_close(a, b, tolerance=1e-5):
    assert set(a) == set(b)
    for name in a:
        np.testing.assert_allclose(a[name], b[name], rtol=tolerance, atol=tolerance, err_msg=name)


def kinds(tree):
    return jax.tree.map(lambda x: (jnp.shape(x), jnp.result_type(x), jnp.asarray(x).weak_type), tree)


def test_cases_are_well_formed():
    assert len({case.id for case in RULES}) == len(RULES)
    for case in RULES:
        assert case.make() == case.make() and hash(case.make()) == hash(case.make()), case.id
        assert set(case.exempt) <= set(PROPERTIES) and all(case.exempt.values()), case.id


@every_rule("lr 0")
def test_rate_zero_changes_nothing(case):
    opt, params = case.make(), params_of()
    state = opt.init(params)
    for group in [name for name, value in state["hyper"].items() if isinstance(value, Mapping)] or [None]:
        state = optim.set_hyper(state, group, lr=0.0)
    assert same(run(opt, params, opt_state=state)[0], params)


@every_rule("jit")
def test_jit_equals_eager(case):
    opt, params = case.make(), params_of()
    got, expected = run(opt, params, step=eager(opt)), run(opt, params)
    assert_close(floats(opt, got[0]), floats(opt, expected[0]))  # fused multiply-adds round differently
    assert all(got[0][name] is params[name] for name in ("count", "seed"))


@every_rule("order")
def test_order_of_leaves_changes_nothing(case):
    opt, params = case.make(), params_of()
    turned = params_of(order=lambda items: OrderedDict(reversed(items.items())))
    assert list(floats(opt, turned)) != list(floats(opt, params))
    got, _ = run(opt, turned, step=eager(opt))
    assert_close(floats(opt, got), floats(opt, run(opt, params)[0]))


@every_rule("resume")
def test_resume_is_exact(case):
    opt, params = case.make(), params_of()
    whole = run(opt, params, steps=6)
    half = run(opt, params, steps=4)
    assert same(run(opt, half[0], steps=2, first=4, opt_state=pickle.loads(pickle.dumps(half[1]))), whole)


@every_rule("bfloat16")
def test_bfloat16_parameters_move(case):
    opt, params = case.make(), params_of("bfloat16")
    after, state = run(opt, params, step=eager(opt))
    for name, p in floats(opt, params).items():
        new = floats(opt, after)[name]
        assert new.dtype == jnp.bfloat16 and np.isfinite(np.asarray(new, "float32")).all(), name
        assert np.any(np.asarray(new) != np.asarray(p)), name
    assert kinds(state) == kinds(opt.init(params))


@every_rule("scan")
def test_scan_keeps_structure_shapes_and_dtypes(case):
    """Traced only: scan refuses a carry that changes."""
    opt = case.make()
    for dtype in ("float32", "bfloat16"):
        params = params_of(dtype)
        state = opt.init(params)
        for slot in opt.slots:
            assert set(dict(named(state[slot]))) <= set(floats(opt, params)), slot
            assert state[slot]["count"] is HOLE and state[slot]["seed"] is HOLE, slot
        whole = jax.eval_shape(
            lambda start: jax.lax.scan(lambda c, t: (step(opt, bowls, *c, t), None), start, jnp.arange(3)),
            (params, state),
        )
        assert jax.tree.structure(whole[0]) == jax.tree.structure((params, state))


@every_rule("groups")
def test_a_group_is_treated_as_if_it_were_alone(case):
    opt, params = case.make(), params_of()
    grouped = optim.groups({"body.*": None, "*": opt})
    after, state = run(grouped, params, step=eager(grouped))
    assert after["body"]["weight"] is params["body"]["weight"] and after["body"]["bias"] is params["body"]["bias"]
    assert all(state[slot]["body"] == {"bias": HOLE, "weight": HOLE} for slot in opt.slots)
    held = {**params, "body": {"bias": HOLE, "weight": HOLE}}
    expected, _ = run(opt, held, step=eager(opt, group=1))
    assert_close(floats(grouped, after), floats(opt, expected))


@every_rule("retrace")
def test_hyperparameters_change_without_a_new_trace(case):
    opt, params = case.make(), params_of()
    update = compiled(opt)
    params, state = run(opt, params, steps=1)
    traced = TRACES[opt]
    for name in [name for name, value in state["hyper"].items() if not isinstance(value, Mapping)]:
        changed = optim.set_hyper(state, **{name: optim.get_hyper(state, name) * 0.9})
        update(params, changed, jnp.int32(1))
    assert TRACES[opt] == traced


@every_rule("x64")
def test_float32_parameters_stay_float32_in_64_bit_mode(case):
    opt = case.make()
    with jax.enable_x64(True):
        params = params_of()
        after, state = run(opt, params, steps=2, step=eager(opt))
        assert {leaf.dtype for leaf in floats(opt, after).values()} == {jnp.dtype("float32")}
        assert kinds(state) == kinds(opt.init(params))
    assert_close(floats(opt, after), floats(opt, run(opt, params_of(), steps=2)[0]), 1e-4)


@every_rule("flat")
def test_zero_gradients_give_finite_parameters(case):
    opt, params = case.make(), params_of()
    after, state = run(opt, params, steps=3, step=eager(opt, flat))
    for leaf in jax.tree.leaves((floats(opt, after), {slot: state[slot] for slot in opt.slots})):
        assert np.isfinite(np.asarray(leaf)).all()


@every_rule("bowl")
def test_solves_a_bowl(case):
    opt, params = case.make(), params_of()
    update, end, state = compiled(opt), params, opt.init(params)
    for _ in range(200):
        end, state = update(end, state, jnp.int32(0))
    shipped = opt.trainable(opt.eval_params(state, end))
    assert float(bowls(shipped, 0)) < 0.02 * float(bowls(opt.trainable(params), 0))
