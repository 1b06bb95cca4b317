"""Muon: momentum whose matrices are made orthogonal."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Any

import jax
import jax.numpy as jnp

from fnet.optim.core import State
from fnet.optim.hyper import Rate
from fnet.optim.leaves import PyTree
from fnet.optim.moments import shrink
from fnet.optim.rule import Now
from fnet.optim.stacked import PerLayer, Shape, flat_matrix

QUINTIC = (3.4445, -4.7750, 2.0315)  # Jordan's: the steepest at 0 of those that stay within about 0.7 and 1.2


@dataclass(frozen=True, repr=False)
class muon(PerLayer):
    """Muon (Jordan et al. 2024): momentum for matrices, its singular values brought near 1 by Newton–Schulz steps.

    As torch.optim.Muon, which iterates in bfloat16; ``ns_dtype=None`` iterates in the parameter's dtype (float32 for
    the 16-bit ones) as optax does, or name a dtype. PyTorch's weight is (out, in), here it is (in, out), so the rate is
    multiplied by ``√max(1, out / in)`` (``adjust_lr_fn="original"``) or by ``0.2 √max(in, out)``
    (``"match_rms_adamw"``, Liu et al. 2025, which takes AdamW's learning rate and decay). Decay is decoupled:
    ``p · (1 - lr · weight_decay)``, lr before that factor.

    A convolution's kernel (…, in, out) is taken as the matrix (… · in, out). For parameters that stack layers, which
    have the same shapes, give ``stacked="blocks.*"``. A parameter that is no matrix is an error: muon is for the
    hidden layers, and biases, norms, embeddings and the head go to a companion, by name:

    >>> import jax.numpy as jnp
    >>> from fnet import optim
    >>> opt = optim.groups({("*.bias", "embed.*", "head.*"): optim.adamw(3e-4), "*": optim.muon(0.02)})
    >>> params = {"embed": {"weight": jnp.ones((5, 2))}, "fc": {"weight": jnp.ones((2, 3)), "bias": jnp.ones(3)},
    ...           "head": {"weight": jnp.ones((3, 5))}}
    >>> opt.init(params)["momentum"]["fc"]["bias"], opt.init(params)["momentum"]["fc"]["weight"].shape
    (HOLE, (2, 3))

    ``lr``, ``weight_decay``, ``momentum`` and ``eps`` are floats or schedules step -> value. Slot: "momentum", the
    average of g. Raises ValueError for values out of range.
    """

    lr: Rate = 1e-3
    weight_decay: Rate = 0.1
    momentum: Rate = 0.95
    nesterov: bool = True
    ns_coefficients: tuple[float, float, float] = QUINTIC
    eps: Rate = 1e-7
    ns_steps: int = 5
    adjust_lr_fn: str | None = None
    ns_dtype: Any = "bfloat16"

    decays = ("momentum",)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "ns_coefficients", tuple(self.ns_coefficients))
        if len(self.ns_coefficients) != 3:
            raise ValueError(f"muon: ns_coefficients must be three numbers a, b, c, got {self.ns_coefficients!r}")
        if not isinstance(self.ns_steps, int) or not 0 < self.ns_steps < 100:
            raise ValueError(f"muon: ns_steps must be an integer from 1 to 99, got {self.ns_steps!r}")
        if self.adjust_lr_fn not in (None, "original", "match_rms_adamw"):
            raise ValueError(f'muon: adjust_lr_fn must be "original" or "match_rms_adamw", got {self.adjust_lr_fn!r}')
        if self.ns_dtype is not None:
            object.__setattr__(self, "ns_dtype", jnp.dtype(self.ns_dtype).name)

    @property
    def slots(self) -> tuple[str, ...]:
        return ("momentum",)

    def hyper(self) -> dict[str, Rate | None]:
        off = {"weight_decay": self.weight_decay or None}
        return {"lr": self.lr, "momentum": self.momentum, "eps": self.eps, **off}

    def memory(self, params: PyTree) -> State:
        flat = [(name, shape) for name, shape in self.layers(params).items() if len(shape) < 2]
        if flat:
            name, shape = flat[0]
            raise ValueError(
                f"muon is for matrices, and {name!r} ({len(flat)} in all) has shape {shape} in a layer. Give it to "
                f'another rule: optim.groups({{{name!r}: optim.adamw(3e-4), "*": optim.muon(…)}})'
            )
        return super().memory(params)

    def rule(self, now: Now, params: PyTree, grads: PyTree, memory: State) -> tuple[PyTree, State]:
        """``b_t`` the average of g, ``o_t`` that or its Nesterov form made orthogonal, ``p - lr · adjust · o_t``."""

        def leaf(h: Any, p: Any, g: Any, slots: State) -> tuple[Any, State]:
            b = h.momentum.mix(slots["momentum"], g)
            o = h.momentum.mix(b, g) if self.nesterov else b
            dtype = self.ns_dtype or p.dtype
            o = orthogonal(o.reshape(flat_matrix(p.shape)), self.ns_coefficients, self.ns_steps, h.eps, dtype)
            return shrink(h, p) - h.lr * self.adjust(p.shape) * o.reshape(p.shape), {"momentum": b}

        return self.by_layer(now, leaf, params, grads, memory)

    def adjust(self, shape: Shape) -> float:
        """What the learning rate is multiplied by for a parameter of this shape."""
        rows, columns = flat_matrix(shape)
        if self.adjust_lr_fn == "match_rms_adamw":
            return 0.2 * sqrt(max(rows, columns))
        return sqrt(max(1, columns / max(rows, 1)))


def orthogonal(x: jax.Array, coefficients: tuple[float, float, float], steps: int, eps: Any, dtype: Any) -> jax.Array:
    """The matrix with its singular values near 1: ``steps`` Newton–Schulz iterations of a quintic, run in ``dtype``.

    ``x ← a x + (b x xᵀ + c (x xᵀ)²) x`` from ``x / max(‖x‖, eps)``, on the side where x xᵀ is the smaller matrix.

    >>> import jax.numpy as jnp
    >>> orthogonal(jnp.diag(jnp.array([3.0, 0.5])), (2.0, -1.5, 0.5), 9, 1e-7, "float32").round(3)
    Array([[1., 0.],
           [0., 1.]], dtype=float32)
    """
    a, b, c = coefficients
    tall = x.shape[0] > x.shape[1]
    y = (x / jnp.maximum(jnp.sqrt(jnp.sum(x * x)), eps)).astype(dtype)
    y = y.T if tall else y
    for _ in range(steps):
        gram = y @ y.T
        y = a * y + (b * gram + c * gram @ gram) @ y
    return (y.T if tall else y).astype(x.dtype)
