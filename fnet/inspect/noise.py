"""How noisy a gradient is, and so how large a batch pays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fnet import autograd, tree
from fnet.selectors import Selector


class NoiseScale(NamedTuple):
    """``scale`` examples: ``noise``, the trace of the gradient's covariance over examples, over ``signal``, its norm².

    Both estimates have no bias, so that of the signal can come out negative where the noise hides it; the scale is
    then infinite: take a larger batch.
    """

    scale: jax.Array
    noise: jax.Array
    signal: jax.Array


def noise_scale(
    loss: Callable[..., Any], params: Any, *batch: Any, select: Selector = "*", size: int = 1
) -> NoiseScale:
    """The simple noise scale of a gradient, B = tr(Σ) / |G|² (McCandlish et al. 2018, arXiv:1812.06162, eq. 2.9).

    Up to batches of about B examples, twice the batch saves half of the steps; far above it saves nothing.
    ``loss(params, *batch)`` is the mean over a batch, whose leaves have the examples on their first axis. The gradients
    of groups of ``size`` examples, which must divide the batch, are compared with that of the batch (appendix A.1);
    with the default, of single examples. Average ``noise`` and ``signal`` over batches before dividing them.

    >>> import jax.numpy as jnp
    >>> loss = lambda p, x: jnp.mean((p - x) ** 2) / 2  # gradients p - x: their variance is that of x
    >>> found = noise_scale(loss, jnp.array(3.0), jnp.array([-1.0, 1.0, -1.0, 1.0]))
    >>> round(float(found.noise), 3), round(float(found.signal), 3)
    (1.333, 8.667)
    """
    leaves = jax.tree.leaves(batch)
    count = len(leaves[0]) if leaves and jnp.ndim(leaves[0]) else 0
    if not leaves or any(jnp.shape(leaf)[:1] != (count,) for leaf in leaves):
        shapes = {name: jnp.shape(leaf) for name, leaf in tree.named(batch)}
        raise ValueError(f"noise_scale needs a batch with one first axis in every leaf, got {shapes}")
    if size < 1 or count % size or count == size:
        raise ValueError(f"noise_scale: groups of {size} must divide the batch of {count}, into two at least")
    groups = jax.tree.map(lambda x: jnp.reshape(x, (count // size, size, *jnp.shape(x)[1:])), batch)
    gradient = autograd.grad(loss, select)

    def add(total: Any, group: Any) -> tuple[Any, jax.Array]:
        grads = gradient(params, *group)
        return jax.tree.map(jnp.add, total, grads), _square(grads)

    zeros = jax.tree.map(lambda g: jnp.zeros(g.shape, g.dtype), jax.eval_shape(gradient, params, *batch))
    total, squares = jax.lax.scan(add, zeros, groups)
    of_batch, of_groups = _square(total) / (count // size) ** 2, jnp.mean(squares)
    signal = (count * of_batch - size * of_groups) / (count - size)
    noise = (of_groups - of_batch) / (1 / size - 1 / count)
    return NoiseScale(jnp.where(signal > 0, noise / jnp.where(signal > 0, signal, 1.0), jnp.inf), noise, signal)


def _square(grads: Any) -> jax.Array:
    """The squared norm of a tree, in float32 at least."""
    return sum(
        (jnp.sum(jnp.square(g.astype(jnp.promote_types(g.dtype, jnp.float32)))) for g in jax.tree.leaves(grads)),
        start=jnp.zeros(()),
    )
