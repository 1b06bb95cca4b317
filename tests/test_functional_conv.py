"""F.conv against PyTorch over random configurations, in every form, and its messages."""

from __future__ import annotations

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fnet.functional as F
from fnet.functional.convolution import plain
from fnet.functional.convolution.cpu import (
    choice,
    crossed,
    depthwise,
    folded,
    grouped,
    phases,
    planes,
    widened,
    winograd,
)

MODULE = "fnet.functional.convolution.conv"


def first(x, rank):
    """Channels from last to just before the spatial axes: PyTorch's layout."""
    return np.moveaxis(x, -1, -rank - 1).copy()


def torch_weight(w):
    return np.moveaxis(w, (-1, -2), (0, 1)).copy()


@st.composite
def configurations(draw, ranks=(1, 2, 3)):
    """Shapes and arguments that PyTorch takes; sizes are few, so that the kinds of arguments are many."""
    rank = draw(st.sampled_from(ranks))
    per_axis = lambda low, high: tuple(draw(st.integers(low, high)) for _ in range(rank))  # noqa: E731
    groups, multiplier = draw(st.sampled_from([1, 1, 2, 3, 6])), draw(st.integers(1, 2))
    channels = 6 if groups > 1 else draw(st.sampled_from([1, 3, 6]))
    kernel, dilation = per_axis(1, 3), per_axis(1, 2)
    size = tuple(d * (k - 1) + n for d, k, n in zip(dilation, kernel, per_axis(1, 4), strict=True))
    mode = draw(st.sampled_from(["zeros", "zeros", "reflect", "replicate", "circular"]))
    stride = per_axis(1, 3)
    spare = 1 if mode == "reflect" else 0
    padding = tuple(min(p, n - spare) for p, n in zip(per_axis(0, 3), size, strict=True))
    word = draw(st.sampled_from(["", "", "", "same", "valid"]))
    if word == "same":
        stride = (1,) * rank
        if mode == "reflect":
            mode = "zeros"  # the half of a wide kernel may be more than the axis can reflect
    return {
        "x": (draw(st.integers(1, 2)), *size, channels), "w": (*kernel, channels // groups, groups * multiplier),
        "stride": stride, "padding": word or padding, "dilation": dilation, "groups": groups, "mode": mode,
    }  # fmt: skip


def torch_conv(torch, x, w, b, c):
    """PyTorch's convolution with its padding modes, which only its layers have."""
    rank = w.ndim - 2
    layer = getattr(torch.nn, f"Conv{rank}d")(
        x.shape[1], w.shape[0], w.shape[2:], c["stride"], c["padding"], c["dilation"], c["groups"],
        bias=b is not None, padding_mode=c["mode"],
    )  # fmt: skip
    return torch.func.functional_call(layer, {"weight": w} | ({"bias": b} if b is not None else {}), x)


def ours(c):
    return lambda x, w, b: F.conv(
        x, w, b, c["stride"], c["padding"], c["dilation"], c["groups"], padding_mode=c["mode"]
    )  # fmt: skip


def draw_arrays(seed, c, dtype=np.float64):
    rng = np.random.default_rng(seed)
    shapes = c["x"], c["w"], c["w"][-1:], jax.eval_shape(ours(c), *map(jnp.empty, (c["x"], c["w"], c["w"][-1:]))).shape
    return [rng.normal(size=shape).astype(dtype) for shape in shapes]


def value_and_gradients(f):
    """A jitted function of (arguments, cotangent) that gives the output and all gradients."""
    return jax.jit(lambda args, dy: (lambda y, pull: (y, *pull(dy)))(*jax.vjp(f, *args)))


def compare(c, seed, dtype, tolerance):
    torch = pytest.importorskip("torch", reason="parity tests need the oracle extra: pip install fnet[oracle]")
    x, w, b, dy = draw_arrays(seed, c, dtype)
    rank = w.ndim - 2
    tx, tw, tb = (torch.tensor(a, requires_grad=True) for a in (first(x, rank), torch_weight(w), b))
    ty = torch_conv(torch, tx, tw, tb, c)
    ty.backward(torch.tensor(first(dy, rank)))
    got = value_and_gradients(ours(c))((x, w, b), dy)
    wanted = np.moveaxis(ty.detach().numpy(), 1, -1), np.moveaxis(tx.grad.numpy(), 1, -1), \
        np.moveaxis(tw.grad.numpy(), (0, 1), (-1, -2)), tb.grad.numpy()  # fmt: skip
    for a, b in zip(got, wanted, strict=True):
        assert a.dtype == dtype
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@settings(max_examples=14)
@given(configurations(), st.integers(0, 2**31))
def test_outputs_and_gradients_are_pytorchs(c, seed):
    with jax.enable_x64(True):
        compare(c, seed, np.float64, 1e-9)


@settings(max_examples=5)
@given(configurations(ranks=(1, 2)), st.integers(0, 2**31))
def test_float32_is_pytorchs_within_its_rounding(c, seed):
    compare(c, seed, np.float32, 2e-5)


@settings(max_examples=7)
@given(configurations(), st.integers(0, 2**31))
def test_the_cpu_forms_give_xlas_numbers_and_gradients(c, seed):
    x, w, b, dy = draw_arrays(seed, c, np.float32)
    results = []
    for chosen in (False, True):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys.modules[MODULE], "on_one_cpu", lambda x, chosen=chosen: chosen)
            results.append(value_and_gradients(ours(c))((x, w, b), dy))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), *results)


# One case for each form that shapes choose, larger than what is drawn above.
FORMS = {
    "winograd": ((4, 7, 8, 32), (3, 3, 32, 33), {"padding": ((1, 0), (1, 1))}),
    "widened": ((2, 9, 10, 3), (3, 3, 3, 12), {"padding": 1, "stride": (2, 1)}),
    "phases": ((2, 9, 8, 9), (3, 3, 9, 10), {"padding": 1, "stride": 2}),
    "direct": ((2, 7, 8, 9), (3, 3, 9, 17), {"padding": 1}),
    "spread": ((2, 9, 8, 32), (3, 3, 32, 33), {"padding": 1, "stride": 2}),
    "dilated": ((2, 13, 15, 32), (3, 3, 32, 33), {"padding": ((3, 2), (2, 4)), "dilation": (2, 3)}),
    "depthwise": ((3, 8, 9, 4), (3, 3, 1, 8), {"padding": 2, "stride": 2, "dilation": 2, "groups": 4}),
    "crossed": ((4, 7, 8, 5), (3, 2, 5, 6), {"padding": ((1, 2), (0, 1))}),
    "crossed, stride": ((4, 9, 8, 5), (3, 3, 5, 6), {"padding": 1, "stride": (2, 1), "dilation": (1, 2)}),
    "folded": ((2, 5, 32, 9), (3, 3, 9, 10), {"padding": ((1, 2), (1, 1)), "stride": 2, "dilation": (2, 1)}),
    "grouped": ((2, 6, 7, 8), (3, 3, 2, 12), {"padding": 1, "stride": (2, 1), "groups": 4}),
    "planes": ((1, 4, 5, 6, 9), (2, 2, 2, 9, 9), {"padding": ((1, 2), (0, 1), (1, 1)), "dilation": (2, 1, 1)}),
    "planes, summed": ((1, 4, 5, 6, 9), (2, 2, 2, 9, 9), {"padding": 1, "stride": (2, 1, 1)}),
}


@pytest.mark.parametrize("name", FORMS)
def test_a_form_has_xlas_outputs_gradients_tangents_and_second_derivatives(name, monkeypatch):
    x_shape, w_shape, arguments = FORMS[name]
    monkeypatch.setattr(winograd, "LIMIT", 4 * 6 * 8 * 65 * 2)  # two blocks of two examples
    monkeypatch.setattr(crossed, "LIMIT", 4000)  # more than one block of these
    rng = np.random.default_rng(0)
    x, w, v, u = (rng.normal(size=shape) for shape in (x_shape, w_shape, x_shape, w_shape))

    def everything(x, w):
        loss = lambda x, w: jnp.sin(F.conv(x, w, **arguments)).sum()  # noqa: E731
        gradients = lambda x, w: jax.grad(loss, (0, 1))(x, w)  # noqa: E731
        only_weight = jax.grad(loss, 1)(x, w)  # as in a first layer, whose input has no gradient
        y, dy = jax.jvp(lambda x, w: F.conv(x, w, **arguments), (x, w), (v, u))
        over_forward = jax.jvp(gradients, (x, w), (v, u))
        over_reverse = jax.vjp(gradients, x, w)[1]((v, u))
        return y, dy, over_forward, over_reverse, only_weight

    with jax.enable_x64(True):
        results = []
        for chosen in (False, True):
            monkeypatch.setattr(sys.modules[MODULE], "on_one_cpu", lambda x, chosen=chosen: chosen)
            results.append(jax.jit(lambda *args: everything(*args))(x, w))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9), *results)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="the forms are chosen on CPU only")
@pytest.mark.parametrize("name", FORMS)
def test_shapes_choose_their_form(name, monkeypatch):
    x_shape, w_shape, arguments = FORMS[name]
    called = []
    module, function = {
        "winograd": (winograd, "conv"), "widened": (widened, "conv"), "phases": (phases, "conv_transpose"),
        "direct": (choice, "_direct"), "spread": (plain, "conv"),
        "dilated": (phases, "conv_dilated"), "depthwise": (depthwise, "conv"), "planes": (planes, "conv"),
        "planes, summed": (planes, "summed"),
        "folded": (folded, "conv"), "grouped": (grouped, "conv"),
        "crossed": (crossed, "weight_gradient"), "crossed, stride": (crossed, "weight_gradient"),
    }[name]  # fmt: skip
    original = getattr(module, function)

    def spy(*args, **options):
        if name != "spread" or "input_dilation" in options:
            called.append(name)
        return original(*args, **options)

    monkeypatch.setattr(module, function, spy)
    jax.clear_caches()
    jax.eval_shape(jax.grad(lambda x, w: F.conv(x, w, **arguments).sum(), (0, 1)), *map(jnp.ones, (x_shape, w_shape)))
    assert called


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="the forms are chosen on CPU only")
def test_arrays_on_a_mesh_are_left_to_xla():
    mesh = jax.make_mesh((1,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    x = jax.device_put(jnp.ones((2, 5, 5, 4)), jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch")))
    w = jnp.ones((3, 3, 1, 4))
    primitives = lambda x: str(jax.make_jaxpr(lambda x: F.conv(x, w, groups=4))(x))  # noqa: E731
    assert "conv_general_dilated" in primitives(x) and "conv_general_dilated" not in primitives(jnp.ones((2, 5, 5, 4)))


def test_it_runs_under_vmap_remat_scan_and_with_any_leading_axes():
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(3, 2, 6, 6, 4)).astype("float32"), rng.normal(size=(3, 3, 4, 4)).astype("float32")
    f = lambda x, w: F.conv(x, w, padding=1)  # noqa: E731

    @jax.jit
    def everything(x, w):
        folded = f(x, w)
        one_by_one = jax.vmap(jax.vmap(f, (0, None)), (0, None))(x, w)
        scanned = jax.lax.scan(lambda c, x: (c, jax.checkpoint(f)(x, w)), 0, x)[1]
        grads = [jax.grad(lambda w, g=g: jnp.sin(g(x, w)).sum())(w) for g in (f, jax.checkpoint(f))]
        return folded, one_by_one, scanned, grads

    folded, one_by_one, scanned, grads = everything(x, w)
    np.testing.assert_allclose(one_by_one, folded, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(scanned, folded, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(*grads, rtol=1e-4, atol=1e-4)
    assert F.conv(np.ones((0, 6, 6, 4), "float32"), w).shape == (0, 4, 4, 4)


@pytest.mark.parametrize("w_shape, groups", [((3, 3, 32, 32), 1), ((3, 3, 1, 32), 32), ((1, 1, 32, 8), 1)])
def test_bfloat16_is_within_its_rounding(w_shape, groups):
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(2, 8, 8, 32)).astype("float32"), rng.normal(size=w_shape).astype("float32")
    f = lambda x, w: F.conv(x, w, padding=1, groups=groups)  # noqa: E731
    low = [jnp.asarray(a, jnp.bfloat16) for a in (x, w)]
    dy = np.ones(jax.eval_shape(f, x, w).shape, "float32")
    exact = value_and_gradients(f)([a.astype(jnp.float32) for a in low], dy)
    rounded = value_and_gradients(f)(low, dy.astype(jnp.bfloat16))
    for a, b in zip(rounded, exact, strict=True):
        assert a.dtype == jnp.bfloat16
        assert float(jnp.abs(a.astype(jnp.float32) - b).max()) <= 2**-6 * float(jnp.abs(b).max())


def test_same_has_ceil_of_size_over_stride_and_causal_sees_no_later_input():
    x, w = jnp.ones((1, 7, 10, 2)), jnp.ones((3, 4, 2, 1))
    assert F.conv(x, w, stride=(2, 3), padding="SAME").shape == (1, 4, 4, 1)
    lax = jax.lax.conv_general_dilated(x, w, (2, 3), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    np.testing.assert_allclose(F.conv(x, w, stride=(2, 3), padding="same"), lax, rtol=1e-6)
    series, kernel = jnp.ones((12, 3)), jnp.ones((3, 3, 2))
    reads = jax.jacobian(lambda x: F.conv1d(x, kernel, padding="causal", dilation=2).sum(-1))(series).sum(-1)
    np.testing.assert_array_equal(np.triu(reads, 1), 0)
    assert (np.diag(reads) != 0).all() and (np.diag(reads, -4) != 0).all() and (np.diag(reads, -5) == 0).all()


@pytest.mark.parametrize(
    "x, w, arguments, message",
    [
        ((8, 3), (3, 3, 3, 4), {}, r"input has shape \(8, 3\), expected \(\.\.\., spatial, spatial, channels\)"),
        ((1, 8, 8, 4), (3, 3, 3, 4), {}, r"with 4 channels in the last axis, expected 3: the weight \(3, 3, 3, 4\)"),
        ((1, 3, 8, 8), (3, 3, 3, 4), {}, r"channels are last here: move them there from NCHW, .*moveaxis\(x, -3, -1\)"),
        ((1, 8, 8, 3), (4, 3, 2, 2), {}, r"PyTorch's weights are \(out, in / groups, \*kernel\)"),
        ((1, 8, 8, 4), (3, 3, 2, 3), {"groups": 2}, r"groups=2 must divide the 4 channels .* the 3 out-channels"),
        ((1, 8, 8, 4), (3, 3, 4, 4), {"groups": 0}, r"groups=0, expected an int of at least 1"),
        ((1, 2, 8, 4), (3, 3, 4, 4), {}, r"kernel \(3, 3\) is larger than the input: spatial axes \(2, 8\)"),
        ((1, 8, 8, 4), (4, 4), {}, r"weight has shape \(4, 4\), expected three axes or more.*it is a linear"),
        ((1, 8, 8, 4), (3, 3, 4, 4), {"stride": (1, 2, 3)}, r"stride=\(1, 2, 3\), expected an int or 2 of them"),
        ((1, 8, 8, 4), (3, 3, 4, 4), {"dilation": 0}, r"dilation=0, expected at least 1"),
        ((1, 8, 8, 4), (3, 3, 4, 4), {"padding": "HALF"}, r"padding='HALF', expected \"SAME\", \"VALID\", \"CAUSAL\""),
        ((1, 8, 8, 4), (3, 3, 4, 4), {"padding": "causal"}, r"one spatial axis, time, and there are 2.*\(\(2, 0\)"),
        ((1, 8, 8, 4), (3, 3, 4, 4), {"padding": (1, 2, 3)}, r"padding=\(1, 2, 3\), expected .*each of the 2 spatial"),
        ((1, 8, 8, 4), (3, 3, 4, 4), {"padding": -1}, r"padding=-1, expected an int of at least 0"),
        ((1, 8, 8, 4), (3, 3, 4, 4), {"padding_mode": "edge"}, r"padding_mode='edge', expected \"zeros\""),
        ((1, 8, 8, 4), (3, 3, 4, 4), {"padding": 8, "padding_mode": "reflect"}, r"cannot pad an axis of 8 by \(8, 8\)"),
        ((1, 8, 8, 4), (3, 3, 4, 4), {"bias": (3,)}, r"bias has shape \(3,\), expected \(4,\)"),
    ],
)
def test_what_does_not_fit_is_named(x, w, arguments, message):
    arguments = {name: jnp.ones(v) if name == "bias" else v for name, v in arguments.items()}
    with pytest.raises(ValueError, match=rf"^conv: .*{message}"):
        F.conv(jnp.ones(x), jnp.ones(w), **arguments)


def test_names_with_a_rank_hold_their_weight_to_it_and_integers_are_an_error():
    for rank, f in enumerate((F.conv1d, F.conv2d, F.conv3d), start=1):
        x, w = jnp.ones((2, *(4,) * rank, 3)), jnp.ones((*(2,) * rank, 3, 5))
        np.testing.assert_array_equal(f(x, w, None, 2, 1), F.conv(x, w, stride=2, padding=1))
        with pytest.raises(ValueError, match=rf"conv{rank}d: weight has shape .* expected {rank + 2}"):
            f(x, w[None])
    with pytest.raises(TypeError, match=r"conv: got integer input \(uint8.*x / 255"):
        F.conv(jnp.ones((1, 8, 8, 3), "uint8"), jnp.ones((3, 3, 3, 4)))
