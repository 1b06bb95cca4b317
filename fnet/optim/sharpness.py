"""Wrappers that look for flat minima."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from fnet.optim.clip import global_norm
from fnet.optim.core import State, ValueAndGrad, Wrapper
from fnet.optim.leaves import PyTree, align, fill
from fnet.optim.vectors import like, needed, widened


@dataclass(frozen=True)
class sam(Wrapper):
    """Sharpness-aware minimisation: step by the gradient at ``p + rho · g / ‖g‖`` (Foret et al. 2021, eq. 2–3).

    ``update`` needs ``value_and_grad``, which `train.make_step` passes; a step costs two gradients. The inner
    optimizer is given the loss and the gradients at the perturbed point. ``adaptive=True`` is ASAM (Kwon et al. 2021,
    eq. 10 without η), ``p + rho · p² g / ‖p g‖``, for which they take ``rho`` about ten times larger. To clip,
    wrap what SAM wraps: ``sam(clip_by_global_norm(opt, 1.0))``. Parameters of 16 bits round the perturbation. Adds
    nothing to the state. Raises ValueError unless ``rho >= 0``, and in ``update`` without ``value_and_grad``.

    >>> import jax, jax.numpy as jnp
    >>> from fnet import optim
    >>> opt = sam(optim.sgd(0.1), rho=0.5)
    >>> value_and_grad = jax.value_and_grad(lambda p: p["w"] ** 2)
    >>> params = {"w": jnp.array(1.0)}
    >>> loss, grads = value_and_grad(params)
    >>> params, _ = opt.update(grads, opt.init(params), params, loss=loss, value_and_grad=value_and_grad)
    >>> round(float(params["w"]), 4)  # 1 - 0.1 · 2 · (1 + 0.5)
    0.7
    """

    rho: float = 0.05
    adaptive: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.rho, bool) or not isinstance(self.rho, int | float) or not 0 <= self.rho < float("inf"):
            raise ValueError(f"sam: rho must be a finite number of at least 0, got {self.rho!r}")

    def update(
        self,
        grads: PyTree,
        opt_state: State,
        params: PyTree,
        *,
        loss: Any = None,
        value_and_grad: ValueAndGrad | None = None,
        key: jax.Array | None = None,
    ) -> tuple[PyTree, State]:
        evaluate = needed(value_and_grad, "sam")

        def sharp(point: PyTree, /) -> tuple[Any, PyTree]:
            return evaluate(self.worst(evaluate(point)[1], point))

        value, grads = evaluate(self.worst(grads, params))
        loss = None if loss is None else value
        return self.inner.update(grads, opt_state, params, loss=loss, value_and_grad=sharp, key=key)

    def worst(self, grads: PyTree, params: PyTree) -> PyTree:
        """The parameters, at distance rho, where the loss is largest to first order; the same where ``grads`` is 0."""
        live = self.trainable(params)
        p, g = widened(live), widened(align(grads, live, params))
        size = jax.tree.map(lambda p: jnp.abs(p) if self.adaptive else jnp.ones((), p.dtype), p)
        norm = global_norm(jax.tree.map(jnp.multiply, size, g))
        scale = jnp.where(norm > 0, self.rho / jnp.where(norm > 0, norm, 1), 0)
        point = jax.tree.map(lambda p, g, size: p + scale.astype(p.dtype) * size**2 * g, p, g, size)
        return fill(like(point, live), params)
