"""Losses against PyTorch: values and gradients over random configurations; masks; labels out of range; messages."""

from __future__ import annotations

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fnet.functional as F
from fnet.functional.loss import classification

ORACLE = "parity tests need the oracle extra: pip install fnet[oracle]"
REDUCTIONS = st.sampled_from(["mean", "sum", "none"])
SHAPES = st.lists(st.integers(1, 4), max_size=2).map(tuple)


def to_class_axis_1(torch, x):
    """PyTorch has the classes on axis 1 of an input with a batch, and on axis 0 of one without."""
    return torch.movedim(x, -1, 1) if x.ndim > 1 else x


def compare(ours, theirs, *arrays, tolerance=1e-12):
    """Values, and gradients with respect to every array, in float64."""
    torch = pytest.importorskip("torch", reason=ORACLE)
    tensors = [torch.tensor(a, requires_grad=True) for a in arrays]
    expected = theirs(torch, *tensors)
    probe = np.random.default_rng(0).normal(size=tuple(expected.shape))
    gradients = torch.autograd.grad((expected * torch.tensor(probe)).sum(), tensors)
    with jax.enable_x64(True):
        weighted = jax.grad(lambda *a: (ours(*a) * probe).sum(), tuple(range(len(arrays))))
        got, grads = jax.jit(lambda *a: (ours(*a), weighted(*a)))(*arrays)
        assert got.dtype == jnp.float64
        np.testing.assert_allclose(got, expected.detach(), rtol=tolerance, atol=tolerance)
        for a, b in zip(grads, gradients, strict=True):
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@settings(max_examples=25)
@given(
    SHAPES,
    st.integers(1, 6),
    st.booleans(),
    st.sampled_from([-100, 0, 2, 255]),
    st.sampled_from([0.0, 0.1, 1.0]),
    REDUCTIONS,
    st.sampled_from(["int8", "uint8", "int32", "uint32", "int64"]),
    st.integers(0, 2**31),
)
def test_cross_entropy_of_class_indices_is_pytorchs(
    shape, classes, weighted, ignore, smoothing, reduction, dtype, seed
):
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(size=(*shape, classes)) * 5, rng.integers(0, classes, shape).astype(dtype)
    weight = rng.random(classes) if weighted else None
    if ignore == 255 and dtype in ("uint8", "int64") and shape:
        labels.ravel()[rng.integers(labels.size)] = 255
    counts = labels != ignore
    if reduction == "mean" and not counts.any():
        return  # 0 here and NaN in PyTorch: tested below

    def theirs(torch, logits):
        target = torch.tensor(labels.astype(np.int64))
        weights = None if weight is None else torch.tensor(weight)
        return torch.nn.functional.cross_entropy(
            to_class_axis_1(torch, logits), target, weights,
            ignore_index=ignore, label_smoothing=smoothing, reduction=reduction,
        )  # fmt: skip

    def ours(logits):
        kw = {"ignore_index": ignore, "label_smoothing": smoothing, "reduction": reduction}
        return F.cross_entropy(logits, labels, weight, **kw)

    compare(ours, theirs, logits)


@settings(max_examples=15)
@given(SHAPES, st.integers(1, 6), st.booleans(), st.sampled_from([0.0, 0.1]), REDUCTIONS, st.integers(0, 2**31))
def test_cross_entropy_of_soft_labels_is_pytorchs(shape, classes, weighted, smoothing, reduction, seed):
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(size=(*shape, classes)) * 5, rng.dirichlet(np.ones(classes), shape)
    weight = rng.random(classes) if weighted else None

    def theirs(torch, logits, labels):
        weights = None if weight is None else torch.tensor(weight)
        return torch.nn.functional.cross_entropy(
            to_class_axis_1(torch, logits), to_class_axis_1(torch, labels), weights,
            label_smoothing=smoothing, reduction=reduction,
        )  # fmt: skip

    def ours(logits, labels):
        return F.cross_entropy(logits, labels, weight, label_smoothing=smoothing, reduction=reduction)

    compare(ours, theirs, logits, labels)


@settings(max_examples=10)
@given(SHAPES, st.integers(1, 6), st.booleans(), st.sampled_from([-100, 0]), REDUCTIONS, st.integers(0, 2**31))
def test_nll_loss_is_pytorchs(shape, classes, weighted, ignore, reduction, seed):
    rng = np.random.default_rng(seed)
    log_probs, labels = rng.normal(size=(*shape, classes)), rng.integers(0, classes, shape)
    weight = rng.random(classes) if weighted else None
    if reduction == "mean" and (labels == ignore).all():
        return

    def theirs(torch, x):
        weights = None if weight is None else torch.tensor(weight)
        x = to_class_axis_1(torch, x)
        return torch.nn.functional.nll_loss(x, torch.tensor(labels), weights, ignore_index=ignore, reduction=reduction)

    compare(lambda x: F.nll_loss(x, labels, weight, ignore_index=ignore, reduction=reduction), theirs, log_probs)


@settings(max_examples=8)
@given(SHAPES, st.sampled_from(["mse_loss", "l1_loss"]), REDUCTIONS, st.integers(0, 2**31))
def test_regression_losses_are_pytorchs(shape, name, reduction, seed):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=shape), rng.normal(size=shape)
    a = np.where(rng.random(shape) < 0.2, b, a)  # l1's kink
    compare(
        lambda a, b: getattr(F, name)(a, b, reduction=reduction),
        lambda torch, a, b: getattr(torch.nn.functional, name)(a, b, reduction=reduction),
        a, b,
    )  # fmt: skip


@settings(max_examples=12)
@given(SHAPES, st.booleans(), st.booleans(), REDUCTIONS, st.integers(0, 2**31))
def test_binary_cross_entropy_with_logits_is_pytorchs(shape, weighted, positive, reduction, seed):
    rng = np.random.default_rng(seed)
    x, t = rng.normal(size=shape) * 10, rng.random(shape)
    x = np.where(rng.random(shape) < 0.2, 0.0, x)
    last = shape[-1:]
    weight, pos_weight = rng.random(last) if weighted else None, rng.random(last) * 3 if positive else None

    def theirs(torch, x, t):
        args = [None if w is None else torch.tensor(w) for w in (weight, pos_weight)]
        function = torch.nn.functional.binary_cross_entropy_with_logits
        return function(x, t, args[0], pos_weight=args[1], reduction=reduction)

    def ours(x, t):
        return F.binary_cross_entropy_with_logits(x, t, weight, pos_weight=pos_weight, reduction=reduction)

    compare(ours, theirs, x, t, tolerance=1e-11)


@settings(max_examples=10)
@given(SHAPES, st.booleans(), REDUCTIONS, st.integers(0, 2**31))
def test_binary_cross_entropy_is_pytorchs_at_the_ends_too(shape, weighted, reduction, seed):
    torch = pytest.importorskip("torch", reason=ORACLE)
    rng = np.random.default_rng(seed)
    p, t = rng.random(shape), rng.integers(0, 2, shape).astype(float)
    p = np.where(rng.random(shape) < 0.3, rng.integers(0, 2, shape), p)  # exact zeros and ones
    weight = rng.random(shape[-1:]) if weighted else None

    def theirs(_, p):
        weights = None if weight is None else torch.tensor(weight)
        return torch.nn.functional.binary_cross_entropy(p, torch.tensor(t), weights, reduction=reduction)

    # PyTorch's 1e-12, which the derivative at 0 and 1 shows, is a float32.
    compare(lambda p: F.binary_cross_entropy(p, t, weight, reduction=reduction), theirs, p, tolerance=1e-8)


# One call of each loss, with a mask over its elements: (function, predictions, labels or targets)
rng = np.random.default_rng(0)
LOSSES = {
    "cross_entropy": (F.cross_entropy, rng.normal(size=(6, 4)), rng.integers(0, 4, 6)),
    "cross_entropy weighted": (
        lambda x, y, **kw: F.cross_entropy(x, y, np.arange(1.0, 5.0), label_smoothing=0.1, **kw),
        rng.normal(size=(6, 4)), rng.integers(0, 4, 6),
    ),
    "cross_entropy soft": (F.cross_entropy, rng.normal(size=(6, 4)), rng.dirichlet(np.ones(4), 6)),
    "nll_loss": (F.nll_loss, rng.normal(size=(6, 4)), rng.integers(0, 4, 6)),
    "mse_loss": (F.mse_loss, rng.normal(size=(6,)), rng.normal(size=(6,))),
    "l1_loss": (F.l1_loss, rng.normal(size=(6, 3)), rng.normal(size=(6, 3))),
    "bce_with_logits": (F.binary_cross_entropy_with_logits, rng.normal(size=(6, 3)), rng.random((6, 3))),
    "bce": (F.binary_cross_entropy, rng.random((6, 3)), rng.random((6, 3))),
}  # fmt: skip
loss_of_each_kind = pytest.mark.parametrize("name", LOSSES)


@loss_of_each_kind
@pytest.mark.parametrize("jitted", [False, True])
def test_a_masked_example_is_as_if_it_were_not_there_whatever_is_in_it(name, jitted):
    loss, x, y = LOSSES[name]
    mask = np.array([True, False, True, True, False, True])
    bad_x, bad_y = x.astype(np.float32), y.copy()
    bad_x[1], bad_x[4] = np.nan, np.inf
    bad_y[~mask] = 77
    f = lambda x, y, mask: jax.value_and_grad(lambda x: loss(x, y, mask=mask))(x)  # noqa: E731
    value, grad = (jax.jit(f) if jitted else f)(bad_x, bad_y, mask)
    expected, expected_grad = jax.jit(jax.value_and_grad(loss))(x[mask].astype(np.float32), y[mask])
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(grad[mask], expected_grad, rtol=1e-5, atol=1e-7)
    assert (grad[~mask] == 0).all()
    each, total = jax.jit(lambda x, y: [loss(x, y, mask=mask, reduction=r) for r in ("none", "sum")])(bad_x, bad_y)
    assert (each[~mask] == 0).all()
    np.testing.assert_allclose(total, np.sum(each), rtol=1e-6)


@loss_of_each_kind
def test_a_mean_over_nothing_is_zero_with_no_gradient(name):
    loss, x, y = LOSSES[name]
    value, grad = jax.jit(jax.value_and_grad(lambda x: loss(x, y, mask=np.zeros(6, bool))))(x.astype(np.float32))
    assert value == 0 and (grad == 0).all()
    assert jax.jit(loss)(x[:0], y[:0]) == 0


@loss_of_each_kind
def test_dtypes_transforms_and_strict_rank_promotion(name):
    loss, x, y = LOSSES[name]
    with jax.numpy_rank_promotion("raise"):
        exact = jax.jit(loss)(x.astype(np.float32), y)
        for dtype in (jnp.bfloat16, jnp.float32):
            value, grad = jax.jit(jax.value_and_grad(loss))(jnp.asarray(x, dtype), y)
            assert value.dtype == jnp.float32 and grad.dtype == dtype
            np.testing.assert_allclose(value, exact, rtol=0.05)  # of inputs rounded to 8 bits
    x = jnp.asarray(x, jnp.float32)
    np.testing.assert_allclose(exact, loss(x, y), rtol=1e-6)
    one = lambda x, y: loss(x, y, reduction="none")  # noqa: E731
    together, one_by_one = jax.jit(lambda x, y: (one(x, y), jax.vmap(one)(x, y)))(x, y)
    np.testing.assert_allclose(together, one_by_one, rtol=1e-6)
    assert np.isfinite(jax.jit(jax.hessian(loss))(x, y)).all()
    with pytest.raises(ValueError, match="reduction='avg'"):
        loss(x, y, reduction="avg")


def test_ignoring_everything_is_zero_too():
    x = jnp.ones((2, 3))
    value, grad = jax.value_and_grad(F.cross_entropy)(x, jnp.array([-100, -100]))
    assert value == 0 and (grad == 0).all()


def test_a_mask_over_leading_axes_covers_the_rest():
    logits, labels = rng.normal(size=(3, 5, 4)), rng.integers(0, 4, (3, 5))
    mask = np.array([True, False, True])
    np.testing.assert_allclose(
        F.cross_entropy(logits, labels, mask=mask), F.cross_entropy(logits[mask], labels[mask]), rtol=1e-6
    )
    with pytest.raises(ValueError, match=r"mask has shape \(5,\), expected \(3, 5\) or its leading axes"):
        F.cross_entropy(logits, labels, mask=np.ones(5, bool))
    with pytest.raises(TypeError, match="mask is float32, expected bool"):
        F.mse_loss(jnp.ones(3), jnp.ones(3), mask=jnp.ones(3))


def test_the_mean_by_class_weights_is_the_weighted_mean():
    # Written out: class weights 1 and 3, losses log 2 each at equal logits, plus one certain and wrong.
    logits, labels = jnp.array([[0.0, 0.0], [0.0, 0.0], [10.0, -10.0]]), jnp.array([0, 1, 1])
    expected = (1 * np.log(2) + 3 * np.log(2) + 3 * 20) / 7
    np.testing.assert_allclose(F.cross_entropy(logits, labels, jnp.array([1.0, 3.0])), expected, rtol=1e-6)


@pytest.mark.parametrize("bad", [4, -1, 127])
@pytest.mark.parametrize("loss", [F.cross_entropy, F.nll_loss])
@pytest.mark.parametrize("kw", [{}, {"weight": jnp.ones(4)}])
def test_a_label_out_of_range_is_an_error_when_concrete_and_nan_when_not(loss, bad, kw):
    logits, labels = jnp.ones((3, 4)), jnp.array([0, bad, 3], jnp.int8)
    message = (
        rf"{loss.__name__} labels: {bad} at index \(1,\) is out of range, expected 0 to 3 \(1 of 3 .*ignore_index="
    )
    with pytest.raises(ValueError, match=message):
        loss(logits, labels, **kw)
    with pytest.raises(ValueError, match=message):
        jax.grad(lambda x: loss(x, labels, **kw))(logits)
    with pytest.raises(ValueError, match=message):
        jax.jit(lambda x: loss(x, labels, **kw))(logits)  # a constant of the trace can still be read
    value, grad = jax.jit(jax.value_and_grad(lambda x, y: loss(x, y, **kw)))(logits, labels)
    assert np.isnan(value) and np.isnan(grad).any()
    each = jax.vmap(lambda x, y: loss(x, y, **kw))(logits, labels)
    assert np.isnan(each).tolist() == [False, True, False]
    grads = jax.vmap(jax.grad(lambda x, y: loss(x, y, **kw)))(logits, labels)
    assert np.isnan(grads).any(-1).tolist() == [False, True, False]


def test_an_int64_label_is_judged_before_jax_narrows_it():
    with pytest.raises(ValueError, match=str(2**32)):
        F.cross_entropy(jnp.ones((1, 4)), np.array([2**32]))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32"])
def test_unsigned_labels_have_no_negative_ignore_index(dtype):
    labels = np.array([np.iinfo(dtype).max - 99], dtype)  # -100, read as unsigned
    with pytest.raises(ValueError, match="out of range"):
        F.cross_entropy(jnp.ones((1, 4)), labels)
    assert np.isnan(jax.jit(F.cross_entropy)(jnp.ones((1, 4)), labels))


def test_many_classes_and_narrow_labels():
    logits = jnp.zeros((1, 1000)).at[0, 100].set(50.0)
    np.testing.assert_allclose(F.cross_entropy(logits, np.array([100], np.uint8)), 0, atol=1e-6)


@pytest.mark.parametrize("shift", [0.0, 1e4, -1e6])
def test_large_logits_keep_their_digits(shift):
    logits = np.array([[1.0, 2.0, 4.0]], np.float32) + np.float32(shift)
    exact = np.log(np.exp(-3.0) + np.exp(-2.0) + 1)
    np.testing.assert_allclose(F.cross_entropy(logits, jnp.array([2])), exact, rtol=1e-6)
    extreme = jnp.array([[1e30, -1e30]])
    value, grad = jax.value_and_grad(F.cross_entropy)(extreme, jnp.array([0]))
    assert value == 0 and (grad == 0).all()


def test_classes_ruled_out_by_minus_infinity_cost_nothing():
    logits = jnp.array([[0.0, 0.0, -jnp.inf]])
    for labels in (jnp.array([0]), jnp.array([[1.0, 0.0, 0.0]])):
        value, grad = jax.value_and_grad(F.cross_entropy)(logits, labels)
        np.testing.assert_allclose(value, np.log(2), rtol=1e-6)
        np.testing.assert_allclose(grad, [[-0.5, 0.5, 0.0]], rtol=1e-6)


def test_binary_losses_at_extremes_and_with_every_kind_of_target():
    x = jnp.array([1e4, -1e4, 3e38, -3e38, 0.0])
    for t in (0, 1):
        value, grad = jax.vmap(jax.value_and_grad(F.binary_cross_entropy_with_logits))(x, jnp.full(5, t))
        assert np.isfinite(value).all()
        np.testing.assert_allclose(grad, jax.nn.sigmoid(x) - t, atol=1e-7)
    # A model that starts at logit 0 has curvature 1/4 there.
    second = jax.grad(jax.grad(F.binary_cross_entropy_with_logits))(0.0, 1)
    np.testing.assert_allclose(second, 0.25, rtol=1e-6)
    for dtype in (bool, np.uint8, np.int32, np.float32):
        t = np.array([0, 1, 1, 0, 1]).astype(dtype)
        np.testing.assert_array_equal(
            F.binary_cross_entropy_with_logits(x, t), F.binary_cross_entropy_with_logits(x, t.astype(float))
        )


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize(("loss", "shape"), [
    (F.binary_cross_entropy_with_logits, (5, 20, 3)),  # costly values
    (F.huber_loss, (5, 103, 128)),  # wide rows, four blocks of 128 and three rows of rest
])  # fmt: skip
def test_a_sum_and_a_product_with_ones_give_the_same_numbers_and_gradients(monkeypatch, loss, shape, reduction):
    draw = np.random.default_rng(1)
    x, t = draw.normal(size=shape).astype("float32"), draw.random(shape).astype("float32")
    mask = draw.random(shape) < 0.9
    reduction_module, results = sys.modules["fnet.functional.reduction"], []
    for product in (True, False):
        monkeypatch.setattr(reduction_module, "on_one_cpu", lambda x, product=product: product)
        total = lambda x: loss(x, t, reduction=reduction, mask=mask)  # noqa: E731
        curvature = lambda x: jax.jvp(jax.grad(total), (x,), (jnp.ones_like(x),))[1]  # noqa: B023, E731
        results.append(jax.jit(lambda x: (*jax.value_and_grad(total)(x), curvature(x)))(x))  # noqa: B023
        assert ("dot_general" in str(jax.make_jaxpr(total)(x))) == product
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), *results)


@pytest.mark.parametrize("loss", [F.binary_cross_entropy_with_logits, F.binary_cross_entropy])
def test_binary_targets_outside_zero_to_one_are_an_error_and_nan_under_jit(loss):
    p, t = jnp.array([0.5, 0.5]), jnp.array([0, 255], jnp.uint8)
    with pytest.raises(
        ValueError, match=r"targets must be in \[0, 1\]; 1 of 2 are not, the first 255 .*divide a 0/255 mask"
    ):
        loss(p, t)
    value, grad = jax.jit(jax.value_and_grad(loss))(p, t)
    assert np.isnan(value) and np.isnan(grad).tolist() == [False, True]


def test_probabilities_outside_zero_to_one_are_an_error_too():
    with pytest.raises(ValueError, match=r"probs must be in \[0, 1\].*the first 2\.0 .*raw scores"):
        F.binary_cross_entropy(jnp.array([0.5, 2.0]), jnp.array([0, 1]))


@pytest.mark.parametrize("loss", [F.mse_loss, F.l1_loss, F.binary_cross_entropy_with_logits, F.binary_cross_entropy])
def test_shapes_that_would_broadcast_are_an_error(loss):
    a = jnp.full((4, 1), 0.5)
    with pytest.raises(ValueError, match=r"input has shape \(4, 1\) and target \(4,\).*x\.reshape\(\(4,\)\)"):
        loss(a, jnp.ones(4))
    with pytest.raises(ValueError, match=r"broadcast_to"):
        loss(a, jnp.array(1.0))


def test_integers_and_mixed_dtypes_promote_to_floats():
    assert F.mse_loss(jnp.array([1, 2], jnp.uint8), jnp.array([2, 1], jnp.uint8)) == 1  # no wrap-around at 255
    assert F.l1_loss(jnp.ones(2, jnp.bfloat16), jnp.zeros(2, jnp.float16)).dtype == jnp.float32
    with pytest.raises(TypeError, match=r"complex64.*\.real"):
        F.mse_loss(jnp.ones(2, complex), jnp.ones(2))


def test_wrong_labels_are_named_with_their_fix():
    logits = jnp.ones((4, 3))
    with pytest.raises(ValueError, match=r"int32 of shape \(4, 3\).*integer labels have shape \(4,\).*argmax"):
        F.cross_entropy(logits, jnp.ones((4, 3), int))
    with pytest.raises(ValueError, match=r"float32 of shape \(4,\).*astype\(jnp\.int32\)"):
        F.cross_entropy(logits, jnp.ones(4))
    with pytest.raises(ValueError, match=r"shape \(4, 1\).*labels\[\.\.\., 0\]"):
        F.cross_entropy(logits, jnp.ones((4, 1), int))
    with pytest.raises(ValueError, match=r"jnp\.moveaxis\(logits, 1, -1\)"):
        F.cross_entropy(jnp.ones((2, 3, 5, 5)), jnp.ones((2, 5, 5), int))
    with pytest.raises(TypeError, match="got bool.*True means class 1"):
        F.cross_entropy(logits, jnp.ones(4, bool))
    with pytest.raises(ValueError, match=r"weight has shape \(2,\), expected one per class: \(3,\)"):
        F.cross_entropy(logits, jnp.ones(4, int), jnp.ones(2))
    with pytest.raises(ValueError, match="label_smoothing=1.5"):
        F.cross_entropy(logits, jnp.ones(4, int), label_smoothing=1.5)
    with pytest.raises(ValueError, match="ignore_index=2 has no meaning for soft labels"):
        F.cross_entropy(logits, jnp.ones((4, 3)), ignore_index=2)
    with pytest.raises(ValueError, match=r"logits have shape \(\)"):
        F.cross_entropy(jnp.ones(()), jnp.ones((), int))
    with pytest.raises(ValueError, match=r"weight has shape \(5,\), which does not broadcast to \(4, 3\)"):
        F.binary_cross_entropy_with_logits(logits, jnp.ones((4, 3)), jnp.ones(5))


def test_cross_entropy_of_blocks_of_rows_is_that_of_all(monkeypatch):
    rng = np.random.default_rng(0)
    logits, move = rng.normal(size=(2, 2, 3, 5)) * 30
    labels = rng.integers(5, size=(2, 3))
    f = lambda x: F.cross_entropy(x, labels, reduction="none") @ np.arange(1.0, 4.0)  # noqa: E731
    results = []
    for blocks in (1, 3):
        monkeypatch.setattr(classification, "_row_blocks", lambda scores, blocks=blocks: blocks)
        with jax.enable_x64(True):
            second = jax.jvp(jax.grad(lambda x: f(x).sum()), (logits,), (move,))
            results.append((f(logits), *jax.jvp(f, (logits,), (move,)), second, jax.vmap(f, (0,))(logits[None])))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-15), *results)


def test_many_scores_go_in_blocks_of_rows_of_equal_size(monkeypatch):
    def blocks(*shape):
        found = []
        jax.eval_shape(
            lambda x: found.append(classification._row_blocks(x)), jax.ShapeDtypeStruct(shape, "float32")
        )
        return found[0]

    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    assert blocks(4, 64, 50304) == 16 and blocks(16, 50304) == 1 and blocks(255, 50304) == 15
    assert blocks(1_000_003, 10) == 1  # a prime: rows one by one would be slower
