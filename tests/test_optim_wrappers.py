"""Wrappers: what holds for all, clipping, accumulation, skipping, loss scaling."""

from __future__ import annotations

import collections
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnet
from fnet import optim
from fnet.tree import HOLE

SHAPES = {
    "body": {"weight": (4, 3), "bias": (3,)},
    "conv": {"weight": (3, 3, 2, 4)},
    "head": {"weight": (3, 2), "bias": (2,)},
}
FROZEN = {"body.*": None, "*.bias": optim.sgd(0.1), "*": optim.adamw(0.05)}
KEY = jax.random.key(3)


def draw(seed, dtype="float32"):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda shape: jnp.asarray(rng.normal(size=shape), dtype), SHAPES, is_leaf=_is_shape)


def _is_shape(x):
    return isinstance(x, tuple)


def same(a, b):
    return jax.tree.structure(a) == jax.tree.structure(b) and not fnet.diff(a, b)


def close(a, b, rtol=1e-6, atol=1e-7):
    assert not fnet.diff(a, b, rtol, atol), fnet.diff(a, b, rtol, atol)


PARAMS, GRADS = draw(0), draw(1)

WRAPPERS = {
    "clip_by_value": lambda opt: optim.clip_by_value(opt, 0.3),
    "adaptive_clip": lambda opt: optim.adaptive_clip(opt, 0.05),
    "accumulate": lambda opt: optim.accumulate(opt, 2),
    "skip_nonfinite": optim.skip_nonfinite,
    "dynamic_loss_scale": lambda opt: optim.dynamic_loss_scale(opt, 8.0, interval=2),
    "master_weights": optim.master_weights,
    "stochastic_rounding": optim.stochastic_rounding,
    "slot_dtype": lambda opt: optim.slot_dtype(opt, "bfloat16"),
    "slots_8bit": lambda opt: optim.slots_8bit(opt, min_size=1),
    "reduce_on_plateau": lambda opt: optim.reduce_on_plateau(opt, 0.5, patience=1),
}
STATEFUL = ["accumulate", "skip_nonfinite", "dynamic_loss_scale", "master_weights", "slots_8bit", "reduce_on_plateau"]
SKIPPING = ["accumulate", "skip_nonfinite", "dynamic_loss_scale"]
every_wrapper = pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)


TRACES = collections.Counter()


@functools.cache
def compiled(opt):
    def update(g, s, p, loss, key):
        TRACES[opt] += 1
        return opt.update(g, s, p, loss=loss, key=key)

    return jax.jit(update)


def run(opt, params, state=None, first=0, last=5):
    state = opt.init(params) if state is None else state
    for t in range(first, last):
        grads = jax.tree.map(lambda g, t=t: g * jnp.cos(t + g), draw(7))
        params, state = compiled(opt)(grads, state, params, jnp.float32(3 + t), jax.random.fold_in(KEY, t))
    return params, state


# What holds for all of them


@every_wrapper
def test_values_and_state_by_name(wrap, tmp_path):
    """Equal configurations are equal; types stay; a state that was saved and loaded goes on to the same bits."""
    opt = wrap(optim.adamw(0.05))
    assert opt == wrap(optim.adamw(0.05)) and hash(opt) == hash(wrap(optim.adamw(0.05)))
    params = fnet.cast(PARAMS, "bfloat16", "head.*")
    before = TRACES[opt]  # other tests may have compiled it for other parameters
    whole = run(opt, params)
    half = run(opt, params, last=3)
    fnet.save(tmp_path / "run.safetensors", {"params": half[0], "opt_state": half[1]})
    loaded = fnet.load(tmp_path / "run.safetensors")
    assert same(run(opt, loaded["params"], loaded["opt_state"], first=3), whole)
    kinds = jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), (params, opt.init(params)))
    assert jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), whole) == kinds
    assert TRACES[opt] - before <= 1
    for slot in opt.slots:
        assert jax.tree.structure(whole[1][slot], is_leaf=lambda x: x is HOLE) == jax.tree.structure(params), slot


@every_wrapper
def test_work_around_groups(wrap):
    """Frozen leaves are the same objects, NaN gradients of theirs are not seen, and no slot has a leaf for them."""
    opt = wrap(optim.groups(FROZEN))
    params = {**PARAMS, "count": jnp.arange(3)}
    grads = {**GRADS, "body": jax.tree.map(lambda g: g * jnp.nan, GRADS["body"])}
    state = opt.init(params)
    after = params
    for _ in range(2):
        after, state = opt.update(grads, state, after, loss=1.0, key=KEY)
    assert after["count"] is params["count"] and all(after["body"][k] is params["body"][k] for k in ("weight", "bias"))
    weight = after["head"]["weight"]
    assert np.isfinite(weight).all() and not np.array_equal(weight, PARAMS["head"]["weight"])
    for slot in opt.slots:
        assert state[slot]["body"] == {"weight": HOLE, "bias": HOLE} and state[slot]["count"] is HOLE


@pytest.mark.parametrize("name", STATEFUL)
def test_twice_is_an_error_and_a_state_without_is_named(name):
    wrap = WRAPPERS[name]
    with pytest.raises(ValueError, match="is it applied twice"):
        wrap(wrap(optim.adam())).init(PARAMS)
    with pytest.raises(ValueError, match="was made without this wrapper"):
        wrap(optim.adam()).update(GRADS, optim.adam().init(PARAMS), PARAMS, loss=1.0)


@every_wrapper
def test_inside_groups(wrap, request):
    name = request.node.callspec.id
    if name in SKIPPING:
        with pytest.raises(ValueError, match="all groups share one count of steps"):
            optim.groups({"body.*": wrap(optim.adam()), "*": optim.sgd()})
        return
    grouped = optim.groups({"body.*": optim.sgd(0.1), "*": wrap(optim.adamw(0.05))})
    state = grouped.init(PARAMS)
    after, state = grouped.update(GRADS, state, PARAMS, loss=1.0, key=KEY)
    after, state = grouped.update(GRADS, state, after, loss=1.0, key=KEY)
    assert not np.array_equal(after["head"]["weight"], PARAMS["head"]["weight"])


@every_wrapper
def test_compose(wrap):
    if (skip := optim.skip_nonfinite) is wrap:
        return
    outer, inner = (wrap, skip) if wrap is WRAPPERS["dynamic_loss_scale"] else (skip, wrap)
    opt = outer(optim.clip_by_global_norm(inner(optim.adamw(0.05)), 1.0))
    params, state = opt.update(GRADS, opt.init(PARAMS), PARAMS, loss=1.0, key=KEY)
    assert int(state["skipped"]) == 0 and float(opt.loss_scale(state)) in (1.0, 8.0)
    assert same(opt.eval_params(state, params), params)


# Clipping


def test_clip_by_value_equals_torch():
    torch = pytest.importorskip("torch", reason="parity tests need the oracle extra: pip install fnet[oracle]")
    opt = optim.clip_by_value(optim.sgd(1.0), 0.4)
    after, _ = opt.update(GRADS, opt.init(PARAMS), jax.tree.map(jnp.zeros_like, PARAMS))
    for p, g in zip(jax.tree.leaves(after), jax.tree.leaves(GRADS), strict=True):
        tensor = torch.zeros(g.shape)
        tensor.grad = torch.tensor(np.array(g))
        torch.nn.utils.clip_grad_value_([tensor], 0.4)
        np.testing.assert_array_equal(-p, tensor.grad)


def test_adaptive_clip_equals_optax_and_the_paper(x64):
    optax = pytest.importorskip("optax", reason="parity tests need the oracle extra: pip install fnet[oracle]")
    shapes = {"io": (5, 3), "hwio": (3, 3, 2, 4), "bias": (6,), "one": (1, 4), "scalar": ()}
    for seed in range(5):
        rng = np.random.default_rng(seed)
        params = {k: jnp.asarray(rng.normal(size=s) * 10 ** rng.uniform(-4, 1)) for k, s in shapes.items()}
        grads = {k: jnp.asarray(rng.normal(size=s) * 10 ** rng.uniform(-4, 1)) for k, s in shapes.items()}
        clipping, eps = 10 ** rng.uniform(-3, 0), 10 ** rng.uniform(-4, -1)
        expected, _ = optax.adaptive_grad_clip(clipping, eps).update(grads, optax.EmptyState(), params)
        opt = optim.adaptive_clip(optim.sgd(1.0), clipping, eps)
        after, _ = opt.update(grads, opt.init(params), params)
        close({k: params[k] - after[k] for k in params}, expected, rtol=1e-9, atol=1e-12)
    # eq. 3 by hand, for one-dimensional convolutions (width, in, out), which optax takes for (in, heads, out)
    w, g = rng.normal(size=(2, 3, 4, 5))[:, :, :, :4][0], rng.normal(size=(3, 4, 4))
    expected = g.copy()
    for unit in range(4):
        norm, limit = np.linalg.norm(g[..., unit]), 0.1 * max(np.linalg.norm(w[..., unit]), 1e-3)
        expected[..., unit] *= limit / norm if norm > limit else 1
    opt = optim.adaptive_clip(optim.sgd(1.0), 0.1)
    after, _ = opt.update({"w": jnp.asarray(g)}, opt.init({"w": w}), {"w": jnp.asarray(w)})
    np.testing.assert_allclose(w - after["w"], expected, rtol=1e-9, atol=1e-12)
    # a stack of layers is clipped layer by layer
    stack = optim.adaptive_clip(optim.sgd(1.0), 0.1, stacked=["w*"])
    after, _ = stack.update({"w": jnp.asarray(g)}, stack.init({"w": w}), {"w": jnp.asarray(w)})
    for layer in range(3):
        one, _ = opt.update({"w": jnp.asarray(g[layer])}, opt.init({"w": w[layer]}), {"w": jnp.asarray(w[layer])})
        np.testing.assert_allclose(after["w"][layer], one["w"], rtol=1e-12)


# Accumulation


@pytest.mark.parametrize("make", [lambda: optim.adamw(0.05), lambda: optim.groups(FROZEN)], ids=["adamw", "groups"])
def test_accumulation_equals_the_large_batch(make, x64):
    inner, k = make(), 3
    opt = optim.accumulate(inner, k)
    params = large = jax.tree.map(lambda p: p.astype("float64"), PARAMS)
    state, large_state = opt.init(params), inner.init(large)
    for t in range(4):
        parts = [jax.tree.map(lambda g: g.astype("float64"), draw(100 + t * k + i)) for i in range(k)]
        for i, grads in enumerate(parts):
            before = params
            params, state = opt.update(grads, state, params, loss=float(i))
            assert same(params, before) == (i < k - 1)
            assert int(state["step"]) == t + (i == k - 1) and int(state["accumulated_calls"]) == (i + 1) % k
        mean = jax.tree.map(lambda *g: sum(g) / k, *parts)
        large, large_state = inner.update(mean, large_state, large)
        close(params, large, 1e-12, 1e-14)
        close({key: state[key] for key in large_state}, large_state, 1e-12, 1e-14)


def test_schedules_count_applied_updates_and_the_mean_loss_is_seen():
    seen = []

    class Look(optim.Wrapper):
        def update(self, *args, loss=None, **more):
            seen.append(float(loss))
            return self.inner.update(*args, loss=loss, **more)

    opt = optim.accumulate(Look(optim.sgd(lambda step: 1.0 / (1 + step))), 2)
    params, state = {"w": jnp.zeros(())}, None
    state = opt.init(params)
    moved = []
    for t in range(6):
        params, state = opt.update({"w": jnp.float32(-1)}, state, params, loss=float(t))
        moved.append(float(params["w"]))
    assert moved == pytest.approx([0, 1, 1, 1.5, 1.5, 1.5 + 1 / 3]) and seen == [0.5, 2.5, 4.5]


def primitives(jaxpr, inside=False):
    """Each primitive in a program, and whether it stands inside a branch of a conditional."""
    for eqn in jaxpr.eqns:
        yield eqn.primitive.name, inside
        for value in eqn.params.values():
            for sub in value if isinstance(value, tuple | list) else [value]:
                closed = getattr(sub, "jaxpr", sub)
                if hasattr(closed, "eqns"):
                    yield from primitives(closed, inside or eqn.primitive.name == "cond")


@pytest.mark.parametrize("name", SKIPPING)
def test_the_inner_update_is_inside_a_branch(name):
    """In the program as traced, and in what XLA makes of it: the square roots of Adam are in no other computation."""
    opt = WRAPPERS[name](optim.adamw(0.05))
    params = {"w": jnp.ones((64, 64))}
    args = (params, opt.init(params), params)
    found = list(primitives(jax.make_jaxpr(opt.update)(*args).jaxpr))
    assert ("sqrt", True) in found and ("sqrt", False) not in found
    text = jax.jit(opt.update).lower(*args).compile().as_text()
    computations = dict(re.findall(r"^(?:ENTRY )?%?([\w.\-]+) [^\n]*\{\n(.*?)^\}", text, re.M | re.S))
    entry = re.search(r"^ENTRY %?([\w.\-]+)", text, re.M).group(1)
    assert " conditional(" in computations[entry]

    def reached(name, seen):
        """What runs unconditionally from here."""
        if name not in seen:
            seen.add(name)
            for line in computations[name].splitlines():
                if " conditional(" not in line:
                    for called in re.findall(r"(?:calls|to_apply|body|condition)=%?([\w.\-]+)", line):
                        reached(called, seen)
        return seen

    always = "".join(computations[name] for name in reached(entry, set()))
    assert "sqrt(" in text and "sqrt(" not in always


def test_a_call_that_only_adds_costs_no_update():
    """Measured by what runs, since a program's count of FLOPs includes both branches."""
    runs = []

    class Counted(optim.Wrapper):
        def update(self, grads, opt_state, params, **more):
            jax.debug.callback(lambda: runs.append(1))
            return self.inner.update(grads, opt_state, params, **more)

    opt = optim.accumulate(Counted(optim.adamw(0.05)), 3)
    run(opt, PARAMS, last=7)
    jax.effects_barrier()
    assert len(runs) == 2


def test_rules_that_look_elsewhere_cannot_accumulate():
    class Elsewhere(optim.Wrapper):
        def update(self, grads, opt_state, params, *, value_and_grad=None, **more):
            return self.inner.update(value_and_grad(params)[1], opt_state, params, **more)

    opt = optim.accumulate(Elsewhere(optim.sgd(0.1)), 1)
    with pytest.raises(ValueError, match=r"microbatches=1\) instead"):
        opt.update(GRADS, opt.init(PARAMS), PARAMS, value_and_grad=lambda p: (0.0, GRADS))


def test_accumulation_sums_bfloat16_in_float32():
    params = {"w": jnp.zeros(1, "bfloat16")}
    opt = optim.accumulate(optim.sgd(1.0), 600)
    state = jax.lax.fori_loop(
        0, 599, lambda _, c: opt.update({"w": jnp.ones(1, "bfloat16")}, c[1], c[0]), (params, opt.init(params))
    )[1]
    assert float(state["accumulated"]["w"][0]) == 599.0


# Skipping and scaling


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("jit", [False, True])
def test_nonfinite_gradients_are_skipped_and_counted(bad, jit):
    opt, plain = optim.skip_nonfinite(optim.adamw(0.05)), optim.adamw(0.05)
    update = jax.jit(opt.update) if jit else opt.update
    poison = {**GRADS, "head": {**GRADS["head"], "bias": GRADS["head"]["bias"].at[1].set(bad)}}
    params, state = update(GRADS, opt.init(PARAMS), PARAMS)
    held, skipped = update(poison, state, params)
    assert same(held, params) and same({**skipped, "skipped": state["skipped"]}, state)
    assert int(skipped["skipped"]) == 1 and int(state["skipped"]) == 0 and skipped["skipped"].dtype == jnp.int32
    params, state = update(GRADS, skipped, held)
    expected, plain_state = PARAMS, plain.init(PARAMS)
    for _ in range(2):
        expected, plain_state = plain.update(GRADS, plain_state, expected)
    close(params, expected)
    assert int(state["step"]) == 2 and int(state["skipped"]) == 1


def test_loss_scale_equals_torchs_scaler():
    torch = pytest.importorskip("torch", reason="parity tests need the oracle extra: pip install fnet[oracle]")
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0, growth_factor=2.0, backoff_factor=0.25, growth_interval=3)
    weight = torch.nn.Parameter(torch.zeros(2))
    torch_opt = torch.optim.SGD([weight], lr=0.5)
    opt = optim.dynamic_loss_scale(optim.sgd(0.5), 64.0, 2.0, 0.25, 3)
    params = {"w": jnp.zeros(2)}
    state = opt.init(params)
    assert float(opt.loss_scale(state)) == 64.0
    rng = np.random.default_rng(0)
    for finite in [1, 1, 1, 1, 0, 1, 1, 1, 0, 0, 1, 1, 1, 1, 1, 1, 1]:
        grad = rng.normal(size=2).astype("float32") if finite else np.float32([np.inf, 1])
        params, state = opt.update({"w": jnp.asarray(grad)}, state, params)
        torch_opt.zero_grad()
        scaler.scale((weight * torch.tensor(grad)).sum()).backward()
        scaler.step(torch_opt)
        scaler.update()
        assert float(opt.loss_scale(state)) == scaler.get_scale()
        np.testing.assert_allclose(params["w"], weight.detach(), rtol=1e-6)
    assert int(state["step"]) == 14


def test_a_scaled_float16_run_keeps_what_would_vanish():
    from fnet import train

    def loss(params, state, batch, *, key=None, train=False):
        return jnp.sum((params["w"] * batch).astype("float32")) * 1e-8, (state, {})

    params, batch = {"w": jnp.zeros(2, "float16")}, jnp.ones(2, "float16")
    ends = []
    for opt in (optim.sgd(1e6), optim.dynamic_loss_scale(optim.sgd(1e6)), ):
        run = train.TrainState(params, {}, opt.init(params), KEY, jnp.zeros((), "int32"))
        run, scores = train.make_step(loss, opt)(run, batch)
        ends.append(float(run.params["w"][0]))
    assert ends[0] == 0.0 and ends[1] == pytest.approx(-0.01, rel=1e-3)


# Errors


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda o: optim.clip_by_value(o, 0), ValueError, "clip_by_value: max_value must be a number above 0, got 0"),
        (lambda o: optim.adaptive_clip(o, -1.0), ValueError, "adaptive_clip: clipping must be a number above 0"),
        (lambda o: optim.accumulate(o, 0), ValueError, "accumulate: k must be an integer of at least 1, got 0"),
        (lambda o: optim.accumulate(o, 2.0), ValueError, "accumulate: k must be an integer of at least 1, got 2.0"),
        (lambda o: optim.dynamic_loss_scale(o, 0.0), ValueError, "initial must be above 0 and finite, got 0.0"),
        (lambda o: optim.dynamic_loss_scale(o, backoff=2.0), ValueError, "backoff must be between 0 and 1, got 2.0"),
        (lambda o: optim.dynamic_loss_scale(o, growth=0.5), ValueError, "growth must be at least 1, got 0.5"),
        (lambda o: optim.dynamic_loss_scale(o, interval=0), ValueError, "interval must be an integer of at least 1"),
        (lambda o: optim.slot_dtype(o, "int8"), TypeError, "floating dtypes such as bfloat16, got int8"),
        (lambda o: optim.slot_dtype(o, "bfloat16", ("m",)), ValueError, "'m' is no slot of adam("),
        (lambda o: optim.slot_dtype(optim.sgd(), "bfloat16"), ValueError, "has no slots"),
        (lambda o: optim.slots_8bit(optim.adagrad()), ValueError, "none of the slots of adagrad"),
        (lambda o: optim.slots_8bit(o, block=0), ValueError, "block must be an integer of at least 1, got 0"),
        (lambda o: optim.reduce_on_plateau(o, 1.5), ValueError, "factor must be between 0 and 1, got 1.5"),
        (lambda o: optim.reduce_on_plateau(o, mode="up"), ValueError, "mode must be one of ('min', 'max'), got 'up'"),
        (lambda o: optim.reduce_on_plateau(o, patience=-1), ValueError, "patience must be an integer of at least 0"),
        (lambda o: optim.reduce_on_plateau(optim.sgd(optim.cosine(0.1, 5))).init(PARAMS), ValueError, "a schedule"),
        (lambda o: optim.skip_nonfinite(optim.ema(optim.dynamic_loss_scale(o))), ValueError, "the scale could never"),
        (lambda o: optim.clip_by_value(optim.dynamic_loss_scale(o), 1.0), ValueError, "clip inside"),
        (lambda o: optim.skip_nonfinite(0.1), TypeError, "skip_nonfinite wraps an optimizer"),
    ],
)
def test_bad_configurations_are_named(make, error, message):
    with pytest.raises(error) as raised:
        make(optim.adam())
    assert message in str(raised.value)
