"""Shampoo: a preconditioner for each side of a matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from fnet.optim.checks import whole
from fnet.optim.core import State
from fnet.optim.hyper import Rate
from fnet.optim.layerwise import norm, trust
from fnet.optim.leaves import PyTree
from fnet.optim.linalg import gram, inverse_root, matmul
from fnet.optim.moments import shrink
from fnet.optim.rule import Now
from fnet.optim.stacked import PerLayer, Shape, flat_matrix

SIDES = ("left", "right")


@dataclass(frozen=True, repr=False)
class shampoo(PerLayer):
    """Shampoo (Gupta, Koren & Singer 2018, Algorithm 1): ``p - lr · L^(-1/4) G R^(-1/4)``, L of G Gᵀ and R of Gᵀ G.

    L and R are ``eps · 1`` plus the sum of all G Gᵀ and Gᵀ G so far, as in the paper, or with ``beta2`` their running
    average, its bias corrected (Anil et al. 2020). Their roots, eigendecompositions, are taken anew every
    ``precondition_frequency`` updates, the first included; large layers want 10 to 100, and a lower rate at first. A
    vector has one side and the exponent -1/2 (order k in general: -1/(2k)), a scalar is a vector of one. A side longer
    than ``max_precond_dim`` has only its diagonal kept. ``momentum`` averages the gradients that are preconditioned,
    ``Ḡ_t = momentum · Ḡ_{t-1} + (1 - momentum) G_t``. ``weight_decay`` is decoupled, as in `adamw`.

    ``graft`` gives each layer's step the length of another rule's (Anil et al. 2020): ``"sgd"``, that of the gradient;
    ``"diagonal"``, that of the step divided element by element by the root of g², summed or averaged as L and R are,
    which is Adagrad's or RMSprop's length. Rates tuned for that rule then fit.

    A convolution's kernel (…, in, out) is taken as the matrix (… · in, out); for parameters that stack layers give
    ``stacked="blocks.*"``. Each rate is a float or a schedule step -> value. Slots: "left", "right", their roots
    "left_root", "right_root", with momentum "mu", with ``graft="diagonal"`` "nu". Raises ValueError for values out of
    range.

    >>> import jax.numpy as jnp
    >>> opt = shampoo(0.1)
    >>> params = {"w": jnp.zeros((2, 2))}
    >>> params, opt_state = opt.update({"w": jnp.diag(jnp.array([9.0, 0.1]))}, opt.init(params), params)
    >>> params["w"].round(3) + 0.0
    Array([[-0.1,  0. ],
           [ 0. , -0.1]], dtype=float32)
    """

    lr: Rate = 0.1
    momentum: Rate = 0.0
    beta2: Rate | None = None
    eps: Rate = 1e-4
    weight_decay: Rate = 0.0
    graft: str | None = None
    precondition_frequency: int = 1
    max_precond_dim: int = 4096

    decays = ("momentum", "beta2")

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("shampoo", "precondition_frequency", self.precondition_frequency, 1)
        whole("shampoo", "max_precond_dim", self.max_precond_dim, 1)
        if self.graft not in (None, "sgd", "diagonal"):
            raise ValueError(f'shampoo: graft must be None, "sgd" or "diagonal", got {self.graft!r}')

    @property
    def slots(self) -> tuple[str, ...]:
        whole = (("mu",) if self.momentum else ()) + (("nu",) if self.graft == "diagonal" else ())
        return "left", "right", "left_root", "right_root", *whole

    def hyper(self) -> dict[str, Rate | None]:
        off = {"momentum": self.momentum or None, "weight_decay": self.weight_decay or None}
        return {"lr": self.lr, "beta2": self.beta2, "eps": self.eps, **off}

    def memory(self, params: PyTree) -> State:
        def side(axis: int) -> PyTree:
            return self.slot(params, lambda s: self.side(s, axis))

        whole: State = {name: self.slot(params, lambda s: s) for name in ("mu", "nu") if name in self.slots}
        return {"left": side(0), "right": side(1), "left_root": side(0), "right_root": side(1), **whole}

    def side(self, shape: Shape, axis: int) -> Shape | None:
        """The shape of the statistics for an axis of the matrix: square, a diagonal, or None where there is no axis."""
        sizes = _plain(shape)
        if axis >= len(sizes) or 0 in sizes:
            return None
        return (sizes[axis],) * (2 if sizes[axis] <= self.max_precond_dim else 1)

    def rule(self, now: Now, params: PyTree, grads: PyTree, memory: State) -> tuple[PyTree, State]:
        """``L += G Gᵀ``, ``R += Gᵀ G``, ``p - lr · L^(-1/2k) Ḡ R^(-1/2k)``."""
        renew = (now.t - 1) % self.precondition_frequency == 0
        mass = None if now.hyper.beta2 is None else now.hyper.beta2.correction(now.t)

        def leaf(h: Any, p: Any, g: Any, slots: State) -> tuple[Any, State]:
            def gather(old: Any, value: Any) -> Any:
                return old + value if h.beta2 is None else h.beta2.mix(old, value)

            def level(total: Any) -> Any:
                return total if h.mass is None else total / h.mass

            def fresh(total: Any, root: Any) -> Any:
                return inverse_root(level(total), h.eps, 2 * len(_plain(p.shape)))

            new, mean = {}, g
            if h.momentum is not None:
                mean = new["mu"] = h.momentum.mix(slots["mu"], g)
            u = mean.reshape(_plain(p.shape))
            for axis, side in enumerate(SIDES):
                old, root = slots[side], slots[f"{side}_root"]
                if old is not None:
                    old = gather(old, statistics(g.reshape(u.shape), axis, old.ndim == 1))
                    root = jax.lax.cond(renew, fresh, lambda old, root: root, old, root)
                    u = apply(root, u, axis)
                new[side], new[f"{side}_root"] = old, root
            u = u.reshape(p.shape)
            if self.graft == "diagonal":
                new["nu"] = gather(slots["nu"], g * g)
                u = u * trust(norm(mean / jnp.sqrt(level(new["nu"]) + h.eps)), norm(u))
            elif self.graft == "sgd":
                u = u * trust(norm(mean), norm(u))
            return shrink(h, p) - h.lr * u, new

        return self.by_layer(now, leaf, params, grads, memory, mass=mass)


def _plain(shape: Shape) -> Shape:
    """The parameter as Shampoo sees it: a vector, or a matrix."""
    return flat_matrix(shape) if len(shape) > 1 else shape or (1,)


def statistics(g: jax.Array, axis: int, diagonal: bool) -> jax.Array:
    """``G Gᵀ`` for axis 0 and ``Gᵀ G`` for axis 1, or its diagonal; for a vector the outer product."""
    rows = g.reshape(len(g), -1) if axis == 0 else g.T
    return jnp.sum(rows * rows, axis=1) if diagonal else gram(rows)


def apply(root: jax.Array, u: jax.Array, axis: int) -> jax.Array:
    """``u`` multiplied along an axis by a symmetric matrix or by a diagonal."""
    if root.ndim == 1:
        return u * (root if axis == u.ndim - 1 else root[:, None])
    return matmul(root, u) if axis == 0 else matmul(u, root)
