"""A check of derivatives against finite differences, leaf by leaf, in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnet import tree
from fnet.selectors import Selector

PyTree = Any


@dataclass(frozen=True)
class Row:
    """One leaf and one mode: the derivative along a random direction as computed and as measured."""

    name: str
    shape: tuple[int, ...]
    mode: str
    computed: float
    measured: float
    error: float  # |computed - measured| / ‖direction ⊙ gradient‖


@dataclass(frozen=True)
class GradientCheck:
    """What `check_gradients` found; true when every derivative agrees, and printed as a table, the worst first."""

    rows: tuple[Row, ...]
    rtol: float

    @property
    def failed(self) -> tuple[Row, ...]:
        """The rows whose error is above the tolerance or not a number."""
        return tuple(row for row in self.rows if not row.error <= self.rtol)

    def __bool__(self) -> bool:
        return not self.failed

    def __str__(self) -> str:
        ordered = sorted(self.rows, key=lambda row: -row.error if row.error == row.error else -np.inf)
        width = max([4, *(len(row.name) for row in ordered)])
        lines = [f"{'leaf':{width}}  mode     {'computed':>15}  {'measured':>15}  {'error':>8}"]
        for row in ordered:
            mark = "" if row.error <= self.rtol else "  ← differs"
            numbers = f"{row.computed:15.8g}  {row.measured:15.8g}  {row.error:8.1e}"
            lines.append(f"{row.name:{width}}  {row.mode:7}  {numbers}{mark}")
        differ = f"{len(self.failed)} of {len(self.rows)} derivatives differ"
        verdict = differ if self.failed else "all derivatives agree"
        return "\n".join([*lines, f"{verdict} (relative tolerance {self.rtol:g})"])

    __repr__ = __str__


def check_gradients(
    f: Callable[..., Any],
    params: PyTree,
    *args: Any,
    selector: Selector = "*",
    modes: Sequence[str] = ("reverse", "forward"),
    directions: int = 2,
    rtol: float = 1e-7,
    seed: int = 0,
) -> GradientCheck:
    """Compare derivatives of ``f(params, *args)`` in ``modes`` "reverse" and "forward" with finite differences.

    Each selected leaf is moved alone along random directions, in float64, whatever its dtype, and the change is
    measured by central differences with one Richardson extrapolation, whose error is of fourth order. An output that
    is no scalar is weighted at random first. Errors are relative to ‖direction ⊙ gradient‖, so one wrong element among
    a thousand shows. A function with a kink near ``params`` (a ReLU at 0) can fail by chance: change ``seed``.

    A function that keeps to float32 inside needs an ``rtol`` of about 1e-3, and one with a `jax.custom_vjp` has no
    forward mode: ``modes=["reverse"]``. Raises TypeError when the output or the leaves have no floats.

    >>> import jax.numpy as jnp
    >>> report = check_gradients(lambda p, x: jnp.sum(jnp.tanh(x @ p["w"])), {"w": jnp.ones((3, 2))}, jnp.ones((4, 3)))
    >>> bool(report), len(report.rows)
    (True, 4)
    """
    if not modes or set(modes) - {"reverse", "forward"}:
        raise ValueError(f'check_gradients: modes={modes!r}, expected some of "reverse" and "forward"')
    with jax.enable_x64(True):
        params, args = (_doubled(x) for x in (params, args))
        chosen, rest = tree.split(params, selector)
        leaves = {name: leaf for name, leaf in tree.named(chosen) if leaf.dtype == jnp.float64}
        if not leaves:
            raise TypeError(f"check_gradients: no leaf that {selector!r} selects has floats")
        rng = np.random.default_rng(seed)
        scalar = jax.jit(_weighted(lambda part: f(tree.merge(part, rest), *args), chosen, rng))
        gradient = jax.jit(jax.grad(scalar, allow_int=True))(chosen)
        slope = jax.jit(lambda at, along: jax.jvp(scalar, (at,), (along,))[1])
        rows = []
        for name, leaf in leaves.items():
            for _ in range(directions):
                along = rng.choice([-1.0, 1.0], leaf.shape)
                own = np.asarray(tree.get(gradient, name)) * along
                measured, size = _measure(name, leaf, along, chosen, scalar), float(np.linalg.norm(own)) or 1.0
                for mode in modes:
                    value = float(np.sum(own) if mode == "reverse" else slope(chosen, _alone(name, along, chosen)))
                    rows.append(Row(name, leaf.shape, mode, value, measured, abs(value - measured) / size))
    return GradientCheck(tuple(rows), rtol)


def _measure(name: str, leaf: Any, along: np.ndarray, chosen: PyTree, scalar: Any) -> float:
    """The change of the function as one leaf moves along a direction."""

    def at(size: float) -> PyTree:
        return tree.map_named(lambda other, x: x + size * along if other == name else x, chosen)

    def central(size: float) -> float:
        return float((scalar(at(size)) - scalar(at(-size))) / (2 * size))

    step = 1e-3 * max(1e-3, float(np.sqrt(np.mean(np.square(leaf))))) if leaf.size else 1e-3
    return (4 * central(step / 2) - central(step)) / 3


def _alone(name: str, along: np.ndarray, chosen: PyTree) -> PyTree:
    """The tangent that moves one leaf and leaves the others where they are."""

    def one(other: str, leaf: Any) -> Any:
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            return np.zeros(leaf.shape, jax.dtypes.float0)
        return jnp.asarray(along) if other == name else jnp.zeros_like(leaf)

    return tree.map_named(one, chosen)


def _doubled(params: PyTree) -> PyTree:
    def one(leaf: Any) -> Any:
        floating = hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating) or isinstance(leaf, float)
        return jnp.asarray(leaf, jnp.float64) if floating else leaf

    return jax.tree.map(one, params)


def _weighted(f: Callable[[PyTree], Any], at: PyTree, rng: np.random.Generator) -> Callable[[PyTree], Any]:
    """The sum of f's floating outputs, each times a fixed random weight unless there is one number only."""
    outputs = [out for out in jax.tree.leaves(jax.eval_shape(f, at)) if jnp.issubdtype(out.dtype, jnp.floating)]
    if not outputs:
        raise TypeError("check_gradients: the function returns no floats")
    single = len(outputs) == 1 and outputs[0].shape == ()
    weights = [np.ones(()) if single else rng.normal(size=out.shape) for out in outputs]

    def scalar(part: PyTree) -> Any:
        leaves = [out for out in jax.tree.leaves(f(part)) if jnp.issubdtype(out.dtype, jnp.floating)]
        return sum(jnp.sum(w * out) for w, out in zip(weights, leaves, strict=True))

    return scalar
