"""What the parity tests of layers share: PyTorch's outputs and gradients beside ours, and how far apart they may be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest


def torch() -> Any:
    """PyTorch, or a skip that says how to get it."""
    return pytest.importorskip("torch", reason="parity tests need the oracle extra: pip install fnet[oracle]")


def channels_first(x: Any) -> Any:
    """(N, ..., C) as PyTorch's (N, C, ...)."""
    return np.moveaxis(np.asarray(x), -1, 1)


def channels_last(x: Any) -> Any:
    """PyTorch's (N, C, ...) as (N, ..., C)."""
    return np.moveaxis(np.asarray(x), 1, -1)


def ours(f: Callable[..., Any], inputs: Sequence[np.ndarray], dy: np.ndarray) -> list[np.ndarray]:
    """`[f(*inputs), gradient of each input]` of the sum of f times dy, in one compiled function."""

    @jax.jit
    def both(inputs: Sequence[jax.Array], dy: jax.Array) -> Any:
        y, pull = jax.vjp(f, *inputs)
        return y, *pull(dy.astype(y.dtype))

    return [np.asarray(array.astype(jnp.promote_types(array.dtype, "float32"))) for array in both(inputs, dy)]


def theirs(f: Callable[..., Any], inputs: Sequence[np.ndarray], dy: np.ndarray) -> list[np.ndarray]:
    """The same of a function of PyTorch tensors; the first input, its gradient, the output and dy are images."""
    leaves = [torch().tensor(np.ascontiguousarray(array), requires_grad=True) for array in inputs]
    y = f(*leaves)
    y.backward(torch().tensor(np.ascontiguousarray(dy)))
    return [y.detach().numpy(), *(leaf.grad.numpy() for leaf in leaves)]


def image_parity(ours_f: Callable, theirs_f: Callable, inputs: Sequence[np.ndarray], tolerance: float) -> None:
    """Outputs and gradients equal, for a first input (N, ..., C) that PyTorch takes as (N, C, ...)."""
    y = jax.eval_shape(ours_f, *inputs)
    dy = np.random.default_rng(7).normal(size=y.shape).astype(inputs[0].dtype)
    got = ours(ours_f, inputs, dy)
    want = theirs(theirs_f, [channels_first(inputs[0]), *inputs[1:]], channels_first(dy))
    want[:2] = [channels_last(array) for array in want[:2]]
    for name, a, b in zip(["output", *(f"gradient {i}" for i in range(len(inputs)))], got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * max(1.0, np.abs(b).max()), err_msg=name)
