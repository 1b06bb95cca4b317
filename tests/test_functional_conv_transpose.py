"""F.conv_transpose, F.unfold, F.fold and F.pad against PyTorch, in every form, and their messages."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fnet.functional as F
from fnet.functional.convolution import cpu


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
            patch.setattr(cpu, "applies", lambda x, chosen=chosen: chosen)
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
