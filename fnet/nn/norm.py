"""Normalisation layers. All compute in at least float32 and return the dtype of their input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from fnet import functional as F
from fnet import init
from fnet.nn.core import Layer, Param


@dataclass(frozen=True, repr=False)
class BatchNorm(Layer):
    """Each channel normalised over the batch in training, with running statistics otherwise.

    Input ``(N, …, C)``, output the same shape and dtype; parameters ``weight`` (ones) and ``bias`` (zeros) with
    ``affine``; state ``running_mean``, ``running_var`` and ``num_batches_tracked`` with ``track_running_stats``
    (without, the batch normalises in evaluation too). As in PyTorch, the statistics move by ``momentum`` towards the
    new batch's, whose variance is unbiased there and biased in the output; ``momentum=None`` is their plain average.

    ``mask=`` (bool, of the first axes: ``(N,)``, ``(N, T)``) leaves padding out of the statistics. A batch sharded over
    devices has the statistics of the whole of it. Under `jax.vmap` each slice has its own. Training on one value per
    channel is an error.

    >>> import jax, jax.numpy as jnp
    >>> from fnet import nn
    >>> x = jnp.arange(24.0).reshape(4, 2, 3)
    >>> params, state = nn.BatchNorm().init(jax.random.key(0), x)
    >>> y, state = nn.BatchNorm().apply(params, state, x, train=True)
    >>> print(y.shape, state["running_mean"].round(2), state["num_batches_tracked"])
    (4, 2, 3) [1.05 1.15 1.25] 1
    """

    keyless = True

    eps: float = 1e-5
    momentum: float | None = 0.1
    affine: bool = True
    track_running_stats: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self)

    def spec(self, x: Any, mask: Any = None) -> dict[str, Param]:
        return _channel_params(self, x) | (_running_stats(self, x) if self.track_running_stats else {})

    def apply(
        self, params: dict, state: dict, x: Any, key: Any = None, train: bool = False, mask: Any = None
    ) -> tuple[jax.Array, dict]:
        training = train or not self.track_running_stats
        (mean, var), momentum = _read(self, state)
        weight, bias = _affine(self, params)
        y, mean, var = F.batch_norm(x, mean, var, weight, bias, training, momentum, self.eps, mask=mask)
        return y, _written(state, mean, var) if train and self.track_running_stats else state


BatchNorm1d = BatchNorm2d = BatchNorm3d = BatchNorm


@dataclass(frozen=True, repr=False)
class InstanceNorm(Layer):
    """Each channel of each example normalised over its positions.

    Input ``(N, …, C)`` with at least one axis of positions, output the same shape and dtype. Parameters ``weight`` and
    ``bias`` with ``affine``, and `BatchNorm`'s state with ``track_running_stats``, which then normalises in
    evaluation; as in PyTorch, neither by default. Unlike PyTorch's, it counts its batches, so that ``momentum=None``
    is a plain average here too.

    >>> import jax.numpy as jnp
    >>> from fnet import nn
    >>> nn.InstanceNorm()({}, jnp.array([[[1.0], [3.0]]])).round(3).tolist()
    [[[-1.0], [1.0]]]
    """

    keyless = True

    eps: float = 1e-5
    momentum: float | None = 0.1
    affine: bool = False
    track_running_stats: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self)

    def spec(self, x: Any) -> dict[str, Param]:
        return _channel_params(self, x) | (_running_stats(self, x) if self.track_running_stats else {})

    def apply(self, params: dict, state: dict, x: Any, key: Any = None, train: bool = False) -> tuple[jax.Array, dict]:
        own = train or not self.track_running_stats
        (mean, var), momentum = _read(self, state)
        weight, bias = _affine(self, params)
        y, mean, var = F.instance_norm(x, mean, var, weight, bias, own, momentum, self.eps)
        return y, _written(state, mean, var) if train and self.track_running_stats else state


InstanceNorm1d = InstanceNorm2d = InstanceNorm3d = InstanceNorm


@dataclass(frozen=True, repr=False)
class GroupNorm(Layer):
    """Each example normalised over its positions and over each of ``num_groups`` groups of channels.

    Input ``(N, …, C)``, whose first axis is the batch (one example alone, as under `jax.vmap`, needs a first axis of
    1); output the same shape and dtype. Parameters ``weight`` and ``bias``, ``(C,)``, with ``affine``.

    >>> import jax, jax.numpy as jnp
    >>> from fnet import nn
    >>> params, _ = nn.GroupNorm(2).init(jax.random.key(0), jnp.ones((8, 5, 5, 6)))
    >>> params["weight"].shape
    (6,)
    """

    keyless = True

    num_groups: int
    eps: float = 1e-5
    affine: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.num_groups, int) or self.num_groups < 1:
            raise ValueError(f"GroupNorm needs num_groups of at least 1, got {self.num_groups!r}")
        _check(self)

    def spec(self, x: Any) -> dict[str, Param]:
        return _channel_params(self, x)

    def apply(self, params: dict, state: dict, x: Any, key: Any = None, train: bool = False) -> tuple[jax.Array, dict]:
        return F.group_norm(x, self.num_groups, *_affine(self, params), self.eps), state


@dataclass(frozen=True, repr=False)
class LayerNorm(Layer):
    """Each position normalised over its last axis, or over the last axes that ``axes`` names.

    Input ``(…, C)``, any leading axes; output the same shape and dtype. Parameters ``weight`` and ``bias`` of the shape
    of the normalised axes. PyTorch's ``normalized_shape`` is read from the input; ``axes=(-3, -2, -1)`` says how
    many axes it has.

    >>> import jax, jax.numpy as jnp
    >>> from fnet import nn
    >>> params, _ = nn.LayerNorm().init(jax.random.key(0), jnp.ones((8, 5, 16)))
    >>> sorted(params), nn.LayerNorm()(params, jnp.ones((8, 5, 16))).shape
    (['bias', 'weight'], (8, 5, 16))
    """

    keyless = True

    eps: float = 1e-5
    elementwise_affine: bool = True
    bias: bool = True
    axes: int | tuple[int, ...] = -1

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self)
        _check_axes(self)

    def spec(self, x: Any) -> dict[str, Param]:
        shape = _normalized_shape(self, x)
        names = {"weight": init.ones, "bias": init.zeros} if self.bias else {"weight": init.ones}
        return {name: Param(shape, start) for name, start in names.items()} if self.elementwise_affine else {}

    def apply(self, params: dict, state: dict, x: Any, key: Any = None, train: bool = False) -> tuple[jax.Array, dict]:
        weight = params["weight"] if self.elementwise_affine else None
        bias = params["bias"] if self.elementwise_affine and self.bias else None
        return F.layer_norm(x, _normalized_shape(self, x), weight, bias, self.eps), state


@dataclass(frozen=True, repr=False)
class RMSNorm(Layer):
    """Each position divided by the root mean square of its last axis, or of the last axes that ``axes`` names.

    Input ``(…, C)``, any leading axes; output the same shape and dtype. Parameter ``weight``. ``eps=None`` is the
    machine epsilon of float32 (of float64 for float64 input).

    >>> import jax, jax.numpy as jnp
    >>> from fnet import nn
    >>> params, _ = nn.RMSNorm().init(jax.random.key(0), jnp.ones((8, 5, 16)))
    >>> nn.RMSNorm()(params, jnp.full((2, 16), 7.0))[0, :2].round(3)
    Array([1., 1.], dtype=float32)
    """

    keyless = True

    eps: float | None = None
    elementwise_affine: bool = True
    axes: int | tuple[int, ...] = -1

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self)
        _check_axes(self)

    def spec(self, x: Any) -> dict[str, Param]:
        return {"weight": Param(_normalized_shape(self, x), init.ones)} if self.elementwise_affine else {}

    def apply(self, params: dict, state: dict, x: Any, key: Any = None, train: bool = False) -> tuple[jax.Array, dict]:
        weight = params["weight"] if self.elementwise_affine else None
        return F.rms_norm(x, _normalized_shape(self, x), weight, self.eps), state


@dataclass(frozen=True, repr=False)
class LocalResponseNorm(Layer):
    """Each value divided by a power of the mean square of ``size`` neighbouring channels, as AlexNet did.

    >>> import jax.numpy as jnp
    >>> from fnet import nn
    >>> nn.LocalResponseNorm(2, alpha=2.0)({}, jnp.array([1.0, 2.0])).round(3)
    Array([0.595, 0.522], dtype=float32)
    """

    keyless = True

    size: int
    alpha: float = 1e-4
    beta: float = 0.75
    k: float = 1.0

    def apply(self, params: dict, state: dict, x: Any, key: Any = None, train: bool = False) -> tuple[jax.Array, dict]:
        return F.local_response_norm(x, self.size, self.alpha, self.beta, self.k), state


def _check(layer: Any) -> None:
    """A size where PyTorch has one is the first thing that a newcomer writes."""
    name = type(layer).__name__
    number = isinstance(layer.eps, int | float)
    if not (layer.eps is None and name == "RMSNorm") and not (number and 0 <= layer.eps < 1):
        raise ValueError(
            f"{name}'s eps is a small number such as 1e-5, got {layer.eps!r}; sizes are read from the input, "
            f"so PyTorch's {name}(64) is {name}() here"
        )
    momentum = getattr(layer, "momentum", None)
    if momentum is not None and not 0 <= momentum <= 1:
        raise ValueError(f"{name}'s momentum is between 0 and 1, or None for a plain average, got {momentum!r}")


def _check_axes(layer: Any) -> None:
    axes = (layer.axes,) if isinstance(layer.axes, int) else layer.axes
    if not axes or axes != tuple(range(-len(axes), 0)):
        raise ValueError(
            f"{type(layer).__name__} normalises the last axes, counted from the end: axes=-1, (-2, -1), …; got {axes}"
        )
    object.__setattr__(layer, "axes", -1 if axes == (-1,) else axes)


def _normalized_shape(layer: Any, x: Any) -> tuple[int, ...]:
    count = 1 if layer.axes == -1 else len(layer.axes)
    if len(x.shape) < count:
        raise ValueError(f"{layer!r} needs an input of at least {count} axes, got shape {tuple(x.shape)}")
    return tuple(x.shape[-count:])


def _channel_params(layer: Any, x: Any) -> dict[str, Param]:
    if len(x.shape) < 2:
        raise ValueError(f"{layer!r} needs an input (N, …, C) of at least two axes, got shape {tuple(x.shape)}")
    channels = x.shape[-1]
    return {"weight": Param((channels,), init.ones), "bias": Param((channels,), init.zeros)} if layer.affine else {}


def _running_stats(layer: Any, x: Any) -> dict[str, Param]:
    channels = x.shape[-1]
    return {
        "running_mean": Param((channels,), init.zeros, trainable=False),
        "running_var": Param((channels,), init.ones, trainable=False),
        "num_batches_tracked": Param((), init.zeros, dtype="int32", trainable=False),
    }


def _affine(layer: Any, params: dict) -> tuple[Any, Any]:
    return (params["weight"], params["bias"]) if layer.affine else (None, None)


def _read(layer: Any, state: dict) -> tuple[tuple[Any, Any], Any]:
    """The running statistics, and how far the next batch moves them."""
    if not layer.track_running_stats:
        return (None, None), 0.0
    momentum = layer.momentum
    if momentum is None:
        momentum = 1 / (state["num_batches_tracked"] + 1).astype("float32")
    return (state["running_mean"], state["running_var"]), momentum


def _written(state: dict, mean: Any, var: Any) -> dict:
    count = state["num_batches_tracked"] + jnp.ones((), state["num_batches_tracked"].dtype)
    return {**state, "running_mean": mean, "running_var": var, "num_batches_tracked": count}
