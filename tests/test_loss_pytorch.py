"""Losses beyond classification against PyTorch: values and gradients over random configurations, in float64."""

from __future__ import annotations

import inspect
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fnet.functional as F

ORACLE = "parity tests need the oracle extra: pip install fnet[oracle]"
REDUCTIONS = st.sampled_from(["mean", "sum", "none"])


def compare(name, arrays, labels=(), tolerance=1e-9, theirs=None, **kw):
    """F.name and torch's: values, and gradients with respect to every array; labels are arrays without gradients."""
    torch = pytest.importorskip("torch", reason=ORACLE)
    tensors = [torch.tensor(a, requires_grad=True) for a in arrays]
    fixed = [torch.tensor(label) for label in labels]
    torch_kw = {k: torch.tensor(v) if isinstance(v, np.ndarray) else v for k, v in kw.items()}
    expected = (theirs or getattr(torch.nn.functional, name))(*tensors, *fixed, **torch_kw)
    probe = np.random.default_rng(0).normal(size=tuple(expected.shape))
    gradients = torch.autograd.grad((expected * torch.tensor(probe)).sum(), tensors)
    with jax.enable_x64(True):

        def both(arrays, labels):
            y, pull = jax.vjp(lambda *a: getattr(F, name)(*a, *labels, **kw), *arrays)
            return y, pull(jnp.asarray(probe))

        got, grads = jax.jit(both)(arrays, labels)
        assert got.dtype == jnp.float64
        np.testing.assert_allclose(got, expected.detach(), rtol=tolerance, atol=tolerance)
        for a, b in zip(grads, gradients, strict=True):
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@settings(max_examples=8)
@given(
    st.sampled_from(["smooth_l1_loss", "huber_loss", "mse_loss", "l1_loss"]),
    st.sampled_from([0.0, 0.3, 2.0]), st.booleans(), REDUCTIONS, st.integers(0, 2**31),
)  # fmt: skip
def test_regression_losses_with_thresholds_and_weights(name, threshold, weighted, reduction, seed):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(3, 4)), rng.normal(size=(3, 4))
    a[0], a[1, 0] = b[0], b[1, 0] + threshold  # the kinks
    kw = {"smooth_l1_loss": {"beta": threshold}, "huber_loss": {"delta": threshold or 1.0}}.get(name, {})
    if weighted and name != "smooth_l1_loss":
        kw["weight"] = rng.random((3, 4))
    compare(name, [a, b], reduction=reduction, **kw)


@settings(max_examples=5)
@given(st.booleans(), st.sampled_from(["mean", "sum", "none", "batchmean"]), st.integers(0, 2**31))
def test_kl_div(log_target, reduction, seed):
    rng = np.random.default_rng(seed)
    x, t = np.log(rng.dirichlet(np.ones(5), 4)), rng.dirichlet(np.ones(5), 4)
    warnings.simplefilter("ignore", UserWarning)  # torch says that "mean" is no divergence
    compare("kl_div", [x, np.log(t) if log_target else t], reduction=reduction, log_target=log_target)


@settings(max_examples=5)
@given(st.booleans(), st.booleans(), REDUCTIONS, st.integers(0, 2**31))
def test_poisson_nll_loss(log_input, full, reduction, seed):
    rng = np.random.default_rng(seed)
    x, t = rng.normal(size=(3, 4)), rng.poisson(2.0, (3, 4)).astype(float)
    x = x if log_input else np.exp(x)
    compare("poisson_nll_loss", [x], [t], reduction=reduction, log_input=log_input, full=full)


@settings(max_examples=5)
@given(st.sampled_from([(2, 3, 4), (2, 3, 1), (2, 3), (2, 1, 4)]), st.booleans(), REDUCTIONS, st.integers(0, 2**31))
def test_gaussian_nll_loss(var_shape, full, reduction, seed):
    rng = np.random.default_rng(seed)
    x, t, var = rng.normal(size=(2, 3, 4)), rng.normal(size=(2, 3, 4)), rng.random(var_shape)
    var.ravel()[:2] = 1e-9, 0  # below eps
    compare("gaussian_nll_loss", [x, t, var], reduction=reduction, full=full)


@settings(max_examples=8)
@given(
    st.sampled_from(["soft_margin_loss", "hinge_embedding_loss", "margin_ranking_loss", "cosine_embedding_loss"]),
    st.sampled_from([0.0, 0.5]), REDUCTIONS, st.integers(0, 2**31),
)  # fmt: skip
def test_losses_of_signs(name, margin, reduction, seed):
    rng = np.random.default_rng(seed)
    shape = (5, 3)
    x1, x2 = rng.normal(size=shape) * 2, rng.normal(size=shape) * 2
    x2[0] = x1[0]
    y = rng.choice([-1.0, 1.0], shape[:1] if name == "cosine_embedding_loss" else shape)
    kw = {} if name == "soft_margin_loss" else {"margin": margin}
    arrays = [x1, x2] if name in ("margin_ranking_loss", "cosine_embedding_loss") else [x1]
    compare(name, arrays, [y], reduction=reduction, **kw)


@settings(max_examples=5)
@given(st.sampled_from([1, 2]), st.sampled_from([1.0, 0.3]), st.booleans(), REDUCTIONS, st.integers(0, 2**31))
def test_multi_margin_loss(p, margin, weighted, reduction, seed):
    rng = np.random.default_rng(seed)
    kw = {"weight": rng.random(4)} if weighted else {}
    x, y = rng.normal(size=(5, 4)), rng.integers(0, 4, 5)
    compare("multi_margin_loss", [x], [y], p=p, margin=margin, reduction=reduction, **kw)


@settings(max_examples=4)
@given(REDUCTIONS, st.integers(0, 2**31))
def test_multilabel_losses(reduction, seed):
    rng = np.random.default_rng(seed)
    x, lists = rng.normal(size=(6, 4)), np.stack([rng.permutation(4) for _ in range(6)])
    for row, length in zip(lists, [0, 1, 2, 3, 4, 2], strict=True):
        row[length : length + 1] = -1  # what follows stays, and must not be read
    compare("multilabel_margin_loss", [x], [lists], reduction=reduction)
    kw = {"weight": rng.random((6, 4))} if seed % 2 else {}
    compare("multilabel_soft_margin_loss", [x, rng.random((6, 4))], reduction=reduction, **kw)


@settings(max_examples=5)
@given(st.sampled_from([1.0, 2.0, 3.0, float("inf")]), st.booleans(), REDUCTIONS, st.integers(0, 2**31))
def test_triplet_losses(p, swap, reduction, seed):
    rng = np.random.default_rng(seed)
    triplet = list(rng.normal(size=(3, 6, 4)))
    triplet[1][0] = triplet[0][0]
    # torch's CPU kernel for p=inf gives a tie's gradient to all, for which nothing here is equal by chance.
    compare("triplet_margin_loss", triplet, p=p, swap=swap, margin=1.5, reduction=reduction)
    compare("triplet_margin_with_distance_loss", triplet, swap=swap, margin=0.5, reduction=reduction)


@settings(max_examples=5)
@given(st.sampled_from([1.0, 2.0, 2.5, float("inf")]), st.booleans(), st.integers(0, 2**31))
def test_distances(p, keepdim, seed):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(5, 3)), rng.normal(size=(1, 3) if keepdim else (5, 3))
    compare("pairwise_distance", [a, b], p=p, keepdim=keepdim)
    a[1] = a[0]
    compare("pdist", [a], p=p)
    b[0] = 0
    compare("cosine_similarity", [a, b], dim=-1 if keepdim else 0)


# The conventions that all losses share: (function, predictions, labels), six examples
rng = np.random.default_rng(0)
X, Y, SIGNS = rng.normal(size=(6, 3)), rng.normal(size=(6, 3)), rng.choice([-1, 1], (6, 3))
LOSSES = {
    "smooth_l1_loss": (F.smooth_l1_loss, X, Y),
    "huber_loss weighted": (lambda x, y, **kw: F.huber_loss(x, y, weight=np.arange(1.0, 4.0), **kw), X, Y),
    "kl_div": (F.kl_div, np.log(rng.dirichlet(np.ones(3), 6)), rng.dirichlet(np.ones(3), 6)),
    "kl_div batchmean": (
        lambda x, y, reduction="batchmean", **kw: F.kl_div(x, y, reduction=reduction, **kw),
        np.log(rng.dirichlet(np.ones(3), 6)), rng.dirichlet(np.ones(3), 6),
    ),
    "poisson_nll_loss": (lambda x, y, **kw: F.poisson_nll_loss(x, y, full=True, **kw), X, rng.poisson(2.0, (6, 3))),
    "gaussian_nll_loss": (lambda x, y, **kw: F.gaussian_nll_loss(x, y, 0.5, full=True, **kw), X, Y),
    "soft_margin_loss": (F.soft_margin_loss, X, SIGNS),
    "hinge_embedding_loss": (F.hinge_embedding_loss, X, SIGNS),
    "margin_ranking_loss": (lambda x, y, **kw: F.margin_ranking_loss(x, x[..., ::-1], y, **kw), X, SIGNS),
    "multi_margin_loss": (F.multi_margin_loss, X, rng.integers(0, 3, 6)),
    "multilabel_margin_loss": (F.multilabel_margin_loss, X, np.tile([2, 0, -1], (6, 1))),
    "multilabel_soft_margin_loss": (F.multilabel_soft_margin_loss, X, rng.random((6, 3))),
    "sigmoid_focal_loss": (
        lambda x, y, reduction="mean", **kw: F.sigmoid_focal_loss(x, y, reduction=reduction, **kw),
        X, rng.random((6, 3)),
    ),
    "softmax_focal_loss": (lambda x, y, **kw: F.softmax_focal_loss(x, y, np.ones(3) * 2, **kw), X, SIGNS[:, 0] % 3),
    "cosine_embedding_loss": (lambda x, y, **kw: F.cosine_embedding_loss(x, x[..., ::-1], y, **kw), X, SIGNS[:, 0]),
    "triplet_margin_loss": (lambda x, y, **kw: F.triplet_margin_loss(x, y, x[..., ::-1], **kw), X, Y),
    "nt_xent_loss": (F.nt_xent_loss, X, Y),
    "dice_loss": (F.dice_loss, rng.random((6, 5, 2)), rng.integers(0, 2, (6, 5, 2))),
}  # fmt: skip


@pytest.mark.parametrize("name", LOSSES)
def test_conventions(name):
    loss, x, y = LOSSES[name]
    mask = np.array([True, False, True, True, False, True])
    bad_x, bad_y = x.astype(np.float32), y.copy()
    bad_x[1], bad_x[4], bad_y[~mask] = np.nan, np.inf, 77

    def everything(x, y, mask):
        value, grad = jax.value_and_grad(lambda x: loss(x, y, mask=mask))(x)
        return value, grad, loss(x, y, mask=mask, reduction="none"), loss(x, y, mask=mask, reduction="sum")

    run = jax.jit(everything)
    # A masked example is as if it were not there, whatever is in it.
    value, grad, each, total = run(bad_x, bad_y, mask)
    few = jax.jit(lambda x, y: jax.value_and_grad(loss)(x, y))
    expected, expected_grad = few(x[mask].astype(np.float32), y[mask])
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(grad[mask], expected_grad, rtol=1e-4, atol=1e-6)
    assert (grad[~mask] == 0).all() and (each[~mask] == 0).all()
    np.testing.assert_allclose(total, np.sum(each), rtol=1e-5)
    loss(bad_x, bad_y, mask=mask)  # nor does a mask let its labels be judged
    # A mean over nothing is 0 with gradient 0.
    value, grad, *_ = run(bad_x, bad_y, np.zeros(6, bool))
    assert value == 0 and (grad == 0).all()

    def low_precision(x, y):
        return *jax.value_and_grad(loss)(x, y), jax.jvp(jax.grad(lambda x: loss(x, y)), [x], [x])[1]

    # bfloat16 gives float32; the second derivative is finite.
    with jax.numpy_rank_promotion("raise"):
        low, low_grad, second = jax.jit(low_precision)(jnp.asarray(x, jnp.bfloat16), y)
    assert low.dtype == jnp.float32 and low_grad.dtype == jnp.bfloat16
    np.testing.assert_allclose(low, loss(x.astype(np.float32), y), rtol=0.05, atol=0.05)
    assert np.isfinite(second.astype(np.float32)).all()
    with pytest.raises(ValueError, match="reduction='avg'"):
        loss(x, y, reduction="avg")


BAD = {
    "soft_margin_loss": (F.soft_margin_loss, [0.5, 1.0], [1, 0], "1 or -1; 1 of 2 are not, the first 0 .*2 \\*"),
    "hinge_embedding_loss": (F.hinge_embedding_loss, [0.5, 1.0], [1, 0], "must be 1 or -1"),
    "margin_ranking_loss": (lambda x, y: F.margin_ranking_loss(x, 2 * x, y), [0.5, 1.0], [1, 0], "must be 1 or -1"),
    "cosine_embedding_loss": (lambda x, y: F.cosine_embedding_loss(x, 2 * x, y), [[0.5, 1.0]], [0], "must be 1 or -1"),
    "multi_margin_loss": (F.multi_margin_loss, [[0.5, 1.0]], [2], "target: 2 at index .0,. is out of range.*mask="),
    "multilabel_margin_loss": (F.multilabel_margin_loss, [[0.5, 1.0]], [[0, 5]], "target: 5 at .*end the list .* -1"),
    "multilabel_soft_margin_loss": (F.multilabel_soft_margin_loss, [[0.5, 1.0]], [[0, 255]], r"in \[0, 1\].*255"),
    "sigmoid_focal_loss": (lambda x, y: F.sigmoid_focal_loss(x, y).sum(), [0.5, 1.0], [0, 255], r"in \[0, 1\].*255"),
    "softmax_focal_loss": (F.softmax_focal_loss, [[0.5, 1.0]], [2], "softmax_focal_loss labels: 2 at index"),
    "kl_div": (F.kl_div, [[-0.5, -1.0]], [[0.5, -0.5]], "target must be 0 or more.*log_target=True"),
    "gaussian_nll_loss": (lambda x, v: F.gaussian_nll_loss(x, 2 * x, v), [0.5, 1.0], [1.0, -1.0], "var must be 0 or"),
    "dice_loss": (F.dice_loss, [[0.5, 1.0]], [[0, 255]], r"targets must be in \[0, 1\].*255"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_labels_out_of_range_are_an_error_and_nan_under_jit(name):
    loss, x, y, message = BAD[name]
    x, y = jnp.array(x), jnp.array(y)
    with pytest.raises(ValueError, match=message):
        loss(x, y)
    value, grad = jax.jit(jax.value_and_grad(loss))(x, y)
    assert np.isnan(value) and np.isnan(grad).any()


def test_messages():
    a, b = jnp.ones((4, 3)), jnp.ones((4, 2))
    with pytest.raises(ValueError, match=r"triplet_margin_loss: anchor has shape \(4, 3\) and negative \(4, 2\)"):
        F.triplet_margin_loss(a, a, b)
    with pytest.raises(ValueError, match=r"target has shape \(4, 3\), expected one for each pair of vectors: \(4,\)"):
        F.cosine_embedding_loss(a, a, jnp.ones((4, 3)))
    with pytest.raises(ValueError, match=r"input is a scalar, expected vectors"):
        F.multilabel_soft_margin_loss(jnp.array(1.0), jnp.array(1.0))
    with pytest.raises(ValueError, match=r"gave shape \(\) for inputs of shape \(4, 3\), expected \(4,\)"):
        F.triplet_margin_with_distance_loss(a, a, a, distance_function=lambda x, y: (x - y).sum())
    with pytest.raises(ValueError, match="margin=0"):
        F.triplet_margin_with_distance_loss(a, a, a, margin=0)
    with pytest.raises(ValueError, match=r"var has shape \(5,\), which does not broadcast to the input \(4, 3\)"):
        F.gaussian_nll_loss(a, a, jnp.ones(5))
    with pytest.raises(ValueError, match="beta=-1"):
        F.smooth_l1_loss(a, a, beta=-1)
    with pytest.raises(ValueError, match="delta=0"):
        F.huber_loss(a, a, delta=0)
    with pytest.raises(ValueError, match="p=3, expected 1 or 2"):
        F.multi_margin_loss(a, jnp.zeros(4, int), p=3)
    with pytest.raises(ValueError, match=r"input has shape \(4, 3\) and target \(3,\); expected \(\.\.\., classes\)"):
        F.multi_margin_loss(a, jnp.zeros(3, int))
    with pytest.raises(ValueError, match=r"weight has shape \(2,\), expected one per class: \(3,\)"):
        F.multi_margin_loss(a, jnp.zeros(4, int), weight=jnp.ones(2))
    with pytest.raises(ValueError, match=r"input has shape \(4, 3\) and target \(4, 2\); they must be equal"):
        F.multilabel_margin_loss(a, jnp.zeros((4, 2), int))
    with pytest.raises(ValueError, match="gamma=-1"):
        F.softmax_focal_loss(a, jnp.zeros(4, int), gamma=-1)
    with pytest.raises(ValueError, match="temperature=0"):
        F.nt_xent_loss(a, a, 0)
    with pytest.raises(ValueError, match=r"z1 has shape \(3,\), expected \(examples, features\)"):
        F.nt_xent_loss(a[0], a[0])
    with pytest.raises(ValueError, match=r"probs has shape \(3,\), expected \(batch, \.\.\., classes\)"):
        F.dice_loss(a[0], a[0])
    with pytest.raises(ValueError, match='reduction="batchmean" needs a batch axis'):
        F.kl_div(jnp.array(0.0), jnp.array(1.0), reduction="batchmean")
    with pytest.raises(ValueError, match=r"shapes \(4, 3\) and \(4, 2\) do not broadcast"):
        F.pairwise_distance(a, b)
    with pytest.raises(ValueError, match=r"cosine_similarity: got shapes \(\) and"):
        F.cosine_similarity(jnp.array(1.0), b)
    with pytest.raises(ValueError, match=r"pdist: input has shape \(3,\)"):
        F.pdist(a[0])
    with pytest.raises(ValueError, match="pairwise_distance: p=0.5 is not the order of a norm"):
        F.pairwise_distance(a, a, p=0.5)


# Losses that PyTorch does not have, against the libraries that do


@settings(max_examples=4)
@given(st.sampled_from([0.25, 0.7, -1.0]), st.sampled_from([0.0, 0.5, 2.0]), st.integers(0, 2**31))
def test_sigmoid_focal_loss_is_optaxs(alpha, gamma, seed):
    optax = pytest.importorskip("optax", reason=ORACLE)
    rng = np.random.default_rng(seed)
    x, t = rng.normal(size=(4, 3)) * 3, rng.integers(0, 2, (4, 3)).astype(float)
    with jax.enable_x64(True):
        ours = jax.jit(jax.value_and_grad(lambda x: F.sigmoid_focal_loss(x, t, alpha, gamma, "sum")))(x)
        theirs = jax.value_and_grad(
            lambda x: optax.losses.sigmoid_focal_loss(x, t, alpha=alpha if alpha >= 0 else None, gamma=gamma).sum()
        )(x)
        np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-9)
        np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-8, atol=1e-10)
    assert F.sigmoid_focal_loss(x, t).shape == x.shape, "torchvision's default reduction"


def test_focal_losses_at_extremes():
    x = jnp.array([1e4, -1e4, 40.0, -40.0])
    for gamma in (0.5, 2.0):
        for t in (0.0, 1.0):
            value, grad = jax.value_and_grad(lambda x: F.sigmoid_focal_loss(x, jnp.full(4, t), gamma=gamma).sum())(x)  # noqa: B023
            assert np.isfinite(value) and np.isfinite(grad).all()
        logits = jnp.stack([x, -x], -1)
        value, grad = jax.value_and_grad(lambda x: F.softmax_focal_loss(x, jnp.zeros(4, int), gamma=gamma))(logits)  # noqa: B023
        assert np.isfinite(value) and np.isfinite(grad).all()


def test_softmax_focal_loss_is_cross_entropy_scaled():
    x, y, weight = rng.normal(size=(8, 4)), rng.integers(0, 4, 8), np.arange(1.0, 5.0)
    y[3] = -100
    with jax.enable_x64(True):
        np.testing.assert_allclose(F.softmax_focal_loss(x, y, weight, 0.0), F.cross_entropy(x, y, weight), rtol=1e-12)
        p = jax.nn.softmax(x)[np.arange(8), y]
        each = (1 - p) ** 3 * F.cross_entropy(x, y, weight, reduction="none")
        np.testing.assert_allclose(F.softmax_focal_loss(x, y, weight, 3.0, reduction="none"), each, rtol=1e-12)


def test_nt_xent_loss_is_optaxs_ntxent():
    optax = pytest.importorskip("optax", reason=ORACLE)
    with jax.enable_x64(True):
        for temperature in (0.07, 0.5):
            labels, z = np.tile(np.arange(6), 2), np.concatenate([X, Y])
            theirs = optax.losses.ntxent(z, labels, temperature)
            np.testing.assert_allclose(F.nt_xent_loss(X, Y, temperature), theirs, rtol=1e-6)  # optax clips the norms


def test_dice_loss_of_hard_masks_is_one_minus_f1():
    metrics = pytest.importorskip("sklearn.metrics", reason=ORACLE)
    p, t = rng.integers(0, 2, (3, 4, 5, 2)), rng.integers(0, 2, (3, 4, 5, 2))
    each = F.dice_loss(p, t, smooth=0.0, reduction="none")
    for n in range(3):
        f1 = metrics.f1_score(t[n].reshape(-1, 2), p[n].reshape(-1, 2), average=None)
        np.testing.assert_allclose(each[n], 1 - f1, rtol=1e-6)
    pixels = rng.random((3, 4, 5)) < 0.5
    p[~pixels] = 7
    pixels[2] = False
    got = F.dice_loss(p, t, mask=pixels)
    want = [F.dice_loss(p[n][pixels[n]][None], t[n][pixels[n]][None]) for n in range(2)]
    np.testing.assert_allclose(got, np.mean(want), rtol=1e-6)
    assert F.dice_loss(jnp.zeros((1, 4, 1)), jnp.zeros((1, 4, 1))) == 0, "absent and found absent"


# What torch.nn.functional calls a loss, and what is not a function of fnet with its name
ELSEWHERE: dict[str, str] = {}


def test_every_loss_of_torch_is_here():
    torch = pytest.importorskip("torch", reason=ORACLE)
    extra = {"kl_div", "cosine_similarity", "pairwise_distance", "pdist", "binary_cross_entropy_with_logits"}
    theirs = {n for n in dir(torch.nn.functional) if n.endswith(("_loss", "cross_entropy"))} | extra
    assert theirs - set(F.__all__) == set(ELSEWHERE)
    for name in theirs - set(ELSEWHERE):
        try:
            parameters = inspect.signature(getattr(torch.nn.functional, name)).parameters
        except ValueError:
            continue  # a builtin
        ours = inspect.signature(getattr(F, name)).parameters
        dropped = {"size_average", "reduce", "options"}  # deprecated, deprecated, chunk_size
        renamed = {"input": {"logits", "probs", "log_probs"}, "target": {"labels", "targets"}}
        for parameter in set(parameters) - dropped:
            assert ours.keys() & ({parameter} | renamed.get(parameter, set())), f"{name} has no {parameter}"
        for parameter in ours.keys() & parameters.keys():
            default = parameters[parameter].default
            if default is not inspect.Parameter.empty and default is not None:
                assert ours[parameter].default == default, f"{name}'s {parameter} has another default"
