"""Recurrent layers against PyTorch's over random configurations, and RNN over cells of one's own."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from layers import Counter

import fnet
from fnet import functional as F
from fnet import nn

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (3, 5, 2))


def transposed(a: Any) -> np.ndarray:
    return np.asarray(a).T if a.ndim == 2 else np.asarray(a)


def torch_twin(layer: Any, kind: str, params: Any, dtype: Any) -> Any:
    """PyTorch's layer of the same configuration, with our weights by name."""
    import torch

    options = {name: getattr(layer, name) for name in ("nonlinearity", "proj_size") if hasattr(layer, name)}
    twin = getattr(torch.nn, kind.replace("Elman", ""))(
        2, layer.hidden_size, layer.num_layers, bias=layer.bias, bidirectional=layer.bidirectional, batch_first=True,
        **options,
    ).to(dtype)  # fmt: skip
    twin.load_state_dict({name: torch.tensor(transposed(a)) for name, a in params.items()}, strict=True)
    return twin


@settings(max_examples=8, phases=[Phase.generate])  # shrinking a failure takes minutes
@given(
    st.sampled_from([
        ("LSTM", {}), ("LSTM", {"proj_size": 2}), ("GRU", {}), ("ElmanRNN", {}), ("ElmanRNN", {"nonlinearity": "relu"}),
    ]),
    st.integers(1, 2), st.booleans(), st.booleans(), st.booleans(), st.booleans(), st.integers(0, 2**31),
)  # fmt: skip
def test_outputs_states_and_gradients_are_pytorchs(kind, num_layers, bias, bidirectional, packed, starts, seed):
    torch = pytest.importorskip("torch", reason="parity tests need the oracle extra: pip install fnet[oracle]")
    name, options = kind
    layer = getattr(nn, name)(3, num_layers, bias=bias, bidirectional=bidirectional, return_state=True, **options)
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(3, 5, 2))
    lengths = rng.permutation([5, 3, 1]) if packed else None
    widths: list[Any] = [options.get("proj_size", 3), 3][: 1 + (name == "LSTM")]
    initial = tuple(rng.normal(size=(num_layers * (1 + bidirectional), 3, w)) for w in widths) if starts else None
    initial = initial if initial is None or name == "LSTM" else initial[0]
    with jax.enable_x64(True):
        params, _ = layer.init(KEY, x, initial)
        params = {name: rng.normal(size=a.shape) / 2 for name, a in params.items()}
        twin = torch_twin(layer, name, params, torch.float64)
        tx = torch.tensor(x, requires_grad=True)
        state = jax.tree.map(lambda a: torch.tensor(a, requires_grad=True), initial)
        inputs = tx
        if packed:
            inputs = torch.nn.utils.rnn.pack_padded_sequence(tx, torch.tensor(lengths), True, enforce_sorted=False)
        y, last = twin(inputs, *([state] if starts else []))
        if packed:
            y, _ = torch.nn.utils.rnn.pad_packed_sequence(y, batch_first=True, total_length=5)
        outputs = (y, last)
        weights = jax.tree.map(lambda a: rng.normal(size=a.shape), outputs)
        sum(
            (a * torch.tensor(w)).sum() for a, w in zip(*map(jax.tree.leaves, (outputs, weights)), strict=True)
        ).backward()

        def loss(params, x, initial):
            outputs = layer(params, x, initial, lengths=lengths)
            return sum((a * w).sum() for a, w in zip(*map(jax.tree.leaves, (outputs, weights)), strict=True)), outputs

        grads, ours = jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))(params, x, initial)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)  # noqa: E731
    jax.tree.map(lambda a, b: close(a, b.detach()), ours, outputs)
    jax.tree.map(lambda a, b: close(a, b.grad), grads[1:], (tx, state))
    for name, parameter in twin.named_parameters():
        close(transposed(grads[0][name]), parameter.grad)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.05)])
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_lower_precision_is_within_its_rounding(kind: str, dtype: str, tolerance: float) -> None:
    torch = pytest.importorskip("torch", reason="parity tests need the oracle extra: pip install fnet[oracle]")
    layer = getattr(nn, kind)(4, return_state=True)
    params, _ = layer.init(KEY, X)
    twin = torch_twin(layer, kind, params, torch.float64)
    expected = twin(torch.tensor(np.asarray(X, np.float64)))
    low = fnet.cast(params, dtype)
    found, grads = jax.jit(lambda p: (layer(p, X), jax.grad(lambda p: layer(p, X)[0].sum())(p)))(low)
    assert {a.dtype.name for a in jax.tree.leaves((found, grads))} == {dtype}
    expected[0].sum().backward()
    for name, parameter in twin.named_parameters():
        np.testing.assert_allclose(
            transposed(grads[name].astype("float32")), parameter.grad, rtol=0, atol=20 * tolerance
        )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a.astype("float32"), b.detach(), rtol=0, atol=tolerance),
        found,
        expected,
    )


def test_initialised_as_pytorch_does() -> None:
    params, state = nn.LSTM(64).init(KEY, X)
    assert list(params) == ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"] and state == {}
    for value in params.values():
        assert 0.11 < float(jnp.abs(value).max()) <= 1 / 8
    assert list(nn.RNN(nn.GRUCell(4, bias=False)).init(KEY, X)[0]) == ["weight_ih", "weight_hh"]


def mix(x: Any, h: Any = 0.0, *, fc: Any, drop: Any, count: Any) -> Any:
    return jnp.tanh(fc(drop(count(x))) + h)


def own(p: float = 0.0) -> nn.Model:
    return nn.Model(mix, fc=nn.Linear(4), drop=nn.Dropout(p), count=Counter())


class Plain:
    """A cell of fnet's without its `sequence`: RNN scans it."""

    def __init__(self, cell: Any):
        self.spec, self.apply = cell.spec, cell.apply


@pytest.mark.parametrize("cell", [nn.LSTMCell(3), nn.LSTMCell(3, proj_size=2), nn.RNNCell(3)])
def test_a_scanned_cell_is_the_whole_sequence_at_once(cell: Any) -> None:
    options: dict[str, Any] = {"bidirectional": True, "return_state": True}
    whole, scanned = nn.RNN(cell, **options), nn.RNN(Plain(cell), **options)
    params, _ = whole.init(KEY, X)
    assert jax.tree.map(jnp.shape, scanned.init(KEY, X)[0]) == jax.tree.map(jnp.shape, params)
    initial = jax.tree.map(lambda a: a + 0.5, whole(params, X)[1])
    lengths = jnp.array([5, 0, 2])
    ours, expected = (layer(params, X, initial, lengths=lengths) for layer in (whole, scanned))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), ours, expected)
    mask = jnp.arange(5) < lengths[:, None]
    jax.tree.map(np.testing.assert_array_equal, ours, whole(params, X, initial, mask=mask))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[:, 1], b[:, 1]), ours[1], initial)


def test_a_convolutional_lstm_is_a_loop_over_pytorchs_convolutions(x64: None) -> None:
    torch = pytest.importorskip("torch", reason="parity tests need the oracle extra: pip install fnet[oracle]")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 3, 5, 4, 2))
    layer = nn.RNN(nn.ConvLSTMCell(3), reverse=True, return_state=True)
    params = {name: rng.normal(size=a.shape) / 3 for name, a in layer.init(KEY, x)[0].items()}
    mask = np.array([[1, 1, 1], [1, 0, 0]], bool)
    tensors = {name: torch.tensor(a, requires_grad=True) for name, a in params.items()}
    tx = torch.tensor(x, requires_grad=True)
    conv = lambda a, w: torch.nn.functional.conv2d(a, w.permute(3, 2, 0, 1), padding="same")  # noqa: E731
    h = c = torch.zeros(2, 3, 5, 4, dtype=torch.float64)
    outputs: list[Any] = [None] * 3
    for t in (2, 1, 0):
        z = conv(tx[:, t].permute(0, 3, 1, 2), tensors["weight_ih"]) + conv(h, tensors["weight_hh"])
        i, f, g, o = (z + tensors["bias"][:, None, None]).chunk(4, 1)
        new_c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        new_h = torch.sigmoid(o) * torch.tanh(new_c)
        counts = torch.tensor(mask[:, t])[:, None, None, None]
        h, c = torch.where(counts, new_h, h), torch.where(counts, new_c, c)
        outputs[t] = torch.where(counts, h, torch.zeros(())).permute(0, 2, 3, 1)
    expected = (torch.stack(outputs, 1), (h.permute(0, 2, 3, 1), c.permute(0, 2, 3, 1)))
    sum(torch.sin(a).sum() for a in (expected[0], *expected[1])).backward()

    def loss(params: Any, x: Any) -> Any:
        outputs = layer(params, x, mask=mask)
        return sum(jnp.sin(a).sum() for a in jax.tree.leaves(outputs)), outputs

    grads, found = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(params, x)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)  # noqa: E731
    jax.tree.map(lambda a, b: close(a, b.detach()), found, expected)
    jax.tree.map(lambda a, b: close(a, b.grad), grads, (tensors, tx))
    one = layer.layer(params, x[:, 2])
    jax.tree.map(lambda a, b: close(a[1], b[1]), one, nn.RNN(layer.layer, return_state=True)(params, x[:, 2:])[1])


def test_a_cell_of_ones_own_keeps_its_names_keys_and_state() -> None:
    rnn = nn.Sequential(rnn=nn.RNN(own()))
    params, state = rnn.init(KEY, X)
    assert [name for name, _ in fnet.named(params)] == ["rnn.fc.bias", "rnn.fc.weight"]
    y, new = jax.jit(lambda p: rnn.apply(p, state, X, train=True))(params)
    assert int(new["rnn"]["count"]["count"]) == 5, "state goes from step to step"
    h = 0.0
    for t in range(5):
        h = jnp.tanh(F.linear(X[:, t], **params["rnn"]["fc"]) + h)
        np.testing.assert_allclose(y[:, t], h, rtol=1e-5, atol=1e-6)
    ones = jnp.ones((1, 2000, 1))
    drop = nn.RNN(nn.Model(lambda x, h=0.0, *, drop: drop(x), drop=nn.Dropout(0.5)))
    y, _ = drop.apply({}, {}, ones, key=KEY, train=True)
    assert 0.4 < float((y == 2).mean()) < 0.6, "a mask of its own for each step"
    layered = nn.RNN(own(), num_layers=2)
    params, state = layered.init(KEY, X)
    assert sorted(params) == ["fc_l0", "fc_l1"] and sorted(state) == ["count_l0", "count_l1"]
    assert {float(c["count"]) for c in layered.apply(params, state, X, train=True)[1].values()} == {5.0}


def test_dropout_acts_between_layers_in_training_alone() -> None:
    lstm = nn.LSTM(4, num_layers=2, dropout=0.5)
    params, state = lstm.init(KEY, X)
    plain = nn.LSTM(4, num_layers=2)(params, X)
    np.testing.assert_array_equal(lstm(params, X), plain)
    trained, again = (lstm.apply(params, state, X, key=k, train=True)[0] for k in (KEY, jax.random.key(7)))
    assert not np.allclose(trained, plain) and not np.allclose(trained, again)
    first = nn.LSTM(4)({name: a for name, a in params.items() if name.endswith("l0")}, X)
    last = {name.replace("l1", "l0"): a for name, a in params.items() if name.endswith("l1")}
    all_dropped = nn.LSTM(4, num_layers=2, dropout=1.0).apply(params, state, X, key=KEY, train=True)[0]
    np.testing.assert_allclose(all_dropped, nn.LSTM(4)(last, jnp.zeros_like(first)), rtol=1e-5, atol=1e-6)


def test_under_transforms_and_combinators() -> None:
    lstm = nn.LSTM(2)
    params, _ = lstm.init(KEY, X)
    y = lstm(params, X)
    np.testing.assert_allclose(jax.vmap(lambda x: lstm(params, x))(X), y, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(lstm(params, X[0]), y[0], rtol=1e-5, atol=1e-6)
    grads = [jax.grad(lambda p, m=m: (m(p, X) ** 2).sum())(params) for m in (lstm, nn.Remat(lstm))]
    assert not fnet.diff(*grads, rtol=1e-5, atol=1e-6)
    stack = nn.Ensemble(nn.Stack(nn.Residual(lstm), 2), 2)
    assert jax.eval_shape(stack.init, KEY, X)[0]["weight_ih_l0"].shape == (2, 2, 2, 8)
    params = jax.tree.map(lambda a: jnp.broadcast_to(a, (2, 2, *a.shape)), params)
    twice = X + y + lstm(jax.tree.map(lambda a: a[0, 0], params), X + y)
    np.testing.assert_allclose(stack(params, X), jnp.stack([twice, twice]), rtol=1e-5, atol=1e-6)


def test_values_and_printing() -> None:
    model = nn.Sequential(rnn=nn.RNN(nn.LSTMCell(4), reverse=True), gru=nn.GRU(3, 2))
    assert model == nn.Sequential(rnn=nn.RNN(nn.LSTMCell(4), reverse=True), gru=nn.GRU(3, 2)) and hash(model)
    assert str(model).splitlines()[1:] == ["├─ rnn: RNN(LSTMCell(4), reverse=True)", "└─ gru: GRU(3, num_layers=2)"]


def no_default(x: Any, h: Any, fc: Any) -> Any:
    return fc(x) + h


def test_a_cell_that_needs_its_state_is_given_it() -> None:
    rnn = nn.RNN(nn.Model(no_default, fc=nn.Linear(4)))
    with pytest.raises(TypeError, match="also needs h") as caught:
        rnn.init(KEY, X)
    assert "give initial=" in "".join(caught.value.__notes__)
    params, _ = rnn.init(KEY, X, initial=jnp.zeros((3, 4)))
    assert rnn(params, X, initial=jnp.zeros((3, 4))).shape == (3, 5, 4)
    with pytest.raises(ValueError, match=r"float32\[4\] and returned float32\[3, 4\]"):
        rnn(params, X, initial=jnp.zeros(4))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: nn.LSTM(4, 2, 8), TypeError, "LSTMCell's bias is True or False, got 8; the input's width is read"),
        (lambda: nn.LSTM(0), ValueError, "LSTMCell needs hidden_size of at least 1, got 0"),
        (lambda: nn.GRU(4, 0), ValueError, "GRU needs num_layers of at least 1, got 0"),
        (lambda: nn.GRU(4, dropout=0.5), ValueError, "acts between layers, and num_layers is 1"),
        (lambda: nn.GRU(4, 2, dropout=2), ValueError, "GRU's dropout is a probability"),
        (lambda: nn.RNN(128), TypeError, "RNN takes a cell first.*PyTorch's nn.RNN.* is nn.ElmanRNN"),
        (lambda: nn.RNN(nn.GRUCell(3), bidirectional=True, reverse=True), ValueError, "leave reverse out"),
        (lambda: nn.RNNCell(4, nonlinearity="gelu"), ValueError, '"tanh" or "relu", got \'gelu\''),
        (lambda: nn.GRU(4).init(KEY, X[0, 0]), ValueError, r"input \(batch, time, …\), got float32\[2\]"),
        (lambda: nn.GRU(4).init(KEY, X[:, :0]), ValueError, "of one length of at least 1"),
        (lambda: nn.GRU(4).init(KEY, X, lengths=jnp.ones(2, int)), ValueError, r"has shape \(2,\), expected \("),
        (lambda: nn.GRU(4).init(KEY, X, mask=jnp.ones((3, 5))), TypeError, "mask is float32, expected bool"),
        (lambda: nn.GRU(4).init(KEY, X, mask=jnp.ones((5, 3), bool)), ValueError, r"mask has shape \(5, 3\)"),
        (lambda: nn.GRU(4).init(KEY, X, mask=1, lengths=1), ValueError, "lengths or mask, not both"),
        (lambda: nn.GRU(4, 2).init(KEY, X, jnp.ones((1, 3, 4))), ValueError, r"expected arrays \(2, batch, …\)"),
        (lambda: nn.ConvLSTMCell(0), ValueError, "hidden_channels of at least 1, got 0"),
        (lambda: nn.ConvLSTMCell(4, 0), ValueError, "kernel_size of at least 1, got 0"),
        (lambda: nn.ConvLSTMCell(4, 3, 3), TypeError, "bias is True or False, got 3"),
        (lambda: nn.RNN(nn.ConvLSTMCell(4)).init(KEY, X), ValueError, r"one spatial axis for each.*got shape \(3, 2\)"),
        (lambda: F.conv_lstm(X[..., None], None, jnp.ones((3, 2, 4)), X), ValueError, "weight_ih has shape"),
        (lambda: F.conv_lstm(X, None, jnp.ones((3, 2, 4)), jnp.ones((3, 1, 4))), ValueError, "x has shape"),
        (lambda: F.conv_lstm(X[..., None], (X, X), jnp.ones((3, 1, 4)), jnp.ones((3, 1, 4))), ValueError, "state hx"),
        (lambda: nn.GRU(4)({"weight_ih_l1": X}, X), KeyError, "ends in '_l0'; there are 'weight_ih_l1'"),
    ],
)  # fmt: skip
def test_errors_say_what_was_expected(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_lengths_out_of_range_are_an_error_or_nan() -> None:
    layer = nn.GRU(2)
    params, _ = layer.init(KEY, X)
    with pytest.raises(ValueError, match=r"RNN lengths: 6 at index \(1,\) is out of range, expected 0 to 5"):
        layer(params, X, lengths=jnp.array([1, 6, 2]))
    y = jax.jit(lambda n: layer(params, X, lengths=n))(jnp.array([1, 6, 2]))
    np.testing.assert_array_equal(jnp.isnan(y).all((1, 2)), [False, True, False])
    assert not jnp.isnan(y[::2]).any()


def test_a_part_with_a_key_inside_a_scan_is_told_of_rnn() -> None:
    def forward(x: Any, drop: Any) -> Any:
        return jax.lax.scan(lambda h, x: (h, drop(x)), 0.0, x)[1]

    with pytest.raises(nn.TransformError, match=r"nn.RNN \(jax.lax.scan over time\)"):
        nn.Model(forward, drop=nn.Dropout(0.5)).apply({}, {}, X, key=KEY, train=True)
