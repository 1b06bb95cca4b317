"""The mixture of experts against a loop over tokens in numpy and PyTorch, its losses, and its messages."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import fnet
from fnet import functional as F
from fnet import nn

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (2, 6, 4))


def by_tokens(torch: Any, x: Any, router: Any, weight: Any, top_k: int, factor: float | None, mask: Any) -> Any:
    """(output, balance loss, z loss), token by token: first choices of all, then second ones, while there is room."""
    n, experts = len(x), router.shape[1]
    room = n if factor is None else min(n, math.ceil(factor * top_k * n / experts))
    logits = x @ router
    probs = torch.softmax(logits, -1)
    order = torch.argsort(probs, dim=-1, descending=True, stable=True)[:, :top_k]
    taken = [0] * experts
    fallen = torch.zeros(experts, dtype=x.dtype)
    out: Any = [torch.zeros(weight.shape[-1], dtype=x.dtype) for _ in range(n)]
    for choice in range(top_k):
        for token in range(n):
            if not mask[token]:
                continue
            expert = int(order[token, choice])
            fallen[expert] += 1
            gate = probs[token, expert] / (probs[token, order[token]].sum() if top_k > 1 else 1)
            if taken[expert] < room:
                out[token] = out[token] + gate * torch.tanh(x[token] @ weight[expert])
            taken[expert] += 1
    counted = torch.tensor(mask)
    balance = experts * (fallen / (counted.sum() * top_k) * probs[counted].mean(0)).sum()
    return torch.stack(out), balance, (torch.logsumexp(logits, -1)[counted] ** 2).mean()


def expert(x: Any, fc: Any) -> Any:
    return jnp.tanh(fc(x))


def make(**options: Any) -> nn.MoE:
    return nn.MoE(nn.Model(expert, fc=nn.Linear(3, bias=False)), **options)


@settings(max_examples=5, phases=[Phase.generate])  # shrinking a failure takes minutes
@given(
    st.integers(1, 4), st.sampled_from([(1, 1.0), (2, 1.25), (2, 0.5), (3, None)]), st.booleans(), st.integers(0, 2**31)
)
def test_outputs_losses_and_gradients_are_those_of_a_loop(more, choice, masked, seed):
    torch = pytest.importorskip("torch", reason="parity tests need the oracle extra: pip install fnet[oracle]")
    top_k, factor = choice
    experts = top_k + more - 1
    rng = np.random.default_rng(seed)
    x, router, weight = (rng.normal(size=s) for s in ((2, 5, 4), (4, experts), (experts, 4, 3)))
    mask = rng.random((2, 5)) < 0.7 if masked else np.ones((2, 5), bool)
    mask[0, 0] = True
    dy = rng.normal(size=(2, 5, 3))
    moe = make(num_experts=experts, top_k=top_k, capacity_factor=factor)
    tensors = [torch.tensor(a, requires_grad=True) for a in (x, router, weight)]
    expected = by_tokens(torch, tensors[0].reshape(10, 4), *tensors[1:], top_k, factor, mask.ravel())
    ((expected[0].reshape(2, 5, 3) * torch.tensor(dy)).sum() + 3 * expected[1] + 5 * expected[2]).backward()
    with jax.enable_x64(True):

        def loss(x, router, weight):
            params = {"router": {"weight": router}, "experts": {"fc": {"weight": weight}}}
            state = {name: jnp.zeros(()) for name in ("load_balancing_loss", "router_z_loss")}
            y, state = moe.apply(params, state, x, *([mask] if masked else []))
            found = (y, state["load_balancing_loss"], state["router_z_loss"])
            return (y * dy).sum() + 3 * found[1] + 5 * found[2], found

        grads, found = jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))(x, router, weight)
    np.testing.assert_allclose(found[0].reshape(10, 3), expected[0].detach(), rtol=1e-9, atol=1e-11)
    for ours, theirs in zip((*found[1:], *grads), (*expected[1:], *(t.grad for t in tensors)), strict=True):
        np.testing.assert_allclose(ours, theirs.detach(), rtol=1e-9, atol=1e-11)


def test_a_full_expert_passes_the_late_tokens_as_zero() -> None:
    moe = make(num_experts=2, top_k=1, capacity_factor=0.5)
    params, state = moe.init(KEY, X)
    params["router"]["weight"] = jnp.zeros((4, 2)).at[0, 0].set(100.0)
    x = X.at[..., 0].set(1.0).reshape(12, 4)  # every token goes to expert 0, which takes 3 of the 12
    y, state = moe.apply(params, state, x)
    expected = jnp.tanh(x @ params["experts"]["fc"]["weight"][0])
    np.testing.assert_allclose(y[:3], expected[:3], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(y[3:], 0)
    assert float(state["load_balancing_loss"]) == 2.0, "all on one of two experts: twice the even 1"


class TestRouting:
    def test_first_choices_come_first(self) -> None:
        logits = jnp.array([[1.0, 2.0, 0.0], [0.0, 2.0, 1.0], [2.0, 1.0, 0.0]])
        routing = fnet.functional.moe.route(logits, top_k=2, capacity=1)
        np.testing.assert_array_equal(routing.experts_nk, [[1, 0], [1, 2], [0, 1]])
        np.testing.assert_array_equal(routing.places_nk, [[1, 3], [3, 2], [0, 3]])
        np.testing.assert_allclose(routing.gates_nk[0], jax.nn.softmax(jnp.array([2.0, 1.0])), rtol=1e-6)

    def test_shapes_are_checked(self) -> None:
        with pytest.raises(ValueError, match=r"logits have shape \(3,\) and top_k is 1"):
            fnet.functional.moe.route(jnp.ones(3), 1, 1)

    def test_an_even_router_costs_one(self) -> None:
        chosen = jnp.array([[0, 1], [2, 3]])
        np.testing.assert_allclose(F.load_balancing_loss(jnp.zeros((2, 4), jnp.bfloat16), chosen), 1.0, rtol=1e-6)
        assert F.router_z_loss(jnp.zeros((2, 4), jnp.bfloat16)).dtype == jnp.float32


@pytest.mark.parametrize("wrap", [nn.Remat, lambda layer: layer])
def test_the_losses_are_differentiable_through_stack_and_remat(wrap: Any) -> None:
    block = nn.Residual(nn.MoE(nn.SwiGLU(5), num_experts=3))
    model = nn.Sequential(blocks=nn.Stack(wrap(block), 2))
    params, state = model.init(KEY, X)
    assert state["blocks"]["load_balancing_loss"].shape == (2,)

    def stacked(params: Any) -> Any:
        _, new = model.apply(params, state, X, train=True)
        return (jnp.array([1.0, 3.0]) * new["blocks"]["load_balancing_loss"]).sum() + new["blocks"]["router_z_loss"][1]

    def by_hand(params: Any) -> Any:
        losses, x = [], X
        for layer in nn.unstack(params["blocks"]).values():
            x, new = block.apply(layer, jax.tree.map(lambda a: a[0], state["blocks"]), x)
            losses.append(new)
        return losses[0]["load_balancing_loss"] + 3 * losses[1]["load_balancing_loss"] + losses[1]["router_z_loss"]

    (a, ours), (b, expected) = (jax.jit(jax.value_and_grad(f))(params) for f in (stacked, by_hand))
    np.testing.assert_allclose(a, b, rtol=1e-5)
    assert not fnet.diff(ours, expected, rtol=1e-4, atol=1e-5)
    assert float(jnp.abs(ours["blocks"]["router"]["weight"]).min(axis=(1, 2)).max()) > 0


def test_names_keys_precision_and_printing() -> None:
    moe = nn.MoE(nn.Sequential(fc=nn.Linear(4), drop=nn.Dropout(0.5)), num_experts=3, capacity_factor=None)
    params, state = moe.init(KEY, X)
    assert {name: a.shape for name, a in fnet.named(params, moe)} == {
        "router.weight": (4, 3), "experts.fc.weight": (3, 4, 4), "experts.fc.bias": (3, 4),
    }  # fmt: skip
    assert len(np.unique(params["experts"]["fc"]["weight"])) == 48, "each expert is drawn alone"
    y, new = jax.jit(lambda p: moe.apply(p, state, X, key=KEY, train=True))(fnet.cast(params, jnp.bfloat16))
    assert y.dtype == jnp.bfloat16 and {a.dtype.name for a in new.values()} == {"float32"} and jnp.isfinite(y).all()
    assert str(moe).splitlines()[0] == "MoE(3 experts, top_k=2)"
    assert moe.map("*.drop", lambda d: nn.Dropout(0.0))["experts.drop"] == nn.Dropout(0.0)
    y, _ = nn.Ensemble(moe, 2).apply(*nn.Ensemble(moe, 2).init(KEY, X), X)
    assert y.shape == (2, *X.shape)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: nn.MoE(jnp.tanh, 2), TypeError, "MoE takes a layer first, the expert"),
        (lambda: make(num_experts=0), ValueError, "num_experts of at least 1, got 0"),
        (lambda: make(num_experts=2, top_k=3), ValueError, "a top_k between 1 and its 2 experts, got 3"),
        (lambda: make(num_experts=2, capacity_factor=0.0), ValueError, "capacity_factor above 0, or None"),
        (lambda: make(num_experts=2).init(KEY, X[0, 0]), ValueError, r"\(…, tokens, features\) .* got shape \(4,\)"),
        (lambda: make(num_experts=2).init(KEY, X, jnp.ones((2, 6))), TypeError, "mask is float32, expected bool"),
        (lambda: make(num_experts=2).init(KEY, X, jnp.ones(2, bool)), ValueError, r"shape \(2,\), expected \(2, 6\)"),
        (lambda: nn.MoE(nn.Flatten(0), 2).init(KEY, X), ValueError, "MoE needs an expert from"),
        (lambda: F.router_z_loss(jnp.ones((6, 2)), jnp.ones(6)), TypeError, "router_z_loss: mask is float32, expected"),
        (lambda: F.load_balancing_loss(jnp.ones((6, 2)), jnp.zeros((6, 1), int), jnp.ones(5, bool)), ValueError,
         r"load_balancing_loss: mask has shape \(5,\), expected \(6,\)"),
        (lambda: make(num_experts=2)({"router": {}}, X), TypeError, "this model has state .'load_balancing_loss'"),
    ],
)
def test_errors_say_what_was_expected(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
