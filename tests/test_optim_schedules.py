"""Schedules: their values, their ends, and how an optimizer uses them."""

from __future__ import annotations

import math
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnet import optim

SCHEDULES = [
    optim.constant(0.3),
    optim.linear(0.3, 0.1, steps=7),
    optim.cosine(0.3, steps=7, end=0.1),
    optim.warmup(0.3, steps=4),
    optim.warmup(optim.cosine(0.3, steps=7), steps=3, start=0.01),
    optim.warmup(optim.linear(0.3, 0.0, steps=5), steps=0),
]
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)


def values(schedule, steps):
    return np.asarray(schedule(np.arange(steps)))


@every_schedule
def test_ints_arrays_and_traced_steps_agree(schedule):
    expected = values(schedule, 15)
    traced = jax.jit(schedule)
    for step in range(15):
        assert float(schedule(step)) == pytest.approx(expected[step], abs=1e-6 * 0.3)
        assert float(traced(jnp.int32(step))) == pytest.approx(expected[step], abs=1e-6 * 0.3)
    out = traced(jnp.int32(0))
    assert out.dtype == jnp.float32 and out.shape == () and not out.weak_type


@every_schedule
def test_values_are_values(schedule):
    twin = pickle.loads(pickle.dumps(schedule))
    assert twin == schedule and hash(twin) == hash(schedule) and eval(repr(twin), vars(optim)) == schedule


@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize(("peak", "end"), [(3e-4, 0.0), (0.1, 3e-5), (1.7, 0.3), (1e-3, 7e-3)])
def test_ends_are_exact(peak, end, x64):
    with jax.enable_x64(x64):
        dtype = np.float64 if x64 else np.float32
        for steps in (1, 3, 7, 1000, 99_991):
            for schedule in (optim.linear(peak, end, steps), optim.cosine(peak, steps, end)):
                for s in (schedule, jax.jit(schedule)):
                    assert np.asarray(s(0)) == dtype(peak)
                    assert np.asarray(s(steps)) == np.asarray(s(10 * steps)) == dtype(end)
            warm = optim.warmup(optim.cosine(peak, 10, end), steps)
            assert np.asarray(warm(steps)) == dtype(peak) and np.asarray(warm(steps + 10)) == dtype(end)
            assert np.asarray(warm(0)) == pytest.approx(peak / (steps + 1), rel=1e-6)
            assert np.asarray(optim.warmup(peak, steps, start=end)(0)) == dtype(end)


def test_formulas():
    with jax.enable_x64(True):
        np.testing.assert_allclose(values(optim.linear(1.0, 0.2, 4), 7), [1, 0.8, 0.6, 0.4, 0.2, 0.2, 0.2], rtol=1e-14)
        expected = [0.1 + 0.5 * (0.9 - 0.1) * (1 + math.cos(math.pi * min(t / 9, 1))) for t in range(12)]
        np.testing.assert_allclose(values(optim.cosine(0.9, 9, 0.1), 12), expected, rtol=1e-14)
        np.testing.assert_allclose(values(optim.warmup(1.0, 4), 6), [0.2, 0.4, 0.6, 0.8, 1, 1], rtol=1e-14)
        np.testing.assert_allclose(values(optim.warmup(1.0, 4, start=0.0), 6), [0, 0.25, 0.5, 0.75, 1, 1], rtol=1e-14)


def test_equal_torchs_schedulers():
    torch = pytest.importorskip("torch", reason="parity tests need the oracle extra: pip install fnet[oracle]")
    sched = torch.optim.lr_scheduler

    def rates(make, steps):
        opt = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.3)
        scheduler, out = make(opt), []
        for _ in range(steps):
            out.append(opt.param_groups[0]["lr"])
            opt.step()
            scheduler.step()
        return out

    with jax.enable_x64(True):
        cosine = rates(lambda opt: sched.CosineAnnealingLR(opt, 10, eta_min=0.05), 11)
        np.testing.assert_allclose(values(optim.cosine(0.3, 10, 0.05), 11), cosine, rtol=1e-12)
        line = rates(lambda opt: sched.LinearLR(opt, 1.0, 0.25, total_iters=8), 12)
        np.testing.assert_allclose(values(optim.linear(0.3, 0.075, 8), 12), line, rtol=1e-12)
        warm = rates(lambda opt: sched.LinearLR(opt, 0.1, total_iters=5), 9)
        np.testing.assert_allclose(values(optim.warmup(0.3, 5, start=0.03), 9), warm, rtol=1e-12)


def test_equal_optax():
    optax = pytest.importorskip("optax", reason="parity tests need the oracle extra: pip install fnet[oracle]")
    ours = optim.warmup(optim.cosine(0.3, steps=90, end=0.01), steps=10, start=0.02)
    theirs = optax.warmup_cosine_decay_schedule(0.02, 0.3, 10, 100, 0.01)
    np.testing.assert_allclose(values(ours, 120), theirs(np.arange(120)), rtol=2e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: optim.cosine(0.1, steps=0), "cosine: steps must be an integer of at least 1, got 0"),
        (lambda: optim.linear(0.1, 0.0, steps=2.5), "linear: steps must be an integer of at least 1, got 2.5"),
        (lambda: optim.warmup(0.1, steps=-1), "warmup: steps must be an integer of at least 0, got -1"),
        (lambda: optim.constant(math.nan), "constant: value must be a finite number, got nan"),
        (lambda: optim.cosine(None, steps=3), "cosine: peak must be a finite number, got None"),
        (lambda: optim.warmup("x", steps=3), "warmup: schedule must be a finite number, got 'x'"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError) as error:
        make()
    assert message in str(error.value)


def test_update_k_uses_the_value_at_k_and_the_state_shows_it():
    rates = [0.5, 0.25, 0.125, 1.0]
    opt = optim.sgd(lambda step: jnp.asarray(rates)[step])
    params = {"w": jnp.zeros(())}
    state, moved = opt.init(params), 0.0
    assert float(optim.get_hyper(state, "lr")) == rates[0]
    for step, rate in enumerate(rates):
        assert int(state["step"]) == step
        params, state = opt.update({"w": jnp.ones(())}, state, params)
        moved -= rate
        assert float(params["w"]) == moved
        assert float(state["hyper"]["lr"]) == rate == float(optim.get_hyper(state, "lr"))


def test_a_schedule_may_drive_any_hyperparameter():
    opt = optim.adamw(1e-2, betas=(optim.linear(0.95, 0.85, 10), 0.999), weight_decay=optim.cosine(0.1, 10))
    params = {"w": jnp.ones(3)}
    state = opt.init(params)
    update = jax.jit(opt.update)
    for _ in range(11):
        params, state = update({"w": jnp.ones(3)}, state, params)
    assert float(optim.get_hyper(state, "b1")) == pytest.approx(0.85)
    assert float(optim.get_hyper(state, "weight_decay")) == 0.0
    assert state["scheduled"] == {"b1": None, "weight_decay": None}
    optim.set_hyper(state, lr=1.0, b2=0.9)
    with pytest.raises(ValueError, match="weight_decay follows a schedule"):
        optim.set_hyper(state, weight_decay=0.5)


@pytest.mark.parametrize(
    "carry", [lambda s: s, lambda s: pickle.loads(pickle.dumps(s)), jax.jit(lambda s: s)], ids=["init", "file", "jit"]
)
def test_setting_a_scheduled_rate_is_an_error_wherever_the_state_came_from(carry):
    state = carry(optim.sgd(optim.cosine(0.1, 10)).init({"w": jnp.zeros(1)}))
    with pytest.raises(ValueError, match="lr follows a schedule, so a value set here would be lost at the next update"):
        optim.set_hyper(state, lr=1.0)


def test_a_schedule_that_gives_no_scalar_is_named():
    opt = optim.sgd(lambda step: jnp.ones(3))
    with pytest.raises(ValueError, match=r"sgd: lr must be a scalar, got shape \(3,\)"):
        opt.init({"w": jnp.zeros(1)})
