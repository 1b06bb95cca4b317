"""The optimizer contract: the state's layout, hyperparameters, holes, errors, and what rules and wrappers can be."""

from __future__ import annotations

import copy
import dataclasses
import math
import pickle
from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnet import nn, optim
from fnet.tree import HOLE, named

PARAMS = {
    "body": {"weight": jnp.linspace(-1, 1, 6).reshape(2, 3), "bias": jnp.zeros(3)},
    "head": {"weight": jnp.linspace(0, 1, 3)},
}
GRADS = jax.tree.map(lambda p: jnp.cos(p) + 0.5, PARAMS)


def same(a, b):
    return jax.tree.structure(a) == jax.tree.structure(b) and all(
        np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


# The state


def test_state_layout():
    state = optim.adamw(3e-4, weight_decay=0.1).init(PARAMS)
    assert list(state) == ["step", "hyper", "mu", "nu"]
    assert list(state["hyper"]) == ["lr", "b1", "b2", "eps", "weight_decay"]
    assert state["step"].dtype == jnp.int32 and state["step"].shape == () and not state["step"].weak_type
    for value in state["hyper"].values():
        assert value.dtype == jnp.float32 and value.shape == () and not value.weak_type
    for slot in ("mu", "nu"):
        assert jax.tree.map(jnp.shape, state[slot]) == jax.tree.map(jnp.shape, PARAMS)
    _, after = optim.adamw(3e-4, weight_decay=0.1).update(GRADS, state, PARAMS)
    kinds = jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), state)
    assert jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), after) == kinds
    assert int(after["step"]) == 1


def test_terms_that_are_off_leave_no_trace():
    assert list(optim.sgd(0.1).init(PARAMS)) == ["step", "hyper"]
    assert list(optim.sgd(0.1).init(PARAMS)["hyper"]) == ["lr"]
    assert list(optim.sgd(0.1, momentum=0.9).init(PARAMS)["hyper"]) == ["lr", "momentum"]
    assert "weight_decay" not in optim.adamw(weight_decay=0.0).init(PARAMS)["hyper"]


def test_hyperparameters_follow_the_default_float():
    with jax.enable_x64(True):
        state = optim.adam(0.1).init({"w": jnp.ones(2)})
        assert state["hyper"]["b2"].dtype == jnp.float64 and float(state["hyper"]["b2"]) == 0.999
        assert state["step"].dtype == jnp.int32 and state["mu"]["w"].dtype == jnp.float64


def test_init_under_transforms():
    opt = optim.adam(0.1)
    state = opt.init(PARAMS)
    assert same(jax.jit(opt.init)(PARAMS), state)
    shapes = jax.eval_shape(opt.init, PARAMS)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), shapes) == jax.tree.map(lambda x: (x.shape, x.dtype), state)


@pytest.mark.parametrize(
    "params",
    [
        jnp.ones(3),
        [jnp.ones(3), (jnp.ones(2), None)],
        namedtuple("Pair", "w b")(jnp.ones(3), jnp.zeros(1)),
        {"w": np.ones(3, np.float32), "f": 0.5},
        {},
    ],
    ids=["array", "list and None", "namedtuple", "numpy and float", "empty"],
)
def test_any_tree(params):
    opt = optim.sgd(0.5, momentum=0.9)
    grads = jax.tree.map(jnp.ones_like, params)
    after, state = opt.update(grads, opt.init(params), params)
    assert same(after, jax.tree.map(lambda p: p - 0.5, params))
    assert jax.tree.structure(state["momentum"]) == jax.tree.structure(params)


def test_what_is_not_trained_comes_back_untouched():
    params = {**PARAMS, "count": jnp.arange(3), "key": jax.random.key(0), "flag": True, "name": np.int64(3)}
    opt = optim.adam(0.1)
    live = opt.trainable(params)
    assert [name for name, _ in named(live)] == ["body.bias", "body.weight", "head.weight"]
    assert live["count"] is HOLE and live["body"]["weight"] is params["body"]["weight"]
    state = opt.init(params)
    assert state["mu"]["key"] is HOLE
    grads = jax.tree.map(lambda p: p + 1, live)
    after, state = opt.update(grads, state, params)
    assert all(after[name] is params[name] for name in ("count", "key", "flag", "name"))
    without, _ = opt.update(GRADS, opt.init(PARAMS), PARAMS)
    with_extra = {**GRADS, "count": jnp.ones(3)}  # gradients of what is not trained are dropped
    assert same(opt.update(with_extra, opt.init(params), params)[0]["body"], without["body"])


def test_donation_and_distinct_buffers():
    opt = optim.adamw(0.1)
    params = jax.tree.map(jnp.copy, PARAMS)
    expected = opt.update(GRADS, opt.init(params), params)
    got = jax.jit(opt.update, donate_argnums=(1, 2))(GRADS, opt.init(params), params)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool(jnp.allclose(a, b, rtol=1e-6)), got, expected))


def test_slots_lie_where_their_parameters_lie():
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    where = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    params = {"w": jax.device_put(jnp.ones(4), where)}
    assert optim.adam().init(params)["mu"]["w"].sharding == where
    assert not optim.adam().init(PARAMS)["mu"]["head"]["weight"].committed


# Hyperparameters


def test_setting_a_rate_takes_effect_without_a_new_trace():
    opt, traces = optim.sgd(0.5, momentum=0.9), []

    @jax.jit
    def step(params, state):
        traces.append(1)
        return opt.update(GRADS, state, params)

    params, state = step(PARAMS, opt.init(PARAMS))
    for lr in (0.25, 1, np.float64(0.125), jnp.bfloat16(2)):
        state = optim.set_hyper(state, lr=lr, momentum=0.0)
        assert float(optim.get_hyper(state, "lr")) == float(lr)
        after, state = step(params, state)
        moved = jax.tree.map(lambda a, p, g, lr=lr: bool(jnp.allclose(a, p - lr * g)), after, params, GRADS)
        assert jax.tree.all(moved)
        params = after
    assert len(traces) == 1


def test_set_hyper_is_pure_and_works_under_jit_and_vmap():
    opt = optim.sgd(0.5)
    state = opt.init(PARAMS)
    optim.set_hyper(state, lr=1.0)
    assert float(state["hyper"]["lr"]) == 0.5
    rates = jnp.array([0.0, 0.1, 1.0])
    after = jax.vmap(lambda lr: opt.update(GRADS, optim.set_hyper(state, lr=lr), PARAMS)[0])(rates)
    expected = PARAMS["head"]["weight"] - rates[:, None] * GRADS["head"]["weight"]
    np.testing.assert_allclose(after["head"]["weight"], expected, rtol=1e-6)


def test_a_python_number_written_into_the_state_does_not_change_its_type():
    opt = optim.sgd(0.5)
    state = {**opt.init(PARAMS), "hyper": {"lr": 1}}
    _, after = opt.update(GRADS, state, PARAMS)
    assert after["hyper"]["lr"].dtype == jnp.float32 and not after["hyper"]["lr"].weak_type


def test_unknown_hyperparameters_and_groups_are_named():
    state = optim.adam(0.1).init(PARAMS)
    with pytest.raises(KeyError, match=r"no hyperparameter 'beta1'.*'b1'"):
        optim.set_hyper(state, beta1=0.5)
    with pytest.raises(KeyError, match=r"no hyperparameter 'weight_decay'.*left out of the state"):
        optim.get_hyper(state, "weight_decay")
    with pytest.raises(KeyError, match="no group 1 in this optimizer state; it has no groups"):
        optim.set_hyper(state, lr=0.5, group=1)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: optim.sgd(-0.1), ValueError, "sgd: lr must be finite and not negative, got -0.1"),
        (lambda: optim.sgd(math.nan), ValueError, "sgd: lr must be finite and not negative, got nan"),
        (lambda: optim.sgd(jnp.float32(0.1)), TypeError, "sgd: lr must be a float or a schedule"),
        (lambda: optim.sgd(PARAMS), TypeError, "got a dict: an optimizer here holds no parameters. opt = sgd(1e-3)"),
        (
            lambda: optim.adam(PARAMS, lr=1e-3),
            TypeError,
            "adam takes lr first, and holds no parameters. opt = adam(0.0",
        ),
        (lambda: optim.adam(PARAMS, 1e-3), TypeError, "got a dict: an optimizer here holds no parameters. opt = adam("),
        (lambda: optim.SGD, AttributeError, "optim.SGD is optim.sgd in fnet, and holds no parameters"),
        (lambda: optim.lr_scheduler, AttributeError, "a schedule in the place of the learning rate"),
        (lambda: optim.adm, AttributeError, "did you mean 'adam'"),
        (lambda: optim.sgd().step(), AttributeError, "opt.update(grads, opt_state, params)"),
        (lambda: optim.sgd().zero_grad(), AttributeError, "in its place is nothing, since jax.grad"),
        (lambda: optim.sgd().steps, AttributeError, "'sgd' object has no attribute 'steps'"),
        (lambda: optim.sgd("0.1"), TypeError, "got '0.1' (str)"),
        (lambda: optim.sgd(True), TypeError, "got True (bool)"),
        (lambda: optim.adam(betas=(0.9, 1.0)), ValueError, "adam: b2 must be in [0, 1), got 1.0"),
        (lambda: optim.adamw(betas=0.9), TypeError, "adamw: betas must be a pair such as (0.9, 0.999), got 0.9"),
        (lambda: optim.rmsprop(alpha=-0.1), ValueError, "rmsprop: alpha must be in [0, 1), got -0.1"),
        (lambda: optim.sgd(nesterov=True), ValueError, "nesterov needs momentum > 0 and dampening = 0"),
        (lambda: optim.adagrad(initial_accumulator_value=-1), ValueError, "_value must not be negative, got -1"),
        (lambda: optim.clip_by_global_norm(optim.sgd(), 0.0), ValueError, "max_norm must be a number above 0, got 0.0"),
        (lambda: optim.clip_by_global_norm(1.0, optim.sgd()), TypeError, "clip_by_global_norm wraps an optimizer"),
    ],
)
def test_bad_configurations_are_named(make, error, message):
    with pytest.raises(error) as raised:
        make()
    assert message in str(raised.value)


# Values


@pytest.mark.parametrize(
    "make",
    [
        lambda: optim.sgd(0.1, momentum=0.9),
        lambda: optim.adamw(optim.warmup(optim.cosine(3e-4, 100), 10), betas=[0.9, 0.99]),
        lambda: optim.clip_by_global_norm(
            optim.groups({"*.bias": None, ("a.*", "b.*"): optim.adam(), "*": optim.sgd()}), 1.0
        ),
    ],
)
def test_optimizers_are_values(make):
    opt = make()
    assert opt == make() and hash(opt) == hash(make()) and repr(opt) == repr(make())
    for twin in (pickle.loads(pickle.dumps(opt)), copy.deepcopy(opt)):
        assert twin == opt and hash(twin) == hash(opt)
    with pytest.raises(dataclasses.FrozenInstanceError):
        opt.lr = 1.0
    traces = []
    step = jax.jit(lambda x, opt: traces.append(1) or x, static_argnums=1)
    step(1.0, opt), step(1.0, make())
    assert len(traces) == 1


def test_repr_is_the_call_that_makes_it():
    expected = "adamw(lr=0.0003, betas=(0.9, 0.999), eps=1e-08, weight_decay=0.01, amsgrad=False)"
    assert repr(optim.adamw(3e-4)) == expected
    groups = optim.groups({"*.bias": None, "*": optim.adagrad()})
    for opt in (optim.sgd(0.1, maximize=True), optim.rmsprop(optim.cosine(0.1, 5)), groups):
        assert eval(repr(opt), vars(optim)) == opt
    assert optim.adam(0.1) != optim.adamw(0.1) and optim.sgd(0.1) != optim.sgd(0.2)


# Errors at use


def test_gradients_that_do_not_fit_are_named():
    opt = optim.sgd(0.1)
    state = opt.init(PARAMS)
    with pytest.raises(ValueError, match=r"no gradient was given for 'head.weight'; each of the 3 trainable"):
        opt.update({"body": GRADS["body"]}, state, PARAMS)
    with pytest.raises(ValueError, match=r"no gradient was given for 'head.weight'"):
        opt.update({**GRADS, "head": {"weight": None}}, state, PARAMS)
    with pytest.raises(ValueError, match=r"gradients for 'hed.weight', not in params; did you mean 'head.weight'"):
        opt.update({**GRADS, "hed": {"weight": jnp.ones(3)}}, state, PARAMS)
    with pytest.raises(ValueError, match=r"the gradient of 'head.weight' has shape \(1,\), the parameter \(3,\)"):
        opt.update({**GRADS, "head": {"weight": jnp.ones(1)}}, state, PARAMS)
    reordered = optim.sgd(0.1).update({"head": GRADS["head"], "body": dict(GRADS["body"])}, state, PARAMS)
    assert same(reordered[0], opt.update(GRADS, state, PARAMS)[0])


def test_states_of_other_optimizers_and_parameters_are_refused():
    opt = optim.adam(0.1)
    with pytest.raises(ValueError, match=r"lacks 'mu', lacks 'nu', lacks 'hyper.b1'.*opt.init\(params\)"):
        opt.update(GRADS, optim.sgd(0.1).init(PARAMS), PARAMS)
    with pytest.raises(ValueError, match=r"has 'mu', has 'nu', has 'hyper.b1'"):
        optim.sgd(0.1).update(GRADS, opt.init(PARAMS), PARAMS)
    with pytest.raises(ValueError, match="has 'scheduled'"):
        opt.update(GRADS, optim.adam(optim.cosine(0.1, 5)).init(PARAMS), PARAMS)
    with pytest.raises(ValueError, match="the slot 'mu' of the optimizer's state belongs to other parameters"):
        opt.update(GRADS, opt.init({"body": PARAMS["body"]}), PARAMS)
    other = {**PARAMS, "head": {"weight": jnp.ones((1, 3))}}
    with pytest.raises(ValueError, match=r"'head.weight': the slot 'mu' has shape \(3,\) and its update \(1, 3\)"):
        opt.update(jax.tree.map(jnp.ones_like, other), opt.init(PARAMS), other)


def test_complex_parameters_are_refused():
    with pytest.raises(TypeError, match=r"the parameter 'z' is complex \(complex64\).*two leaves"):
        optim.sgd(0.1).init({"z": jnp.ones(2, "complex64")})


# What rules and wrappers can be


@dataclass(frozen=True, repr=False)
class Sam(optim.Rule):
    """Sharpness-aware descent: a rule that asks for the gradient at another point."""

    lr: float = 0.1
    rho: float = 0.5

    def hyper(self):
        return {"lr": self.lr, "rho": self.rho}

    def rule(self, now, params, grads, memory):
        scale = now.hyper.rho / optim.global_norm(grads)
        _, grads = now.value_and_grad(jax.tree.map(lambda p, g: p + scale * g, params, grads))
        return now.each(lambda h, p, g, slots: (p - h.lr * g, {}), params, grads, memory)


@dataclass(frozen=True, repr=False)
class Whole(optim.Rule):
    """A rule with one scalar for the whole tree, noise from a key, and a slot for matrices only."""

    lr: float = 0.1
    extras = ("seen",)

    @property
    def slots(self):
        return ("rows",)

    def hyper(self):
        return {"lr": self.lr}

    def memory(self, params):
        rows = jax.tree.map(lambda p: jnp.zeros(p.shape[:1]) if p.ndim == 2 else HOLE, params)
        return {"rows": rows, "seen": jnp.zeros(())}

    def rule(self, now, params, grads, memory):
        noise = jax.random.normal(now.key)

        def leaf(h, p, g, slots):
            rows = slots["rows"]
            return p - h.lr * g + 0 * noise, {"rows": rows if rows is None else rows + jnp.sum(g, 1)}

        params, slots = now.each(leaf, params, grads, {"rows": memory["rows"]})
        return params, {**slots, "seen": memory["seen"] + optim.global_norm(grads) + now.loss}


@dataclass(frozen=True)
class Ema(optim.Wrapper):
    """A running average of the parameters, to evaluate."""

    rate: float = 0.5
    keys = ("ema",)

    @property
    def slots(self):
        return (*self.inner.slots, "ema")

    def init(self, params):
        return self.beside(self.inner.init(params), ema=self.trainable(params))

    def update(self, grads, opt_state, params, **more: Any):
        inner, own = self.apart(opt_state)
        params, inner = self.inner.update(grads, inner, params, **more)
        ema = jax.tree.map(lambda e, p: self.rate * e + (1 - self.rate) * p, own["ema"], self.trainable(params))
        return params, self.beside(inner, ema=ema)

    def eval_params(self, opt_state, params):
        return {**params, **opt_state["ema"]}


def loss(params):
    return sum(jnp.sum(jnp.sin(leaf) ** 2) for leaf in jax.tree.leaves(params))


def test_a_rule_may_ask_for_the_gradient_elsewhere():
    params = {**PARAMS, "count": jnp.arange(2)}
    opt = Sam()
    live = opt.trainable(params)

    def value_and_grad(params):
        assert params["count"].shape == (2,)  # the rule's holes are filled
        return jax.value_and_grad(lambda live: loss(live))(opt.trainable(params))

    value, grads = value_and_grad(params)
    update = jax.jit(lambda p, s: opt.update(grads, s, p, loss=value, value_and_grad=value_and_grad))
    after = update(params, opt.init(params))[0]["head"]["weight"]
    norm = optim.global_norm(grads)
    there = jax.grad(loss)(jax.tree.map(lambda p, g: p + 0.5 * g / norm, live, grads))
    np.testing.assert_allclose(after, params["head"]["weight"] - 0.1 * there["head"]["weight"], rtol=1e-5)
    up = Sam(maximize=True)
    negative = lambda p: jax.tree.map(jnp.negative, value_and_grad(p))  # noqa: E731
    risen, _ = up.update(jax.tree.map(jnp.negative, grads), up.init(params), params, value_and_grad=negative)
    np.testing.assert_allclose(risen["head"]["weight"], after, rtol=1e-6)


def test_a_rule_may_keep_scalars_and_slots_of_other_shapes():
    opt = Whole()
    state = opt.init(PARAMS)
    _, state = opt.update(GRADS, state, PARAMS, loss=jnp.float32(2.0), key=jax.random.key(0))
    assert state["rows"]["head"]["weight"] is HOLE
    np.testing.assert_allclose(state["rows"]["body"]["weight"], GRADS["body"]["weight"].sum(1), rtol=1e-6)
    np.testing.assert_allclose(state["seen"], optim.global_norm(GRADS) + 2, rtol=1e-6)


def test_wrappers_add_keys_and_never_nest():
    opt = optim.clip_by_global_norm(Ema(optim.adam(0.1)), 1.0)
    state = opt.init(PARAMS)
    assert list(state) == ["step", "hyper", "mu", "nu", "ema"] and opt.slots == ("mu", "nu", "ema")
    params, state = jax.jit(opt.update)(GRADS, state, PARAMS)
    assert same(opt.eval_params(state, params), state["ema"]) and opt.loss_scale(state) == 1.0
    middle = (PARAMS["head"]["weight"] + params["head"]["weight"]) / 2
    np.testing.assert_allclose(state["ema"]["head"]["weight"], middle)
    with pytest.raises(ValueError, match=r"Ema keeps 'ema' in the optimizer's state, and so does what it wraps"):
        Ema(opt).init(PARAMS)
    with pytest.raises(ValueError, match="Ema: the optimizer's state lacks 'ema'"):
        opt.update(GRADS, optim.adam(0.1).init(PARAMS), PARAMS)
    with pytest.raises(ValueError, match="has 'ema'"):
        optim.adam(0.1).update(GRADS, opt.init(PARAMS), PARAMS)


@pytest.mark.parametrize("opt", [optim.adamw(), optim.ema(optim.sgd()), optim.groups({"*": optim.sgd()})], ids=repr)
def test_a_model_in_place_of_its_parameters_is_an_error(opt):
    model = nn.Linear(3)
    with pytest.raises(TypeError, match=r"tree of arrays, and this is Linear; .*model.init\(key, x\)"):
        opt.init(model)
    with pytest.raises(TypeError, match="the parameter 'head' is Linear"):
        opt.init({"body": jnp.ones(2), "head": model})
