"""F.scaled_dot_product_attention against PyTorch, its forms against each other, and its messages."""

from __future__ import annotations

import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fnet.functional as F

ATTEND = F.scaled_dot_product_attention
STATIC = ("is_causal", "window", "dropout_p", "return_weights", "implementation", "enable_gqa")
JITTED = jax.jit(ATTEND, static_argnames=STATIC)
KEY = jax.random.key(0)


def draw(seed: int, *shapes: tuple[int, ...], dtype: Any = np.float64) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape).astype(dtype) for shape in shapes]


def swap(x: Any) -> Any:
    """Between JAX's (…, length, heads, head_dim) and PyTorch's (…, heads, length, head_dim)."""
    return np.asarray(x).swapaxes(-3, -2)


def with_gradients(f: Any, dy: Any) -> Any:
    """(output, gradients of the arguments for the cotangent dy), compiled at once."""

    def run(*args: Any) -> Any:
        y, pull = jax.vjp(f, *args)
        return y, *pull(jnp.asarray(dy, y.dtype))

    return jax.jit(run)


def visible(length: int, keys: int, causal: bool, window: Any, lengths: Any, offset: Any, batch: int) -> np.ndarray:
    """Written out one pair at a time: may query i of row b attend to key j?"""
    left, right = (window, window) if isinstance(window, int) else window or (10**6, 10**6)
    out = np.zeros((batch, 1, length, keys), bool)
    for b, i, j in np.ndindex(batch, length, keys):
        at = i + np.broadcast_to(offset, batch)[b]
        out[b, 0, i, j] = (not causal or j <= at) and at - left <= j <= at + right
        out[b, 0, i, j] &= lengths is None or j < lengths[b]
    return out


@st.composite
def cases(draw: Any) -> dict[str, Any]:
    kv_heads, length, keys = (draw(st.integers(1, n)) for n in (2, 4, 5))
    return {
        "shape": (2, length, keys, kv_heads, draw(st.sampled_from([1, 3])), 4, draw(st.sampled_from([4, 3]))),
        "mask": draw(st.sampled_from([None, "bool", "float", "keys"])),
        "causal": draw(st.booleans()),
        "window": draw(st.sampled_from([None, 1, (2, 0)])),
        "lengths": draw(st.sampled_from([None, (0, 3), (2, 1)])),
        "offset": draw(st.sampled_from([0, keys - length])),
        "bias": draw(st.booleans()),
        "scale": draw(st.sampled_from([None, 0.3])),
        "seed": draw(st.integers(0, 2**31)),
    }


@settings(max_examples=8)
@given(cases())
def test_outputs_and_gradients_are_pytorchs(case):
    torch = pytest.importorskip("torch", reason="parity tests need the oracle extra: pip install fnet[oracle]")
    batch, length, keys, kv_heads, group, width, v_width = case["shape"]
    heads = kv_heads * group
    q, k, v, dy, bias, floats = draw(
        case["seed"], (batch, length, heads, width), (batch, keys, kv_heads, width), (batch, keys, kv_heads, v_width),
        (batch, length, heads, v_width), (heads, length, keys), (batch, 1, 1, keys),
    )  # fmt: skip
    mask = {
        None: None,
        "bool": np.random.default_rng(case["seed"]).random((batch, heads, length, keys)) < 0.6,
        "float": floats,
        "keys": floats > 0,
    }[case["mask"]]
    sees = visible(length, keys, case["causal"], case["window"], case["lengths"], case["offset"], batch)
    added = np.where(sees, 0.0, -np.inf) + (bias if case["bias"] else 0)
    if mask is not None:
        added = added + (np.where(mask, 0.0, -np.inf) if mask.dtype == bool else mask)
    added = np.broadcast_to(added, (batch, heads, length, keys))
    alive = np.isfinite(added).any(-1)[..., None]  # PyTorch's additive form gives NaN where nothing is left

    tq, tk, tv = (torch.tensor(swap(a).copy(), requires_grad=True) for a in (q, k, v))
    scores = torch.tensor(np.where(alive, added, 0.0))
    ty = torch.nn.functional.scaled_dot_product_attention(tq, tk, tv, scores, scale=case["scale"], enable_gqa=True)
    ty.backward(torch.tensor(np.where(alive, swap(dy), 0.0)))

    def ours(q, k, v):
        return ATTEND(
            q, k, v, mask, is_causal=case["causal"], scale=case["scale"], enable_gqa=True,
            bias=bias if case["bias"] else None, window=case["window"],
            key_lengths=None if case["lengths"] is None else np.array(case["lengths"]), query_offset=case["offset"],
        )  # fmt: skip

    with jax.enable_x64(True):
        y, *grads = with_gradients(ours, dy)(q, k, v)
        np.testing.assert_allclose(swap(y), np.where(alive, ty.detach(), 0), rtol=1e-9, atol=1e-12)
        for grad, t in zip(grads, (tq, tk, tv), strict=True):
            np.testing.assert_allclose(swap(grad), t.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype, tolerance", [("float32", 4e-6), ("bfloat16", 2e-2)])
def test_narrow_floats_are_within_their_rounding(dtype, tolerance):
    q, k, v, dy = (np.asarray(jnp.asarray(x, dtype)) for x in draw(0, *[(2, 6, 2, 8)] * 4))

    run = with_gradients(lambda *a: ATTEND(*a, is_causal=True), dy)
    narrow = run(q, k, v)
    with jax.enable_x64(True):
        exact = run(*(x.astype("float64") for x in (q, k, v)))
    for a, b in zip(narrow, exact, strict=True):
        assert a.dtype == dtype
        np.testing.assert_allclose(np.asarray(a, "float64"), b, rtol=tolerance, atol=tolerance)


def test_rows_that_see_nothing_are_zero_without_a_gradient():
    q, k, v = draw(1, *[(2, 3, 2, 4)] * 3, dtype=np.float32)
    nothing = np.ones((2, 1, 3, 3), bool)
    nothing[0, :, 1] = False
    for mask in (nothing, np.where(nothing, 0.0, -np.inf).astype("float32")):
        dy = np.zeros_like(q)
        dy[0, 1] = 1e3
        y, dq, dk, dv = with_gradients(lambda q, k, v: ATTEND(q, k, v, mask), dy)(q, k, v)  # noqa: B023
        assert (y[0, 1] == 0).all() and np.isfinite(y).all() and (y[1] != 0).all()
        assert (dq == 0).all() and (dk == 0).all() and (dv == 0).all()
    _, weights = JITTED(q, k, v, nothing, return_weights=True)
    sums = weights.sum(-1)
    np.testing.assert_allclose(sums[:, :, [0, 2]], 1, rtol=1e-6)
    assert (sums[0, :, 1] == 0).all()
    for empty in (JITTED(q, k[:, :0], v[:, :0]), JITTED(q[:, :0], k, v), JITTED(q[:0], k[:0], v[:0])):
        assert (empty == 0).all()
    large = JITTED(1e4 * q, 1e4 * k, v)
    assert np.isfinite(large).all(), "scores of 1e8 do not overflow"


def test_jvp_second_derivatives_and_transforms():
    q, k, v = draw(2, *[(2, 3, 2, 4)] * 3)
    mask = np.array([[True, False, False], [True, True, False], [False, False, False]])
    with jax.enable_x64(True):
        f = jax.jit(lambda q: jnp.sin(ATTEND(q, k, v, mask)).sum())
        tangent = np.ones_like(q)
        slope = jax.jvp(f, (q,), (tangent,))[1]
        np.testing.assert_allclose(slope, (f(q + 1e-6) - f(q - 1e-6)) / 2e-6, rtol=1e-6)
        curve = jax.jit(lambda q: jax.jvp(lambda q: jax.jvp(f, (q,), (tangent,))[1], (q,), (tangent,))[1])(q)
        np.testing.assert_allclose(curve, (f(q + 1e-4) - 2 * f(q) + f(q - 1e-4)) / 1e-8, rtol=1e-4)
        whole = JITTED(q, k, v, is_causal=True)
        np.testing.assert_allclose(jax.vmap(lambda *a: JITTED(*a, is_causal=True))(q, k, v), whole, rtol=1e-12)
        extra = JITTED(*(x[None] for x in (q, k, v)), is_causal=True)
        np.testing.assert_allclose(extra[0], whole, rtol=1e-12)
        with jax.numpy_rank_promotion("raise"):
            JITTED(q, k, v, mask, is_causal=True, window=1, key_lengths=np.array([1, 2]), bias=np.zeros((2, 1, 3)))


BLOCKED = {
    "causal": {"is_causal": True},
    "lengths": {"is_causal": True, "key_lengths": np.array([0, 50])},
    "window": {"window": (20, 3)},
    "offset": {"is_causal": True, "window": (30, 0), "query_offset": -5},
    "masks": {
        "is_causal": True,
        "attn_mask": np.random.default_rng(0).random((2, 1, 1, 70)) < 0.5,
        "bias": np.random.default_rng(1).normal(size=(2, 66, 1)).astype("float32"),
    },
}


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="blocks are for the CPU alone")
def test_blocks_of_queries_give_the_numbers_and_gradients_of_the_whole(monkeypatch):
    q, k, v, dy = draw(6, (2, 66, 2, 4), (2, 70, 1, 4), (2, 70, 1, 4), (2, 66, 2, 4), dtype=np.float32)

    def run() -> Any:
        def f(q: Any, k: Any, v: Any) -> Any:
            return jnp.stack([ATTEND(q, k, v, enable_gqa=True, **case) for case in BLOCKED.values()])

        return with_gradients(f, np.broadcast_to(dy, (len(BLOCKED), *dy.shape)))

    blocks = run()
    assert str(jax.make_jaxpr(blocks)(q, k, v)).count("exp ") == 2 * len(BLOCKED), "two blocks each"
    found = blocks(q, k, v)
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    whole = run()
    assert str(jax.make_jaxpr(whole)(q, k, v)).count("exp ") == len(BLOCKED)
    for a, b in zip(found, whole(q, k, v), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="for the CPU alone")
@pytest.mark.parametrize("options", [{}, {"is_causal": True, "window": (20, 0)}], ids=["whole", "causal"])
def test_one_example_after_the_other_gives_the_numbers_and_derivatives_of_all_at_once(monkeypatch, options):
    q, k, v, dy = draw(7, (3, 2, 66, 2, 4), (3, 2, 66, 1, 4), (3, 2, 66, 1, 5), (3, 2, 66, 2, 5), dtype=np.float32)
    module, found = sys.modules["fnet.functional.attention.xla"], []
    for each in (True, False):
        monkeypatch.setattr(module, "_one_at_a_time", lambda q, k, each=each: each)
        f = lambda *xs: ATTEND(*xs, enable_gqa=True, **options)  # noqa: E731
        assert ("scan" in str(jax.make_jaxpr(f)(q, k, v))) == each
        first = lambda q, k, v: jax.grad(lambda q: (f(q, k, v) ** 2).sum())(q)  # noqa: B023, E731
        second = jax.jit(lambda *xs: jax.jvp(first, xs, xs)[1])  # noqa: B023
        outer = jax.jit(jax.vmap(f, 3, 3))(*(np.stack([x, 2 * x], 3) for x in (q, k, v)))
        found.append((*with_gradients(f, dy)(q, k, v), second(q, k, v), outer))
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="for the CPU alone")
@pytest.mark.parametrize(("shape", "each"), [
    ((4, 512, 8, 32), True), ((2, 2, 512, 8, 32), True), ((1, 512, 8, 32), False), ((32, 128, 8, 32), False),
    ((2, 1024, 8, 32), False),
])  # fmt: skip
def test_large_examples_are_taken_one_after_the_other(shape, each):
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    found = str(jax.make_jaxpr(lambda x: ATTEND(x, x, x))(x))
    assert "length=4" in found if each else "scan" not in found
    lengths = jnp.ones(shape[:-3], int)
    masked = str(jax.make_jaxpr(lambda x: ATTEND(x, x, x, key_lengths=lengths))(x))
    assert "scan" not in masked, "lengths would have to be taken apart too"


def test_causality_through_gradients():
    q, k, v = draw(3, *[(1, 6, 1, 4)] * 3, dtype=np.float32)
    jacobian = jax.jacrev(lambda v: JITTED(q, k, v, is_causal=True, window=(2, 5)).sum((0, 2, 3)))(v)
    rows, columns = np.indices((6, 6))
    np.testing.assert_array_equal(jacobian.sum((1, 3, 4)) != 0, (columns <= rows) & (rows - columns <= 2))
    offsets = JITTED(q[:, 4:], k, v, is_causal=True, query_offset=jnp.array([4]))
    np.testing.assert_allclose(offsets, JITTED(q, k, v, is_causal=True)[:, 4:], rtol=1e-5, atol=1e-6)


def test_dropout_drops_weights_and_keeps_their_mean():
    q, k, v = draw(4, *[(2, 8, 2, 4)] * 3, dtype=np.float32)
    eye = np.broadcast_to(np.eye(8, dtype="float32")[None, :, None], (2, 8, 2, 8))  # the output is the weights
    plain, weights = JITTED(q, k, eye, return_weights=True)
    np.testing.assert_allclose(swap(plain), weights, rtol=1e-6)
    dropped, kept = JITTED(q, k, eye, dropout_p=0.25, dropout_key=KEY, return_weights=True)
    np.testing.assert_array_equal(kept, weights)
    hit = dropped != 0
    np.testing.assert_allclose(dropped[hit], plain[hit] / 0.75, rtol=1e-5)
    assert 0.6 < hit.mean() < 0.9
    with pytest.raises(F.MissingKey, match=r"dropout_p=0\.5 .* dropout_key="):
        ATTEND(q, k, v, dropout_p=0.5)
    with pytest.raises(ValueError, match="dropout_p=2 is not a probability"):
        ATTEND(q, k, v, dropout_p=2, dropout_key=KEY)


CUDNN = {
    "plain": {},
    "causal": {"is_causal": True},
    "window": {"is_causal": True, "window": 2},
    "lengths": {"key_lengths": np.array([0, 4])},
    "causal lengths": {"is_causal": True, "key_lengths": np.array([2, 6])},
    "keys": {"attn_mask": np.array([[1, 1, 0, 0, 0, 0], [0, 0, 0, 1, 1, 1]], bool)[:, None, None], "is_causal": True},
    "offset": {"is_causal": True, "query_offset": -2, "window": (1, 2)},
    "bias": {"bias": np.linspace(-1, 1, 36, dtype="float32").reshape(1, 6, 6).repeat(4, 0), "is_causal": True},
}


@pytest.fixture
def gpu(monkeypatch):
    """The trace-time choices as on an A100, with XLA's form of jax.nn's function in the place of cuDNN's."""
    module = sys.modules["fnet.functional.attention.cudnn"]
    calls: list[dict] = []

    def fake(*args: Any, implementation: str, **kwargs: Any) -> Any:
        assert implementation == "cudnn"
        calls.append(kwargs)
        return original(*args, implementation="xla", **kwargs)

    original = jax.nn.dot_product_attention
    monkeypatch.setattr(jax.nn, "dot_product_attention", fake)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(module, "_is_ampere", lambda: True)
    return calls


@pytest.mark.parametrize("case", CUDNN)
def test_cudnns_form_is_given_the_same_question(gpu, case):
    q, k, v, dy = (jnp.asarray(x, "bfloat16") for x in draw(5, (2, 6, 4, 8), (2, 6, 2, 8), (2, 6, 2, 8), (2, 6, 4, 8)))

    def run(implementation: str) -> Any:
        f = lambda *a: ATTEND(*a, enable_gqa=True, implementation=implementation, **CUDNN[case])  # noqa: E731
        return with_gradients(f, dy)(q, k, v)

    ours = run("xla")
    assert not gpu
    for a, b in zip(run("cudnn"), ours, strict=True):
        np.testing.assert_allclose(np.asarray(a, "float32"), np.asarray(b, "float32"), rtol=3e-2, atol=3e-2)
    assert len(gpu) == 1
    jax.eval_shape(lambda: ATTEND(q, k, v, enable_gqa=True, **CUDNN[case]))
    assert len(gpu) == 2, "it is what a GPU takes by default"


@pytest.mark.parametrize(
    "change, why",
    [
        ({"dtype": "float32"}, "bfloat16 or float16"),
        ({"width": 12}, "multiple of 8"),
        ({"width": 136}, "multiple of 8 up to 128"),
        ({"leading": (2, 2)}, "one batch axis"),
        ({"dropout_p": 0.1, "dropout_key": KEY}, "neither drops"),
        ({"return_weights": True}, "neither drops"),
        ({"length": 5, "attn_mask": np.ones((5, 5), bool)}, "even lengths"),
        ({"length": 0}, "nothing to compute"),
        ({"bias": np.zeros((2, 1, 6, 6), "float32")}, "gets its gradient only"),
    ],
)
def test_what_cudnn_does_not_admit_falls_back(gpu, change, why):
    change = dict(change)
    leading, length, width = change.pop("leading", (2,)), change.pop("length", 6), change.pop("width", 8)
    x = jnp.ones((*leading, length, 4, width), change.pop("dtype", "bfloat16"))
    with pytest.raises(ValueError, match=f"cuDNN's form does not apply: .*{why}"):
        ATTEND(x, x, x, implementation="cudnn", **change)
    jax.eval_shape(lambda: ATTEND(x, x, x, **change))
    assert not gpu


def test_without_such_a_gpu_cudnn_is_refused():
    x = jnp.ones((1, 2, 1, 8), "bfloat16")
    with pytest.raises(ValueError, match="takes an NVIDIA GPU"):
        ATTEND(x, x, x, implementation="cudnn")
    with pytest.raises(ValueError, match='expected None, "xla" or "cudnn"'):
        ATTEND(x, x, x, implementation="flash")


Q, K = jnp.ones((2, 5, 4, 8)), jnp.ones((2, 5, 2, 8))


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: ATTEND(Q, K, K), ValueError, r"4 heads of queries and 2 of keys.*swapaxes.*enable_gqa=True"),
        (lambda: ATTEND(Q, Q[:, :, :3], Q[:, :, :3], enable_gqa=True), ValueError, "3 of keys, expected .* divide"),
        (lambda: ATTEND(Q, Q, Q[:, :4]), ValueError, "agree in length and heads"),
        (lambda: ATTEND(Q, Q[:1], Q[:1]), ValueError, "same batch axes"),
        (lambda: ATTEND(Q, Q[..., :4], Q), ValueError, "same head_dim"),
        (lambda: ATTEND(Q[0, 0], Q, Q), ValueError, r"expected each to be \(…, length, heads, head_dim\)"),
        (lambda: ATTEND(Q.astype(int), Q, Q), TypeError, "query int32, key float32.*one floating dtype"),
        (lambda: ATTEND(Q, Q.astype("bfloat16"), Q), TypeError, "key bfloat16"),
        (lambda: ATTEND(Q, Q, Q, np.ones((5, 5), int)), TypeError, r"attn_mask is int32.*astype\(bool\)"),
        (lambda: ATTEND(Q, Q, Q, np.ones((2, 5), bool)), ValueError, r"\(2, 4, 5, 5\).*mask\[:, None, None, :\]"),
        (lambda: ATTEND(Q, Q, Q, np.ones((2, 5, 5), bool)), ValueError, r"mask\[:, None\]"),
        (lambda: ATTEND(Q, Q, Q, np.ones((5, 6), bool)), ValueError, "does not broadcast"),
        (lambda: ATTEND(Q, Q, Q, bias=np.ones((5, 5), bool)), TypeError, "bias is bool"),
        (lambda: ATTEND(Q, Q, Q, bias=np.ones((3, 5, 5))), ValueError, r"bias has shape \(3, 5, 5\)"),
        (lambda: ATTEND(Q, Q, Q, window=-1), ValueError, "window=-1"),
        (lambda: ATTEND(Q, Q, Q, window=(1, 2, 3)), ValueError, "window="),
        (lambda: ATTEND(Q, Q, Q, key_lengths=np.ones(2)), TypeError, "key_lengths has dtype float"),
        (lambda: ATTEND(Q, Q, Q, key_lengths=np.ones(3, int)), ValueError, r"key_lengths has shape \(3,\).*\(2,\)"),
        (lambda: ATTEND(Q, Q, Q, is_causal=True, query_offset=0.5), TypeError, "query_offset has dtype"),
    ],
)
def test_what_does_not_fit_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
