"""A batch in slices, one after another: the numbers of the whole from the memory of one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fnet import tree
from fnet.metrics import Partial


def mean_over_slices(
    of_slice: Callable[..., Any], k: int, trained: Any, state: Any, batch: Any, key: jax.Array
) -> tuple[Any, tuple[jax.Array, Any, Any]]:
    """The mean gradients, loss and metrics of k slices of the batch, and the state after the last.

    ``of_slice(state, batch, key) -> (grads, (value, state, metrics))``, with gradients shaped like ``trained``.
    """

    def body(carry: tuple[Any, Any], row: tuple[Any, jax.Array]) -> tuple[tuple[Any, Any], Any]:
        (total, state), (batch, index) = carry, row
        grads, (value, state, metrics) = of_slice(state, batch, jax.random.fold_in(key, index))
        return (jax.tree.map(lambda a, g: a + g.astype(a.dtype), total, grads), state), (value, metrics)

    zeros = jax.tree.map(lambda p: jnp.zeros(jnp.shape(p), widest(jnp.result_type(p))), trained)
    (total, state), measured = jax.lax.scan(body, (zeros, state), (_slices(batch, k), jnp.arange(k)))
    value, metrics = jax.tree.map(_over_slices, measured, is_leaf=lambda x: isinstance(x, Partial))
    return jax.tree.map(lambda g: g / k, total), (value, state, metrics)


def _over_slices(measured: Any) -> Any:
    """The mean of a number of each slice, or the states of a streaming metric merged."""
    if not isinstance(measured, Partial):
        return jnp.mean(measured, axis=0)
    k = jax.tree.leaves(measured.state)[0].shape[0]
    states = [jax.tree.map(lambda x, i=i: x[i], measured.state) for i in range(k)]
    return Partial(measured.metric, measured.metric.merge(*states))


def widest(dtype: Any) -> Any:
    """float32, or ``dtype`` where that is wider: what gradients are added and divided in."""
    return jnp.promote_types(dtype, jnp.float32)


def _slices(batch: Any, k: int) -> Any:
    """The batch with each leaf's leading axis n split into (k, n / k)."""
    for name, leaf in tree.named(batch):
        shape = jnp.shape(leaf)
        if not shape or shape[0] % k:
            what = f"has {shape[0]} rows, which {k} does not divide" if shape else "is a scalar"
            where = f"the batch's leaf {name!r}" if name else "the batch"
            raise ValueError(
                f"make_step(microbatches={k}): {where} {what}; every leaf needs a leading axis that is a multiple of "
                f'{k} (choose batch_size so, and last="drop" in the loader)'
            )
    return jax.tree.map(lambda x: jnp.reshape(x, (k, x.shape[0] // k, *x.shape[1:])), batch)
