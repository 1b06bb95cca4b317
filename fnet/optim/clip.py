"""Wrappers that bound the gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from fnet.optim.core import State, Wrapper
from fnet.optim.leaves import PyTree, align, wide


def global_norm(tree: PyTree) -> jax.Array:
    """The Euclidean norm of all leaves together, a scalar in float32 or wider; 0 for a tree without leaves.

    >>> import jax.numpy as jnp
    >>> float(global_norm({"a": jnp.array([3.0]), "b": jnp.array([[4.0]])}))
    5.0
    """
    squares = [jnp.sum(jnp.square(jnp.abs(jnp.asarray(x, wide(jnp.result_type(x)))))) for x in jax.tree.leaves(tree)]
    return jnp.sqrt(sum(squares, start=jnp.zeros(())))


@dataclass(frozen=True)
class clip_by_global_norm(Wrapper):
    """Scale the gradients of all trainable parameters by ``min(1, max_norm / (‖g‖ + eps))``, ``‖g‖`` over all of them.

    As torch.nn.utils.clip_grad_norm_; ``eps=0.0`` is the exact form of Pascanu et al. (2013) and of optax. Around
    groups it counts every group that is trained and never a frozen one. Raises ValueError unless ``max_norm > 0``.

    >>> import jax.numpy as jnp
    >>> from fnet import optim
    >>> opt = clip_by_global_norm(optim.sgd(1.0), 1.0, eps=0.0)
    >>> params = {"w": jnp.zeros(2)}
    >>> params, opt_state = opt.update({"w": jnp.array([3.0, 4.0])}, opt.init(params), params)
    >>> params["w"]
    Array([-0.6, -0.8], dtype=float32)
    """

    max_norm: float
    eps: float = 1e-6

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.max_norm, bool) or not isinstance(self.max_norm, int | float) or not self.max_norm > 0:
            raise ValueError(f"clip_by_global_norm: max_norm must be a number above 0, got {self.max_norm!r}")
        if not self.eps >= 0:
            raise ValueError(f"clip_by_global_norm: eps must not be negative, got {self.eps!r}")

    def update(self, grads: PyTree, opt_state: State, params: PyTree, **more: Any) -> tuple[PyTree, State]:
        grads = align(grads, self.trainable(params), params)
        scale = jnp.minimum(1, self.max_norm / (global_norm(grads) + self.eps))
        grads = jax.tree.map(lambda g: (g * scale).astype(jnp.result_type(g)), grads)
        return self.inner.update(grads, opt_state, params, **more)
