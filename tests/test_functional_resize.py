"""Resizing and shuffling against PyTorch, and their messages."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from parity import channels_first, channels_last, image_parity, torch

import fnet.functional as F

QUICK = settings(max_examples=10, phases=[Phase.explicit, Phase.generate])
WEIGHED = {1: ["linear"], 2: ["bilinear", "bicubic"], 3: ["trilinear"]}


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape)


@st.composite
def resizings(draw) -> tuple:
    rank = draw(st.sampled_from([1, 2, 2, 3]))
    spatial = draw(st.tuples(*[st.integers(1, 6)] * rank))
    args = {"mode": draw(st.sampled_from(["nearest", "nearest-exact", "area", *WEIGHED[rank] * 3]))}
    if args["mode"] in sum(WEIGHED.values(), []):
        args["align_corners"] = draw(st.booleans())
    if rank == 2 and args["mode"] in WEIGHED[2]:
        args["antialias"] = draw(st.booleans())
    if draw(st.booleans()):
        args["size"] = draw(st.tuples(*[st.integers(1, 9)] * rank))
    else:
        args["scale_factor"] = draw(st.tuples(*[st.sampled_from([1.0, 1.3, 2.0, 2.6, 3.0])] * rank))
        args["recompute_scale_factor"] = draw(st.booleans())
    return spatial, args


@QUICK
@given(resizings())
def test_interpolate_is_pytorchs(case):
    spatial, args = case
    f = torch().nn.functional.interpolate
    with jax.enable_x64(True):
        image_parity(lambda x: F.interpolate(x, **args), lambda x: f(x, **args), [normal(2, *spatial, 3)], 1e-9)


def test_many_channels_are_resized_as_few():
    x = normal(2, 5, 4, 40)
    with jax.enable_x64(True):
        for call in (lambda x: F.interpolate(x, 7, mode="bicubic"), lambda x: F.adaptive_avg_pool(x, 3)):
            both = lambda x, call=call: jax.value_and_grad(lambda x: (call(x) ** 2).sum())(x)  # noqa: E731
            (total, grad), few = jax.jit(both)(x), [jax.jit(both)(x[..., i : i + 1]) for i in (0, 20)]
            alone = np.concatenate([gradient for _, gradient in few], -1)
            np.testing.assert_allclose(grad[..., [0, 20]], alone, rtol=1e-10, atol=1e-10)
            assert total > few[0][0]


def test_nearest_takes_pytorchs_choice_of_values_at_every_size():
    f = torch().nn.functional.interpolate
    x = np.arange(12.0, dtype="float32").reshape(1, 12, 1)
    for mode in ("nearest", "nearest-exact"):
        for length in (5, 7, 12):
            for out in range(1, 40, 3):
                want = f(torch().tensor(channels_first(x[:, :length])), out, mode=mode)
                got = F.interpolate(x[:, :length], out, mode=mode)
                np.testing.assert_array_equal(got, channels_last(want), err_msg=f"{mode}, {length} to {out}")


@pytest.mark.parametrize("name, shape, factor", [
    ("pixel_shuffle", (2, 3, 4, 18), 3), ("pixel_unshuffle", (2, 6, 4, 3), 2), ("channel_shuffle", (2, 3, 4, 12), 3),
])  # fmt: skip
def test_shuffles_are_pytorchs_with_channels_moved(name, shape, factor):
    x = np.arange(np.prod(shape), dtype="float32").reshape(shape)
    want = getattr(torch().nn.functional, name)(torch().tensor(channels_first(x)), factor)
    got = getattr(F, name)(x, factor)
    np.testing.assert_array_equal(got, channels_last(want))
    np.testing.assert_array_equal(getattr(F, name)(x[0], factor), got[0])


def test_leading_axes_dtypes_and_integers():
    x = jnp.asarray(normal(2, 3, 4, 5, 2), "bfloat16")
    y = F.interpolate(x, (8, 7), mode="bilinear")
    assert y.shape == (2, 3, 8, 7, 2) and y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(F.interpolate(x[0, 0], (8, 7), mode="bilinear"), y[0, 0])
    assert F.interpolate(jnp.arange(3)[None, :, None], 5).ravel().tolist() == [0, 0, 1, 1, 2]
    assert F.pixel_unshuffle(F.pixel_shuffle(jnp.ones((2, 3, 8)), 2), 2).shape == (2, 3, 8)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda x: F.interpolate(x), ValueError, "takes size or scale_factor, one of them"),
        (lambda x: F.interpolate(x, 2, 2.0), ValueError, "takes size or scale_factor, one of them"),
        (lambda x: F.interpolate(x, 2, mode="cubic"), ValueError, "no mode 'cubic'; there are nearest, "),
        (lambda x: F.interpolate(x, 2, mode="linear"), ValueError, "1 spatial axes, got 2; 2 take 'bilinear'"),
        (lambda x: F.interpolate(x, 2, align_corners=True), ValueError, "align_corners is for linear"),
        (lambda x: F.interpolate(x, 2, antialias=True), ValueError, "antialias is for bilinear and bicubic"),
        (lambda x: F.interpolate(x, scale_factor=0.1), ValueError, r"cannot resize \(2, 4, 6, 3\) to \(0, 0\)"),
        (lambda x: F.interpolate(x[0, 0], 2), ValueError, "without a batch axis give a tuple"),
        (lambda x: F.interpolate(x.astype(int), 2, mode="bilinear"), TypeError, "weighs floats, got int32"),
        (lambda x: F.pixel_shuffle(x, 2), ValueError, "3 channels .* no multiple of upscale_factor² = 4"),
        (lambda x: F.pixel_unshuffle(x, 4), ValueError, "sides 4 and 6 .* downscale_factor=4"),
        (lambda x: F.pixel_shuffle(x[0, 0], 1), ValueError, r"expected \(..., H, W, C\)"),
        (lambda x: F.channel_shuffle(x, 2), ValueError, "groups=2 does not divide the channels"),
    ],
)
def test_messages(call, error, message):
    with pytest.raises(error, match=message):
        call(jnp.ones((2, 4, 6, 3)))
