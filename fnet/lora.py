"""Low-rank adapters: fine-tune a few small matrices beside frozen weights, as functions over params.

    adapters = lora.init(key, params, ["*.q_proj.weight", "*.v_proj.weight"], rank=8)
    def loss(adapters, x, y):
        return F.cross_entropy(model(lora.merge(params, adapters), x), y)
    grads = jax.grad(loss)(adapters, x, y)               # of the adapters alone; params are constants

They work on any model, since they never see it: on linear maps (in, out), on kernels of convolutions (…, in, out),
and on both stacked over layers by `nn.Stack`. Source: Hu et al. 2021 (arXiv:2106.09685).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from fnet.selectors import Selector, hint, match
from fnet.tree import PyTree, fold_name, map_named, named, path_name, unescape

__all__ = ["Adapter", "init", "merge", "unmerge"]


@dataclass(frozen=True)
class Adapter:
    """What is added to one weight: ``alpha / rank * (a @ b)``; a pytree whose leaves are ``a`` and ``b``.

    ``a`` is ``(…, in, rank)``, shaped like the weight but for its last axis, and ``b`` is ``(rank, out)``; both with a
    leading axis of layers where the weight is stacked. ``alpha`` is a constant and no leaf: nothing trains it.
    """

    a: Any
    b: Any
    alpha: float

    def delta(self) -> jax.Array:
        """The low-rank matrix itself, in the shape of the weight."""
        stacked = self.b.ndim == 3
        product = jnp.einsum("n...r,nro->n...o" if stacked else "...r,ro->...o", self.a, self.b)
        return self.alpha / self.b.shape[-2] * product


jax.tree_util.register_dataclass(Adapter, data_fields=["a", "b"], meta_fields=["alpha"])


def init(
    key: jax.Array,
    params: PyTree,
    selector: Selector,
    rank: int = 8,
    alpha: float | None = None,
    stacked: Selector | None = None,
) -> dict[str, Any]:
    """An `Adapter` for each weight that ``selector`` matches, under its name: ``fc.weight.a``, ``fc.weight.b``.

    ``a`` is uniform in ±1/√in, as PyTorch's linear layers start, and ``b`` is zero: at first `merge` changes nothing.
    The change is scaled by ``alpha / rank`` (``alpha=None``: 1). ``stacked`` selects the weights whose leading
    axis counts layers, as `nn.Stack` makes them: each layer then has its own adapter. Arrays are in the weight's dtype,
    float32 at least; each key comes from the weight's name. Runs under jit, vmap over keys, and eval_shape.

    Raises ValueError where the selector matches nothing, a weight of fewer than two axes or of integers, and for a
    rank that is more than the smaller side of a weight's matrix.

    >>> import jax, jax.numpy as jnp
    >>> from fnet import lora
    >>> params = {"fc": {"weight": jnp.ones((16, 32)), "bias": jnp.zeros(32)}}
    >>> adapters = lora.init(jax.random.key(0), params, "*.weight", rank=4)
    >>> adapters["fc"]["weight"].a.shape, adapters["fc"]["weight"].b.shape
    ((16, 4), (4, 32))
    """
    if not isinstance(rank, int) or rank < 1:
        raise ValueError(f"lora.init: rank={rank!r}, expected an integer of at least 1")
    leaves = dict(named(params))
    chosen = match(selector, leaves)
    stacks = set() if stacked is None else set(match(stacked, leaves))
    adapters: dict[str, Any] = {}
    for name in chosen:
        weight = leaves[name]
        layers, shape = weight.shape[: name in stacks], weight.shape[name in stacks :]
        _check(name, weight, shape, rank, name in stacks)
        dtype = jnp.promote_types(weight.dtype, jnp.float32)
        bound = math.prod(shape[:-1]) ** -0.5
        a = jax.random.uniform(fold_name(key, name), (*layers, *shape[:-1], rank), dtype, -bound, bound)
        b = jnp.zeros((*layers, rank, shape[-1]), dtype)
        *above, last = map(unescape, name.split("."))
        node = adapters
        for part in above:
            node = node.setdefault(part, {})
        node[last] = Adapter(a, b, float(rank if alpha is None else alpha))
    return adapters


def merge(params: PyTree, adapters: PyTree) -> PyTree:
    """``params`` with each adapter added to its weight, in the weight's dtype; the other leaves are the same arrays.

    Call it in the loss to train the adapters, and once afterwards to deploy a model as fast as it was. Several
    adapters of one model can be merged one after the other. Raises ValueError where an adapter's name or shape is not
    that of a weight.

    >>> import jax, jax.numpy as jnp
    >>> from fnet import lora
    >>> params = {"weight": jnp.ones((2, 3))}
    >>> adapters = {"weight": lora.Adapter(jnp.ones((2, 1)), jnp.ones((1, 3)), alpha=0.5)}
    >>> lora.merge(params, adapters)["weight"][0]
    Array([1.5, 1.5, 1.5], dtype=float32)
    """
    return _add(params, adapters, 1)


def unmerge(params: PyTree, adapters: PyTree) -> PyTree:
    """``params`` with each adapter taken away again: `merge`'s inverse, up to rounding.

    >>> import jax.numpy as jnp
    >>> from fnet import lora
    >>> adapters = {"weight": lora.Adapter(jnp.ones((2, 1)), jnp.ones((1, 3)), alpha=0.5)}
    >>> lora.unmerge(lora.merge({"weight": jnp.ones((2, 3))}, adapters), adapters)["weight"][0]
    Array([1., 1., 1.], dtype=float32)
    """
    return _add(params, adapters, -1)


def _add(params: PyTree, adapters: PyTree, sign: int) -> PyTree:
    found = dict(_adapters(adapters))
    leaves = dict(named(params))
    for name, adapter in found.items():
        if name not in leaves:
            raise ValueError(f"lora: there is an adapter for {name!r}, which is no parameter; {hint(name, leaves)}")
        shape = (*adapter.a.shape[:-1], adapter.b.shape[-1])
        if shape != leaves[name].shape:
            raise ValueError(f"lora: the adapter for {name!r} is of shape {shape}, the weight {leaves[name].shape}")

    def one(name: str, weight: Any) -> Any:
        return (weight + sign * found[name].delta()).astype(weight.dtype) if name in found else weight

    return map_named(one, params)


def _adapters(adapters: PyTree) -> list[tuple[str, Adapter]]:
    """The adapters by the names of their weights; TypeError for a tree that holds anything else."""
    nodes = jax.tree_util.tree_leaves_with_path(adapters, is_leaf=lambda node: isinstance(node, Adapter))
    for path, node in nodes:
        if not isinstance(node, Adapter):
            raise TypeError(f"lora: {path_name(path)!r} is a {type(node).__name__}, expected what lora.init gave")
    return [(path_name(path), node) for path, node in nodes]


def _check(name: str, weight: Any, shape: tuple[int, ...], rank: int, stacked: bool) -> None:
    if not jnp.issubdtype(weight.dtype, jnp.floating):
        raise ValueError(f"lora.init: the selector matches {name!r}, which is {weight.dtype}; adapters are for floats")
    if len(shape) < 2:
        of = "a layer of it" if stacked else "it"
        raise ValueError(
            f"lora.init: the selector matches {name!r} of shape {weight.shape}, and {of} is no matrix; select weights "
            f"alone, as with '*.weight'"
        )
    rows, columns = math.prod(shape[:-1]), shape[-1]
    if rank > min(rows, columns):
        raise ValueError(
            f"lora.init: rank={rank} is more than {name!r} can have, a matrix of {rows} x {columns}; lower the rank or "
            f"leave that weight out"
        )
