"""Schedules: their values, their ends, and how an optimizer uses them."""

from __future__ import annotations

import functools
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
    optim.polynomial(0.3, 0.1, steps=7, power=2.5),
    optim.exponential(0.3, 0.9, steps=3),
    optim.exponential(0.3, 0.7, end=0.05),
    optim.step_decay(0.3, steps=4, gamma=0.5),
    optim.multistep(0.3, (2, 5, 5, 9)),
    optim.inverse_sqrt(0.3, steps=4),
    optim.cosine_restarts(0.3, steps=3, mult=2, end=0.01),
    optim.one_cycle(0.3, steps=12),
    optim.one_cycle(0.3, steps=12, pct_start=0.4, anneal="linear", three_phase=True),
    optim.cyclic(0.1, 0.3, steps=3, steps_down=2, mode="exp_range", gamma=0.95),
    optim.warmup_stable_decay(0.3, steps=12, warmup=3, decay=4, shape="1-sqrt"),
    optim.piecewise({0: 0.3, 4: 0.1, 7: 0.2}),
    optim.piecewise(((0, 0.3), (4, 0.1), (7, 0.2)), interpolate="cosine"),
    optim.join([0.1, optim.linear(0.3, 0.1, steps=4), optim.cosine(0.2, 3)], [3, 8]),
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


def torch_rates(make, steps, lr=0.3):
    """The learning rate of each of the first updates under one of torch's schedulers."""
    torch = pytest.importorskip("torch", reason="parity tests need the oracle extra: pip install fnet[oracle]")
    opt = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=lr, momentum=0.9)
    scheduler, out = make(torch.optim.lr_scheduler, opt), []
    for _ in range(steps):
        out.append(opt.param_groups[0]["lr"])
        opt.step()
        scheduler.step()
    return out


@functools.cache
def as_in_torch():
    """Of ours and torch's the same schedule: (ours, torch's, number of updates)."""
    cases = [
        (optim.cosine(0.3, 10, 0.05), lambda s, o: s.CosineAnnealingLR(o, 10, eta_min=0.05), 11),
        (optim.linear(0.3, 0.075, 8), lambda s, o: s.LinearLR(o, 1.0, 0.25, total_iters=8), 12),
        (optim.warmup(0.3, 5, start=0.03), lambda s, o: s.LinearLR(o, 0.1, total_iters=5), 9),
        (optim.constant(0.3), lambda s, o: s.ConstantLR(o, 1.0), 5),
        (optim.exponential(0.3, 0.93), lambda s, o: s.ExponentialLR(o, 0.93), 60),
        (optim.step_decay(0.3, 7, 0.4), lambda s, o: s.StepLR(o, 7, 0.4), 60),
        (optim.multistep(0.3, [3, 11, 11, 20], 0.6), lambda s, o: s.MultiStepLR(o, [3, 11, 11, 20], 0.6), 40),
        (optim.polynomial(0.3, 0.0, 30, 1.7), lambda s, o: s.PolynomialLR(o, 30, 1.7), 40),
        (
            optim.join([optim.step_decay(0.3, 3), optim.cosine(0.3, 10), 0.3], [8, 14]),
            lambda s, o: s.SequentialLR(o, [s.StepLR(o, 3), s.CosineAnnealingLR(o, 10), s.ConstantLR(o, 1.0)], [8, 14]),
            25,
        ),
    ]
    for t0, mult, end in [(10, 1, 0.0), (3, 2, 0.01), (1, 3, 0.1), (7, 4, 0.0), (1, 2, 0.0)]:
        cases.append(
            (
                optim.cosine_restarts(0.3, t0, mult, end),
                lambda s, o, t0=t0, mult=mult, end=end: s.CosineAnnealingWarmRestarts(o, t0, mult, end),
                300,
            )
        )
    for anneal in ("cos", "linear"):
        for three in (False, True):
            for total, pct in ((100, 0.3), (37, 0.45), (13, 0.25), (10, 0.4)):
                ours = optim.one_cycle(0.3, total, pct, anneal, 20.0, 500.0, three)
                cases.append((ours, lambda s, o, a=(total, pct, anneal, three): s.OneCycleLR(
                    o, 0.3, a[0], pct_start=a[1], anneal_strategy=a[2], three_phase=a[3], div_factor=20.0,
                    final_div_factor=500.0, cycle_momentum=False), total))  # fmt: skip
    for mode in ("triangular", "triangular2", "exp_range"):
        for up, down in ((10, None), (7, 3), (1, 4)):
            cases.append((optim.cyclic(0.1, 0.3, up, down, mode, 0.98), lambda s, o, a=(up, down, mode): s.CyclicLR(
                o, 0.1, 0.3, a[0], a[1], a[2], gamma=0.98, cycle_momentum=False), 90))  # fmt: skip
    return cases


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_equal_torchs_schedulers():
    with jax.enable_x64(True):
        for ours, theirs, steps in as_in_torch():
            expected = torch_rates(theirs, steps)
            np.testing.assert_allclose(values(ours, steps), expected, rtol=0, atol=1e-12, err_msg=repr(ours))
            traced = jax.jit(jax.vmap(ours))(jnp.arange(steps, dtype="int32"))
            np.testing.assert_allclose(traced, expected, rtol=0, atol=1e-12, err_msg=repr(ours))
            eager = [float(ours(step)) for step in (0, steps - 1)]
            np.testing.assert_allclose(eager, [expected[0], expected[-1]], rtol=0, atol=1e-12, err_msg=repr(ours))


def test_equal_optax():
    optax = pytest.importorskip("optax", reason="parity tests need the oracle extra: pip install fnet[oracle]")
    factors = {4: 0.5, 9: 0.1}
    points = ((0, 0.3), (4, 0.15), (9, 0.015))
    cases = [
        (
            optim.warmup(optim.cosine(0.3, steps=90, end=0.01), steps=10, start=0.02),
            optax.warmup_cosine_decay_schedule(0.02, 0.3, 10, 100, 0.01),
        ),
        (optim.polynomial(0.3, 0.02, 30, 2.0), optax.polynomial_schedule(0.3, 0.02, 2.0, 30)),
        (optim.exponential(0.3, 0.5, 7, end=0.05), optax.exponential_decay(0.3, 7, 0.5, end_value=0.05)),
        (optim.exponential(0.3, 2.0, 7, end=0.9), optax.exponential_decay(0.3, 7, 2.0, end_value=0.9)),
        (optim.step_decay(0.3, 7, 0.5), optax.exponential_decay(0.3, 7, 0.5, staircase=True)),
        (
            optim.join([optim.linear(0.0, 0.3, 5), optim.cosine(0.3, 20)], [5]),
            optax.join_schedules([optax.linear_schedule(0.0, 0.3, 5), optax.cosine_decay_schedule(0.3, 20)], [5]),
        ),
        (optim.piecewise(points, "linear"), optax.piecewise_interpolate_schedule("linear", 0.3, factors)),
        (optim.piecewise(points, "cosine"), optax.piecewise_interpolate_schedule("cosine", 0.3, factors)),
    ]
    with jax.enable_x64(True):
        for ours, theirs in cases:
            expected = [float(theirs(step)) for step in range(60)]
            # Some of optax's schedules compute in float32 whatever the mode.
            np.testing.assert_allclose(values(ours, 60), expected, rtol=2e-6, atol=1e-8, err_msg=repr(ours))


def test_equal_the_papers_formulas():
    with jax.enable_x64(True):
        t = np.arange(1, 200)  # Vaswani et al. 2017, eq. 3, with d^-0.5 taken such that the peak is 0.3
        noam = 0.3 * 40**0.5 * np.minimum(t**-0.5, t * 40**-1.5)
        np.testing.assert_allclose(optim.warmup(optim.inverse_sqrt(0.3, 40), 39)(t - 1), noam, rtol=0, atol=1e-12)
        for shape, left in {
            "linear": lambda x: 1 - x,
            "cosine": lambda x: (1 + math.cos(math.pi * x)) / 2,
            "1-sqrt": lambda x: 1 - x**0.5,
        }.items():
            expected = [0.3 * (s + 1) / 11 if s < 10 else 0.3 if s < 60 else 0.01 + 0.29 * left(min((s - 60) / 30, 1))
                        for s in range(120)]  # fmt: skip
            ours = optim.warmup_stable_decay(0.3, 90, 10, 30, 0.01, shape)
            np.testing.assert_allclose(values(ours, 120), expected, rtol=0, atol=1e-12)
            traced = jax.jit(jax.vmap(ours))(jnp.arange(120, dtype="int32"))
            np.testing.assert_allclose(traced, expected, rtol=0, atol=1e-12)
        steps = values(optim.piecewise({0: 0.3, 4: 0.1, 7: 0.2}), 10)
        np.testing.assert_array_equal(steps, [0.3] * 4 + [0.1] * 3 + [0.2] * 3)
        assert values(optim.warmup_stable_decay(0.3, 20, 0, 0), 40).tolist() == [0.3] * 40


def test_restarts_are_exact_far_away_in_float32():
    for mult in (2, 3):
        schedule, start, length = optim.cosine_restarts(1.0, 1, mult), 0, 1
        while start < 2**30:
            assert float(schedule(start)) == 1.0, (mult, start)
            start, length = start + length, length * mult
    cycles = optim.cyclic(0.0, 1.0, 1000)
    assert float(cycles(2_000_000_000)) == 0.0 and float(cycles(2_000_001_000)) == 1.0


def test_last_values_are_exact_and_stay():
    for x64 in (False, True):
        with jax.enable_x64(x64):
            dtype = np.float64 if x64 else np.float32
            for schedule, last in [
                (optim.polynomial(0.1, 3e-5, 77, 0.9), 3e-5),
                (optim.one_cycle(0.3, 50, div_factor=2.0, final_div_factor=4.0), 0.3 / 2 / 4),
                (optim.warmup_stable_decay(0.3, 77, 5, 20, 0.07), 0.07),
                (optim.piecewise({0: 0.1, 77: 0.7}, "linear"), 0.7),
            ]:
                for step in (77, 78, 10_000):
                    assert np.asarray(schedule(step)) == np.asarray(jax.jit(schedule)(step)) == dtype(last), schedule


def test_a_plot_in_a_line():
    pytest.importorskip("matplotlib", reason="figures need the plot extra: pip install fnet[plot]")
    from fnet import plot

    schedule = optim.one_cycle(0.3, 40)
    (axes,) = plot.schedule(schedule, 50).axes
    np.testing.assert_allclose(axes.lines[0].get_ydata(), values(schedule, 50), rtol=1e-6)
    (axes,) = plot.schedule({"a": schedule, "plain": lambda step: 0.1}, 50).axes  # a function that gives no array
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a", "plain"]
    assert len(axes.lines[1].get_ydata()) == 50
    with pytest.raises(ValueError, match="at least 1"):
        plot.schedule(schedule, 0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: optim.cosine(0.1, steps=0), "cosine: steps must be an integer of at least 1, got 0"),
        (lambda: optim.linear(0.1, 0.0, steps=2.5), "linear: steps must be an integer of at least 1, got 2.5"),
        (lambda: optim.warmup(0.1, steps=-1), "warmup: steps must be an integer of at least 0, got -1"),
        (lambda: optim.constant(math.nan), "constant: value must be a finite number, got nan"),
        (lambda: optim.cosine(None, steps=3), "cosine: peak must be a finite number, got None"),
        (lambda: optim.warmup("x", steps=3), "warmup: schedule must be a finite number, got 'x'"),
        (lambda: optim.one_cycle(0.1, 10, anneal="cosine"), "one_cycle: anneal must be one of 'cos', 'linear'"),
        (lambda: optim.one_cycle(0.1, 10, pct_start=2), "one_cycle: pct_start must be in [0, 1], got 2"),
        (lambda: optim.cosine_restarts(0.1, 10, mult=0), "mult must be an integer of at least 1, got 0"),
        (lambda: optim.cyclic(0.1, 0.3, 5, mode="up"), "cyclic: mode must be one of 'triangular'"),
        (lambda: optim.multistep(0.1, (5, 3)), "multistep: milestones must rise, got 5 before 3"),
        (lambda: optim.multistep(0.1, 5), "multistep: milestones must be a sequence of steps, got 5"),
        (lambda: optim.exponential(0.1, 0.0), "exponential: gamma must be above 0, got 0.0"),
        (lambda: optim.polynomial(0.1, 0.0, 5, power=-1), "polynomial: power must be above 0, got -1"),
        (lambda: optim.join([0.1, 0.2], []), "join: 2 schedules have 1 boundaries between them, got 0"),
        (lambda: optim.join([0.1, 0.2, 0.3], [4, 4]), "join: boundaries must rise, got 4 before 4"),
        (lambda: optim.piecewise({3: 0.1}), "piecewise: points must begin at step 0"),
        (lambda: optim.piecewise(0.1), "piecewise: points must be {step: value}, got 0.1"),
        (lambda: optim.warmup_stable_decay(0.1, 10, 6, 6), "warmup (6) and decay (6) take more than the 10 steps"),
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
