"""The CTC loss against PyTorch, and what it says of lengths and labels that do not fit."""

from __future__ import annotations

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fnet.functional as F

ORACLE = "parity tests need the oracle extra: pip install fnet[oracle]"


@settings(max_examples=6)
@given(
    st.sampled_from(["padded", "one row", "no batch"]), st.sampled_from([0, 2]),
    st.sampled_from(["mean", "sum", "none"]), st.integers(0, 2**31),
)  # fmt: skip
def test_values_and_gradients_are_pytorchs(form, blank, reduction, seed):
    torch = pytest.importorskip("torch", reason=ORACLE)
    rng = np.random.default_rng(seed)
    time, batch, classes, longest = 9, 5, 4, 4
    logits = rng.normal(size=(time, batch, classes)) * 2
    targets = rng.choice([c for c in range(classes) if c != blank], (batch, longest))
    targets[1] = targets[1, 0]  # repeats, which need a blank between
    frames, labels = np.array([9, 8, 6, 1, 9]), np.array([4, 4, 2, 3, 0])  # example 3 is impossible, 4 is empty
    if form == "one row":
        targets = np.concatenate([row[:n] for row, n in zip(targets, labels, strict=True)])
    if form == "no batch":
        logits, targets, frames, labels = logits[:, 1], targets[1], frames[1], labels[1]

    def theirs(x):
        log_probs = torch.log_softmax(x, -1)  # PyTorch's gradient on CPU assumes it
        lengths = [torch.tensor(frames), torch.tensor(labels)]
        return torch.nn.functional.ctc_loss(log_probs, torch.tensor(targets), *lengths, blank, reduction, True)

    tx = torch.tensor(logits, requires_grad=True)
    expected = theirs(tx)
    probe = rng.normal(size=tuple(expected.shape))
    (gradient,) = torch.autograd.grad((expected * torch.tensor(probe)).sum(), tx)
    with jax.enable_x64(True):

        def both(x, targets):
            y, pull = jax.vjp(
                lambda x: F.ctc_loss(
                    jax.nn.log_softmax(x), targets, frames, labels, blank, reduction=reduction, zero_infinity=True
                ),
                x,
            )
            return y, pull(jnp.asarray(probe))[0]

        got, grad = jax.jit(both)(logits, targets)
    np.testing.assert_allclose(got, expected.detach(), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(grad, gradient, rtol=1e-9, atol=1e-9)


LOG_PROBS = np.log(np.random.default_rng(0).dirichlet(np.ones(4), (6, 3))).astype(np.float32)
TARGETS, FRAMES, LABELS = np.array([[1, 2, 3], [1, 1, 1], [3, 9, -7]]), np.array([6, 5, 6]), np.array([3, 3, 1])


def test_an_impossible_target_costs_infinity_with_gradient_zero_and_a_mask_takes_it_out():
    frames = np.array([6, 2, 6])

    def loss(x, mask):
        each = F.ctc_loss(x, TARGETS, frames, LABELS, reduction="none", mask=mask)
        return F.ctc_loss(x, TARGETS, frames, LABELS, mask=mask), each

    run = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (value, each), grad = run(LOG_PROBS, np.ones(3, bool))
    assert value == np.inf and np.isinf(each).tolist() == [False, True, False]
    assert np.isfinite(grad).all() and (grad[:, 1] == 0).all() and (grad[:, 0] != 0).any()
    bad = LOG_PROBS.copy()
    bad[:, 1] = np.nan
    (value, masked), grad = run(bad, np.array([True, False, True]))
    np.testing.assert_allclose(value, (each[0] / 3 + each[2]) / 2, rtol=1e-6)
    assert masked[1] == 0 and (grad[:, 1] == 0).all() and np.isfinite(grad).all()


def test_it_is_the_sum_over_all_alignments():
    import itertools

    probs = np.random.default_rng(1).dirichlet(np.ones(3), 5)
    total = 0.0
    for path in itertools.product(range(3), repeat=5):
        merged = [c for i, c in enumerate(path) if c and (i == 0 or path[i - 1] != c)]
        total += np.prod(probs[np.arange(5), path]) if merged == [2, 2, 1] else 0
    with jax.enable_x64(True):
        loss = F.ctc_loss(np.log(probs), np.array([2, 2, 1]), 5, 3, reduction="none")
    np.testing.assert_allclose(loss, -np.log(total), rtol=1e-12)


def test_transforms_and_dtypes():
    low = jnp.asarray(LOG_PROBS, jnp.bfloat16)

    def everything(x):
        loss = lambda x: F.ctc_loss(x, TARGETS, FRAMES, LABELS)  # noqa: E731
        return *jax.value_and_grad(loss)(x), jax.jvp(jax.grad(loss), [x], [x])[1]

    value, grad, second = jax.jit(everything)(low)
    exact, exact_grad, _ = jax.jit(everything)(LOG_PROBS)
    assert value.dtype == jnp.float32 and grad.dtype == jnp.bfloat16
    np.testing.assert_allclose(value, exact, rtol=0.02)
    np.testing.assert_allclose(grad.astype(np.float32), exact_grad, atol=0.02)
    assert np.isfinite(second.astype(np.float32)).all()
    with jax.numpy_rank_promotion("raise"):
        one = jax.vmap(lambda x, *rest: F.ctc_loss(x, *rest, reduction="none"), (1, 0, 0, 0))
        got = jax.jit(one)(LOG_PROBS, TARGETS, FRAMES, LABELS)
    np.testing.assert_allclose(got, F.ctc_loss(LOG_PROBS, TARGETS, FRAMES, LABELS, reduction="none"), rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets": np.array([[1, 2, 4]] * 3)}, "targets: 4 at index .0, 2. is out of range.*target_lengths="),
        ({"targets": np.array([[1, 0, 2]] * 3)}, "targets must not be the blank 0"),
        ({"input_lengths": np.array([6, 7, 6])}, "input_lengths must be from 0 to 6.*the first 7"),
        ({"target_lengths": np.array([3, 4, 1])}, "target_lengths must be from 0 to 3"),
    ],
)
def test_what_does_not_fit_is_an_error_and_nan_under_jit(change, message):
    kw = {"targets": TARGETS, "input_lengths": FRAMES, "target_lengths": LABELS} | change
    with pytest.raises(ValueError, match=message):
        F.ctc_loss(LOG_PROBS, **kw)
    value, grad = jax.jit(jax.value_and_grad(lambda x, kw: F.ctc_loss(x, **kw)))(LOG_PROBS, kw)
    assert np.isnan(value) and np.isnan(grad).any()


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match=r"targets have shape \(6, 3\).*swapaxes"):
        F.ctc_loss(LOG_PROBS, np.ones((6, 3), int), FRAMES, LABELS)
    with pytest.raises(ValueError, match=r"log_probs have shape \(6, 3, 4, 1\)"):
        F.ctc_loss(LOG_PROBS[..., None], TARGETS, FRAMES, LABELS)
    with pytest.raises(ValueError, match=r"input_lengths has shape \(2,\), expected one per example: \(3,\)"):
        F.ctc_loss(LOG_PROBS, TARGETS, FRAMES[:2], LABELS)
    with pytest.raises(ValueError, match="blank=4 is not one of the 4 classes"):
        F.ctc_loss(LOG_PROBS, TARGETS, FRAMES, LABELS, 4)
    with pytest.raises(ValueError, match="target_lengths sum to 7, and targets in one row have 5"):
        F.ctc_loss(LOG_PROBS, np.ones(5, int), FRAMES, LABELS)


def test_many_classes_and_few_have_the_same_gradient(monkeypatch):
    gradients = []
    for most in (0, 4):  # by gather, by product
        monkeypatch.setattr(sys.modules["fnet.functional.loss.sequence"], "MOST_CLASSES", most)
        gradients.append(jax.jit(jax.grad(lambda x: F.ctc_loss(x, TARGETS, FRAMES, LABELS)))(LOG_PROBS))
    assert (gradients[0] != 0).any()
    np.testing.assert_allclose(*gradients, rtol=1e-5, atol=1e-6)
