"""Wrappers about dtypes: float32 copies, stochastic rounding, narrow slots, 8 bits, and what a state costs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnet
from fnet import optim
from fnet.optim.eight_bit import dequantize, dynamic_map, quantize
from fnet.tree import HOLE

KEY = jax.random.key(3)
PARAMS = {
    "body": {"weight": jnp.linspace(-1, 1, 6).reshape(2, 3), "bias": jnp.linspace(0.1, 0.9, 3)},
    "head": {"weight": jnp.linspace(-2, 1, 4)},
}
GRADS = jax.tree.map(lambda p: jnp.cos(p) + 0.5, PARAMS)


def same(a, b):
    return jax.tree.structure(a) == jax.tree.structure(b) and not fnet.diff(a, b)


def close(a, b, rtol=1e-6, atol=1e-7):
    assert not fnet.diff(a, b, rtol, atol), fnet.diff(a, b, rtol, atol)


def test_master_weights_are_a_float32_run_rounded():
    opt, plain = optim.master_weights(optim.adamw(1e-4)), optim.adamw(1e-4)
    params = fnet.cast(PARAMS, "bfloat16")
    wide = fnet.cast(params, "float32")
    stuck, stuck_state = params, plain.init(params)
    state, wide_state = opt.init(params), plain.init(wide)
    step, wide_step = jax.jit(opt.update), jax.jit(plain.update)
    for _ in range(30):
        params, state = step(GRADS, state, params)
        wide, wide_state = wide_step(GRADS, wide_state, wide)
        stuck, stuck_state = wide_step(GRADS, stuck_state, stuck)
    close(state["master"], wide, 1e-6, 1e-7)
    assert same(params, fnet.cast(state["master"], "bfloat16"))
    assert fnet.diff(stuck, params), "without masters such small steps vanish"
    mixed = fnet.cast(PARAMS, "bfloat16", "body.*")
    masters = opt.init(mixed)["master"]
    assert masters["head"]["weight"] is HOLE and masters["body"]["bias"].dtype == jnp.float32
    other = jax.tree.map(lambda p: p + 1, params)  # changed from outside: loaded, averaged, reset
    moved, state = step(jax.tree.map(jnp.zeros_like, GRADS), state, other)
    assert not fnet.diff(state["master"], fnet.cast(other, "float32"), rtol=0.01, atol=1e-3)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_masters_hold_under_scan_and_for_other_points(dtype):
    opt = optim.master_weights(optim.sgd(1.0))
    params = {"w": jnp.ones(3, dtype), "tiny": jnp.full(3, 1e-6, dtype)}
    grads = {"w": jnp.full(3, 1e-4), "tiny": jnp.full(3, 1e-10)}

    def body(carry, _):
        return opt.update(grads, carry[1], carry[0]), None

    (params, state), _ = jax.jit(lambda c: jax.lax.scan(body, c, None, 100))((params, opt.init(params)))
    np.testing.assert_allclose(state["master"]["w"], 0.99, rtol=1e-5)
    tiny = float(jnp.asarray(1e-6, dtype)) - 100 * 1e-10
    np.testing.assert_allclose(state["master"]["tiny"], tiny, rtol=1e-4)
    assert params["w"].dtype == jnp.dtype(dtype)

    class Elsewhere(optim.Wrapper):
        def update(self, grads, opt_state, params, *, value_and_grad=None, **more):
            return self.inner.update(value_and_grad(params)[1], opt_state, params, **more)

    seen = []
    look = optim.master_weights(Elsewhere(optim.sgd(1.0)))
    look.update(grads, look.init(params), params, value_and_grad=lambda p: (seen.append(p), (0.0, grads))[1])
    assert {leaf.dtype for leaf in jax.tree.leaves(seen)} == {jnp.dtype(dtype)}


def test_stochastic_rounding_is_unbiased():
    opt = optim.stochastic_rounding(optim.sgd(1.0))
    n = 40_000
    for start, gradient in [(1.0, 1e-3), (-3.0, 2e-3), (1e-3, 1e-7), (0.0, 1.23456e-5)]:
        params = {"w": jnp.full(n, start, "bfloat16")}
        after, _ = opt.update({"w": jnp.full(n, gradient)}, opt.init(params), params, key=KEY)
        exact = float(params["w"][0]) - gradient
        values = np.unique(np.asarray(after["w"], "float32"))
        assert len(values) == 2 and values[0] < exact < values[1]
        assert values[0] == float(jnp.nextafter(jnp.bfloat16(values[1]), jnp.bfloat16(-9))), "neighbours"
        error = np.asarray(after["w"], "float64").mean() - exact
        assert abs(error) < 5 * (values[1] - values[0]) / 2 / n**0.5, (start, error)
    params = {"w": jnp.asarray([1.0, -2.5, 0.0, np.inf, np.nan, 3e38], "bfloat16")}
    after, _ = opt.update({"w": jnp.zeros(6)}, opt.init(params), params, key=KEY)
    assert same(after, params), "what bfloat16 can say is left alone"


def test_stochastic_rounding_draws_by_name_and_by_key():
    opt = optim.stochastic_rounding(optim.sgd(1.0))
    params = {name: jnp.ones(64, "bfloat16") for name in "ab"} | {"wide": jnp.ones(3), "none": jnp.arange(2)}
    grads = {name: jnp.full(64, 2e-3) for name in "ab"} | {"wide": jnp.full(3, 2e-3)}
    state = opt.init(params)
    one, _ = opt.update(grads, state, params, key=KEY)
    again, _ = opt.update(grads, state, params, key=KEY)
    other, _ = opt.update(grads, state, params, key=jax.random.key(9))
    assert same(one, again) and not same(one["a"], other["a"]) and not same(one["a"], one["b"])
    np.testing.assert_allclose(one["wide"], 0.998, rtol=1e-6)
    part, _ = opt.update({"a": grads["a"]}, opt.init({"a": params["a"]}), {"a": params["a"]}, key=KEY)
    assert same(part["a"], one["a"]), "another parameter changes nothing"
    with pytest.raises(ValueError, match="needs key="):
        opt.update(grads, state, params)
    with pytest.raises(ValueError, match=r"'w' is float16; use optim.master_weights"):
        opt.init({"w": jnp.ones(1, "float16")})


def test_slot_dtype_keeps_slots_narrow_and_computes_wide():
    opt = optim.slot_dtype(optim.adamw(0.05), "bfloat16")
    assert opt.only == ("mu", "nu")
    params, state = opt.update(GRADS, opt.init(PARAMS), PARAMS)
    for slot in ("mu", "nu"):
        assert {leaf.dtype for leaf in jax.tree.leaves(state[slot])} == {jnp.dtype("bfloat16")}
    exact, exact_state = optim.adamw(0.05).update(GRADS, optim.adamw(0.05).init(PARAMS), PARAMS)
    close(params, exact, 1e-6)  # the first step reads only zeros from the slots
    close(state["mu"], fnet.cast(exact_state["mu"], "bfloat16"), 0.01)
    assert optim.memory(state)["mu"] * 2 == optim.memory(exact_state)["mu"]
    mastered = optim.slot_dtype(optim.master_weights(optim.adam()), "bfloat16", only=("mu",))
    some = mastered.init(fnet.cast(PARAMS, "bfloat16"))
    assert {slot: some[slot]["head"]["weight"].dtype.name for slot in ("mu", "nu", "master")} == {
        "mu": "bfloat16", "nu": "float32", "master": "float32"}  # fmt: skip
    assert optim.slot_dtype(optim.master_weights(optim.adam()), "float16").only == ("mu", "nu")


# 8 bits


def paper_map(signed):
    """Appendix F.2 as the authors' library has it: 7 exponent bits, the rest a linear fraction."""
    data = []
    for i in range(7):
        items = int(2**i + 1 if signed else 2 ** (i + 1) + 1)
        boundaries = np.linspace(0.1, 1, items)
        means = (boundaries[:-1] + boundaries[1:]) / 2.0
        data += (10 ** (-6 + i) * means).tolist()
        if signed:
            data += (-(10 ** (-6 + i)) * means).tolist()
    return sorted([*data, 0.0, 1.0])


@pytest.mark.parametrize("signed", [True, False])
def test_the_map_is_the_papers(signed):
    np.testing.assert_allclose(dynamic_map(signed), paper_map(signed), rtol=1e-6)
    assert dynamic_map(signed).shape == (256,)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("shape", [(1000,), (37, 19), (3, 256), (1,)])
def test_quantization_errors_are_bounded(signed, shape):
    rng = np.random.default_rng(0)
    x = (rng.normal(size=shape) * 10 ** rng.uniform(-6, 2, size=shape)).astype("float32")
    x = x if signed else np.abs(x)
    codes, scales = quantize(jnp.asarray(x), 256, signed)
    assert codes.dtype == jnp.uint8 and codes.shape == shape and scales.shape == (-(-x.size // 256),)
    back = np.asarray(dequantize(codes, scales, 256, signed)).reshape(-1)
    table, flat = dynamic_map(signed), x.reshape(-1)
    for i in range(len(scales)):
        block, got = flat[256 * i : 256 * (i + 1)], back[256 * i : 256 * (i + 1)]
        scale = np.abs(block).max()
        unit = np.abs(block[:, None] / scale - table).min(axis=1) * scale  # the best that any code can do
        if signed:
            np.testing.assert_allclose(np.abs(got - block), unit, atol=1e-6 * scale)
        assert np.abs(got - block).max() <= scale * np.diff(table).max() / 2 * 1.001
        large = np.abs(block) > 0.1 * scale
        assert (np.abs(got - block)[large] <= 0.08 * np.abs(block)[large]).all()
    if not signed:
        assert back[flat.argmax()] == flat.max(), "the largest is exact; signed, -1 is not in the map"
        assert ((back > 0) == (flat > 0)).all(), "nothing that divides becomes 0"
    np.testing.assert_array_equal(dequantize(*quantize(jnp.zeros(300), 256), 256), np.zeros(300))


def test_eight_bits_save_memory_and_train_as_well():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(256, 96)), "float32")
    y = jnp.asarray((np.asarray(x) @ rng.normal(size=(96, 64))).argmax(1))
    params = {"w1": jnp.asarray(rng.normal(size=(96, 64)) / 10, "float32"), "bias": jnp.zeros(64),
              "w2": jnp.asarray(rng.normal(size=(64, 64)) / 8, "float32")}  # fmt: skip

    def loss(p):
        logits = jnp.tanh(x @ p["w1"] + p["bias"]) @ p["w2"]
        return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(256), y])

    ends = {}
    for name, opt in (("float32", optim.adamw(0.01)), ("8 bits", optim.slots_8bit(optim.adamw(0.01)))):
        state = opt.init(params)
        ends[name] = optim.memory(state)["total"]

        def body(carry, _, opt=opt):
            value, grads = jax.value_and_grad(loss)(carry[0])
            return opt.update(grads, carry[1], carry[0]), value

        (_, state), values = jax.jit(lambda c, body=body: jax.lax.scan(body, c, None, 80))((params, state))
        ends[name + " loss"] = float(values[-1])
    assert ends["8 bits"] < 0.29 * ends["float32"]
    assert state["mu"]["w1"].dtype == jnp.uint8 and state["mu"]["w1"].shape == (96, 64)
    assert state["mu"]["bias"].dtype == jnp.float32 and state["scales"]["mu"]["bias"] is HOLE
    assert state["scales"]["nu"]["w1"].shape == (24,)
    assert ends["8 bits loss"] < 1.15 * ends["float32 loss"] + 0.01 and ends["float32 loss"] < 0.3 * float(loss(params))


def test_memory_reports_every_key_and_works_on_shapes():
    opt = optim.clip_by_global_norm(optim.skip_nonfinite(optim.adamw(optim.cosine(0.1, 5))), 1.0)
    report = optim.memory(opt.init(PARAMS))
    elements = fnet.count(PARAMS)
    assert report == {"step": 4, "hyper": 20, "mu": 4 * elements, "nu": 4 * elements, "skipped": 4,
                      "total": 28 + 8 * elements}  # fmt: skip
    assert optim.memory(jax.eval_shape(opt.init, PARAMS)) == report


@pytest.mark.parametrize("wrap", [optim.skip_nonfinite, optim.dynamic_loss_scale])
@pytest.mark.parametrize("jitted", [False, True])
@pytest.mark.parametrize("inner", [optim.sgd(0.1), optim.lion(0.1), optim.adaptive_clip(optim.adam(0.1))], ids=repr)
def test_gradients_that_are_not_finite_where_sam_looks_are_skipped_too(wrap, jitted, inner):
    opt, params = wrap(optim.sam(inner, rho=0.5)), {"w": jnp.array([0.1]), "n": jnp.arange(2)}
    value_and_grad = jax.value_and_grad(lambda p: -jnp.sum(jnp.sqrt(p["w"])), allow_int=True)

    def update(params, state):
        loss, grads = value_and_grad(params)
        return opt.update(grads, state, params, loss=loss, value_and_grad=value_and_grad)

    update, state = jax.jit(update) if jitted else update, opt.init(params)
    after, skipped = update(params, state)  # SAM looks at -0.4, where the root is NaN
    assert same(after, params) and int(skipped["step"]) == 0
    assert not np.any(skipped["skipped"] != 1 if "skipped" in state else skipped["loss_scale"] != 2.0**15)
    after, state = update({**params, "w": jnp.array([4.0])}, skipped)
    assert float(after["w"][0]) > 4.0 and int(state["step"]) == 1
