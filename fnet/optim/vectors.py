"""Whole trees as vectors, for what looks at all parameters at once. Sums are in float32 or wider."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from fnet.optim.leaves import PyTree, wide


def widened(tree: PyTree) -> PyTree:
    """The leaves in the dtype in which parameters are updated: their own, float32 at least."""
    return jax.tree.map(lambda x: jnp.asarray(x, wide(jnp.result_type(x))), tree)


@jax.jit
def copies(params: PyTree) -> PyTree:
    """A slot that begins at the parameters: `widened`, in memory of its own, so that both can be donated.

    >>> import jax.numpy as jnp
    >>> copies({"w": jnp.ones(2, "bfloat16")})["w"].dtype
    dtype('float32')
    """
    return jax.tree.map(lambda p: jnp.array(p, wide(jnp.result_type(p)), copy=True), params)


def like(tree: PyTree, params: PyTree) -> PyTree:
    """The tree in the dtypes of ``params``."""
    return jax.tree.map(lambda x, p: x.astype(jnp.result_type(p)), tree, params)


def dot(a: PyTree, b: PyTree) -> jax.Array:
    """The inner product of two trees, a scalar in JAX's default float.

    >>> import jax.numpy as jnp
    >>> float(dot({"a": jnp.array([1.0, 2.0]), "b": 3.0}, {"a": jnp.array([4.0, 5.0]), "b": 6.0}))
    32.0
    """
    return _total(jax.tree.map(lambda x, y: jnp.sum(x * y), widened(a), widened(b)))


def l1_norm(tree: PyTree) -> jax.Array:
    """The sum of the magnitudes of all leaves."""
    return _total(jax.tree.map(lambda x: jnp.sum(jnp.abs(x)), widened(tree)))


def max_norm(tree: PyTree) -> jax.Array:
    """The largest magnitude in all leaves; 0 for a tree without any."""
    sizes = [jnp.max(jnp.abs(x), initial=0).astype(float) for x in jax.tree.leaves(widened(tree))]
    return jnp.asarray(sizes).max(initial=0) if sizes else jnp.zeros(())


def _total(sums: PyTree) -> jax.Array:
    return sum((x.astype(float) for x in jax.tree.leaves(sums)), start=jnp.zeros(()))


def plus(a: PyTree, scale: Any, b: PyTree) -> PyTree:
    """``a + scale · b``, in the dtypes of ``a`` whatever that of the scalar.

    >>> import jax.numpy as jnp
    >>> plus({"w": jnp.ones(2)}, 0.5, {"w": jnp.ones(2)})["w"]
    Array([1.5, 1.5], dtype=float32)
    """
    return jax.tree.map(lambda x, y: x + jnp.asarray(scale, x.dtype) * y, a, b)


def pick(condition: Any, a: PyTree, b: PyTree) -> PyTree:
    """``a`` where the scalar condition holds, else ``b``."""
    return jax.tree.map(partial(jnp.where, condition), a, b)


def needed(value_and_grad: Callable[..., Any] | None, owner: str) -> Callable[..., Any]:
    """``value_and_grad``, or a ValueError that says how to give it."""
    if value_and_grad is None:
        raise ValueError(
            f"{owner} evaluates the loss at other parameters, so update needs value_and_grad=, a function params -> "
            f"(loss, grads) on the batch of this step, such as jax.value_and_grad(loss). train.make_step passes it."
        )
    return value_and_grad
