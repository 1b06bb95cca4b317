"""F.conv against PyTorch over random configurations, in every form, and its messages."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fnet.functional as F
from fnet.functional.convolution import cpu


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
            patch.setattr(cpu, "applies", lambda x, chosen=chosen: chosen)
            results.append(value_and_gradients(ours(c))((x, w, b), dy))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), *results)
