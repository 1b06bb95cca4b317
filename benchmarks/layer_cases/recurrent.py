"""Recurrent layers over (batch, time, features), from zeros; JAX rivals scan their cells in their documented way."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import torch
from flax import nnx

from fnet import nn
from layer_cases import Case, Pure


class Scanned(eqx.Module):
    """Equinox's idiom: lax.scan of a cell over one example."""

    cell: Any

    def __call__(self, x: jax.Array) -> jax.Array:
        zeros = jnp.zeros(self.cell.hidden_size)
        lstm = isinstance(self.cell, eqx.nn.LSTMCell)

        def step(carry: Any, x: jax.Array) -> tuple[Any, jax.Array]:
            carry = self.cell(x, carry)
            return carry, carry[0] if lstm else carry

        return jax.lax.scan(step, (zeros, zeros) if lstm else zeros, x)[1]


class First(torch.nn.Module):
    """A layer's outputs without its last state."""

    def __init__(self, layer: torch.nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)[0]


def flax_rnn(kind: str, n: int, hidden: int, rngs: nnx.Rngs) -> Pure:
    """nnx.RNN, with its zeros given: it would draw them from its Rngs, which a trace may not change."""
    module = nnx.RNN(getattr(nnx, f"{kind}Cell")(n, hidden, rngs=rngs))
    graph, params, rest = nnx.split(module, nnx.Param, ...)

    def function(params: Any, x: jax.Array) -> jax.Array:
        zeros = jnp.zeros((len(x), hidden))
        carry = (zeros, zeros) if kind == "LSTM" else zeros
        return nnx.merge(graph, params, rest)(x, initial_carry=carry)

    return Pure(function, params)


def case(kind: str, batch: int, steps: int, n: int, hidden: int) -> Case:
    return Case(
        f"{kind} {batch}x{steps}, {n} to {hidden}",
        inputs=((batch, steps, n),),
        fnet=lambda: getattr(nn, kind)(hidden),
        torch=lambda: First(getattr(torch.nn, kind)(n, hidden, batch_first=True)),
        flax=lambda rngs: flax_rnn(kind, n, hidden, rngs),
        equinox=lambda key: Scanned(getattr(eqx.nn, f"{kind}Cell")(n, hidden, key=key)),
    )


CASES = [
    case("LSTM", 32, 64, 128, 128),
    case("GRU", 32, 64, 128, 128),
    case("LSTM", 8, 128, 64, 256),
]
