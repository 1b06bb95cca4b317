"""Which leaves an optimizer works on: the trainable ones of a tree, their gradients and their slots."""

from __future__ import annotations

from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from fnet.selectors import hint
from fnet.tree import HOLE, is_hole, map_named, named, names

PyTree: TypeAlias = Any


def inexact(params: PyTree) -> PyTree:
    """The floating-point leaves of a tree, with holes at integers, booleans and keys.

    Raises TypeError for a leaf that is no array, such as a model, and for a complex one: the conjugate that JAX leaves
    in its gradient, and what a second moment would mean, differ between libraries, so nothing is guessed.

    >>> import jax.numpy as jnp
    >>> inexact({"count": 3, "weight": 1.5})
    {'count': HOLE, 'weight': 1.5}
    """

    def one(name: str, leaf: Any) -> Any:
        dtype = leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype
        if getattr(dtype, "kind", "") == "O":
            where = f"the parameter {name!r} is" if name else "this is"
            raise TypeError(
                f"an optimizer works on a tree of arrays, and {where} {type(leaf).__name__}; a model holds no "
                f"parameters: take them from params, state = model.init(key, x)"
            )
        if jnp.issubdtype(dtype, jnp.complexfloating):
            raise TypeError(
                f"the parameter {name!r} is complex ({dtype}) and update rules are defined here for real ones: keep "
                f"its real and imaginary parts as two leaves and join them in the model with jax.lax.complex(re, im)"
            )
        return leaf if jnp.issubdtype(dtype, jnp.floating) else HOLE

    return map_named(one, params)


def fill(part: PyTree, whole: PyTree) -> PyTree:
    """``part`` with its holes filled by the very leaves of ``whole``."""
    return jax.tree.map(lambda a, b: b if is_hole(a) else a, part, whole, is_leaf=is_hole)


def with_holes(live: PyTree, new: PyTree) -> PyTree:
    """``new`` with the holes of ``live``."""
    return jax.tree.map(lambda p, n: HOLE if is_hole(p) else n, live, new, is_leaf=is_hole)


def align(grads: PyTree, live: PyTree, params: PyTree) -> PyTree:
    """The gradients at the leaves of ``live``, which is ``params`` with holes where nothing is trained.

    Gradients of leaves that are not trained are dropped. Raises ValueError, with the dotted names, where a
    gradient is missing, has another shape than its parameter, or belongs to no parameter.
    """
    wanted: Any = jax.tree.structure(live)
    if jax.tree.structure(grads) != wanted:
        grads = _by_name(grads, live, params)
    for p, g in zip(jax.tree.leaves(live), jax.tree.leaves(grads), strict=True):
        if np.shape(p) != np.shape(g):
            where = _first_other_shape(live, grads)
            raise ValueError(f"the gradient of {where}; gradients have the shapes of their parameters")
    return grads


def _by_name(grads: PyTree, live: PyTree, params: PyTree) -> PyTree:
    given, wanted, known = dict(named(grads)), names(live), names(params)
    missing = [name for name in wanted if name not in given]
    unknown = [name for name in given if name not in known]
    if unknown:
        raise ValueError(f"there are gradients for {_some(unknown)}, not in params; {hint(unknown[0], known)}")
    if missing:
        raise ValueError(
            f"no gradient was given for {_some(missing)}; each of the {len(wanted)} trainable parameters needs one. "
            f"To leave parameters untrained use optim.groups with None for them."
        )
    return map_named(lambda name, _: given[name], live)


def _first_other_shape(live: PyTree, grads: PyTree) -> str:
    rows = zip(names(live), dict(named(live)).values(), dict(named(grads)).values(), strict=True)
    name, p, g = next((name, np.shape(p), np.shape(g)) for name, p, g in rows if np.shape(p) != np.shape(g))
    return f"{name!r} has shape {g}, the parameter {p}"


def _some(items: list[str]) -> str:
    more = f" and {len(items) - 5} more" if len(items) > 5 else ""
    return ", ".join(map(repr, items[:5])) + more


def wide(dtype: Any) -> Any:
    """The dtype in which a parameter of ``dtype`` is updated: its own, or float32 for the 16-bit and 8-bit ones."""
    return jnp.dtype(jnp.float32) if jnp.finfo(dtype).bits < 32 else jnp.dtype(dtype)


def full(params: PyTree, value: float = 0.0) -> PyTree:
    """A slot: a tree like ``params``, each leaf filled with ``value``, in the dtype in which it is updated.

    >>> import jax.numpy as jnp
    >>> full({"w": jnp.ones(2, "bfloat16")})["w"].dtype
    dtype('float32')
    """
    return jax.tree.map(lambda p: _full_like(p, value), params)


def _full_like(p: Any, value: float) -> jax.Array:
    dtype = wide(jnp.result_type(p))
    if isinstance(p, jax.core.Tracer) or (isinstance(p, jax.Array) and not p.is_fully_addressable):
        return jnp.full_like(p, value, dtype=dtype)
    # A transfer, since jnp.full would compile a program for each shape: 40 ms a shape, seconds for a model.
    here = p.sharding if isinstance(p, jax.Array) and p.committed else None
    return jax.device_put(np.full(np.shape(p), value, dtype), here)
