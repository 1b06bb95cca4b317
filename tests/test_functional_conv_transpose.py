"""F.conv_transpose, F.unfold, F.fold and F.pad against PyTorch, in every form, and their messages."""

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

MODULE = "fnet.functional.convolution.transpose"


def first(x, rank):
    return np.moveaxis(x, -1, -rank - 1).copy()


def from_torch(w, groups, rank):
    """The mapping of weights that conv_transpose's docstring gives, for any number of axes."""
    n_in, per_group, *kernel = w.shape
    split = w.reshape(groups, n_in // groups, per_group, *kernel)
    ours = np.moveaxis(split, (0, 1, 2), (-2, -3, -1)).reshape(*kernel, n_in // groups, groups * per_group)
    return np.flip(ours, tuple(range(rank))).copy()


@st.composite
def configurations(draw):
    rank = draw(st.sampled_from([1, 2, 3]))
    per_axis = lambda low, high: tuple(draw(st.integers(low, high)) for _ in range(rank))  # noqa: E731
    groups = draw(st.sampled_from([1, 1, 2, 4]))
    kernel, dilation, stride = per_axis(1, 4), per_axis(1, 2), per_axis(1, 3)
    size = per_axis(2, 3)
    extra = tuple(min(e, max(s, d) - 1) for e, s, d in zip(per_axis(0, 2), stride, dilation, strict=True))
    full = [(n - 1) * s + d * (k - 1) + 1 for n, s, d, k in zip(size, stride, dilation, kernel, strict=True)]
    padding = tuple(min(p, (n - 1) // 2) for p, n in zip(per_axis(0, 3), full, strict=True))
    return (draw(st.integers(1, 2)), *size, 4), (4, draw(st.integers(1, 2)), *kernel), \
        (stride, padding, extra, groups, dilation)  # fmt: skip


def value_and_gradients(f):
    return jax.jit(lambda args, dy: (lambda y, pull: (y, *pull(dy)))(*jax.vjp(f, *args)))


@settings(max_examples=10)
@given(configurations(), st.integers(0, 2**31))
def test_outputs_and_gradients_are_pytorchs(c, seed):
    torch = pytest.importorskip("torch", reason="parity tests need the oracle extra: pip install fnet[oracle]")
    x_shape, w_shape, arguments = c
    rank, groups = len(x_shape) - 2, arguments[3]
    rng = np.random.default_rng(seed)
    x, w, b = rng.normal(size=x_shape), rng.normal(size=w_shape), rng.normal(size=w_shape[1] * groups)
    tx, tw, tb = (torch.tensor(a, requires_grad=True) for a in (first(x, rank), w, b))
    ty = getattr(torch.nn.functional, f"conv_transpose{rank}d")(tx, tw, tb, *arguments)
    dy = rng.normal(size=ty.shape)
    ty.backward(torch.tensor(dy))
    with jax.enable_x64(True):
        got = value_and_gradients(lambda *args: F.conv_transpose(*args, *arguments))(
            (x, from_torch(w, groups, rank), b), np.moveaxis(dy, 1, -1)
        )
        wanted = np.moveaxis(ty.detach().numpy(), 1, -1), np.moveaxis(tx.grad.numpy(), 1, -1), \
            from_torch(tw.grad.numpy(), groups, rank), tb.grad.numpy()  # fmt: skip
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9), got, wanted)


@settings(max_examples=5)
@given(configurations(), st.integers(0, 2**31))
def test_the_cpu_forms_give_xlas_numbers_and_gradients(c, seed):
    x_shape, w_shape, arguments = c
    rng = np.random.default_rng(seed)
    x = rng.normal(size=x_shape).astype("float32")
    w = from_torch(rng.normal(size=w_shape).astype("float32"), arguments[3], len(x_shape) - 2)
    f = lambda x, w: F.conv_transpose(x, w, None, *arguments)  # noqa: E731
    dy = rng.normal(size=jax.eval_shape(f, x, w).shape).astype("float32")
    results = []
    for chosen in (False, True):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys.modules[MODULE], "on_one_cpu", lambda x, chosen=chosen: chosen)
            results.append(value_and_gradients(f)((x, w), dy))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), *results)


@settings(max_examples=6)
@given(
    st.tuples(*[st.integers(1, 3)] * 2), st.tuples(*[st.integers(1, 2)] * 2), st.tuples(*[st.integers(0, 2)] * 2),
    st.tuples(*[st.integers(1, 3)] * 2), st.integers(0, 2**31),
)  # fmt: skip
def test_unfold_and_fold_are_pytorchs(kernel, dilation, padding, stride, seed):
    torch = pytest.importorskip("torch", reason="parity tests need the oracle extra: pip install fnet[oracle]")
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(2, 5, 6, 3))
    tx = torch.tensor(first(x, 2), requires_grad=True)
    rows = torch.nn.functional.unfold(tx, kernel, dilation, padding, stride)
    dy = rng.normal(size=rows.shape)
    image = torch.nn.functional.fold(torch.tensor(dy), (5, 6), kernel, dilation, padding, stride)
    rows.backward(torch.tensor(dy))
    with jax.enable_x64(True):
        unfold = lambda x: F.unfold(x, kernel, dilation, padding, stride)  # noqa: E731
        fold = lambda rows: F.fold(rows, (5, 6), kernel, dilation, padding, stride)  # noqa: E731
        y, dx, folded, back = jax.jit(
            lambda x, dy: (unfold(x), jax.vjp(unfold, x)[1](dy)[0], fold(dy), jax.vjp(fold, dy)[1](x)[0])
        )(x, dy.swapaxes(1, 2))
        np.testing.assert_array_equal(y, rows.detach().numpy().swapaxes(1, 2))
        np.testing.assert_array_equal(back, y)  # the gradient of fold is unfold
        np.testing.assert_allclose(dx, np.moveaxis(tx.grad.numpy(), 1, -1), rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(folded, np.moveaxis(image.numpy(), 1, -1), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mode", ["constant", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("sizes", [(2, 1), (0, 3, 2, 1), (1, 0, 2, 2, 1, 1)])
def test_pad_is_pytorchs(mode, sizes):
    torch = pytest.importorskip("torch", reason="parity tests need the oracle extra: pip install fnet[oracle]")
    rank = len(sizes) // 2
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, *(4, 3, 5)[-rank:], 3))
    tx = torch.tensor(first(x, rank), requires_grad=True)
    ty = torch.nn.functional.pad(tx, sizes, mode)
    dy = rng.normal(size=ty.shape)
    ty.backward(torch.tensor(dy))
    with jax.enable_x64(True):
        y, dx = value_and_gradients(lambda x: F.pad(x, sizes, mode))((x,), np.moveaxis(dy, 1, -1))
        np.testing.assert_array_equal(y, np.moveaxis(ty.detach().numpy(), 1, -1))
        np.testing.assert_allclose(dx, np.moveaxis(tx.grad.numpy(), 1, -1), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda x, w: F.conv_transpose(x, w, output_padding=1), r"output_padding=1 must be smaller than the stride"),
        (lambda x, w: F.conv_transpose(x, w, padding=4), r"output would have the spatial axes \(-2, -2\)"),
        (lambda x, w: F.conv_transpose(x[..., :3], w), r"conv_transpose: input has shape .* expected 4"),
        (lambda x, w: F.conv_transpose1d(x, w), r"conv_transpose1d: weight has shape .* expected 3"),
        (lambda x, w: F.conv_transpose3d(x, w), r"conv_transpose3d: weight has shape .* expected 5"),
        (lambda x, w: F.unfold(x, 6), r"unfold: the kernel \(6, 6\) is larger than the input"),
        (lambda x, w: F.unfold(x[0, 0], 2), r"unfold: input has shape \(4, 4\), expected at least 3 axes"),
        (lambda x, w: F.fold(x[0], 4, 3), r"fold: input has shape \(4, 4, 4\), expected .*channels \* 9"),
        (lambda x, w: F.fold(x[0], 6, 2), r"with 4 windows, expected 25: as many as a kernel \(2, 2\)"),
        (lambda x, w: F.pad(x, (1, 2, 3)), r"pad: pad=\(1, 2, 3\), expected two ints for each axis"),
        (lambda x, w: F.pad(x[0, 0], (1, 1, 1, 1)), r"pad: input has shape \(4, 4\), expected at least 3 axes"),
        (lambda x, w: F.pad(x, (1, 1), "edge"), r"mode='edge', expected \"constant\", \"reflect\""),
        (lambda x, w: F.pad(x, (1, 1), "reflect", 2.0), r"value=2.0 goes with mode='constant'"),
        (lambda x, w: F.pad(x, (4, 0), "reflect"), r"cannot pad an axis of 4 by \(4, 0\), expected 0 to 3"),
        (lambda x, w: F.pad(x, (5, 0), "circular"), r"cannot pad an axis of 4 by \(5, 0\), expected 0 to 4"),
        (lambda x, w: F.pad(x, (-1, 0), "replicate"), r"cannot pad an axis of 4 by \(-1, 0\)"),
        (lambda x, w: F.pad(x, (-3, -3)), r"takes more away than the spatial axes \(4,\) have"),
    ],
)
def test_what_does_not_fit_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(np.ones((1, 4, 4, 4), "float32"), np.ones((3, 3, 4, 4), "float32"))


def test_integers_are_padded_and_unfolded_and_refused_where_they_add_up():
    x = np.arange(16).reshape(1, 4, 4, 1)
    assert F.pad(x, (1, 1), value=-1).dtype == F.unfold(x, 2).dtype == np.int32
    np.testing.assert_array_equal(F.pad(x, (0, 0, -1, 1), value=-1)[0, :, 0, 0], [4, 8, 12, -1])
    with pytest.raises(TypeError, match="fold: got int32"):
        F.fold(F.unfold(x, 2), 4, 2)


def test_transposed_is_the_gradient_of_the_convolution_with_the_mirrored_kernel():
    rng = np.random.default_rng(0)
    dy, w = rng.normal(size=(2, 4, 5, 6)).astype("float32"), rng.normal(size=(3, 3, 4, 6)).astype("float32")
    x = np.zeros((2, 8, 10, 4), "float32")

    def gradient(dy, w):
        return jax.vjp(lambda x: plain.conv(x, w, (2, 2), ((1, 1), (1, 1)), (1, 1)), x)[1](dy)[0]

    def ours(dy, w):
        return F.conv_transpose(dy, jnp.flip(w, (0, 1)).swapaxes(2, 3), stride=2, padding=1, output_padding=1)

    np.testing.assert_allclose(ours(dy, w), gradient(dy, w), rtol=1e-4, atol=1e-4)
    both = [jax.grad(lambda dy, w, f=f: jnp.sin(f(dy, w)).sum(), (0, 1))(dy, w) for f in (ours, gradient)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), *both)
