"""Normalisation: statistics over some axes, in at least float32, the result in the dtype of the input.

Every norm here is one function, `_standardize`, with its own derivative. Autodiff of the formulas takes twice as many
passes over the data, and keeps float32 copies of what is 16 bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike


def batch_norm(
    x: ArrayLike,
    running_mean: ArrayLike | None = None,
    running_var: ArrayLike | None = None,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    training: bool = False,
    momentum: ArrayLike = 0.1,
    eps: float = 1e-5,
    *,
    mask: ArrayLike | None = None,
) -> tuple[jax.Array, jax.Array | None, jax.Array | None]:
    """(x - mean) / sqrt(var + eps) * weight + bias for each channel: `(y, running mean, running variance)`.

    Shapes: x (..., C), all others (C,) -> y (..., C). In training, mean and variance are those of the batch over all
    axes but the last, and where running statistics are given, new ones are returned (PyTorch writes them in place):
    `(1 - momentum) * running + momentum * batch`, the variance of the batch unbiased there and biased in y. Otherwise
    the running ones normalise, and are returned as they came.

    `mask` (bool, of the first axes of x: (N,), (N, T)) says which positions count in the statistics; the others are
    normalised like them. A batch with fewer than two counted values leaves running statistics as they were. Statistics
    of a batch sharded over devices are those of the whole batch.

    Source: Ioffe & Szegedy 2015 (arXiv:1502.03167). Raises ValueError for shapes that do not fit, for training on one
    value per channel, and for evaluation without running statistics; TypeError for integer input.

    >>> y, mean, var = batch_norm(jnp.array([[1.0], [3.0]]), jnp.zeros(1), jnp.ones(1), training=True)
    >>> print(y.ravel().round(2), mean, var)
    [-1.  1.] [0.2] [1.1]
    """
    x = _floats(x, "batch_norm", 2)
    given = {"running_mean": running_mean, "running_var": running_var, "weight": weight, "bias": bias}
    mean, var, weight, bias = (_vector(v, x, "batch_norm", name) for name, v in given.items())
    if (mean is None) != (var is None):
        raise ValueError("batch_norm takes running_mean and running_var together, or neither")
    if not training:
        if mean is None or var is None:
            raise ValueError("batch_norm: evaluation (training=False) needs running_mean and running_var")
        return _affine(x, mean, var, weight, bias, eps), mean, var
    over = Over(tuple(range(x.ndim - 1)))
    counted = _counted(mask, x, "batch_norm")
    if x.size <= x.shape[-1]:
        raise ValueError(
            f"batch_norm: expected more than 1 value per channel when training, got input of shape {x.shape}; "
            f"train on larger batches, or normalise with running statistics (train=False)"
        )
    y, batch_mean, batch_var = _standardize(x, _row(weight, x), _row(bias, x), counted, over, eps, True)
    if mean is None or var is None:
        return y, None, None
    count = over.count(x, counted)
    unbiased = batch_var * (count / jnp.maximum(count - 1, 1))
    rate = jnp.where(count > 1, momentum, 0.0)
    return y, _moved(mean, batch_mean, rate), _moved(var, unbiased, rate)


def layer_norm(
    x: ArrayLike,
    normalized_shape: int | Sequence[int],
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    eps: float = 1e-5,
) -> jax.Array:
    """(x - mean) / sqrt(var + eps) * weight + bias, with mean and biased variance over the last axes.

    Shapes: x (..., *normalized_shape), weight and bias of normalized_shape. Source: Ba et al. 2016 (arXiv:1607.06450).
    Raises ValueError for shapes that do not fit, TypeError for integer input.

    >>> layer_norm(jnp.array([1.0, 3.0]), 2).round(3)
    Array([-1.,  1.], dtype=float32)
    """
    x, axes = _last_axes(x, normalized_shape, "layer_norm")
    weight, bias = (_shaped(v, x, axes, "layer_norm", name) for v, name in ((weight, "weight"), (bias, "bias")))
    return _standardize(x, weight, bias, None, Over(axes), eps, True)[0]


def rms_norm(
    x: ArrayLike, normalized_shape: int | Sequence[int], weight: ArrayLike | None = None, eps: float | None = None
) -> jax.Array:
    """x / sqrt(mean(x²) + eps) * weight, with the mean over the last axes.

    Shapes: x (..., *normalized_shape), weight of normalized_shape. `eps=None` is the machine epsilon of the dtype that
    is computed in, float32 or float64. Source: Zhang & Sennrich 2019 (arXiv:1910.07467). Raises ValueError for shapes
    that do not fit, TypeError for integer input.

    >>> rms_norm(jnp.array([5.0, -5.0]), 2)
    Array([ 1., -1.], dtype=float32)
    """
    x, axes = _last_axes(x, normalized_shape, "rms_norm")
    eps = float(jnp.finfo(_wide(x).dtype).eps) if eps is None else eps
    return _standardize(x, _shaped(weight, x, axes, "rms_norm", "weight"), None, None, Over(axes), eps, False)[0]


def group_norm(
    x: ArrayLike,
    num_groups: int,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    eps: float = 1e-5,
) -> jax.Array:
    """(x - mean) / sqrt(var + eps) * weight + bias, with the statistics of each example and group of channels.

    Shapes: x (N, ..., C) with C divisible by num_groups; weight and bias (C,). Source: Wu & He 2018
    (arXiv:1803.08494). Raises ValueError for shapes that do not fit, TypeError for integer input.

    >>> group_norm(jnp.array([[1.0, 3.0, 10.0, 30.0]]), 2).round(3)
    Array([[-1.,  1., -1.,  1.]], dtype=float32)
    """
    x = _floats(x, "group_norm", 2)
    channels = x.shape[-1]
    if num_groups < 1 or channels % num_groups:
        raise ValueError(f"group_norm: num_groups={num_groups} does not divide the {channels} channels of {x.shape}")
    scale, shift = (_row(_vector(v, x, "group_norm", n), x) for v, n in ((weight, "weight"), (bias, "bias")))
    return _standardize(x, scale, shift, None, Over(tuple(range(1, x.ndim - 1)), num_groups), eps, True)[0]


def instance_norm(
    x: ArrayLike,
    running_mean: ArrayLike | None = None,
    running_var: ArrayLike | None = None,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> tuple[jax.Array, jax.Array | None, jax.Array | None]:
    """Each channel of each example normalised over its positions: `(y, running mean, running variance)`.

    Shapes: x (N, ..., C) with at least one axis between, all others (C,). Running statistics, where given, move towards
    the average over the batch of the examples' means and unbiased variances; they normalise instead of the input's own
    with `use_input_stats=False`. Source: Ulyanov et al. 2016 (arXiv:1607.08022). Raises ValueError for shapes that
    do not fit and for one position per channel, TypeError for integer input.

    >>> instance_norm(jnp.array([[[1.0], [3.0]]]))[0].round(3).tolist()
    [[[-1.0], [1.0]]]
    """
    x = _floats(x, "instance_norm", 3)
    given = {"running_mean": running_mean, "running_var": running_var, "weight": weight, "bias": bias}
    mean, var, weight, bias = (_vector(v, x, "instance_norm", name) for name, v in given.items())
    if (mean is None) != (var is None):
        raise ValueError("instance_norm takes running_mean and running_var together, or neither")
    if not use_input_stats:
        if mean is None or var is None:
            raise ValueError("instance_norm: use_input_stats=False needs running_mean and running_var")
        return _affine(x, mean, var, weight, bias, eps), mean, var
    axes = tuple(range(1, x.ndim - 1))
    count = int(np.prod([x.shape[axis] for axis in axes]))
    if count <= 1:
        raise ValueError(f"instance_norm: expected more than 1 position per channel, got input of shape {x.shape}")
    y, own_mean, own_var = _standardize(x, _row(weight, x), _row(bias, x), None, Over(axes), eps, True)
    if mean is None or var is None:
        return y, None, None
    batch_mean, batch_var = (v.reshape(x.shape[0], -1).mean(0) for v in (own_mean, own_var))
    return y, _moved(mean, batch_mean, momentum), _moved(var, batch_var * (count / (count - 1)), momentum)


def local_response_norm(x: ArrayLike, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> jax.Array:
    """x / (k + alpha * mean of x² over `size` neighbouring channels) ** beta; channels past the ends count as 0.

    Shapes: x (..., C), kept. Source: Krizhevsky et al. 2012, section 3.3, with PyTorch's alpha, which is divided by
    `size`. Raises ValueError for a size below 1, TypeError for integer input.

    >>> local_response_norm(jnp.array([1.0, 2.0]), 2, alpha=2.0).round(3)
    Array([0.595, 0.522], dtype=float32)
    """
    if size < 1:
        raise ValueError(f"local_response_norm: size is a number of channels, at least 1, got {size}")
    x = _floats(x, "local_response_norm", 1)
    wide = _wide(x)
    squares = jnp.pad(wide * wide, [(0, 0)] * (x.ndim - 1) + [(size // 2, (size - 1) // 2)])
    total = sum(squares[..., start : start + x.shape[-1]] for start in range(size))
    return (wide / (k + alpha * total / size) ** beta).astype(x.dtype)


@partial(jax.custom_jvp, nondiff_argnums=(4, 5, 6, 7))
def _standardize(
    x: Any, scale: Any, shift: Any, mask: Any, over: Over, eps: float, center: bool, with_gradients: bool = False
) -> Any:
    """`(x̂ * scale + shift, mean, variance)` with x̂ = (x - mean) / sqrt(variance + eps).

    Mean and (biased) variance are taken `over` axes, which they keep with size 1, and where `mask` is True; scale,
    shift and mask broadcast against x, None where absent. Without `center`, mean is None and the variance mean(x²).
    """
    wide = _wide(x)
    mean, var = over.moments(wide, mask, with_gradients) if center else (None, over.mean(wide * wide, mask))
    centered = wide if mean is None else wide - mean
    y = centered * (jax.lax.rsqrt(var + eps) if scale is None else jax.lax.rsqrt(var + eps) * scale)
    y = y if shift is None else y + shift
    return y.astype(x.dtype), mean, var


@_standardize.defjvp
def _standardize_jvp(over: Over, eps: float, center: bool, _: bool, primals: Any, tangents: Any) -> Any:
    """With E the mean over the axes, dx̂ = (dx - E[dx] - x̂ E[x̂ dx]) / sqrt(variance + eps).

    `jax.checkpoint` makes x̂ anew in the backward pass, from x in its own dtype, where else it would be kept.
    """
    x, scale, shift, mask = primals
    y, mean, var = _standardize(x, scale, shift, mask, over, eps, center, True)
    inverse = jax.lax.rsqrt(var + eps)
    tangent = jax.checkpoint(partial(_tangent, over), prevent_cse=False)
    return (y, mean, var), tangent(x, scale, mean, inverse, mask, tangents[:3])


def _tangent(over: Over, x: Any, scale: Any, mean: Any, inverse: Any, mask: Any, tangents: Any) -> Any:
    dx, dscale, dshift = tangents
    # One x - mean for the sums and one for the result: XLA would else see that they are equal, and write it to memory.
    again, centered = (_wide(x) if m is None else _wide(x) - m for m in (mean, jax.lax.optimization_barrier(mean)))
    dx_wide = _wide(dx)
    dmean = None if mean is None else over.mean(dx_wide, mask)
    along = inverse * over.mean(again * dx_wide, mask)
    # a dx + (dshift - a E[dx]) + x̂ (dscale - a E[x̂ dx]): its transpose sums dy and x̂ dy once, for all three.
    a = inverse if scale is None else inverse * scale
    offset = _sum(dshift, None if dmean is None else over.times(-inverse * dmean, scale))
    slope = _sum(None if scale is None else dscale, over.times(-inverse * along, scale))
    dy = _sum(a * dx_wide + over.line(centered, inverse, slope), offset)
    return dy.astype(x.dtype), dmean, 2 * along / inverse


def _sum(a: Any, b: Any) -> Any:
    return b if a is None else a if b is None else a + b


@dataclass(frozen=True)
class Over:
    """What statistics are taken over: axes, and with `groups` also the channels of each of so many groups."""

    axes: tuple[int, ...]
    groups: int | None = None

    def mean(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        """The mean of the entries that count, with size 1 on the axes, and equal for the channels of a group."""
        if mask is None:
            mean = x.mean(self.axes, keepdims=True)
        else:
            mean = jnp.where(mask, x, 0).sum(self.axes, keepdims=True) / jnp.maximum(self.count(x, mask), 1)
        if self.groups is None:
            return mean
        grouped = mean.reshape(*mean.shape[:-1], self.groups, mean.shape[-1] // self.groups)
        return jnp.broadcast_to(grouped.mean(-1, keepdims=True), grouped.shape).reshape(mean.shape)

    def moments(self, x: jax.Array, mask: jax.Array | None, with_gradients: bool) -> tuple[jax.Array, jax.Array]:
        """The mean and the variance, with size 1 on the axes."""
        mean = self.mean(x, mask)

        def exact(x: jax.Array, mean: jax.Array, var: jax.Array | None) -> jax.Array:
            return self.mean((x - mean) * (x - mean), mask)

        # Over the last axis XLA on CPU makes one kernel of all the forward, unless x - mean has more users.
        if not _one_pass_is_faster() or (x.ndim - 1 in self.axes and not with_gradients):
            return mean, exact(x, mean, None)
        # E[x²] - E[x]² needs no second pass, and loses digits where the mean is large beside the deviation.
        var = self.mean(x * x, mask) - mean * mean
        fits = (mean * mean <= 4 * var).all()
        return mean, jax.lax.cond(fits, lambda x, mean, var: var, exact, x, mean, var)

    def count(self, x: jax.Array, mask: jax.Array | None) -> Any:
        """How many entries of x each mean over the axes counts."""
        if mask is None:
            return float(np.prod([x.shape[axis] for axis in self.axes]))
        repeats = np.prod([x.shape[axis] for axis in self.axes if mask.shape[axis] == 1])
        return mask.sum().astype(jnp.promote_types(x.dtype, jnp.float32)) * float(repeats)

    def line(self, centered: jax.Array, inverse: jax.Array, slope: jax.Array) -> jax.Array:
        """x̂ slope, whose transpose sums x̂ dy: on CPU the last of several axes first, in two thirds of the time."""
        if centered.ndim - 1 in self.axes:
            return centered * inverse * slope
        slope, first = inverse * slope, self.axes[:-1]
        if first and 0 not in first and _dots_are_faster():
            shape = [centered.shape[axis] if axis in first else size for axis, size in enumerate(slope.shape)]
            slope = jax.lax.optimization_barrier(jnp.broadcast_to(slope, shape))
        return centered * slope

    def times(self, statistic: jax.Array, scale: jax.Array | None) -> jax.Array:
        """A statistic times the scale: where that varies along the axes an outer product, on CPU by `dot_general`.

        The transpose of this is a product of a matrix and a vector. Of the same product and sum written with a
        broadcast, XLA on CPU writes the broadcast to memory.
        """
        if scale is None:
            return statistic
        if all(scale.shape[axis] == 1 for axis in self.axes) or not _dots_are_faster():
            return statistic * scale
        kept = statistic.ndim - len(self.axes)
        lead, last = statistic.shape[:kept], scale.shape[kept:]
        row = scale.reshape(1, -1).astype(statistic.dtype)
        outer = jax.lax.dot_general(statistic.reshape(*lead, 1), row, (((kept,), (0,)), ((), ())), precision="highest")
        return outer.reshape(*lead, *last)


def _dots_are_faster() -> bool:
    """Whether sums over the last axes against a vector are better matrix products; on GPU and TPU XLA fuses them."""
    return jax.default_backend() == "cpu"


def _one_pass_is_faster() -> bool:
    """Whether to sum x and x² of each channel at once, and to look whether that was enough: on CPU, where it makes
    the forward up to 1.6x faster. On GPU and TPU a branch costs more."""
    return jax.default_backend() == "cpu"


def _affine(x: jax.Array, mean: jax.Array, var: jax.Array, weight: Any, bias: Any, eps: float) -> jax.Array:
    """x normalised by given statistics."""
    scale = jax.lax.rsqrt(_wide(var) + eps)
    scale = scale if weight is None else scale * weight
    y = (_wide(x) - _row(mean, x)) * _row(scale, x)
    return (y if bias is None else y + _row(bias, x)).astype(x.dtype)


def _moved(running: jax.Array, batch: jax.Array, rate: ArrayLike) -> jax.Array:
    """The running statistic after a batch, in its own dtype; no gradient flows into it."""
    wide = _wide(running)
    step = rate * (jax.lax.stop_gradient(batch).reshape(running.shape) - wide)
    return (wide + step).astype(running.dtype)


def _wide(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _row(vector: Any, x: jax.Array) -> Any:
    """A vector over channels with the rank of x, as implicit rank promotion may be off."""
    return None if vector is None else vector.reshape(*(1,) * (x.ndim - 1), -1)


def _floats(x: ArrayLike, where: str, axes: int) -> jax.Array:
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(
            f"{where}: got {x.dtype} input of shape {x.shape}, and normalises real floats; scale integers first: "
            f"x / 255, or data.transforms.ToFloat() for bytes"
        )
    if x.ndim < axes:
        names = {1: "(..., C)", 2: "(N, ..., C)", 3: "(N, ..., C) with positions between"}[axes]
        raise ValueError(f"{where}: input has shape {x.shape}, expected at least {axes} axes, {names}")
    return x


def _vector(value: ArrayLike | None, x: jax.Array, where: str, name: str) -> jax.Array | None:
    if value is None:
        return None
    value = jnp.asarray(value)
    if value.shape != x.shape[-1:]:
        raise ValueError(
            f"{where}: {name} has shape {value.shape}, expected {x.shape[-1:]}, one value for each channel (the last "
            f"axis) of the input {x.shape}"
        )
    return value


def _counted(mask: ArrayLike | None, x: jax.Array, where: str) -> jax.Array | None:
    if mask is None:
        return None
    mask = jnp.asarray(mask)
    if mask.dtype != bool or not mask.ndim or mask.shape != x.shape[:-1][: mask.ndim]:
        raise ValueError(
            f"{where}: mask is {mask.dtype} of shape {mask.shape}, expected bool of the first axes of the input "
            f"{x.shape}, its channels not among them: {x.shape[:1]} for whole examples"
        )
    return mask.reshape(*mask.shape, *(1,) * (x.ndim - mask.ndim))


def _last_axes(x: ArrayLike, shape: int | Sequence[int], where: str) -> tuple[jax.Array, tuple[int, ...]]:
    x = _floats(x, where, 1)
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    if not shape or x.shape[-len(shape) :] != shape:
        raise ValueError(f"{where}: normalized_shape={shape} is not how the input's shape {x.shape} ends")
    return x, tuple(range(x.ndim - len(shape), x.ndim))


def _shaped(value: ArrayLike | None, x: jax.Array, axes: tuple[int, ...], where: str, name: str) -> jax.Array | None:
    if value is None:
        return None
    value = jnp.asarray(value)
    if value.shape != x.shape[-len(axes) :]:
        raise ValueError(
            f"{where}: {name} has shape {value.shape}, expected the normalized_shape {x.shape[-len(axes) :]}"
        )
    return value.reshape(*(1,) * (x.ndim - len(axes)), *value.shape)
