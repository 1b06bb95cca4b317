"""Branches, functions as layers, and gated feed-forward blocks."""

from __future__ import annotations

import pickle
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from layers import Counter, double

import fnet
from fnet import functional as F
from fnet import nn

KEY = jax.random.key(0)
X = jnp.linspace(-1, 1, 8 * 4).reshape(8, 4)


def test_branches_get_the_same_input_and_are_combined() -> None:
    model = nn.Parallel(nn.Linear(3), double, count=Counter())
    params, state = model.init(KEY, X)
    y, new = model.apply(params, state, X, train=True)
    np.testing.assert_allclose(y, jnp.concatenate([F.linear(X, **params["0"]), 2 * X, X], -1), rtol=1e-6, atol=1e-6)
    assert list(params) == ["0"] and float(new["count"]["count"]) == 1
    np.testing.assert_allclose(nn.Parallel(jnp.asarray, double, combine=sum)({}, X), 3 * X, rtol=1e-6)
    assert isinstance(nn.Parallel(F.tanh, double, combine=tuple)({}, X), tuple)
    assert nn.Parallel(F.tanh, double, combine=partial(jnp.concatenate, axis=0))({}, X).shape == (16, 4)


def test_branches_split_keys_and_take_several_inputs() -> None:
    drops = nn.Parallel(nn.Dropout(0.5), nn.Dropout(0.5), combine=tuple)
    a, b = drops.apply({}, {}, jnp.ones(100), key=KEY, train=True)[0]
    assert not np.array_equal(a, b), "each branch has a mask of its own"
    both = nn.Parallel(jnp.add, jnp.subtract, combine=tuple)({}, X, X)
    np.testing.assert_array_equal(both[1], 0)
    inside = nn.Sequential(nn.Residual(nn.Parallel(nn.Linear(2), nn.Linear(2))), head=nn.Linear(1))
    params, _ = inside.init(KEY, X)
    assert inside(params, X).shape == (8, 1) and [name for name, _ in fnet.named(params)][0] == "0.0.bias"


def test_branches_and_functions_are_values() -> None:
    make = lambda: nn.Parallel(nn.Linear(3), F.relu, wide=nn.Linear(5), combine=sum)  # noqa: E731
    assert make() == make() and hash(make()) == hash(make()) and pickle.loads(pickle.dumps(make())) == make()
    assert make() != nn.Parallel(nn.Linear(3), F.relu, wide=nn.Linear(5))
    assert make() != nn.Sequential(nn.Linear(3), F.relu, wide=nn.Linear(5))
    assert repr(make().replace("wide", nn.Linear(3))) == "Parallel(Linear(3), relu, wide=Linear(3), combine=sum)"
    assert str(nn.Sequential(make())).splitlines()[1] == "└─ 0: Parallel(combine=sum)"
    assert nn.Lambda(F.relu) == nn.Lambda(F.relu) != nn.Lambda(F.silu) and repr(nn.Lambda(F.relu)) == "Lambda(relu)"
    assert nn.Lambda(partial(F.gelu, approximate="tanh")) == nn.Lambda(partial(F.gelu, approximate="tanh"))
    assert pickle.loads(pickle.dumps(nn.Lambda(F.relu))) == nn.Lambda(F.relu)
    with pytest.raises(pickle.PicklingError, match="pickled by its name"):
        pickle.dumps(nn.Lambda(lambda x: x))


def noisy(x: Any, key: Any, train: bool) -> Any:
    return x + jax.random.normal(key, x.shape) if train else x


def test_a_function_is_given_key_and_train() -> None:
    model = nn.Sequential(nn.Lambda(noisy))
    np.testing.assert_array_equal(model({}, X), X)
    assert not np.array_equal(model({}, X, key=KEY, train=True), X)
    stack = nn.Stack(nn.Lambda(noisy), 2)
    assert stack.apply({}, {}, X, key=KEY, train=True)[0].shape == X.shape


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: nn.Parallel(), ValueError, "at least one part"),
        (lambda: nn.Parallel(nn.Linear(2), combine=nn.Linear(2)), TypeError, "combine is a function of the list"),
        (lambda: nn.Parallel([nn.Linear(2)]), TypeError, r"part '0' of Parallel is a list; unpack it: Parallel\(\*lay"),
        (lambda: nn.Lambda(nn.Linear(2)), TypeError, "takes a function"),
        (lambda: nn.SwiGLU(0), ValueError, "SwiGLU needs hidden_features of at least 1, got 0"),
        (lambda: nn.GEGLU(4, 0), ValueError, "GEGLU needs out_features of at least 1 or None"),
        (lambda: nn.SwiGLU(4).init(KEY, jnp.ones(())), ValueError, "SwiGLU needs an input of at least one axis"),
    ],
)
def test_errors_say_what_was_expected(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_outputs_that_do_not_combine_are_named() -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        nn.Parallel(nn.Linear(3), nn.Linear(4), combine=sum).init(KEY, X)
    assert "with sum, the outputs 0: float32[8, 3], 1: float32[8, 4]" in "".join(caught.value.__notes__)


@pytest.mark.parametrize(("layer", "activation"), [(nn.SwiGLU(5, 3, True), "silu"), (nn.GEGLU(5), "gelu")])
def test_gated_blocks_are_three_linears(layer: Any, activation: str) -> None:
    torch = pytest.importorskip("torch", reason="parity tests need the oracle extra: pip install fnet[oracle]")
    params, _ = layer.init(KEY, X)
    assert list(params) == ["gate_proj", "up_proj", "down_proj"] and params["up_proj"]["weight"].shape == (4, 5)
    assert ("bias" in params["down_proj"]) == layer.bias
    low, high = layer(fnet.cast(params, jnp.bfloat16), X), layer(params, X)
    np.testing.assert_allclose(low.astype("float32"), high, rtol=0.05, atol=0.05)
    with jax.enable_x64(True):
        params = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
        x = np.asarray(X, np.float64)
        tensors = jax.tree.map(lambda a: torch.tensor(a.T, requires_grad=True), params)
        tx = torch.tensor(x, requires_grad=True)
        linear = lambda x, p: torch.nn.functional.linear(x, *p.values())  # noqa: E731
        ordered = {name: {k: p[k] for k in ("weight", "bias") if k in p} for name, p in tensors.items()}
        act = getattr(torch.nn.functional, activation)
        y = linear(act(linear(tx, ordered["gate_proj"])) * linear(tx, ordered["up_proj"]), ordered["down_proj"])
        (y**2).sum().backward()
        grads, ours = jax.jit(jax.grad(lambda p, x: ((layer(p, x) ** 2).sum(), layer(p, x)), (0, 1), has_aux=True))(
            params, x
        )
    np.testing.assert_allclose(ours, y.detach(), rtol=1e-9)
    np.testing.assert_allclose(grads[1], tx.grad, rtol=1e-9, atol=1e-12)
    jax.tree.map(lambda a, t: np.testing.assert_allclose(a, t.grad.numpy().T, rtol=1e-9, atol=1e-12), grads[0], tensors)
