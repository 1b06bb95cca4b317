"""Groups: rules by name, frozen parameters, and wrappers around them and in them."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnet
from fnet import optim
from fnet.tree import HOLE, merge, named

PARAMS = {
    "backbone": {"0": {"weight": jnp.ones((8, 8)), "bias": jnp.ones(8)}, "norm": {"scale": jnp.ones(8)}},
    "head": {"weight": jnp.ones((8, 4)), "bias": jnp.ones(4)},
    "count": jnp.arange(2),
}
OPT = optim.groups(
    {
        "backbone.0.*": None,
        ("*.bias", "*norm*"): optim.sgd(0.5, momentum=0.9),
        "*": optim.adamw(0.1, weight_decay=0.2),
    }
)


def grads_of(opt, params, seed=0):
    leaves, structure = jax.tree.flatten(opt.trainable(params))
    rng = np.random.default_rng(seed)
    return structure.unflatten([jnp.asarray(rng.standard_normal(leaf.shape), leaf.dtype) for leaf in leaves])


def same(a, b):
    return jax.tree.structure(a) == jax.tree.structure(b) and all(
        np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def close(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-6)


def test_state_layout():
    state = OPT.init(PARAMS)
    assert list(state) == ["step", "hyper", "momentum", "mu", "nu"]
    assert {group: list(values) for group, values in state["hyper"].items()} == {
        "1": ["lr", "momentum"],
        "2": ["lr", "b1", "b2", "eps", "weight_decay"],
    }
    assert [name for name, _ in named(state["momentum"])] == ["backbone.norm.scale", "head.bias"]
    assert [name for name, _ in named(state["mu"])] == ["head.weight"]
    assert state["mu"]["backbone"]["norm"]["scale"] is HOLE and state["mu"]["count"] is HOLE
    _, after = jax.jit(OPT.update)(grads_of(OPT, PARAMS), state, PARAMS)
    assert jax.tree.structure(after) == jax.tree.structure(state) and int(after["step"]) == 1


def test_each_group_moves_as_alone():
    grads = [grads_of(OPT, PARAMS, seed) for seed in range(5)]
    params, state = PARAMS, OPT.init(PARAMS)
    update = jax.jit(OPT.update)
    for g in grads:
        params, state = update(g, state, params)

    def alone(opt, pick):
        p = pick(PARAMS)
        s = opt.init(p)
        for g in grads:
            p, s = opt.update(pick(g), s, p)
        return p

    sgd = alone(optim.sgd(0.5, momentum=0.9), lambda t: [t["backbone"]["norm"]["scale"], t["head"]["bias"]])
    adamw = alone(optim.adamw(0.1, weight_decay=0.2), lambda t: t["head"]["weight"])
    close([params["backbone"]["norm"]["scale"], params["head"]["bias"]], sgd)
    close(params["head"]["weight"], adamw)
    assert same(params["backbone"]["0"], PARAMS["backbone"]["0"])


def test_what_is_frozen_is_never_touched():
    live = OPT.trainable(PARAMS)
    assert live["backbone"]["0"] == {"weight": HOLE, "bias": HOLE} and live["count"] is HOLE
    after, _ = OPT.update(grads_of(OPT, PARAMS), OPT.init(PARAMS), PARAMS)
    assert after["backbone"]["0"]["weight"] is PARAMS["backbone"]["0"]["weight"]
    assert after["count"] is PARAMS["count"]
    everything = optim.groups({"*": None})
    assert everything.init(PARAMS)["hyper"] == {}
    after, state = everything.update(everything.trainable(PARAMS), everything.init(PARAMS), PARAMS)
    assert after["head"]["bias"] is PARAMS["head"]["bias"] and int(state["step"]) == 1


@pytest.mark.parametrize("wrap", [lambda opt: opt, lambda opt: optim.clip_by_global_norm(opt, 0.1)])
def test_gradients_of_frozen_parameters_are_dropped_and_never_counted(wrap):
    opt = wrap(OPT)
    grads = grads_of(opt, PARAMS)
    poisoned = {**jax.tree.map(lambda p: jnp.full(p.shape, jnp.nan), PARAMS), "head": grads["head"]}
    poisoned["backbone"]["norm"] = grads["backbone"]["norm"]
    state = opt.init(PARAMS)
    assert same(opt.update(grads, state, PARAMS), opt.update(poisoned, state, PARAMS))


@pytest.mark.parametrize("wrap", [lambda opt: opt, lambda opt: optim.clip_by_global_norm(opt, 0.1)])
def test_frozen_parameters_cost_no_gradient(wrap):
    def loss(params, x):
        h = jnp.tanh(x @ params["backbone"]["0"]["weight"] + params["backbone"]["0"]["bias"])
        return jnp.mean((h @ params["head"]["weight"] + params["head"]["bias"]) ** 2)

    def flops(opt):
        def step(params, state, x):
            live = opt.trainable(params)
            rest = jax.tree.map(
                lambda a, b: b if a is HOLE else HOLE, live, params, is_leaf=lambda node: node is HOLE
            )
            grads = jax.grad(lambda live: loss(merge(live, rest), x))(live)
            return opt.update(grads, state, params)

        params = {**PARAMS, "backbone": {"0": PARAMS["backbone"]["0"]}}
        x = jnp.ones((512, 8))
        return jax.jit(step).lower(params, opt.init(params), x).compile().cost_analysis()["flops"]

    matmul = 2 * 512 * 8  # one multiply-add for each sample and input of one output
    frozen = flops(wrap(optim.groups({"backbone.*": None, "*": optim.sgd(0.1)})))
    # forward twice, and the head's weight gradient; neither the backbone's nor that of the hidden values
    assert matmul * (8 + 4 + 4) <= frozen < 1.2 * matmul * (8 + 4 + 4) + 20 * 512 * 8
    assert flops(wrap(optim.sgd(0.1))) > frozen + matmul * (8 + 4)


def test_rates_of_groups_are_read_and_set_without_a_new_trace():
    traces = []

    @jax.jit
    def step(params, state):
        traces.append(1)
        return OPT.update(grads_of(OPT, PARAMS), state, params)

    params, state = step(PARAMS, OPT.init(PARAMS))
    assert float(optim.get_hyper(state, "lr", group=1)) == 0.5 == float(optim.get_hyper(state, "lr", group="1"))
    state = optim.set_hyper(state, lr=0.0, group=2)
    after, state = step(params, state)
    assert same(after["head"]["weight"], params["head"]["weight"])
    assert not same(after["head"]["bias"], params["head"]["bias"])
    assert len(traces) == 1
    with pytest.raises(KeyError, match="has groups: say which with group=1 or group=2"):
        optim.set_hyper(state, lr=0.1)
    with pytest.raises(KeyError, match="no group 0 in this optimizer state; give group=1 or group=2"):
        optim.set_hyper(state, lr=0.1, group=0)
    with pytest.raises(KeyError, match="no hyperparameter 'momentum'"):
        optim.get_hyper(state, "momentum", group=2)


def test_a_schedule_in_one_group_leaves_the_other_settable():
    opt = optim.groups({"*.bias": optim.sgd(optim.linear(0.5, 0.0, 4)), "*": optim.sgd(0.1)})
    params = PARAMS["head"]
    params = {"head": params}
    state = pickle.loads(pickle.dumps(opt.init(params)))
    assert state["scheduled"] == {"0": {"lr": None}}
    for expected in (0.5, 0.375):
        params, state = opt.update(grads_of(opt, params), state, params)
        assert float(optim.get_hyper(state, "lr", group=0)) == expected
    optim.set_hyper(state, lr=0.3, group=1)
    with pytest.raises(ValueError, match="lr follows a schedule"):
        optim.set_hyper(state, lr=0.3, group=0)


def test_rules_that_match_nothing_are_errors_with_near_names():
    with pytest.raises(ValueError, match=r"'hed.\*' matches none.*head\."):
        optim.groups({"hed.*": None, "*": optim.sgd()}).init(PARAMS)
    with pytest.raises(ValueError, match=r"never applies.*taken by earlier rules"):
        optim.groups({"*": optim.sgd(), "head.*": None}).init(PARAMS)
    with pytest.raises(ValueError, match=r"no rule matches .*'head.weight'.*end with a rule"):
        optim.groups({"backbone.*": optim.sgd(), "*.bias": None}).trainable(PARAMS)
    opt = optim.groups({fnet.optional("neck.*"): optim.adam(), "*": optim.sgd(0.1)})
    state = opt.init(PARAMS)
    after, _ = opt.update(grads_of(opt, PARAMS), state, PARAMS)
    expected, _ = optim.sgd(0.1).update(grads_of(opt, PARAMS), optim.sgd(0.1).init(PARAMS), PARAMS)
    assert same(after, expected)
    covered = optim.groups({"backbone.*": None, "head.*": optim.sgd()})
    covered.init(PARAMS)  # "count" is no trainable parameter and needs no rule


def test_selectors_may_be_functions():
    opt = optim.groups({lambda_matrix: optim.sgd(0.1, momentum=0.9), "*": None})
    assert [name for name, _ in named(jax.jit(opt.init)(PARAMS)["momentum"])] == ["backbone.0.weight", "head.weight"]


def lambda_matrix(name, leaf):
    return leaf.ndim == 2


def test_bad_groups_are_named():
    with pytest.raises(TypeError, match="'head' must have an optimizer, or None to freeze; got 0.1"):
        optim.groups({"head": 0.1})
    with pytest.raises(TypeError, match="groups takes a dict such as"):
        optim.groups(optim.sgd(0.1))
    with pytest.raises(ValueError, match=r"lacks 'mu', lacks 'nu'"):
        state = OPT.init(PARAMS)
        OPT.update(grads_of(OPT, PARAMS), {key: state[key] for key in ("step", "hyper", "momentum")}, PARAMS)
    with pytest.raises(ValueError, match="'hyper' in the optimizer's state is not divided by the trained groups"):
        OPT.update(grads_of(OPT, PARAMS), optim.sgd(0.1).init(PARAMS), PARAMS)


def test_groups_in_groups():
    inner = optim.groups({"*.bias": optim.sgd(0.5), "*": optim.sgd(0.25)})
    opt = optim.groups({"head.*": inner, "*": None})
    state = opt.init(PARAMS)
    assert float(optim.get_hyper(state, "lr", group="0.1")) == 0.25
    state = optim.set_hyper(state, lr=1.0, group="0.1")
    assert float(optim.get_hyper(state, "lr", group="0.1")) == 1.0
    assert float(optim.get_hyper(state, "lr", group="0.0")) == 0.5
    with pytest.raises(KeyError, match=r"say which with group='0\.0' or group='0\.1'"):
        optim.get_hyper(state, "lr", group=0)
    grads = grads_of(opt, PARAMS)
    after, _ = opt.update(grads, state, PARAMS)
    close(after["head"]["weight"], PARAMS["head"]["weight"] - grads["head"]["weight"])
    close(after["head"]["bias"], PARAMS["head"]["bias"] - 0.5 * grads["head"]["bias"])


@dataclass(frozen=True, repr=False)
class Curious(optim.Rule):
    """Takes the gradient at a point of its own, counts in a scalar of its own, draws from its key."""

    lr: float = 0.1
    extras = ("calls",)

    def hyper(self):
        return {"lr": self.lr}

    def memory(self, params):
        return {"calls": jnp.zeros(())}

    def rule(self, now, params, grads, memory):
        _, grads = now.value_and_grad(jax.tree.map(jnp.zeros_like, params))
        noise = jax.random.normal(now.key)
        params, _ = now.each(lambda h, p, g, slots: (p - h.lr * g + h.noise, {}), params, grads, {}, noise=noise)
        return params, {"calls": memory["calls"] + 1}


@dataclass(frozen=True)
class Doubled(optim.Wrapper):
    """Evaluates at twice the parameters; or scales the loss."""

    scale: float = 1.0

    def update(self, grads, opt_state, params, **more: Any):
        return self.inner.update(grads, opt_state, params, **more)

    def eval_params(self, opt_state, params):
        return jax.tree.map(lambda p: 2 * p, params)

    def loss_scale(self, opt_state):
        return self.scale


def test_whole_tree_rules_see_their_group_only_and_keep_scalars_by_group():
    params = {"a": jnp.ones(2), "b": jnp.ones(2), "c": jnp.ones(2)}
    opt = optim.groups({"a": Curious(), "b": Curious(), "c": optim.sgd(0.1)})
    seen = []

    def value_and_grad(params):
        seen.append({name: float(leaf[0]) for name, leaf in params.items()})
        return jax.value_and_grad(lambda p: sum(jnp.sum(leaf) for leaf in p.values()))(params)

    state = opt.init(params)
    assert state["calls"] == {"0": 0, "1": 0}
    _, grads = value_and_grad(params)
    after, state = opt.update(grads, state, params, value_and_grad=value_and_grad, key=jax.random.key(0))
    assert seen[1:] == [{"a": 0.0, "b": 1.0, "c": 1.0}, {"a": 1.0, "b": 0.0, "c": 1.0}]
    assert state["calls"] == {"0": 1, "1": 1}
    assert float(after["a"][0]) != float(after["b"][0])  # each group has a key of its own


def test_points_to_evaluate_and_loss_scales_of_groups():
    opt = optim.groups({"head.*": Doubled(optim.sgd(0.1)), "*": optim.sgd(0.1)})
    state = opt.init(PARAMS)
    shipped = opt.eval_params(state, PARAMS)
    close(shipped["head"], jax.tree.map(lambda p: 2 * p, PARAMS["head"]))
    assert shipped["count"] is PARAMS["count"] and opt.loss_scale(state) == 1.0
    scaled = optim.groups({"head.*": Doubled(optim.sgd(0.1), scale=8.0), "*": None})
    with pytest.raises(ValueError, match="loss scaling must wrap the groups, not stand in group 0"):
        scaled.loss_scale(scaled.init(PARAMS))


def test_resume_is_exact():
    opt = optim.clip_by_global_norm(OPT, 1.0)
    update = jax.jit(opt.update)
    params, state = PARAMS, opt.init(PARAMS)
    for seed in range(6):
        params, state = update(grads_of(opt, PARAMS, seed), state, params)
        if seed == 2:
            later, saved = params, pickle.loads(pickle.dumps(state))
    for seed in range(3, 6):
        later, saved = update(grads_of(opt, PARAMS, seed), saved, later)
    assert same((later, saved), (params, state))
