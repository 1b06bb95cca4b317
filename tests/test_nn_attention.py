"""MultiheadAttention against PyTorch's, its cache against the whole sequence, its options and messages."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fnet
import fnet.functional as F
from fnet import nn

KEY = jax.random.key(0)


def draw(seed: int, *shapes: tuple[int, ...], dtype: Any = np.float32) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape).astype(dtype) for shape in shapes]


def randomised(tree: Any, seed: int = 0, dtype: Any = None) -> Any:
    """The same tree with random numbers in it, so that no zero hides a mistake."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: (rng.normal(size=x.shape) / 2).astype(dtype or x.dtype), tree)


def from_torch(module: Any, params: Any, like: Any = "value") -> dict:
    """The weights (or gradients) of torch.nn.MultiheadAttention under fnet's names, in fnet's layout."""
    read = (lambda p: p.detach().numpy()) if like == "value" else (lambda p: p.grad.numpy())
    if module.in_proj_weight is None:
        weights = [read(getattr(module, f"{n}_proj_weight")) for n in "qkv"]
    else:
        weights = np.split(read(module.in_proj_weight), 3)
    biases = np.split(read(module.in_proj_bias), 3) if module.in_proj_bias is not None else [None] * 3
    pairs = [*zip(weights, biases, strict=True), (read(module.out_proj.weight), None)]
    if biases[0] is not None:
        pairs[3] = (pairs[3][0], read(module.out_proj.bias))
    return {
        f"{n}_proj": {"weight": w.T} | ({} if b is None else {"bias": b})
        for n, (w, b) in zip(("q", "k", "v", "out"), pairs, strict=True)
    }


@settings(max_examples=5)
@given(st.data())
def test_outputs_weights_and_gradients_are_pytorchs(data):
    torch = pytest.importorskip("torch", reason="parity tests need the oracle extra: pip install fnet[oracle]")
    choices = ([1, 2, 4], [True, False], [True, False], [8, 6])
    heads, bias, cross, other = (data.draw(st.sampled_from(choice)) for choice in choices)
    torch.manual_seed(data.draw(st.integers(0, 2**31)))
    options = {"kdim": other, "vdim": 5} if cross and other != 8 else {}
    theirs = torch.nn.MultiheadAttention(8, heads, bias=bias, batch_first=True, **options).double()
    for p in theirs.parameters():
        torch.nn.init.normal_(p, std=0.5)
    length, keys = 4, 5 if cross else 4
    sizes = ((length, 8), (keys, options.get("kdim", 8)), (keys, options.get("vdim", 8)))
    tx, tk, tv = (torch.randn(2, n, width, dtype=torch.float64, requires_grad=True) for n, width in sizes)
    inputs = (tx, tk, tv) if cross else (tx, tx, tx)
    mask, padding = torch.rand(length, keys) < 0.3, torch.rand(2, keys) < 0.3
    mask[:, 0], padding[:, 0] = False, False  # PyTorch's gives NaN where nothing is left
    ty, tw = theirs(*inputs, key_padding_mask=padding, attn_mask=mask, average_attn_weights=False)
    dy, dw = torch.randn_like(ty), torch.randn_like(tw)
    ((ty * dy).sum() + (tw * dw).sum()).backward()

    attn = nn.MultiheadAttention(heads, bias=bias)
    arrays = [t.detach().numpy() for t in ((tx, tk, tv) if cross else (tx,))]
    with jax.enable_x64(True):
        params = from_torch(theirs, None)
        masks = {"mask": ~mask.numpy(), "key_mask": ~padding.numpy()}
        specs = jax.eval_shape(lambda: attn.init(KEY, *arrays, **masks)[0])
        assert not fnet.diff(jax.tree.map(np.shape, specs), jax.tree.map(np.shape, params))

        def loss(params: Any, arrays: Any) -> Any:
            y, w = attn(params, *arrays, need_weights=True, **masks)
            return (y * dy.numpy()).sum() + (w * dw.numpy()).sum(), (y, w)

        (_, (y, w)), (dparams, dx) = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(params, arrays)
    close = {"rtol": 1e-9, "atol": 1e-11}
    np.testing.assert_allclose(y, ty.detach(), **close)
    np.testing.assert_allclose(w, tw.detach(), **close)
    assert not fnet.diff(dparams, from_torch(theirs, None, "grad"), **close)
    for grad, t in zip(dx, inputs, strict=False):
        np.testing.assert_allclose(grad, t.grad, **close)


def test_initial_weights_have_pytorchs_bounds():
    x, other = jnp.ones((1, 2, 64)), jnp.ones((1, 2, 32))
    params, state = nn.MultiheadAttention(4).init(KEY, x)
    assert state == {} and list(params) == ["q_proj", "k_proj", "v_proj", "out_proj"]
    bounds = {"q_proj": (6 / 256) ** 0.5, "k_proj": (6 / 256) ** 0.5, "v_proj": (6 / 256) ** 0.5, "out_proj": 1 / 8}
    for name, bound in bounds.items():
        top = float(jnp.abs(params[name]["weight"]).max())
        assert 0.97 * bound < top <= bound * 1.0001 and not params[name]["bias"].any()
    apart, _ = nn.MultiheadAttention(4).init(KEY, x, other, other)
    assert 0.97 * (6 / 96) ** 0.5 < float(jnp.abs(apart["k_proj"]["weight"]).max()) <= (6 / 96) ** 0.5
    assert 0.97 * (6 / 128) ** 0.5 < float(jnp.abs(apart["q_proj"]["weight"]).max()) <= (6 / 128) ** 0.5


def test_options_are_what_they_are_made_of():
    """Grouped heads, rotation, ALiBi, a window and a norm of queries and keys, put together by hand in numpy."""
    (x,) = draw(0, (2, 6, 12))
    attn = nn.MultiheadAttention(
        6, causal=True, num_kv_heads=2, head_dim=4, window=(3, 0), rope=nn.RoPE(base=100.0, dims=2), alibi=True,
        qk_norm=True,
    )  # fmt: skip
    params = randomised(attn.init(KEY, x)[0])
    assert params["q_proj"]["weight"].shape == (12, 24) and params["k_proj"]["weight"].shape == (12, 8)

    def project(name: str, heads: int) -> np.ndarray:
        y = (x @ params[name]["weight"] + params[name]["bias"]).reshape(2, 6, heads, 4)
        if name == "v_proj":
            return y
        y = y / np.sqrt((y**2).mean(-1, keepdims=True) + 1e-6) * params[f"{name[0]}_norm"]["weight"]
        at = np.arange(6)[:, None]
        turned = [y[..., 0] * np.cos(at) - y[..., 1] * np.sin(at), y[..., 1] * np.cos(at) + y[..., 0] * np.sin(at)]
        return np.concatenate([np.stack(turned, -1), y[..., 2:]], -1)

    q, k, v = project("q_proj", 6), project("k_proj", 2).repeat(3, 2), project("v_proj", 2).repeat(3, 2)
    ahead = np.arange(6)[None] - np.arange(6)[:, None]
    scores = np.einsum("bihd,bjhd->bhij", q, k) / 2 + F.alibi_slopes(6)[:, None, None] * ahead
    exps = np.where((ahead <= 0) & (ahead >= -3), np.exp(scores), 0)
    mixed = np.einsum("bhij,bjhd->bihd", exps / exps.sum(-1, keepdims=True), v).reshape(2, 6, 24)
    expected = mixed @ params["out_proj"]["weight"] + params["out_proj"]["bias"]
    np.testing.assert_allclose(jax.jit(attn)(params, x), expected, rtol=2e-5, atol=2e-5)


def block(x: Any, key_mask: Any = None, *, attn: Any, fc: Any) -> Any:
    x = x + attn(x, key_mask=key_mask)
    return x + jnp.tanh(fc(x))


def decoder(cache: int | None, **options: Any) -> nn.Model:
    attn = nn.MultiheadAttention(4, causal=True, num_kv_heads=2, cache=cache, **options)
    return nn.Sequential(
        position=nn.LearnedPosition(16, cache=cache is not None),
        blocks=nn.Stack(nn.Model(block, attn=attn, fc=nn.Linear(8)), 2),
    )


@pytest.mark.parametrize("options", [{"rope": True}, {"alibi": True, "window": (3, 0)}], ids=str)
def test_decoding_with_a_cache_is_the_whole_sequence(options):
    (x,) = draw(1, (2, 9, 8))
    plain, cached = decoder(None, **options), decoder(10, **options)
    params = randomised(plain.init(KEY, x)[0])
    fresh, state = cached.init(KEY, x)
    assert not fnet.diff(jax.tree.map(jnp.shape, fresh), jax.tree.map(np.shape, params)), "the same parameters"
    assert state["blocks"]["attn"]["k"].shape == (2, 2, 10, 2, 2)
    expected = jax.jit(plain)(params, x)
    step = jax.jit(cached.apply)
    outputs = []
    for start, stop in [(0, 4), *((i, i + 1) for i in range(4, 9))]:
        y, state = step(params, state, x[:, start:stop])
        outputs.append(y)
    np.testing.assert_allclose(np.concatenate(outputs, 1), expected, rtol=2e-5, atol=2e-5)
    assert state["blocks"]["attn"]["index"].tolist() == [9, 9]
    y, state = step(params, state, x[:, :2])
    assert np.isnan(y).all(), "two tokens for one slot"


def block_of_unequal(x: Any, key_mask: Any = None, *, position: Any, blocks: Any) -> Any:
    return blocks(position(x, key_mask), key_mask)


def test_prompts_of_unequal_length_are_padded_on_the_left():
    (x,) = draw(2, (2, 7, 8))
    lengths = [4, 2]
    parts = {name: decoder(9, rope=True)[name] for name in ("position", "blocks")}
    model = nn.Model(block_of_unequal, **parts)
    plain = nn.Model(block_of_unequal, **{name: decoder(None, rope=True)[name] for name in parts})
    params = randomised(plain.init(KEY, x)[0])
    prompt, mask = np.full((2, 4, 8), 1e3, "float32"), np.zeros((2, 4), bool)
    for row, n in enumerate(lengths):
        prompt[row, 4 - n :], mask[row, 4 - n :] = x[row, :n], True
    step = jax.jit(model.apply)
    first, state = step(params, model.init_state(prompt, mask), prompt, mask)
    outputs = [first[:, -1:]]
    for i in range(3):
        y, state = step(params, state, np.stack([x[row, n + i : n + i + 1] for row, n in enumerate(lengths)]))
        outputs.append(y)
    found = np.concatenate(outputs, 1)
    whole = jax.jit(plain)(params, x)
    for row, n in enumerate(lengths):
        np.testing.assert_allclose(found[row], whole[row, n - 1 : n + 3], rtol=5e-5, atol=5e-5)


def test_a_full_cache_and_a_wrong_batch_are_errors():
    attn = nn.MultiheadAttention(2, causal=True, cache=4)
    x = jnp.ones((2, 3, 8))
    params, state = attn.init(KEY, x)
    _, state = attn.apply(params, state, x)
    with pytest.raises(ValueError, match="4 slots, of which 3 are used, and cannot take 3 more tokens"):
        attn.apply(params, state, x)
    with pytest.raises(ValueError, match=r"make a cache for this batch with model\.init_state"):
        attn.apply(params, state, x[:1, :1])
    with pytest.raises(ValueError, match="a cache is for self-attention"):
        attn.apply(params, state, x, x)
    with pytest.raises(ValueError, match="pass causal=True"):
        nn.MultiheadAttention(2, cache=4)
    with pytest.raises(TypeError, match="has state"):
        attn(params, x)
    low, new = attn.apply(fnet.cast(params, jnp.bfloat16), attn.init_state(x), x)
    assert low.dtype == jnp.bfloat16 and new["k"].dtype == jnp.float32


def test_transforms_dropout_and_precision():
    (x,) = draw(3, (4, 5, 8))
    attn = nn.MultiheadAttention(2, dropout=0.5, causal=True)
    params = randomised(attn.init(KEY, x)[0])
    expected = jax.jit(attn)(params, x)
    np.testing.assert_allclose(jax.jit(jax.vmap(attn, (None, 0)))(params, x), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(jax.jit(nn.Remat(attn))(params, x), expected, rtol=1e-5, atol=1e-5)
    many = nn.Ensemble(attn, 2)
    twice = jax.tree.map(lambda p: np.stack([p, p]), params)
    np.testing.assert_allclose(jax.jit(many)(twice, x)[1], expected, rtol=1e-5, atol=1e-5)
    train = jax.jit(lambda key: many.apply(twice, {}, x, key=key, train=True)[0])(KEY)
    assert np.abs(train[0] - train[1]).max() > 1e-2, "each member drops for itself"
    with pytest.raises(F.MissingKey, match="dropout_key"):
        attn.apply(params, {}, x, train=True)
    low = jax.jit(attn)(fnet.cast(params, jnp.bfloat16), x)
    assert low.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(low, "float32"), expected, rtol=0.1, atol=0.1)
    unbatched = jax.jit(attn)(params, x[0])
    np.testing.assert_allclose(unbatched, expected[0], rtol=1e-5, atol=1e-5)


def test_causality_through_gradients():
    (x,) = draw(4, (1, 6, 8))
    attn = nn.Sequential(nn.MultiheadAttention(2, causal=True, rope=True), nn.MultiheadAttention(2, causal=True))
    params = randomised(attn.init(KEY, x)[0])
    jacobian = jax.jit(jax.jacrev(lambda x: attn(params, x).sum((0, 2))))(x)
    np.testing.assert_array_equal(np.abs(jacobian).sum((1, 3)) > 0, np.tril(np.ones((6, 6), bool)))


X = jnp.ones((2, 5, 8))


@pytest.mark.parametrize(
    "options, inputs, error, message",
    [
        ({"num_heads": 3}, {}, ValueError, "8 features do not divide into num_heads=3"),
        ({"num_heads": 2}, {"key_padding_mask": np.ones((2, 5), bool)}, TypeError, "key_mask=~key_padding_mask"),
        ({"num_heads": 2}, {"attn_mask": np.ones((5, 5), bool)}, TypeError, "mask=~attn_mask"),
        ({"num_heads": 2}, {"maks": 1}, TypeError, "takes no 'maks'"),
        ({"num_heads": 2}, {"key_mask": np.ones((2, 4), bool)}, ValueError, r"\(2, 4\), expected bool \(2, 5\)"),
        ({"num_heads": 2}, {"key_mask": np.ones((2, 5), int)}, ValueError, "key_mask is int32"),
        ({"num_heads": 2}, {"mask": np.ones((2, 5), bool)}, ValueError, r"attn_mask has shape \(2, 5\)"),
        ({"num_heads": 2}, {"keys": jnp.ones((3, 4, 8))}, ValueError, "same batch axes"),
        ({"num_heads": 2}, {"keys": jnp.ones(8)}, ValueError, r"needs keys \(…, length, features\)"),
        ({"num_heads": 2, "window": -1}, {}, ValueError, "window=-1"),
        ({"num_heads": 512, "dropout": 8}, {}, ValueError, r"MultiheadAttention\(heads\) here"),
        ({"num_heads": 4, "num_kv_heads": 3}, {}, ValueError, "num_kv_heads=3 does not divide num_heads=4"),
        ({"num_heads": 0}, {}, ValueError, "num_heads of at least 1"),
        ({"num_heads": 2, "rope": 10000.0}, {}, TypeError, "expected True or nn.RoPE"),
    ],
)
def test_what_does_not_fit_is_named(options, inputs, error, message):
    def forward(x: Any, attn: Any) -> Any:
        return attn(x, **inputs)

    with pytest.raises(error, match=message):
        nn.Model(forward, attn=nn.MultiheadAttention(**options)).init(KEY, X)


def test_errors_carry_the_path():
    model = nn.Sequential(body=nn.Sequential(attn=nn.MultiheadAttention(2)))
    params, _ = model.init(KEY, X)
    for wrong, error in ((jnp.ones((2, 5, 6)), ValueError), (jnp.ones((2, 5, 8), int), TypeError)):
        with pytest.raises(error) as caught:
            model(params, wrong)
        assert any("body.attn.q_proj" in note for note in caught.value.__notes__)


def test_it_is_a_value():
    attn = nn.MultiheadAttention(4, causal=True, rope=True)
    assert attn == nn.MultiHeadAttention(4, causal=True, rope=nn.RoPE()) and hash(attn)
    assert repr(attn) == "MultiheadAttention(4, causal=True, rope=RoPE())"
