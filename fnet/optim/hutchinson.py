"""Steps divided by an estimate of the Hessian's diagonal: Sophia."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import jax
import jax.numpy as jnp

from fnet.optim.core import State
from fnet.optim.hyper import Rate
from fnet.optim.leaves import PyTree
from fnet.optim.moments import Moments, shrink
from fnet.optim.rule import Now
from fnet.tree import map_named


@dataclass(frozen=True, repr=False)
class sophia(Moments):
    """Sophia-H (Liu et al. 2023, Algorithm 3): momentum over curvature, each element clipped to a step of ``lr``.

    Every ``update_interval`` updates the Hessian's diagonal is estimated on the step's own batch as u ⊙ (Hu)
    (Hutchinson, the paper's Algorithm 1; u of signs, whose estimates vary less than those of normal u), at the cost of
    one more gradient and its derivative. `update` therefore needs ``value_and_grad`` and ``key``, which
    `fnet.train.make_step` passes, and the loss must be twice differentiable. The paper's Sophia-G is left out, since it
    needs labels drawn from the model. As in the paper no average is corrected for bias and a new estimate is used
    at once (optax.contrib.sophia does neither). ``weight_decay`` is decoupled as in `adamw`. Each hyperparameter
    but the interval is a float or a schedule step -> value. Slots: "mu", and "hessian", the average of the estimates.
    Raises ValueError for values out of range and for an update without ``value_and_grad`` or ``key``.

    >>> import jax, jax.numpy as jnp
    >>> opt = sophia(1.0, betas=(0.0, 0.0), gamma=1.0, weight_decay=0.0)
    >>> f = jax.value_and_grad(lambda params: jnp.sum(jnp.array([1.0, 100.0]) * params["w"] ** 2))
    >>> params = {"w": jnp.array([0.5, 0.25])}
    >>> more = {"value_and_grad": f, "key": jax.random.key(0)}
    >>> params, opt_state = opt.update(f(params)[1], opt.init(params), params, **more)
    >>> params["w"]
    Array([0., 0.], dtype=float32)
    """

    lr: Rate = 1e-4
    betas: tuple[Rate, ...] = (0.96, 0.99)
    eps: Rate = 1e-12
    weight_decay: Rate = 0.1
    gamma: Rate = 0.01
    update_interval: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.update_interval, bool) or not isinstance(self.update_interval, int):
            raise TypeError(f"sophia: update_interval must be a number of updates, got {self.update_interval!r}")
        if self.update_interval < 1:
            raise ValueError(f"sophia: update_interval must be 1 or more, got {self.update_interval!r}")

    @property
    def slots(self) -> tuple[str, ...]:
        return ("mu", "hessian")

    def hyper(self) -> dict[str, Rate | None]:
        return {**super().hyper(), "gamma": self.gamma}

    def rule(self, now: Now, params: PyTree, grads: PyTree, memory: State) -> tuple[PyTree, State]:
        """``p - lr · clip(m_t / max(γ h_t, ε), ±1)``, ``h_t = β2 h_{t-k} + (1 - β2) ĥ_t`` every k-th update."""
        due = (now.t - 1) % self.update_interval == 0
        old = memory["hessian"]
        estimate = jax.lax.cond(due, lambda: _diagonal(now, params, old), lambda: old)

        def leaf(h: Any, p: Any, g: Any, slots: State) -> tuple[Any, State]:
            mu = h.b1.mix(slots["mu"], g)
            hessian = jnp.where(h.due > 0, h.b2.mix(slots["hessian"], slots["estimate"]), slots["hessian"])
            u = jnp.clip(mu / jnp.maximum(h.gamma * hessian, h.eps), -1, 1)
            return shrink(h, p) - h.lr * u, {"mu": mu, "hessian": hessian, "estimate": hessian}

        params, slots = now.each(leaf, params, grads, {**memory, "estimate": estimate}, due=due)
        return params, {name: slots[name] for name in self.slots}


def _diagonal(now: Now, params: PyTree, like: PyTree) -> PyTree:
    """Hutchinson's estimate ``u ⊙ (Hu)``, in the dtypes of ``like``; exact where the Hessian is diagonal."""
    if now.value_and_grad is None or now.key is None:
        raise ValueError(
            "sophia differentiates the gradient, so update needs value_and_grad= and key=; train.make_step passes "
            "both. By hand: opt.update(grads, opt_state, params, value_and_grad=jax.value_and_grad(loss), key=key)"
        )
    value_and_grad, key = now.value_and_grad, now.key

    def signs(name: str, p: Any) -> jax.Array:
        # A key by name, so that another parameter changes nobody's draws.
        own = jax.random.fold_in(key, int.from_bytes(sha256(name.encode()).digest()[:4]))
        return jax.random.rademacher(own, jnp.shape(p), jnp.result_type(p))

    u = map_named(signs, params)
    _, product = jax.jvp(lambda point: value_and_grad(point)[1], (params,), (u,))
    return jax.tree.map(lambda u, hu, h: (u * hu).astype(h.dtype), u, product, like)
