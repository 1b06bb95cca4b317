"""The norms against PyTorch: outputs, gradients, running statistics, dtypes, numerics; their messages."""

from __future__ import annotations

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from parity import image_parity, ours, theirs, torch

import fnet.functional as F

QUICK = settings(max_examples=4, phases=[Phase.explicit, Phase.generate])
SPATIAL = st.lists(st.integers(1, 4), max_size=3).map(tuple)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape) * 2 + 1


def affine(channels: int, given: bool) -> list[np.ndarray]:
    return [normal(channels, seed=1), normal(channels, seed=2)] if given else []


@QUICK
@given(SPATIAL, st.booleans(), st.booleans())
def test_batch_norm_is_pytorchs(spatial, has_affine, training):
    f = torch().nn.functional.batch_norm
    x, mean, var = normal(3, *spatial, 4), normal(4, seed=3), normal(4, seed=4) ** 2
    tmean, tvar = torch().tensor(mean), torch().tensor(var)
    with jax.enable_x64(True):
        image_parity(
            lambda x, *wb: F.batch_norm(x, mean, var, *wb or (None, None), training, 0.3)[0],
            lambda x, *wb: f(x, tmean, tvar, *wb or (None, None), training, 0.3),
            [x, *affine(4, has_affine)], 1e-10,
        )  # fmt: skip
        _, new_mean, new_var = F.batch_norm(x, mean, var, training=training, momentum=0.3)
    np.testing.assert_allclose(new_mean, tmean, rtol=1e-12)
    np.testing.assert_allclose(new_var, tvar, rtol=1e-12)


@QUICK
@example((2, 3), 2, True)  # two axes, which the gradient sums one after the other
@given(SPATIAL, st.sampled_from([1, 2, 3, 6]), st.booleans())
def test_group_norm_is_pytorchs(spatial, groups, has_affine):
    f = torch().nn.functional.group_norm
    inputs = [normal(2, *spatial, 6), *affine(6, has_affine)]
    with jax.enable_x64(True):
        image_parity(lambda x, *wb: F.group_norm(x, groups, *wb), lambda x, *wb: f(x, groups, *wb), inputs, 1e-9)


@QUICK
@given(st.lists(st.integers(2, 4), min_size=1, max_size=3).map(tuple), st.booleans(), st.booleans())
def test_instance_norm_is_pytorchs(spatial, has_affine, own):
    f = torch().nn.functional.instance_norm
    x, mean, var = normal(2, *spatial, 3), normal(3, seed=3), normal(3, seed=4) ** 2
    tmean, tvar = torch().tensor(mean), torch().tensor(var)
    with jax.enable_x64(True):
        image_parity(
            lambda x, *wb: F.instance_norm(x, mean, var, *wb or (None, None), own, 0.3)[0],
            lambda x, *wb: f(x, tmean, tvar, *wb or (None, None), own, 0.3),
            [x, *affine(3, has_affine)], 1e-9,
        )  # fmt: skip
        _, new_mean, new_var = F.instance_norm(x, mean, var, None, None, own, 0.3)
    np.testing.assert_allclose(new_mean, tmean, rtol=1e-12)
    np.testing.assert_allclose(new_var, tvar, rtol=1e-12)


@pytest.mark.parametrize("shape, count", [((2, 3, 5), 1), ((7, 2, 3), 2), ((6,), 1)])
@pytest.mark.parametrize("kind", ["layer", "layer, plain", "rms", "rms, eps"])
def test_layer_and_rms_norm_are_pytorchs(shape, count, kind):
    functional = torch().nn.functional
    x, sizes = normal(*shape), shape[len(shape) - count :]
    weight, bias = normal(*sizes, seed=1), normal(*sizes, seed=2)
    name, inputs, last = {
        "layer": ("layer_norm", [x, weight, bias], ()),
        "layer, plain": ("layer_norm", [x], ()),
        "rms": ("rms_norm", [x, weight], ()),
        "rms, eps": ("rms_norm", [x, weight], (1e-2,)),
    }[kind]
    dy = normal(*shape, seed=3)
    with jax.enable_x64(True):
        got = ours(lambda x, *wb: getattr(F, name)(x, sizes, *wb, *last), inputs, dy)
    want = theirs(lambda x, *wb: getattr(functional, name)(x, sizes, *wb, *last), inputs, dy)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("size, channels, args", [(2, 5, ()), (5, 3, (0.1, 0.5, 2.0)), (1, 4, ())])
def test_local_response_norm_is_pytorchs(size, channels, args):
    f = torch().nn.functional.local_response_norm
    x = normal(2, 3, channels)
    with jax.enable_x64(True):
        image_parity(lambda x: F.local_response_norm(x, size, *args), lambda x: f(x, size, *args), [x], 1e-10)


CALLS = {
    "batch": lambda x, w, b: F.batch_norm(x, None, None, w, b, True)[0],
    "layer": lambda x, w, b: F.layer_norm(x, x.shape[-1], w, b),
    "group": lambda x, w, b: F.group_norm(x, 2, w, b),
    "instance": lambda x, w, b: F.instance_norm(x, None, None, w, b)[0],
    "rms": lambda x, w, b: F.rms_norm(x, x.shape[-1], w, 1e-5) + b.astype(x.dtype),
}


@pytest.mark.parametrize("name", CALLS)
def test_sixteen_and_thirty_two_bits_are_within_their_rounding(name):
    f, args = CALLS[name], [normal(4, 3, 8), normal(8, seed=1), normal(8, seed=2)]
    dy = normal(4, 3, 8, seed=3)
    with jax.enable_x64(True):
        exact = ours(f, args, dy)
    for dtype, tolerance in (("float32", 2e-5), ("bfloat16", 4e-2)):
        cast = [jnp.asarray(array, dtype) for array in args]
        assert jax.eval_shape(f, *cast).dtype == dtype
        assert jax.eval_shape(f, cast[0], *(a.astype("float32") for a in cast[1:])).dtype == dtype
        for a, b in zip(ours(f, cast, dy), exact, strict=True):
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * np.abs(b).max())


@pytest.mark.parametrize("name", CALLS)
def test_jvp_and_second_derivatives(name):
    f, args = CALLS[name], [normal(3, 4, 4), normal(4, seed=1), normal(4, seed=2)]
    tangents = [normal(*array.shape, seed=5) for array in args]
    loss = lambda x, w, b: jnp.sin(f(x, w, b)).sum()  # noqa: E731
    gradient = jax.grad(loss, (0, 1, 2))
    step = 1e-5
    with jax.enable_x64(True):
        both = jax.jit(lambda *args: (loss(*args), gradient(*args)))
        first, second = jax.jit(lambda *args: jax.jvp(both, args, tuple(tangents))[1])(*args)
        moved = [[a + sign * step * t for a, t in zip(args, tangents, strict=True)] for sign in (1, -1)]
        up, down = (both(*m) for m in moved)
        numeric = jax.tree.map(lambda u, d: (u - d) / (2 * step), up, down)
    np.testing.assert_allclose(first, numeric[0], rtol=1e-6, atol=1e-6)
    for a, b in zip(second, numeric[1], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["layer", "rms"])
def test_both_forms_give_the_same_gradients(monkeypatch, name):
    args, results = [jnp.asarray(a, "float32") for a in (normal(4, 3, 8), normal(8, seed=1), normal(8, seed=2))], []
    for faster in (True, False):
        monkeypatch.setattr(sys.modules["fnet.functional.norm"], "_dots_are_faster", lambda faster=faster: faster)
        f = lambda x, w, b: jnp.sin(CALLS[name](x, w, b)).sum()  # noqa: E731
        results.append(jax.jit(jax.grad(f, (0, 1, 2)))(*args))
        found = str(jax.make_jaxpr(jax.grad(f, (0, 1, 2)))(*args)).count("dot_general")
        assert bool(found) == faster
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), *results)


@pytest.mark.parametrize("mean", [0.0, [0, 0, 0, 0, 0, 0, 0, 50.0]])  # the second sends all channels the exact way
@pytest.mark.parametrize("name", ["batch", "group", "instance", "layer"])
def test_one_pass_and_two_give_the_same_numbers_and_gradients(monkeypatch, name, mean):
    x = normal(4, 8, 8) + (np.reshape(mean, (-1, 1)) if name == "layer" else mean)
    args, results = [jnp.asarray(a, "float32") for a in (x, normal(8, seed=1), normal(8))], []
    for faster in (True, False):
        monkeypatch.setattr(sys.modules["fnet.functional.norm"], "_one_pass_is_faster", lambda faster=faster: faster)
        f = lambda x, w, b: jnp.sin(CALLS[name](x, w, b)).sum()  # noqa: E731
        both = jax.jit(jax.value_and_grad(f, (0, 1, 2)))
        results.append(both(*args))
        for function, has_one_pass in ((f, faster and name != "layer"), (both, faster)):
            assert ("cond[" in str(jax.make_jaxpr(function)(*args))) == has_one_pass
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), *results)


@pytest.mark.parametrize("name", ["batch", "layer", "group", "instance"])
def test_a_large_mean_costs_no_accuracy(name):
    x = (np.random.default_rng(0).normal(size=(64, 32, 8)) + 1e4).astype("float32")
    with jax.enable_x64(True):
        exact = CALLS[name](x.astype("float64"), jnp.ones(8), jnp.zeros(8))
    y = jax.jit(CALLS[name])(x, jnp.ones(8), jnp.zeros(8))
    np.testing.assert_allclose(y, exact, atol=1e-2)  # the inputs and their mean are 1e-3 apart


@pytest.mark.parametrize("shape", [(6,), (6, 5)])
def test_masked_positions_do_not_count(shape):
    x, dy = normal(6, 5, 3), normal(6, 5, 3, seed=1)
    keep = np.random.default_rng(2).random(shape) < 0.6
    where = np.broadcast_to(keep.reshape(*shape, *(1,) * (2 - len(shape))), (6, 5))
    w, b, mean, var = normal(3, seed=3), normal(3, seed=4), np.zeros(3), np.ones(3)
    call = lambda x, w, b, **kw: F.batch_norm(x, mean, var, w, b, True, **kw)  # noqa: E731
    with jax.enable_x64(True):
        bad = np.where(where[..., None], x, np.nan)
        y, new_mean, new_var = call(bad, w, b, mask=keep)
        some, some_mean, some_var = call(x[where], w, b)
        np.testing.assert_allclose(y[where], some, rtol=1e-12)
        np.testing.assert_allclose(new_mean, some_mean, rtol=1e-12)
        np.testing.assert_allclose(new_var, some_var, rtol=1e-12)
        got = ours(lambda x, w, b: call(x, w, b, mask=keep)[0], [x, w, b], dy * where[..., None])
        want = ours(lambda x, w, b: call(x, w, b)[0], [x[where], w, b], dy[where])
        np.testing.assert_allclose(got[1][where], want[1], rtol=1e-9, atol=1e-9)
        assert (got[1][~where] == 0).all()
        for a, b_ in zip(got[2:], want[2:], strict=True):
            np.testing.assert_allclose(a, b_, rtol=1e-9, atol=1e-9)
        _, kept_mean, kept_var = call(x, w, b, mask=np.arange(6) == 9)
    kept_mean, kept_var = np.asarray(kept_mean), np.asarray(kept_var)
    assert (kept_mean == mean).all() and (kept_var == var).all(), "nothing counted, nothing moved"


X = jnp.ones((2, 3, 4))


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: F.batch_norm(X[:1, 0], training=True), ValueError, r"more than 1 value per channel .* \(1, 4\)"),
        (lambda: F.batch_norm(X), ValueError, "needs running_mean and running_var"),
        (lambda: F.batch_norm(X, jnp.ones(4)), ValueError, "together, or neither"),
        (lambda: F.batch_norm(X, weight=jnp.ones(3), training=True), ValueError, r"weight has shape \(3,\), expected"),
        (lambda: F.batch_norm(X, training=True, mask=jnp.ones(2)), ValueError, "mask is float32 of shape"),
        (lambda: F.batch_norm(X, training=True, mask=jnp.ones(3, bool)), ValueError, r"\(2,\) for whole examples"),
        (lambda: F.batch_norm(X[0, 0], training=True), ValueError, r"expected at least 2 axes, \(N, ..., C\)"),
        (lambda: F.layer_norm(X.astype(int), 4), TypeError, r"layer_norm: got int32 .*x / 255"),
        (lambda: F.layer_norm(X, 3), ValueError, r"normalized_shape=\(3,\) is not how"),
        (lambda: F.rms_norm(X, 4, jnp.ones(3)), ValueError, r"rms_norm: weight has shape \(3,\)"),
        (lambda: F.group_norm(X, 3), ValueError, "num_groups=3 does not divide the 4 channels"),
        (lambda: F.instance_norm(X[:, :1]), ValueError, "more than 1 position per channel"),
        (lambda: F.instance_norm(X, use_input_stats=False), ValueError, "needs running_mean"),
        (lambda: F.instance_norm(X, jnp.ones(4)), ValueError, "together, or neither"),
        (lambda: F.local_response_norm(X, 0), ValueError, "size is a number of channels"),
    ],
)  # fmt: skip
def test_messages(call, error, message):
    with pytest.raises(error, match=message):
        call()
