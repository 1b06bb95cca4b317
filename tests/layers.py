"""Small layers that the tests share: one with state, one without fnet's base class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from fnet import init, nn


@dataclass(frozen=True)
class Counter(nn.Layer):
    """Adds 1 to its state at every training call and scales its input by it."""

    def spec(self, x: Any) -> dict:
        return {"count": nn.Param((), init.zeros, trainable=False)}

    def apply(self, params: dict, state: dict, x: Any, key: Any = None, train: bool = False) -> tuple[Any, dict]:
        if not train:
            return x * state["count"], state
        return x, {"count": state["count"] + 1}


@dataclass(frozen=True)
class Scale:
    """A layer by structure alone."""

    def spec(self, x: Any) -> dict:
        return {"weight": nn.Param((x.shape[-1],), init.ones)}

    def apply(self, params: dict, state: dict, x: Any, key: Any = None, train: bool = False) -> tuple[Any, dict]:
        return x * params["weight"], state


def mlp(x: Any, fc1: Any, fc2: Any) -> Any:
    return fc2(jnp.tanh(fc1(x)))


def double(x: Any) -> Any:
    return 2 * x
