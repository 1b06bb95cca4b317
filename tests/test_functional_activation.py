"""Activations and the softmax family against PyTorch: values and gradients, at kinks and at extremes."""

from __future__ import annotations

import pickle
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fnet.functional as F

ORACLE = "parity tests need the oracle extra: pip install fnet[oracle]"

# Every pointwise function with arguments other than the defaults where it has some.
CASES = [
    ("relu", {}), ("relu6", {}), ("leaky_relu", {}), ("leaky_relu", {"negative_slope": 0.3}), ("rrelu", {}),
    ("hardtanh", {}), ("hardtanh", {"min_val": -2.0, "max_val": 0.5}), ("hardsigmoid", {}), ("hardswish", {}),
    ("threshold", {"threshold": 0.5, "value": -7.0}), ("softshrink", {}), ("softshrink", {"lambd": 1.0}),
    ("hardshrink", {}), ("hardshrink", {"lambd": 1.0}), ("sigmoid", {}), ("logsigmoid", {}), ("tanh", {}),
    ("tanhshrink", {}), ("softsign", {}), ("softplus", {}), ("softplus", {"beta": 2.0, "threshold": 5.0}),
    ("silu", {}), ("mish", {}), ("gelu", {}), ("gelu", {"approximate": "tanh"}), ("elu", {}), ("elu", {"alpha": 0.7}),
    ("selu", {}), ("celu", {}), ("celu", {"alpha": 0.5}),
]  # fmt: skip
IDS = [name + "-".join(f" {k}={v}" for k, v in kw.items()) for name, kw in CASES]
KINKS = np.array([0.0, -0.0, 0.5, -0.5, 1.0, -1.0, 2.0, -2.0, 2.5, 3.0, -3.0, 6.0, -6.0, 10.0, 20.0, -20.0])


def torch_value_and_grad(f, x):
    torch = pytest.importorskip("torch", reason=ORACLE)
    x = torch.tensor(x, requires_grad=True)
    y = f(x)
    (g,) = torch.autograd.grad(y.sum(), x)
    return y.detach().numpy(), g.numpy()


def torch_function(name, kw):
    torch = pytest.importorskip("torch", reason=ORACLE)
    return lambda x: getattr(torch.nn.functional, name)(x, **kw)


def value_and_grad(f, x):
    def both(x):
        y, pull = jax.vjp(f, x)
        return y, pull(jnp.ones_like(y))[0]

    return jax.tree.map(np.asarray, jax.jit(both)(x))


@pytest.mark.parametrize(("name", "kw"), CASES, ids=IDS)
def test_values_and_gradients_are_pytorchs_also_at_kinks(x64, name, kw):
    x = np.concatenate([KINKS, np.random.default_rng(0).normal(size=200) * 4])
    ours = value_and_grad(lambda x: getattr(F, name)(x, **kw), x)
    theirs = torch_value_and_grad(torch_function(name, kw), x)
    for a, b in zip(ours, theirs, strict=True):
        # PyTorch's exact gelu and logsigmoid keep absolute, not relative, digits in the tails; the 1/6 of its
        # hardsigmoid is a float32.
        np.testing.assert_allclose(a, b, rtol=3e-8 if name == "hardsigmoid" else 1e-11, atol=1e-13)


@pytest.mark.parametrize(("name", "kw"), CASES, ids=IDS)
def test_values_and_gradients_stay_finite_at_extremes(name, kw):
    x = np.array([1e2, -1e2, 1e4, -1e4, 1e30, -1e30, 3e38, -3e38], np.float32)
    value, grad = value_and_grad(lambda x: getattr(F, name)(x, **kw), x)
    assert np.isfinite(value).all() and np.isfinite(grad).all()
    theirs = torch_value_and_grad(torch_function(name, kw), x)
    for a, b in zip((value, grad), theirs, strict=True):
        finite = np.isfinite(b)  # PyTorch's hardswish overflows at 3e38, its tanh gelu's gradient at 1e19
        np.testing.assert_allclose(a[finite], b[finite], rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize(("name", "kw"), CASES, ids=IDS)
def test_dtype_is_kept_and_transforms_run(name, kw):
    f = jax.jit(lambda x: getattr(F, name)(x, **kw))
    x = jnp.linspace(-4, 4, 33)
    for dtype in (jnp.bfloat16, jnp.float16, jnp.float32):
        y = f(x.astype(dtype))
        assert y.dtype == dtype
        # Two roundings of results up to 4, and one of the input where the slope is steepest (hardshrink aside, 1.1).
        np.testing.assert_allclose(
            y.astype(jnp.float32), f(x.astype(dtype).astype(jnp.float32)), atol=8 * jnp.finfo(dtype).eps
        )
    np.testing.assert_allclose(jax.jit(jax.vmap(f))(x), f(x), rtol=1e-6, atol=1e-6)
    second = jax.jit(jax.vmap(jax.grad(jax.grad(f))))(x)
    assert np.isfinite(second).all()
    assert jnp.issubdtype(f(jnp.arange(3)).dtype, jnp.floating)
    assert pickle.loads(pickle.dumps(getattr(F, name))) is getattr(F, name)


@pytest.mark.parametrize("faster", [True, False])
def test_both_forms_of_softplus_are_exact_to_the_last_digits(monkeypatch, faster):
    monkeypatch.setattr(sys.modules["fnet.functional.softplus"], "_series_is_faster", lambda x: faster)
    x = np.concatenate([np.linspace(-80, 80, 4001), [0.0, -1e-30, 1e-30]]).astype("float32")
    loss = lambda x: (F.softplus(x, threshold=1e9), F.logsigmoid(x))  # noqa: E731
    ours = jax.jit(lambda x: (*loss(x), *jax.vmap(jax.jacfwd(loss))(x), *jax.vmap(jax.jacfwd(jax.jacrev(loss)))(x)))(x)
    wide = x.astype(np.float64)
    e = np.exp(-np.abs(wide))
    up, down = (np.where(wide * sign >= 0, 1, e) / (1 + e) for sign in (1, -1))
    plus, minus = (np.maximum(wide * sign, 0) + np.log1p(e) for sign in (1, -1))
    for a, b in zip(ours, (plus, -minus, up, down, up * down, -up * down), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-37)


def test_every_name_is_a_plain_function_and_is_exported():
    for name in F.__all__:
        value = getattr(F, name)
        assert type(value) is type(F.relu) or name == "MissingKey"
    assert F.swish is F.silu


@settings(max_examples=15)
@given(st.sampled_from([(2, 3, 4), (5, 1, 4), (4,)]), st.sampled_from(["C", "1", ""]), st.integers(0, 2**31))
def test_prelu_is_pytorchs(shape, kind, seed):
    torch = pytest.importorskip("torch", reason=ORACLE)
    rng = np.random.default_rng(seed)
    x, w = rng.normal(size=shape), rng.normal(size={"C": (shape[-1],), "1": (1,), "": ()}[kind])
    x.ravel()[0] = 0.0
    tx, tw = torch.tensor(x, requires_grad=True), torch.tensor(w, requires_grad=True)
    # PyTorch's channels are on axis 1.
    ty = torch.nn.functional.prelu(tx.reshape(-1, shape[-1]), tw if w.shape else tw.reshape(1)).reshape(shape)
    ty.sum().backward()
    with jax.enable_x64(True):
        (dx, dw), y = jax.jit(jax.grad(lambda x, w: (F.prelu(x, w).sum(), F.prelu(x, w)), (0, 1), has_aux=True))(x, w)
    np.testing.assert_allclose(y, ty.detach(), rtol=1e-12)
    np.testing.assert_allclose(dx, tx.grad, rtol=1e-12)
    np.testing.assert_allclose(dw, tw.grad, rtol=1e-12)


def test_prelu_refuses_other_shapes_and_integers():
    with pytest.raises(ValueError, match=r"weight has shape \(3,\).*\(2, 4\)"):
        F.prelu(jnp.ones((2, 4)), jnp.ones(3))
    with pytest.raises(TypeError, match="x / 255"):
        F.prelu(jnp.ones((2, 4), jnp.uint8), jnp.ones(4))
    assert F.prelu(jnp.array(-2.0), jnp.array([0.5])).shape == ()


@pytest.mark.parametrize("dim", [-1, 0, 1])
def test_glu_is_pytorchs(x64, dim):
    torch = pytest.importorskip("torch", reason=ORACLE)
    x = np.random.default_rng(0).normal(size=(4, 6, 8))
    theirs = torch_value_and_grad(lambda x: torch.nn.functional.glu(x, dim), x)
    for a, b in zip(value_and_grad(lambda x: F.glu(x, dim), x), theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
    with pytest.raises(ValueError, match=r"\(4, 3\).*two equal halves"):
        F.glu(jnp.ones((4, 3)))


def test_rrelu_draws_slopes_between_its_bounds():
    x = -jnp.ones(10_000)
    y = F.rrelu(x, 0.2, 0.4, train=True, key=jax.random.key(0))
    assert -0.4 <= y.min() and y.max() <= -0.2
    # The standard error of the mean of 10,000 uniform slopes is 0.2 / sqrt(12 * 10,000) = 0.0006.
    assert abs(y.mean() + 0.3) < 0.003
    assert (F.rrelu(jnp.ones(3), train=True, key=jax.random.key(0)) == 1).all()
    with pytest.raises(F.MissingKey, match="rrelu"):
        F.rrelu(x, train=True)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="approximate='erf'"):
        F.gelu(jnp.ones(2), "erf")
    with pytest.raises(ValueError, match="min_val=1"):
        F.hardtanh(jnp.ones(2), 1.0, -1.0)
    with pytest.raises(ValueError, match="lambd=-1"):
        F.softshrink(jnp.ones(2), -1.0)
    with pytest.raises(ValueError, match="lower=1"):
        F.rrelu(jnp.ones(2), 1.0, 0.0)


# The softmax family


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "softmin"])
@pytest.mark.parametrize("dim", [-1, 0, 1])
def test_softmax_family_is_pytorchs(x64, name, dim):
    torch = pytest.importorskip("torch", reason=ORACLE)
    x = np.random.default_rng(0).normal(size=(3, 4, 5)) * 10
    probe = np.random.default_rng(1).normal(size=x.shape)
    theirs = torch_value_and_grad(lambda x: getattr(torch.nn.functional, name)(x, dim) * torch.tensor(probe), x)
    ours = value_and_grad(lambda x: getattr(F, name)(x, dim) * probe, x)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-14)


def test_softmax_computes_in_float32_and_returns_the_inputs_dtype():
    x = jnp.zeros(4096, jnp.bfloat16)
    assert F.softmax(x).dtype == F.log_softmax(x).dtype == F.softmin(x).dtype == jnp.bfloat16
    # A sum of 4096 ones in bfloat16 stops at 256.
    np.testing.assert_allclose(F.softmax(x).astype(jnp.float32), 1 / 4096)
    assert F.softmax(jnp.arange(3)).dtype == jnp.float32
    masked = F.softmax(jnp.array([0.0, -jnp.inf, 0.0]))
    np.testing.assert_array_equal(masked, [0.5, 0.0, 0.5])
    assert np.isfinite(jax.grad(lambda x: F.softmax(x)[0])(jnp.array([1e30, -1e30, 0.0]))).all()


def test_gumbel_softmax_samples_the_categorical_distribution():
    logits = jnp.log(jnp.array([0.1, 0.2, 0.7]))
    keys = jax.random.split(jax.random.key(0), 4000)
    hard = jax.jit(jax.vmap(lambda k: F.gumbel_softmax(logits, hard=True, key=k)))(keys)
    assert set(np.unique(hard)) == {0.0, 1.0} and (hard.sum(-1) == 1).all()
    # Five standard errors of a share of 4000 draws: 5 * sqrt(0.21 / 4000) = 0.036.
    np.testing.assert_allclose(hard.mean(0), [0.1, 0.2, 0.7], atol=0.036)
    soft = F.gumbel_softmax(logits, tau=0.5, key=keys[0])
    assert soft.argmax() == hard[0].argmax()
    np.testing.assert_allclose(soft.sum(), 1, rtol=1e-6)

    def loss(x, hard):
        return (F.gumbel_softmax(x, hard=hard, key=keys[0]) * jnp.array([1.0, 2.0, 3.0])).sum()

    gradient = jax.jit(jax.grad(loss), static_argnums=1)
    np.testing.assert_allclose(gradient(logits, True), gradient(logits, False), rtol=1e-6)
    assert F.gumbel_softmax(jnp.zeros((2, 3), jnp.bfloat16), hard=True, dim=0, key=keys[0]).shape == (2, 3)
    with pytest.raises(F.MissingKey, match="gumbel_softmax"):
        F.gumbel_softmax(logits)


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0, 1.5, float("inf")])
@pytest.mark.parametrize("dim", [-1, 0])
def test_normalize_is_pytorchs(x64, p, dim):
    torch = pytest.importorskip("torch", reason=ORACLE)
    x = np.random.default_rng(0).normal(size=(4, 5))
    x[0, 1] = x[3, 1] = 0
    probe = np.random.default_rng(1).normal(size=x.shape)
    theirs = torch_value_and_grad(lambda x: torch.nn.functional.normalize(x, p, dim) * torch.tensor(probe), x)
    for a, b in zip(value_and_grad(lambda x: F.normalize(x, p, dim) * probe, x), theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0, float("inf")])
def test_normalize_of_zero_is_zero_with_pytorchs_gradient(p):
    torch = pytest.importorskip("torch", reason=ORACLE)
    x = np.zeros((2, 3), np.float32)
    theirs = torch_value_and_grad(lambda x: torch.nn.functional.normalize(x, p, -1), x)
    for a, b in zip(value_and_grad(lambda x: F.normalize(x, p), x), theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    with pytest.raises(ValueError, match="p=0"):
        F.normalize(x, 0)


# The sections "Non-linear activation functions" and "Dropout functions" of torch.nn.functional's documentation.
TORCH = """threshold relu hardtanh hardswish relu6 elu selu celu leaky_relu prelu rrelu glu gelu logsigmoid hardshrink
    tanhshrink softsign softplus softmin softmax softshrink gumbel_softmax log_softmax tanh sigmoid hardsigmoid silu
    mish normalize dropout alpha_dropout feature_alpha_dropout dropout1d dropout2d dropout3d""".split()


def test_every_activation_of_torch_is_here():
    torch = pytest.importorskip("torch", reason=ORACLE)
    assert all(callable(getattr(torch.nn.functional, name)) for name in TORCH)
    assert not set(TORCH) - set(F.__all__)
    # Names that end in _ change their input in place, which an immutable array has no use for.
    in_place = [n for n in dir(torch.nn.functional) if n.endswith("_") and not n.startswith("_")]
    assert in_place and not {name.removesuffix("_") for name in in_place} - set(TORCH)
