"""Wrappers that average parameters: EMA, SWA, lookahead."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnet import functional as F
from fnet import nn, optim, train
from fnet.tree import HOLE, named

PARAMS = {"a": {"w": jnp.array([1.0, -2.0])}, "b": jnp.array([[0.5]]), "count": jnp.arange(2)}
WRAPPERS = {
    "ema": lambda opt: optim.ema(opt, 0.7),
    "ema debias": lambda opt: optim.ema(opt, 0.7, debias=True),
    "swa": lambda opt: optim.swa(opt, start=3, every=2),
    "lookahead": lambda opt: optim.lookahead(opt, k=3, alpha=0.4),
}
every_wrapper = pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)


def grads_of(params, t=0):
    return jax.tree.map(lambda p: jnp.cos(p.astype("float32") + t).astype(p.dtype), {k: params[k] for k in ("a", "b")})


def run(opt, params, steps=10, state=None, first=0):
    """The parameters and what would be shipped, after each step."""
    state = opt.init(params) if state is None else state
    update, seen = jax.jit(opt.update), []
    for t in range(first, first + steps):
        params, state = update(grads_of(params, t), state, params)
        seen.append((params, opt.eval_params(state, params)))
    return seen, state


def column(seen, which, name="a.w"):
    return np.stack([np.asarray(dict(named(pair[which]))[name], "float64") for pair in seen])


@pytest.mark.parametrize("debias", [False, True])
def test_ema_is_the_weighted_mean_of_the_parameters_visited(debias, x64):
    params = {**PARAMS, "a": {"w": jnp.array([1.0, -2.0], "float64")}}
    seen, _ = run(optim.ema(optim.sgd(0.1), 0.7, debias=debias), params)
    visited, shipped = column(seen, 0), column(seen, 1)
    np.testing.assert_array_equal(visited, column(run(optim.sgd(0.1), params)[0], 0))
    for t in range(1, 11):
        weights = 0.3 * 0.7 ** np.arange(t)[::-1]
        weights[0] = weights[0] if debias else 0.7 ** (t - 1)
        np.testing.assert_allclose(shipped[t - 1], weights @ visited[:t] / weights.sum(), rtol=1e-12)


@pytest.mark.parametrize(("kind", "every"), [("ema", 1), ("swa", 1), ("swa", 3)])
def test_averages_are_torchs(kind, every, x64):
    torch = pytest.importorskip("torch", reason="parity tests need the oracle extra: pip install fnet[oracle]")
    swa_utils = torch.optim.swa_utils
    params = {**PARAMS, "a": {"w": jnp.array([1.0, -2.0], "float64")}}
    ours = optim.ema(optim.sgd(0.1), 0.9) if kind == "ema" else optim.swa(optim.sgd(0.1), every=every)
    seen, _ = run(ours, params)

    module = torch.nn.ParameterList([torch.nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))])
    average = swa_utils.AveragedModel(
        module, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.9) if kind == "ema" else None
    )
    for t, (after, shipped) in enumerate(seen):
        module[0].data = torch.tensor(np.array(after["a"]["w"]))
        if (t + 1) % every == 0:
            average.update_parameters(module)
            np.testing.assert_allclose(shipped["a"]["w"], average.module[0].detach().numpy(), rtol=1e-12)


def test_a_decay_may_follow_a_schedule():
    seen, _ = run(optim.ema(optim.sgd(0.1), lambda step: jnp.minimum(0.9, (1 + step) / (10 + step))), PARAMS)
    visited, shipped = column(seen, 0), column(seen, 1)
    average = visited[0]
    for t in range(1, 10):
        decay = min(0.9, (1 + t) / (10 + t))
        average = decay * average + (1 - decay) * visited[t]
        np.testing.assert_allclose(shipped[t], average, rtol=1e-5)


def test_swa_averages_the_updates_it_names():
    seen, state = run(optim.swa(optim.sgd(0.1), start=3, every=2), PARAMS)
    visited, shipped = column(seen, 0), column(seen, 1)
    np.testing.assert_array_equal(shipped[:2], visited[:2])  # before the first, the parameters
    for t in range(3, 11):
        np.testing.assert_allclose(shipped[t - 1], visited[[i - 1 for i in (3, 5, 7, 9) if i <= t]].mean(0), rtol=1e-6)
    assert int(state["swa_count"]) == 4


def test_lookahead_equals_optax(x64):
    optax = pytest.importorskip("optax", reason="parity tests need the oracle extra: pip install fnet[oracle]")
    params = {"a": {"w": jnp.array([1.0, -2.0])}, "b": jnp.array([[0.5]])}
    seen, _ = run(optim.lookahead(optim.adam(0.1), k=4, alpha=0.3), params, 50)
    theirs = optax.lookahead(optax.adam(0.1), 4, 0.3)
    pair = optax.LookaheadParams.init_synced(params)
    state, update = theirs.init(pair), jax.jit(theirs.update)
    for t, (fast, slow) in enumerate(seen):
        updates, state = update(grads_of(pair.fast, t), state, pair)
        pair = optax.apply_updates(pair, updates)
        for ours, expected in ((fast, pair.fast), (slow, pair.slow)):
            for x, y in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
                np.testing.assert_allclose(x, y, rtol=1e-10, atol=1e-10)


@every_wrapper
def test_before_any_update_the_parameters_are_shipped(wrap):
    opt = wrap(optim.sgd(0.1))
    shipped = opt.eval_params(opt.init(PARAMS), PARAMS)
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(shipped), jax.tree.leaves(PARAMS), strict=True))
    assert shipped["count"] is PARAMS["count"]


@every_wrapper
def test_averages_lie_beside_the_inner_state_with_holes(wrap):
    inner = optim.groups({"b": None, "*": optim.sgd(0.1, momentum=0.9)})
    opt = wrap(inner)
    state = opt.init(PARAMS)
    assert set(inner.init(PARAMS)) < set(state) and set(state) - set(inner.init(PARAMS)) == set(opt.keys)
    average = state[opt.keys[0]]
    assert average["b"] is HOLE and average["count"] is HOLE and opt.keys[0] in opt.slots
    after, state = opt.update(grads_of(PARAMS), state, PARAMS)
    assert after["b"] is PARAMS["b"]
    assert opt.eval_params(state, after)["b"] is PARAMS["b"]


@every_wrapper
def test_a_wrapper_may_stand_in_a_group(wrap):
    opt = optim.groups({"b": optim.sgd(0.1), "*": wrap(optim.sgd(0.1))})
    seen, state = run(opt, PARAMS, 6)
    alone, _ = run(wrap(optim.sgd(0.1)), PARAMS, 6)
    np.testing.assert_allclose(column(seen, 1), column(alone, 1), rtol=1e-6)
    np.testing.assert_array_equal(column(seen, 1, "b"), column(seen, 0, "b"))
    assert state[wrap(optim.sgd()).keys[0]]["b"] is HOLE


@every_wrapper
def test_twice_is_an_error_and_so_is_a_foreign_state(wrap):
    opt = wrap(wrap(optim.sgd(0.1)))
    with pytest.raises(ValueError, match="is it applied twice"):
        opt.init(PARAMS)
    with pytest.raises(ValueError, match="it was made without this wrapper"):
        wrap(optim.sgd(0.1)).update(grads_of(PARAMS), optim.sgd(0.1).init(PARAMS), PARAMS)


def test_different_wrappers_nest_and_average_what_would_be_shipped():
    opt = optim.ema(optim.lookahead(optim.sgd(0.1), k=2), decay=0.5)
    seen, state = run(opt, PARAMS, 6)
    assert {"step", "hyper", "slow", "ema"} == set(state)
    slow = column(run(optim.lookahead(optim.sgd(0.1), k=2), PARAMS, 6)[0], 1)
    average = slow[0]
    for t in range(1, 6):
        average = 0.5 * average + 0.5 * slow[t]
        np.testing.assert_allclose(column(seen, 1)[t], average, rtol=1e-5)


@every_wrapper
def test_averages_of_bfloat16_parameters_are_float32(wrap):
    params = {"a": {"w": jnp.ones(2, "bfloat16")}, "b": jnp.ones((1, 1), "bfloat16")}
    opt = wrap(optim.sgd(0.1))
    seen, state = run(opt, params)
    assert state[opt.keys[0]]["b"].dtype == jnp.float32
    assert seen[-1][0]["b"].dtype == seen[-1][1]["b"].dtype == jnp.bfloat16
    exact = column(seen, 0)[:, 0]
    if opt.keys == ("ema",) and not opt.debias:  # an average in bfloat16 would lose what it adds
        average = exact[0]
        for value in exact[1:]:
            average = 0.7 * average + 0.3 * value
        np.testing.assert_allclose(state["ema"]["a"]["w"][0], average, rtol=1e-5)


class _every_other(optim.Wrapper):
    """Applies every other update only, as accumulation does."""

    keys = ("calls",)

    def init(self, params):
        return self.beside(self.inner.init(params), calls=jnp.zeros((), jnp.int32))

    def update(self, grads, opt_state, params, **more):
        inner, own = self.apart(opt_state)
        new = self.inner.update(grads, inner, params, **more)
        odd = own["calls"] % 2 == 1
        params, inner = jax.tree.map(lambda a, b: jnp.where(odd, a, b), new, (params, inner))
        return params, self.beside(inner, calls=own["calls"] + 1)


@every_wrapper
def test_calls_that_apply_no_update_leave_the_average_alone(wrap):
    seen, _ = run(wrap(_every_other(optim.sgd(0.1))), {k: PARAMS[k] for k in ("a", "b")}, 12)
    opt = wrap(optim.sgd(0.1))
    params, expected = {k: PARAMS[k] for k in ("a", "b")}, []
    state = opt.init(params)
    for t in range(1, 12, 2):
        params, state = opt.update(grads_of(params, t), state, params)
        expected.append(opt.eval_params(state, params)["a"]["w"])
    np.testing.assert_allclose(column(seen, 1)[1::2], np.stack(expected), rtol=1e-5)
    np.testing.assert_allclose(column(seen, 1)[2::2], column(seen, 1)[1:-1:2], rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: optim.ema(optim.sgd(), 1.0), "ema: decay must be in [0, 1), got 1.0"),
        (lambda: optim.swa(optim.sgd(), start=-1), "swa: start must be an integer of at least 0, got -1"),
        (lambda: optim.swa(optim.sgd(), every=0), "swa: every must be an integer of at least 1, got 0"),
        (lambda: optim.lookahead(optim.sgd(), k=0.5), "lookahead: k must be an integer of at least 1, got 0.5"),
        (lambda: optim.lookahead(optim.sgd(), alpha=0), "lookahead: alpha must be a number above 0 and at most 1"),
    ],
)
def test_bad_configurations_are_named(make, message):
    with pytest.raises(ValueError) as raised:
        make()
    assert message in str(raised.value)


@every_wrapper
def test_trains_and_evaluates_inside_the_training_step(wrap):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, 6)).astype("float32")
    y = (x @ rng.standard_normal((6, 3))).argmax(1).astype("int32")
    model, opt = nn.Linear(3), optim.clip_by_global_norm(wrap(optim.adam(0.1)), 10.0)
    loss = train.supervised(model, F.cross_entropy)
    run, step = train.start(model, opt, jax.random.key(0), x), train.make_step(loss, opt, donate=True)
    first = float(loss(run.params, run.state, (x, y))[0])
    for _ in range(40):
        run, _ = step(run, (x, y))
    shipped = opt.eval_params(run.opt_state, run.params)
    assert float(loss(shipped, run.state, (x, y))[0]) < 0.35 * first
    assert float(optim.global_norm(jax.tree.map(jnp.subtract, shipped, run.params))) > 0


def test_lookahead_refuses_a_rule_that_recovers_its_average_from_the_parameters():
    with pytest.raises(ValueError, match="lookahead moves the parameters"):
        optim.lookahead(optim.groups({"*": optim.schedule_free_sgd()}))
