"""The last linear layer and its cross-entropy as one function that never holds all the logits."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jax.typing import ArrayLike

from fnet.functional.dtypes import to_weight_dtype
from fnet.functional.ids import LABEL_FIX, equals, in_range, integer_ids
from fnet.functional.linear import linear
from fnet.functional.loss.classification import cross_entropy
from fnet.functional.reduction import leading_mask, reduce

CHUNK_ELEMENTS = 1 << 25  # logits held at once where chunk_size is not given: 128 MiB of float32


def linear_cross_entropy(
    input: ArrayLike,
    linear_weight: ArrayLike,
    target: ArrayLike,
    *,
    linear_bias: ArrayLike | None = None,
    weight: ArrayLike | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    mask: ArrayLike | None = None,
    chunk_size: int | None = None,
) -> jax.Array:
    """cross_entropy(linear(input, linear_weight, linear_bias), target) with `chunk_size` rows of logits at a time.

    Shapes: input (..., in), linear_weight (in, classes), linear_bias (classes,); target (...) of integers or (...,
    classes) of probabilities; the other arguments are cross_entropy's. Neither the value nor the gradient holds more
    than chunk_size x classes logits. With "mean" and "sum" the gradient is computed along with the value, from the
    same logits, and its sums over rows are held in at least float32; with "none" the logits are computed twice.
    All derivatives work, forward, reverse and second. `chunk_size` is chosen from the number of classes if not given.

    Raises what linear and cross_entropy do, and ValueError for a `chunk_size` below 1.

    >>> x, w = jnp.ones((6, 4)), jnp.zeros((4, 10))
    >>> linear_cross_entropy(x, w, jnp.arange(6), chunk_size=2)
    Array(2.3025851, dtype=float32)
    """
    where = "linear_cross_entropy"
    linear_weight = jnp.asarray(linear_weight)
    if linear_weight.ndim != 2:
        raise ValueError(f"{where}: linear_weight has shape {linear_weight.shape}, expected (in, classes)")
    input = to_weight_dtype(input, linear_weight, where)
    features, classes = linear_weight.shape
    leading = input.shape[:-1]
    soft = jnp.issubdtype(jnp.result_type(target), jnp.floating)
    if not input.ndim or input.shape[-1] != features or jnp.shape(target) != (*leading, *([classes] if soft else [])):
        raise ValueError(
            f"{where}: input has shape {input.shape}, linear_weight {linear_weight.shape} and target "
            f"{jnp.shape(target)}; expected (..., in), (in, classes) and (...) integers or (..., classes) probabilities"
        )
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"{where}: chunk_size={chunk_size}, expected at least 1 row")
    if mask is not None:  # what is masked may be NaN, which 0 times it would carry into the weight's gradient
        input = jnp.where(leading_mask(mask, leading, where)[..., None], input, 0)
    options: dict[str, Any] = {"ignore_index": ignore_index, "label_smoothing": label_smoothing}
    rows = math.prod(leading)
    size = chunk_size or max(1, CHUNK_ELEMENTS // max(classes, 1))
    if rows <= size:
        logits = linear(input, linear_weight, linear_bias)
        return cross_entropy(logits, target, weight, reduction=reduction, mask=mask, **options)

    counted = jnp.ones(leading, bool) if mask is None else leading_mask(mask, leading, where)
    if not soft:
        ids = integer_ids(target, f"{where} target")
        counted &= ~equals(ids, ignore_index)
        in_range(target, classes, f"{where} target", counted=counted, fix=f"{LABEL_FIX}, as does ignore_index=")
    chunks = partial(_chunks, count=-(-rows // size))
    shared = (linear_weight, linear_bias, weight)
    floats = (chunks(input.reshape(rows, features)), chunks(jnp.reshape(target, (rows, classes))) if soft else None)
    fixed = (None if soft else chunks(ids.reshape(rows)), chunks(counted.reshape(rows)))
    if reduction == "none":
        loss = jax.checkpoint(partial(_loss, options, "none"), prevent_cse=False)
        each = jax.lax.map(lambda chunk: loss(shared, *chunk), (floats, fixed))
        return each.T.reshape(-1)[:rows].reshape(leading)
    total = _sum(partial(_loss, options, "sum"), shared, floats, fixed)
    if reduction != "mean":
        return total if reduction == "sum" else reduce(total, reduction, None)
    scale = jnp.ones(leading, total.dtype)
    if weight is not None and not soft:
        scale = jnp.asarray(weight, total.dtype)[jnp.clip(ids, 0, classes - 1)]
    divisor = jnp.where(counted, scale, 0).sum()
    return total / jnp.where(divisor == 0, 1, divisor)


def _chunks(x: jax.Array, count: int) -> jax.Array:
    """Rows as (count, rows of a chunk, ...), padded with zeros; chunk i has rows i, i + count, ….

    So each chunk has its share of every device's rows where these are sharded.
    """
    size = -(-x.shape[0] // count)
    padded = jnp.pad(x, [(0, size * count - x.shape[0])] + [(0, 0)] * (x.ndim - 1))
    return padded.reshape(size, count, *x.shape[1:]).swapaxes(0, 1)


def _loss(options: dict[str, Any], reduction: str, shared: Any, floats: Any, fixed: Any) -> jax.Array:
    """The loss of one chunk."""
    (weight, bias, class_weight), (x, soft), (ids, counted) = shared, floats, fixed
    labels = ids if soft is None else soft
    return cross_entropy(linear(x, weight, bias), labels, class_weight, reduction=reduction, mask=counted, **options)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _sum(f: Callable[..., jax.Array], shared: Any, floats: Any, fixed: Any) -> jax.Array:
    """f(shared, *chunk) summed over the chunks that the leading axes of `floats` and `fixed` count."""
    return jax.lax.map(lambda chunk: f(shared, *chunk), (floats, fixed)).sum()


@partial(_sum.defjvp, symbolic_zeros=True)
def _sum_jvp(f: Callable[..., jax.Array], primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    # The derivative of a sum is a product with its gradient. The gradient comes from the chunk that the value comes
    # from, while its logits are there; reverse mode then only scales it, and forward and second derivatives follow.
    shared, floats, fixed = primals
    leaves, tree = jax.tree.flatten((shared, floats))
    moves = {i: t for i, t in enumerate(jax.tree.leaves(tangents[:2])) if not isinstance(t, SymbolicZero)}
    live = list(moves)
    common = len(jax.tree.leaves(shared))

    def step(sums: list[jax.Array], chunk: tuple[list[jax.Array], Any]) -> tuple[list[jax.Array], Any]:
        own, fixed = chunk

        def loss(values: list[jax.Array]) -> jax.Array:
            every = leaves[:common] + own
            for i, value in zip(live, values, strict=True):
                every[i] = value
            return f(*jax.tree.unflatten(tree, every), fixed)

        every = leaves[:common] + own
        value, grads = jax.value_and_grad(loss)([every[i] for i in live])
        of_shared = [g for i, g in zip(live, grads, strict=True) if i < common]
        of_rows = [g for i, g in zip(live, grads, strict=True) if i >= common]
        return [total + g.astype(total.dtype) for total, g in zip(sums, of_shared, strict=True)], (value, of_rows)

    zeros = [jnp.zeros(leaves[i].shape, jnp.promote_types(leaves[i].dtype, jnp.float32)) for i in live if i < common]
    step = jax.checkpoint(step, prevent_cse=False)
    sums, (values, of_rows) = jax.lax.scan(step, zeros, (leaves[common:], fixed))
    total = values.sum()
    pairs = zip([*sums, *of_rows], moves.values(), strict=True)
    return total, sum((jnp.vdot(g.astype(total.dtype), t.astype(total.dtype)) for g, t in pairs), jnp.zeros_like(total))
