"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from fnet.optim.checks import whole
from fnet.optim.core import State
from fnet.optim.hyper import Rate
from fnet.optim.leaves import PyTree
from fnet.optim.linalg import gram, matmul, square_side
from fnet.optim.moments import rates, shrink
from fnet.optim.rule import Now
from fnet.optim.stacked import PerLayer, flat_matrix


@dataclass(frozen=True, repr=False)
class soap(PerLayer):
    """SOAP (Vyas et al. 2025, arXiv 2409.11321, Algorithm 3): Adam in a slowly turning eigenbasis of G Gᵀ and Gᵀ G.

    For a matrix G the averages of G Gᵀ and Gᵀ G ("left", "right", rate ``shampoo_beta``, None: that of b2) have bases
    of eigenvectors; Adam's second moment is kept in those coordinates. Every ``precondition_frequency`` updates a step
    of power iteration and a QR decomposition renew the bases. As the authors' code: the first update only sets the
    bases and moves nothing, ε is added to the uncorrected root, and ``p · (1 - lr · weight_decay)`` comes last.

    A convolution's kernel (…, in, out) is taken as the matrix (… · in, out); for parameters that stack layers give
    ``stacked="blocks.*"``. A side longer than ``max_precond_dim`` is not rotated, and vectors and scalars have Adam.
    Each rate is a float or a schedule step -> value. Slots: "mu" (average of g), "nu" (of its square, in the rotated
    coordinates), "left", "right", "left_basis", "right_basis". Raises ValueError for values out of range.

    >>> import jax.numpy as jnp
    >>> opt_state = soap(3e-3, max_precond_dim=100).init({"weight": jnp.ones((500, 3)), "bias": jnp.ones(3)})
    >>> opt_state["right"]["weight"].shape, opt_state["left"]["weight"], opt_state["right"]["bias"]
    ((3, 3), HOLE, HOLE)
    """

    lr: Rate = 3e-3
    betas: tuple[Rate, Rate] = (0.95, 0.95)
    eps: Rate = 1e-8
    weight_decay: Rate = 1e-2
    shampoo_beta: Rate | None = None
    precondition_frequency: int = 10
    max_precond_dim: int = 10000

    decays = ("b1", "b2", "shampoo_beta")

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", rates(self, "betas", self.betas, 2))
        super().__post_init__()
        whole("soap", "precondition_frequency", self.precondition_frequency, 1)
        whole("soap", "max_precond_dim", self.max_precond_dim, 1)

    @property
    def slots(self) -> tuple[str, ...]:
        return "mu", "nu", "left", "right", "left_basis", "right_basis"

    def hyper(self) -> dict[str, Rate | None]:
        betas = {"b1": self.betas[0], "b2": self.betas[1], "shampoo_beta": self.shampoo_beta}
        return {"lr": self.lr, **betas, "eps": self.eps, "weight_decay": self.weight_decay or None}

    def memory(self, params: PyTree) -> State:
        def square(axis: int) -> PyTree:
            return self.slot(params, lambda s: square_side(s, axis, self.max_precond_dim) if len(s) > 1 else None)

        whole = {name: self.slot(params, lambda s: s) for name in ("mu", "nu")}
        return {**whole, "left": square(0), "right": square(1), "left_basis": square(0), "right_basis": square(1)}

    def rule(self, now: Now, params: PyTree, grads: PyTree, memory: State) -> tuple[PyTree, State]:
        """``N = Q_L (M' / (√V + ε)) Q_Rᵀ`` with ``M' = Q_Lᵀ M Q_R`` and V the average of ``(Q_Lᵀ G Q_R)²``."""
        first, t = now.t == 1, jnp.maximum(now.t - 1, 1)  # Adam's count begins with the second update
        rate = now.hyper.lr * jnp.sqrt(now.hyper.b2.correction(t)) / now.hyper.b1.correction(t)
        average = now.hyper.b2 if now.hyper.shampoo_beta is None else now.hyper.shampoo_beta
        phase = jnp.where(first, 0, jnp.where((now.t - 1) % self.precondition_frequency == 0, 1, 2))

        def leaf(h: Any, p: Any, g: Any, slots: State) -> tuple[Any, State]:
            shape, g = p.shape, g.reshape(flat_matrix(p.shape)) if p.ndim > 1 else g
            mu, nu = (slots[name].reshape(g.shape) for name in ("mu", "nu"))
            left, right, *bases = (slots[name] for name in ("left", "right", "left_basis", "right_basis"))

            new_mu = h.b1.mix(mu, g)
            new_nu = h.b2.mix(nu, rotate(g, *bases) ** 2)
            step = rotate_back(rotate(new_mu, *bases) / (jnp.sqrt(new_nu) + h.eps), *bases)
            new_p = shrink(h, p - h.rate * step.reshape(shape))
            new_p, mu, nu = (jnp.where(first, a, b) for a, b in ((p, new_p), (mu, new_mu), (nu, new_nu)))

            left = None if left is None else h.average.mix(left, gram(g))
            right = None if right is None else h.average.mix(right, gram(g.T))
            nu, *bases = jax.lax.switch(phase, (begin, renew, keep), nu, left, right, *bases)
            slots = {"mu": mu.reshape(shape), "nu": nu.reshape(shape), "left": left, "right": right}
            return new_p, {**slots, "left_basis": bases[0], "right_basis": bases[1]}

        return self.by_layer(now, leaf, params, grads, memory, rate=rate, average=average)


def rotate(x: jax.Array, left: jax.Array | None, right: jax.Array | None) -> jax.Array:
    """``Q_Lᵀ x Q_R``, a side without a basis as it is."""
    x = x if left is None else matmul(left.T, x)
    return x if right is None else matmul(x, right)


def rotate_back(x: jax.Array, left: jax.Array | None, right: jax.Array | None) -> jax.Array:
    """``Q_L x Q_Rᵀ``, the inverse of `rotate`."""
    return rotate(x, None if left is None else left.T, None if right is None else right.T)


def begin(nu: jax.Array, left: Any, right: Any, left_basis: Any, right_basis: Any) -> tuple[Any, Any, Any]:
    """The first bases: eigenvectors, that of the largest eigenvalue first."""
    first, second = (None if x is None else jnp.linalg.eigh(x)[1][:, ::-1] for x in (left, right))
    return nu, first, second


def renew(nu: jax.Array, left: Any, right: Any, left_basis: Any, right_basis: Any) -> tuple[Any, Any, Any]:
    """Algorithm 4: a step of power iteration on each basis; its columns, and ``nu``, ordered by their eigenvalues."""
    if left is not None:
        order, left_basis = power_iteration(left, left_basis)
        nu = nu[order]
    if right is not None:
        order, right_basis = power_iteration(right, right_basis)
        nu = nu[:, order]
    return nu, left_basis, right_basis


def keep(nu: jax.Array, left: Any, right: Any, left_basis: Any, right_basis: Any) -> tuple[Any, Any, Any]:
    """The bases as they are."""
    return nu, left_basis, right_basis


def power_iteration(average: jax.Array, basis: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The order of the basis's columns by estimated eigenvalue, and the basis after one iteration in that order."""
    image = matmul(average, basis)
    order = jnp.argsort(-jnp.sum(basis * image, axis=0))
    return order, jnp.linalg.qr(image[:, order])[0]
