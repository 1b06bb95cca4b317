"""Pooling against PyTorch, ties included; its two forms against each other; its messages."""

from __future__ import annotations

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from parity import channels_first, image_parity, torch

import fnet.functional as F

QUICK = settings(max_examples=6, phases=[Phase.explicit, Phase.generate])
LOWERING = "fnet.functional.pooling.lowering"


@st.composite
def configurations(draw, dilated: bool = False) -> dict:
    rank = draw(st.sampled_from([1, 2, 2, 3]))
    sizes = lambda low, high: st.one_of(  # noqa: E731
        st.integers(low, high), st.tuples(*[st.integers(low, high)] * rank)
    )
    kernel = draw(st.tuples(*[st.integers(1, 4 if rank < 3 else 3)] * rank))
    dilation = draw(st.integers(1, 2)) if dilated else 1
    padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
    spatial = tuple(draw(st.integers(dilation * (k - 1) + 1, 9 if rank < 3 else 6)) for k in kernel)
    found = {"kernel_size": kernel, "stride": draw(st.one_of(st.none(), sizes(1, 3))), "padding": padding}
    found |= {"dilation": dilation} if dilated else {}
    return {"shape": (2, *spatial, 2), "args": found | {"ceil_mode": draw(st.booleans())}}


def integers(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Floats among a few whole numbers, so that windows have ties."""
    return np.random.default_rng(seed).integers(-2, 3, shape).astype(np.float64)


def normal(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def named(function: str, rank: int):
    return getattr(torch().nn.functional, f"{function}{rank}d")


@QUICK
@given(configurations(dilated=True), st.booleans())
def test_max_pool_is_pytorchs_where_values_tie(case, distinct):
    torch()
    x = (normal if distinct else integers)(case["shape"])
    args, rank = case["args"], x.ndim - 2
    with jax.enable_x64(True):
        image_parity(lambda x: F.max_pool(x, **args), lambda x: named("max_pool", rank)(x, **args), [x], 1e-12)


@QUICK
@given(configurations(dilated=True), st.booleans())
def test_places_of_maxima_and_unpooling_are_pytorchs(case, distinct):
    x = (normal if distinct else integers)(case["shape"])
    args, rank = case["args"], x.ndim - 2
    tx = torch().tensor(channels_first(x))
    y, places = named("max_pool", rank)(tx, **args, return_indices=True)
    ours, indices = F.max_pool(x, **args, return_indices=True)
    np.testing.assert_array_equal(channels_first(indices), places)
    np.testing.assert_allclose(channels_first(ours), y, rtol=1e-6)
    if args["dilation"] == 1 and (args["stride"] in (None, args["kernel_size"])):
        how = (args["kernel_size"], args["stride"], args["padding"])
        size = x.shape[1:-1]
        with jax.enable_x64(True):
            image_parity(
                lambda y: F.max_unpool(y, indices, *how, size),
                lambda y: named("max_unpool", rank)(y, places, *how, size),
                [np.asarray(y.movedim(1, -1))],
                1e-12,
            )


def test_unpooling_without_a_size_and_with_a_wrong_place():
    x = jnp.asarray(normal((2, 6, 4, 3)), "float32")
    y, indices = F.max_pool2d(x, 2, return_indices=True)
    back = F.max_unpool2d(y, indices, 2)
    np.testing.assert_array_equal(back, jnp.where(jnp.repeat(jnp.repeat(y, 2, 1), 2, 2) == x, x, 0))
    np.testing.assert_array_equal(jax.vmap(lambda y, i: F.max_unpool2d(y, i, 2))(y, indices), back)
    with pytest.raises(ValueError, match="max_unpool indices: 24 at index .* out of range, expected 0 to 23"):
        F.max_unpool2d(y, indices.at[0, 0, 0, 0].set(24), 2)
    assert jnp.isnan(jax.jit(lambda i: F.max_unpool2d(y, i, 2))(indices.at[0, 0, 0, 0].set(24))).sum() == 1


@QUICK
@given(configurations(), st.booleans(), st.integers(0, 5))
def test_avg_pool_is_pytorchs(case, include, divisor):
    torch()
    x, rank = normal(case["shape"]), len(case["shape"]) - 2
    args = case["args"] | {"count_include_pad": include}
    args |= {"divisor_override": divisor} if divisor and rank > 1 else {}
    with jax.enable_x64(True):
        image_parity(lambda x: F.avg_pool(x, **args), lambda x: named("avg_pool", rank)(x, **args), [x], 1e-12)


@QUICK
@given(configurations(), st.sampled_from([1, 2, 3.0]))
def test_lp_pool_is_pytorchs(case, p):
    torch()
    x, rank = normal(case["shape"]), len(case["shape"]) - 2
    x = np.abs(x) + 0.1 if p == 3 else x  # a cube root of a negative sum is NaN in both, and its gradient
    args = {name: case["args"][name] for name in ("kernel_size", "stride", "ceil_mode")}
    if rank == 1:
        args["kernel_size"] = args["kernel_size"][0]
    ours = lambda x: getattr(F, f"lp_pool{rank}d")(x, p, **args)  # noqa: E731
    with jax.enable_x64(True):
        image_parity(ours, lambda x: named("lp_pool", rank)(x, p, **args), [x], 1e-10)


@pytest.mark.parametrize("kind", ["max", "avg"])
@pytest.mark.parametrize(
    "spatial, size", [((7,), 3), ((6, 5), (2, 3)), ((5, 4), (None, 6)), ((4, 5, 3), 1), ((4, 4), 2)]
)
def test_adaptive_pooling_is_pytorchs(kind, spatial, size):
    torch()
    x, rank, name = integers((2, *spatial, 3)), len(spatial), f"adaptive_{kind}_pool"
    theirs = lambda x: named(name, rank)(x, size)  # noqa: E731
    with jax.enable_x64(True):
        image_parity(lambda x: getattr(F, name)(x, size), theirs, [x], 1e-12)


@pytest.mark.parametrize(
    "args",
    [{"kernel_size": 2}, {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True}, {"kernel_size": (2, 3)},
     {"kernel_size": (5, 4)}, {"kernel_size": (1, 17), "stride": 1, "padding": (0, 5)}],
)  # fmt: skip
@pytest.mark.parametrize("function", [F.max_pool, F.avg_pool])
def test_both_forms_give_the_same_numbers_and_gradients(monkeypatch, function, args):
    x = integers((2, 7, 8, 3)).astype("float32")
    results = []
    for apart in (True, False):
        monkeypatch.setattr(sys.modules[LOWERING], "_takes_apart", lambda apart=apart: apart)
        results.append(jax.jit(jax.value_and_grad(lambda x: jnp.sin(function(x, **args)).sum()))(x))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), *results)


def test_names_with_a_rank_take_any_leading_axes():
    x = normal((3, 2, 6, 4, 5)).astype("float32")
    folded = F.max_pool2d(x.reshape(6, 6, 4, 5), 2)
    np.testing.assert_array_equal(F.max_pool2d(x, 2), folded.reshape(3, 2, 3, 2, 5))
    np.testing.assert_array_equal(F.max_pool2d(x[0, 0], 2), folded[0])
    np.testing.assert_array_equal(jax.vmap(lambda x: F.max_pool2d(x, 2))(x), folded.reshape(3, 2, 3, 2, 5))
    assert F.max_pool(x, 2).shape == (3, 1, 3, 2, 5), "a plain number: all axes but the first and the last"
    with pytest.raises(ValueError, match=r"max_pool2d: kernel_size=\(2, 2, 2\) has 3 sizes, expected 2"):
        F.max_pool2d(x, (2, 2, 2))


def test_nan_wins_and_padding_does_not():
    x = jnp.array([[[-5.0], [jnp.nan], [-3.0], [-4.0]]])
    for pool in (lambda x: F.max_pool(x, 3, 1, 1), lambda x: F.adaptive_max_pool(x, 2)):
        assert jnp.isnan(pool(x)).ravel()[0]
    assert F.max_pool(x, 2, 2)[0, 1, 0] == -3 and F.max_pool(-jnp.ones((1, 3, 1)), 3, 1, 1).max() == -1
    assert F.max_pool(jnp.array([[[-7], [-9]]]), 2, 1, 1).ravel().tolist() == [-7, -7, -9], "integers too"


def test_sixteen_bits_are_averaged_in_thirty_two():
    x = jnp.concatenate([jnp.full((1, 1, 1), 256.0), jnp.ones((1, 255, 1))], 1).astype("bfloat16")
    exact = (256 + 255) / 256
    for y in (F.avg_pool(x, 256), F.adaptive_avg_pool(x, 1)):
        assert y.dtype == jnp.bfloat16 and y.item() == jnp.bfloat16(exact)
    assert F.max_pool(x, 2).dtype == jnp.bfloat16


def test_second_derivatives_and_jvp():
    x = jnp.asarray(normal((1, 4, 4, 1)), "float32")
    loss = lambda x: (F.lp_pool(x**2, 2, 2) ** 3).sum() + (F.max_pool(x, 3, 1) ** 3).sum()  # noqa: E731
    v = jnp.ones_like(x)
    step = 1e-2
    gradient = jax.jit(jax.grad(loss))
    curvature = jax.jit(lambda x: jax.jvp(gradient, (x,), (v,))[1])(x)
    numeric = (gradient(x + step * v) - gradient(x - step * v)) / (2 * step)
    np.testing.assert_allclose(curvature, numeric, rtol=2e-2, atol=2e-2)
    assert jnp.isfinite(jax.grad(lambda x: F.lp_pool(x, 2, 2).sum())(jnp.zeros((1, 4, 4, 1)))).all()


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda x: F.max_pool(x, 9), ValueError, r"max_pool: axis 1 of the input \(2, 8, 8, 3\) is too short"),
        (lambda x: F.max_pool(x, 2, padding=2), ValueError, "padding=2 is at most half of the window"),
        (lambda x: F.max_pool(x, (2, 2), (1, 1, 1)), ValueError, r"different numbers of axes: .*stride=\(1, 1, 1\)"),
        (lambda x: F.max_pool(x[0, 0], 2), ValueError, r"input has shape \(8, 3\).*without a batch axis give a tuple"),
        (lambda x: F.avg_pool(x.astype(int), 2), TypeError, r"avg_pool: got int32 input .*x / 255"),
        (lambda x: F.avg_pool(x, 2, divisor_override=0), ValueError, "divisor_override is a number of at least 1"),
        (lambda x: F.lp_pool(x, 0, 2), ValueError, "norm_type is a positive number"),
        (lambda x: F.adaptive_max_pool(x, 0), ValueError, r"cannot pool axis 1 .* to output_size=0"),
        (lambda x: F.adaptive_avg_pool(x[0, 0], 1), ValueError, "a plain output_size takes"),
    ],
)  # fmt: skip
def test_messages(call, error, message):
    with pytest.raises(error, match=message):
        call(jnp.ones((2, 8, 8, 3)))
