"""Recurrent functions against PyTorch's cells and, derivative by derivative, against a plain loop over them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnet.functional as F

GATES = {"rnn": 1, "lstm": 4, "gru": 3}
CELL = {"rnn": F.rnn_cell, "lstm": F.lstm_cell, "gru": F.gru_cell}
OVER_TIME = {"rnn": F.rnn, "lstm": F.lstm, "gru": F.gru}


def arrays(kind: str, seed: int = 0, batch: tuple[int, ...] = (3,), steps: int = 5, n: int = 2, hidden: int = 4) -> Any:
    """(x, hx, weights) in float64."""
    rng = np.random.default_rng(seed)
    wide = GATES[kind] * hidden
    hx = tuple(rng.normal(size=(*batch, hidden)) for _ in range(2 if kind == "lstm" else 1))
    weights = tuple(rng.normal(size=s) / 2 for s in ((n, wide), (hidden, wide), (wide,), (wide,)))
    return rng.normal(size=(*batch, steps, n)), hx if kind == "lstm" else hx[0], weights


def by_steps(kind: str, x: Any, hx: Any, weights: Any, mask: Any = None, reverse: bool = False) -> Any:
    """The same recurrence as a Python loop over cells, which JAX differentiates by itself."""
    steps = x.shape[-2]
    outputs = [None] * steps
    for t in reversed(range(steps)) if reverse else range(steps):
        new = CELL[kind](x[..., t, :], hx, *weights)
        if mask is not None:
            new = jax.tree.map(lambda a, b: jnp.where(mask[..., t, None], a, b), new, hx)  # noqa: B023
        hx = new
        h = hx[0] if kind == "lstm" else hx
        outputs[t] = h if mask is None else jnp.where(mask[..., t, None], h, 0)
    return jnp.stack(outputs, -2), hx


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize("bias", [True, False])
def test_a_cell_is_pytorchs(kind: str, bias: bool, x64: None) -> None:
    torch = pytest.importorskip("torch", reason="parity tests need the oracle extra: pip install fnet[oracle]")
    x, hx, weights = arrays(kind)
    weights = weights if bias else weights[:2]
    cell = {"rnn": torch.nn.RNNCell, "lstm": torch.nn.LSTMCell, "gru": torch.nn.GRUCell}[kind](2, 4, bias=bias).double()
    with torch.no_grad():
        for parameter, value in zip(cell.parameters(), weights, strict=True):
            parameter.copy_(torch.tensor(value.T))
    for state in (hx, None):
        ours = CELL[kind](x[:, 0], state, *weights)
        theirs = cell(torch.tensor(x[:, 0]), *([] if state is None else [jax.tree.map(torch.tensor, state)]))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b.detach(), rtol=1e-12, atol=1e-12), ours, theirs)


@pytest.mark.parametrize(
    ("kind", "masked", "reverse"), [("rnn", True, True), ("lstm", False, True), ("gru", True, True)]
)
def test_every_derivative_is_that_of_a_loop_over_cells(kind: str, masked: bool, reverse: bool, x64: None) -> None:
    x, hx, weights = arrays(kind, steps=4, batch=(2,))
    tangent = arrays(kind, seed=1, steps=4, batch=(2,))
    mask = jnp.array([[1, 1, 0, 1], [1, 0, 0, 0]], bool) if masked else None

    def ours(x: Any, hx: Any, weights: Any) -> Any:
        return OVER_TIME[kind](x, hx, *weights, mask=mask, reverse=reverse)

    def loop(x: Any, hx: Any, weights: Any) -> Any:
        return by_steps(kind, x, hx, weights, mask, reverse)

    def derivatives(f: Any) -> Any:
        def loss(*args: Any) -> Any:
            return sum(jnp.sin(a * (i + 1)).sum() for i, a in enumerate(jax.tree.leaves(f(*args))))

        gradient = jax.grad(loss, (0, 1, 2))
        primal = (x, hx, weights)
        return jax.jit(
            lambda: (jax.jvp(f, primal, tangent), gradient(*primal), jax.jvp(gradient, primal, tangent)[1])
        )()

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-11), derivatives(ours), derivatives(loop)
    )


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_reverse_over_reverse_is_pytorchs_double_backward(kind: str, x64: None) -> None:
    torch = pytest.importorskip("torch", reason="parity tests need the oracle extra: pip install fnet[oracle]")
    x, hx, weights = arrays(kind)
    v = arrays(kind, seed=1)
    layer = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[kind](2, 4, batch_first=True).double()
    names = [name for name, _ in layer.named_parameters()]

    def ours(x: Any, weights: Any) -> Any:
        y, last = OVER_TIME[kind](x, hx, *weights)
        return jnp.sin(y).sum() + sum(jnp.cos(a).sum() for a in jax.tree.leaves(last))

    def dot(x: Any, weights: Any) -> Any:
        found = jax.grad(ours, (0, 1))(x, weights)
        return sum(jnp.vdot(a, b) for a, b in zip(jax.tree.leaves(found), jax.tree.leaves((v[0], v[2])), strict=True))

    tx, *tw = (torch.tensor(a.T if i in (1, 2) else a, requires_grad=True) for i, a in enumerate((x, *weights)))
    state = jax.tree.map(lambda a: torch.tensor(a)[None], hx)
    y, last = torch.func.functional_call(layer, dict(zip(names, tw, strict=True)), (tx, state))
    loss = torch.sin(y).sum() + sum(torch.cos(a).sum() for a in (last if kind == "lstm" else [last]))
    first = torch.autograd.grad(loss, (tx, *tw), create_graph=True)
    vt = (torch.tensor(a.T if i in (1, 2) else a) for i, a in enumerate((v[0], *v[2])))
    expected = torch.autograd.grad(sum((a * b).sum() for a, b in zip(first, vt, strict=True)), (tx, *tw))
    found = jax.tree.leaves(jax.jit(jax.grad(dot, (0, 1)))(x, weights))
    for index, (a, b) in enumerate(zip(found, expected, strict=True)):
        np.testing.assert_allclose(a, b.T if index in (1, 2) else b, rtol=1e-9, atol=1e-11)


def test_the_recurrent_weights_gradient_is_one_matmul_after_the_scan() -> None:
    x, hx, weights = jax.tree.map(jnp.float32, arrays("lstm", steps=7))
    jaxpr = jax.make_jaxpr(jax.grad(lambda w: F.lstm(x, hx, *w)[0].sum()))(weights)
    shapes = [
        eqn.outvars[0].aval.shape
        for scan in jaxpr.jaxpr.eqns
        if scan.primitive.name == "scan"
        for eqn in scan.params["jaxpr"].jaxpr.eqns
        if eqn.primitive.name == "dot_general"
    ]
    assert len(shapes) == 2 and (4, 16) not in shapes, "one matmul a step in each direction, none for the weight"


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_both_forms_of_the_gates_give_the_same_numbers_and_gradients(kind: str, monkeypatch: Any) -> None:
    x, hx, weights = jax.tree.map(lambda a: jnp.float32(3 * a), arrays(kind))
    found = []
    for faster in (True, False):
        monkeypatch.setattr("fnet.functional.recurrence._tanh_is_faster", lambda faster=faster: faster)
        f = lambda x, w: jnp.sin(OVER_TIME[kind](x, hx, *w)[0]).sum()  # noqa: E731
        found.append(jax.jit(jax.value_and_grad(f, (0, 1)))(x, weights))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), *found)


def test_batch_axes_and_vmap() -> None:
    x, hx, weights = jax.tree.map(jnp.float32, arrays("gru", batch=(2, 3)))
    y, h = F.gru(x, hx, *weights)
    for f in (F.gru, jax.vmap(F.gru, (0, 0, None, None, None, None))):
        np.testing.assert_allclose(f(x[0], hx[0], *weights)[0], y[0], rtol=1e-5, atol=1e-6)
    one, _ = F.gru(x[1, 2], hx[1, 2], *weights)
    np.testing.assert_allclose(one, y[1, 2], rtol=1e-5, atol=1e-6)
    assert h.shape == (2, 3, 4)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"x": jnp.ones((3, 5, 9))},
            ValueError,
            r"lstm: x has 9 features .* expected 2, the rows of weight_ih \(2, 16",
        ),
        ({"x": jnp.ones((3, 5, 2), int)}, TypeError, r"lstm: got integer input"),
        ({"x": jnp.ones(2)}, ValueError, r"lstm: x has shape \(2,\), expected \(..., time, in\)"),
        ({"hx": jnp.ones((2, 3, 4))}, TypeError, r"lstm: the state hx is a pair \(h, c\) or None, got Array"),
        ({"hx": (jnp.ones((2, 4)),) * 2}, ValueError, r"lstm: the state hx has shape \(2, 4\), expected \(3, 4\)"),
        ({"weight_ih": jnp.ones((16, 2))}, ValueError, r"weight_ih has shape \(16, 2\) .* PyTorch's transposed"),
        ({"bias_hh": jnp.ones(4)}, ValueError, r"lstm: bias_hh has shape \(4,\), expected \(16,\)"),
        ({"mask": jnp.ones((3, 5))}, TypeError, r"lstm: mask is float32, expected bool"),
        ({"mask": jnp.ones((5, 3), bool)}, ValueError, r"lstm: mask has shape \(5, 3\), expected \(3, 5\)"),
    ],
)
def test_errors_say_what_was_expected(change: dict, error: type[Exception], message: str) -> None:
    x, hx, weights = jax.tree.map(jnp.float32, arrays("lstm"))
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    with pytest.raises(error, match=message):
        F.lstm(**{"x": x, "hx": hx, **dict(zip(names, weights, strict=True)), **change})


def test_nonlinearity_is_one_of_two() -> None:
    x, hx, weights = arrays("rnn")
    with pytest.raises(ValueError, match='nonlinearity=\'gelu\', expected "tanh" or "relu"'):
        F.rnn(x, hx, *weights, nonlinearity="gelu")
