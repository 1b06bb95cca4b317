"""Weight normalisation and spectral normalisation, as functions over params: no layer knows of them.

    params = reparam.weight_norm(params, "*.weight")                 # each weight as a magnitude and a direction
    y = model(reparam.merge(params), x)                              # in the loss: weights of them, gradients to both

    vectors = reparam.spectral_init(key, params, "*.weight")         # a state beside the model's
    plain, vectors = reparam.spectral_norm(params, vectors, train=True)
    y = model(plain, x)

Names stay the weights' own: ``fc.weight.magnitude``, ``fc.weight.direction``; ``fc.weight.u``, ``fc.weight.v``.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from fnet.selectors import Selector, hint, match
from fnet.tree import PyTree, fold_name, map_named, named, unescape

__all__ = ["merge", "spectral_init", "spectral_norm", "weight_norm"]

PARTS = {"magnitude", "direction"}


def weight_norm(
    params: PyTree, selector: Selector, dim: int | None = -1, stacked: Selector | None = None
) -> PyTree:
    """Each weight w that ``selector`` matches as {"magnitude": ||w||, "direction": w}, which `merge` multiplies out.

    The norm is over all axes but ``dim``, by default the last, one magnitude for each output, where PyTorch's
    (out, in) has ``dim=0``; with ``dim=None`` it is over all. ``stacked`` selects the weights whose leading axis counts
    layers, as `nn.Stack` makes them: each has magnitudes of its own. Raises ValueError where the selector matches
    nothing or a weight without the axis. Source: Salimans and Kingma 2016 (arXiv:1602.07868).

    >>> import jax.numpy as jnp
    >>> from fnet import reparam
    >>> reparam.weight_norm({"weight": jnp.array([[3.0], [4.0]])}, "weight")["weight"]["magnitude"]
    Array([[5.]], dtype=float32)
    """
    leaves = dict(named(params))
    chosen = set(match(selector, leaves))
    stacks = set() if stacked is None else set(match(stacked, leaves))

    def one(name: str, w: jax.Array) -> Any:
        if name not in chosen:
            return w
        own = w.ndim - (name in stacks)
        if not jnp.issubdtype(w.dtype, jnp.floating) or own < 1 or (dim is not None and not -own <= dim < own):
            raise ValueError(f"weight_norm: {name!r} is {w.dtype} of shape {w.shape}, with no axis {dim} of floats")
        kept = {0} if name in stacks else set()
        kept |= set() if dim is None else {w.ndim - own + dim % own}
        return {"magnitude": _norm(w, tuple(axis for axis in range(w.ndim) if axis not in kept)), "direction": w}

    return map_named(one, params)


def merge(params: PyTree) -> PyTree:
    """The plain params of what `weight_norm` took apart: magnitude * direction / ||direction||; the rest as it is.

    >>> import jax.numpy as jnp
    >>> from fnet import reparam
    >>> params = {"weight": {"magnitude": jnp.array([[10.0]]), "direction": jnp.array([[3.0], [4.0]])}}
    >>> reparam.merge(params)["weight"].ravel()
    Array([6., 8.], dtype=float32)
    """

    def is_pair(node: Any) -> bool:
        return isinstance(node, dict) and node.keys() == PARTS

    def one(node: Any) -> Any:
        if not is_pair(node):
            return node
        g, v = node["magnitude"], node["direction"]
        axes = tuple(axis for axis in range(v.ndim) if g.shape[axis] != v.shape[axis] or v.shape[axis] == 1)
        return (v * (g / _norm(v, axes))).astype(v.dtype)

    return jax.tree.map(one, params, is_leaf=is_pair)


def spectral_init(
    key: jax.Array, params: PyTree, selector: Selector, dim: int = -1, stacked: Selector | None = None
) -> dict[str, Any]:
    """The state of `spectral_norm`: for each weight unit vectors {"u": (outputs,), "v": (inputs,)}, of random start.

    A weight is the matrix of its axis ``dim`` (by default the last, the outputs) against all others together. Fifteen
    power iterations are made, as in PyTorch. ``stacked`` selects the weights whose leading axis counts layers, as
    `nn.Stack` makes them. Each key comes from the weight's name. Raises ValueError where the selector matches nothing
    or a weight of fewer than two axes.

    >>> import jax, jax.numpy as jnp
    >>> from fnet import reparam
    >>> vectors = reparam.spectral_init(jax.random.key(0), {"weight": jnp.ones((3, 5))}, "weight")
    >>> vectors["weight"]["u"].shape, vectors["weight"]["v"].shape
    ((5,), (3,))
    """
    leaves = dict(named(params))
    stacks = set() if stacked is None else set(match(stacked, leaves))
    vectors: dict[str, Any] = {}
    for name in match(selector, leaves):
        w = leaves[name]
        own = w.ndim - (name in stacks)
        if not jnp.issubdtype(w.dtype, jnp.floating) or own < 2 or not -own <= dim < own:
            raise ValueError(
                f"spectral_norm: {name!r} is {w.dtype} of shape {w.shape}, no matrix of floats over axis {dim}; select "
                f"weights alone, as with '*.weight'"
            )
        layers, outputs = w.shape[: name in stacks], w.shape[w.ndim - own + dim % own]
        inputs = math.prod(w.shape) // max(outputs * math.prod(layers), 1)
        dtype = jnp.promote_types(w.dtype, jnp.float32)
        keys = jax.random.split(fold_name(key, name))
        node = vectors
        for part in map(unescape, name.split(".")):
            node = node.setdefault(part, {})
        node["u"] = _unit(jax.random.normal(keys[0], (*layers, outputs), dtype), 1e-12)
        node["v"] = _unit(jax.random.normal(keys[1], (*layers, inputs), dtype), 1e-12)
    return spectral_norm(params, vectors, True, dim=dim, n_power_iterations=15)[1]


def spectral_norm(
    params: PyTree,
    vectors: dict[str, Any],
    train: bool = False,
    *,
    dim: int = -1,
    n_power_iterations: int = 1,
    eps: float = 1e-12,
) -> tuple[PyTree, dict[str, Any]]:
    """``(params with each weight of ``vectors`` divided by its largest singular value, the next vectors)``.

    The value is u^T W v, after ``n_power_iterations`` of u = Wv / ||Wv||, v = W^T u / ||W^T u|| when training; else the
    vectors are used and returned as they are. The gradient sees u and v as constants. Pass the ``dim`` of
    `spectral_init`. Raises ValueError where a name or a length is not that of a weight. Source: Miyato et al. 2018
    (arXiv:1802.05957).

    >>> import jax, jax.numpy as jnp
    >>> from fnet import reparam
    >>> params = {"weight": jnp.diag(jnp.array([4.0, 1.0]))}
    >>> vectors = reparam.spectral_init(jax.random.key(0), params, "weight")
    >>> plain, vectors = reparam.spectral_norm(params, vectors, train=True)
    >>> jnp.diag(plain["weight"]).round(3)
    Array([1.  , 0.25], dtype=float32)
    """
    flat = dict(named(vectors))
    leaves = dict(named(params))
    found = {name.removesuffix(".u"): u for name, u in flat.items() if name.endswith(".u")}
    new: dict[str, tuple[jax.Array, jax.Array]] = {}
    plain: dict[str, jax.Array] = {}
    for name, u in found.items():
        if name not in leaves:
            raise ValueError(f"spectral_norm: vectors for {name!r}, which is no parameter; {hint(name, leaves)}")
        w, v = leaves[name], flat[f"{name}.v"]
        own = w.ndim - (u.ndim - 1)
        axis = w.ndim - own + dim % max(own, 1)
        if own < 2 or w.shape[axis] != u.shape[-1] or math.prod(w.shape) != math.prod(u.shape) * v.shape[-1]:
            raise ValueError(
                f"spectral_norm: {name!r} has shape {w.shape}, its vectors u {u.shape} and v {v.shape}: not of that "
                f"weight over axis {dim}"
            )
        matrix = jnp.moveaxis(w, axis, -1).astype(u.dtype).reshape(*v.shape, u.shape[-1])  # (…, inputs, outputs)
        if train:
            u, v = _iterate(jax.lax.stop_gradient(matrix), u, v, n_power_iterations, eps)
        u, v = jax.lax.stop_gradient((u, v))
        new[name] = (u, v)
        sigma = jnp.einsum("...i,...io,...o->...", v, matrix, u)
        plain[name] = (w / sigma.reshape(*sigma.shape, *(1,) * own)).astype(w.dtype)
    pairs = {f"{name}.{part}": value for name, both in new.items() for part, value in zip("uv", both, strict=True)}
    return (
        map_named(lambda name, leaf: plain.get(name, leaf), params),
        map_named(lambda name, leaf: pairs.get(name, leaf), vectors),
    )


def _iterate(
    matrix: jax.Array, u: jax.Array, v: jax.Array, times: int, eps: float
) -> tuple[jax.Array, jax.Array]:
    for _ in range(times):
        u = _unit(jnp.einsum("...io,...i->...o", matrix, v), eps)
        v = _unit(jnp.einsum("...io,...o->...i", matrix, u), eps)
    return u, v


def _unit(x: jax.Array, eps: float) -> jax.Array:
    return x / jnp.maximum(_norm(x, (-1,)), eps)


def _norm(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    return jnp.sqrt(jnp.square(x.astype(jnp.promote_types(x.dtype, jnp.float32))).sum(axes, keepdims=True))
