"""Wrappers that bound the gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from fnet.optim.checks import not_negative, positive
from fnet.optim.conditional import dynamic_loss_scale
from fnet.optim.core import State, Wrapper, contains
from fnet.optim.leaves import PyTree, align, wide
from fnet.selectors import Selector, match
from fnet.tree import map_named, named


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
        positive("clip_by_global_norm", "max_norm", self.max_norm)
        not_negative("clip_by_global_norm", "eps", self.eps)

    def update(self, grads: PyTree, opt_state: State, params: PyTree, **more: Any) -> tuple[PyTree, State]:
        grads = align(grads, self.trainable(params), params)
        scale = jnp.minimum(1, self.max_norm / (global_norm(grads) + self.eps))
        grads = jax.tree.map(lambda g: (g * scale).astype(jnp.result_type(g)), grads)
        return self.inner.update(grads, opt_state, params, **more)


@dataclass(frozen=True)
class clip_by_value(Wrapper):
    """Limit each element of the gradients to ``[-max_value, max_value]``, as torch.nn.utils.clip_grad_value_.

    Raises ValueError unless ``max_value > 0``, and around `dynamic_loss_scale`, from which it would hide overflows.

    >>> import jax.numpy as jnp
    >>> from fnet import optim
    >>> opt = clip_by_value(optim.sgd(1.0), 0.5)
    >>> params = {"w": jnp.zeros(2)}
    >>> opt.update({"w": jnp.array([3.0, -0.25])}, opt.init(params), params)[0]["w"]
    Array([-0.5 ,  0.25], dtype=float32)
    """

    max_value: float

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("clip_by_value", "max_value", self.max_value)
        if contains(self.inner, dynamic_loss_scale):
            raise ValueError(
                "clip_by_value around dynamic_loss_scale would make an overflow a finite gradient, which is applied "
                "and never lowers the scale; clip inside: dynamic_loss_scale(clip_by_value(opt, …))"
            )

    def update(self, grads: PyTree, opt_state: State, params: PyTree, **more: Any) -> tuple[PyTree, State]:
        grads = align(grads, self.trainable(params), params)
        grads = jax.tree.map(lambda g: jnp.clip(g, -self.max_value, self.max_value), grads)
        return self.inner.update(grads, opt_state, params, **more)


@dataclass(frozen=True)
class adaptive_clip(Wrapper):
    """Scale the gradient of each unit so that its norm is at most ``clipping`` times that of the unit's weights.

    Adaptive gradient clipping (Brock et al. 2021, eq. 3): ``G ← clipping · max(‖W‖, eps) / ‖G‖ · G`` where ``‖G‖``
    is above that. A unit is what feeds one output: in JAX's layout one index of the last axis, (in, out) and
    (height, width, in, out) alike; a vector, or an array with one axis longer than 1, is one unit. Parameters in
    ``stacked`` (a selector) have a leading axis that counts layers. The paper clips all but the last layer: use it
    inside `groups`. Raises ValueError for numbers that are not above 0.

    >>> import jax.numpy as jnp
    >>> from fnet import optim
    >>> opt = adaptive_clip(optim.sgd(1.0), clipping=0.1)
    >>> params = {"w": jnp.array([[3.0, 0.0], [4.0, 1.0]])}
    >>> after, _ = opt.update({"w": jnp.array([[0.0, 0.0], [10.0, 0.01]])}, opt.init(params), params)
    >>> (params["w"] - after["w"]).round(3)
    Array([[0.  , 0.  ],
           [0.5 , 0.01]], dtype=float32)
    """

    clipping: float = 0.01
    eps: float = 1e-3
    stacked: Selector | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("adaptive_clip", "clipping", self.clipping)
        positive("adaptive_clip", "eps", self.eps)
        if isinstance(self.stacked, list):
            object.__setattr__(self, "stacked", tuple(self.stacked))

    def update(self, grads: PyTree, opt_state: State, params: PyTree, **more: Any) -> tuple[PyTree, State]:
        live = self.trainable(params)
        leaves = dict(named(live))
        stacks = set() if self.stacked is None or not leaves else set(match(self.stacked, leaves))

        def clip(name: str, p: Any, g: Any) -> Any:
            dtype = wide(jnp.result_type(p))
            wide_g, layers = jnp.asarray(g, dtype), int(name in stacks)
            norm = _unit_norm(wide_g, layers)
            limit = self.clipping * jnp.maximum(_unit_norm(jnp.asarray(p, dtype), layers), self.eps)
            clipped = wide_g * (limit / jnp.where(norm > 0, norm, 1))
            return jnp.where(norm > limit, clipped, wide_g).astype(jnp.result_type(g))

        grads = map_named(clip, live, align(grads, live, params))
        return self.inner.update(grads, opt_state, params, **more)


def _unit_norm(x: jax.Array, layers: int) -> jax.Array:
    """The norm of each unit, its axes kept with length 1; the first ``layers`` axes count layers."""
    long = sum(size > 1 for size in x.shape[layers:])
    axes = range(layers, x.ndim) if long <= 1 else range(layers, x.ndim - 1)
    return jnp.sqrt(jnp.sum(x * x, axis=tuple(axes), keepdims=True))
