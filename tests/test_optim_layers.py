"""Rules that see a whole layer, and layers that are stacked: LAMB, LARS and Adafactor against libraries and papers."""

from __future__ import annotations

import functools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optim_oracles import (
    ORACLE,
    SHAPES,
    assert_close,
    draw,
    gradients,
    run,
    run_numpy,
    run_optax,
    run_torch,
)

import fnet
from fnet import optim
from fnet.tree import HOLE, named

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
    got, state = run(stacked, trees[0], trees[1:])
    expected, apart = run(separate, layers_of(trees[0]), [layers_of(g) for g in trees[1:]])
    assert_close(dict(named(layers_of(got))), dict(named(expected)), 1e-9)
    for slot in stacked.slots:
        shapes = {name: x.shape for name, x in named(layers_of(state[slot]))}
        assert shapes == {name: x.shape for name, x in named(apart[slot])}, slot
    if vectors:  # an unmarked stack is one parameter, and that is something else
        whole, _ = run(separate, trees[0], trees[1:])
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


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: optim.adafactor(eps=1e-3), TypeError, "adafactor: eps must be a pair such as (None, 1e-3), got 0.001"),
        (lambda: optim.adafactor(beta2_decay=0.8), ValueError, "beta2_decay must not be above 0, got 0.8"),
        (lambda: optim.adafactor(semantics="keras"), ValueError, 'must be "torch" or "optax", got \'keras\''),
        (lambda: optim.adafactor(d=0.0), ValueError, "adafactor: d must be above 0"),
        (lambda: optim.lars(nesterov=True, momentum=0.0), ValueError, "lars: nesterov needs momentum > 0"),
    ],
)
def test_bad_configurations_are_named(make, error, message):
    with pytest.raises(error) as raised:
        make()
    assert message in str(raised.value)
