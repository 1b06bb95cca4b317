"""Convolutions and their transposes as layers, and the windows they are made of."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any, ClassVar

import jax

from fnet import functional as F
from fnet import init
from fnet.nn.core import Layer, Param

PerAxis = int | tuple[int, ...]


@dataclass(frozen=True, repr=False)
class Conv(Layer):
    """`F.conv` with a weight of its own: over 1, 2, 3 or more axes, by the rank of the input at init.

    Input ``(batch, *spatial, in)`` at init; later any number of axes may stand before the spatial ones, none included.
    Output ``(…, *spatial', out_channels)``. ``weight`` is ``(*kernel, in / groups, out_channels)`` (HWIO), ``bias``
    ``(out_channels,)``. An int ``kernel_size`` is that of every axis. ``padding`` is an int, ints, pairs or one of
    "SAME", "VALID", "CAUSAL", as in `F.conv`; ``padding_mode`` "zeros", "reflect", "replicate" or "circular".
    ``groups=in`` is a depthwise convolution. Arguments, defaults and initialisation are PyTorch's: weight and bias
    uniform in ±1/√(in / groups · prod(kernel)). Computes in the weight's dtype.

    >>> import jax, jax.numpy as jnp
    >>> from fnet import nn
    >>> params, state = nn.Conv(16, 3, padding=1).init(jax.random.key(0), jnp.ones((8, 28, 28, 1)))
    >>> params["weight"].shape, nn.Conv(16, 3, padding=1)(params, jnp.ones((28, 28, 1))).shape
    ((3, 3, 1, 16), (28, 28, 16))
    """

    keyless = True
    rank: ClassVar[int | None] = None  # the number of spatial axes, where the name fixes it

    out_channels: int
    kernel_size: PerAxis
    stride: PerAxis = 1
    padding: Any = 0
    dilation: PerAxis = 1
    groups: int = 1
    bias: bool = True
    padding_mode: str = "zeros"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self)

    def spec(self, x: Any) -> dict[str, Param]:
        shape = _weight_shape(self, x)
        return _params(shape, math.prod(shape[:-1]), self.bias)

    def apply(self, params: dict, state: dict, x: Any, key: Any = None, train: bool = False) -> tuple[jax.Array, dict]:
        bias = params["bias"] if self.bias else None
        out = F.conv(
            x, params["weight"], bias, self.stride, self.padding, self.dilation, self.groups,
            padding_mode=self.padding_mode,
        )  # fmt: skip
        return out, state


class Conv1d(Conv):
    """`Conv` over one spatial axis: input ``(…, length, in)``; at init without a batch axis too.

    >>> import jax, jax.numpy as jnp
    >>> from fnet import nn
    >>> params, state = nn.Conv1d(16, 5, padding="CAUSAL").init(jax.random.key(0), jnp.ones((8, 100, 3)))
    >>> params["weight"].shape
    (5, 3, 16)
    """

    rank = 1


class Conv2d(Conv):
    """`Conv` over two spatial axes: input ``(…, height, width, in)``; at init without a batch axis too.

    >>> import jax, jax.numpy as jnp
    >>> from fnet import nn
    >>> params, state = nn.Conv2d(16, 3).init(jax.random.key(0), jnp.ones((28, 28, 3)))
    >>> params["weight"].shape
    (3, 3, 3, 16)
    """

    rank = 2


class Conv3d(Conv):
    """`Conv` over three spatial axes: input ``(…, depth, height, width, in)``; at init without a batch axis too.

    >>> import jax, jax.numpy as jnp
    >>> from fnet import nn
    >>> params, state = nn.Conv3d(16, 3).init(jax.random.key(0), jnp.ones((2, 8, 8, 8, 3)))
    >>> params["weight"].shape
    (3, 3, 3, 3, 16)
    """

    rank = 3


@dataclass(frozen=True, repr=False)
class ConvTranspose(Layer):
    """`F.conv_transpose` with a weight of its own: the layer that enlarges, over as many axes as the input has.

    Input ``(batch, *spatial, in)`` at init; later any number of axes may stand before the spatial ones. Output
    ``(…, *spatial', out_channels)``; ``weight`` is ``(*kernel, in / groups, out_channels)``, which is PyTorch's
    mirrored in space and moved as `F.conv_transpose` says. Arguments and defaults are PyTorch's, and so is the
    initialisation: uniform in ±1/√(out_channels / groups · prod(kernel)), of the outputs.

    >>> import jax, jax.numpy as jnp
    >>> from fnet import nn
    >>> up = nn.ConvTranspose(3, 4, stride=2, padding=1)
    >>> params, state = up.init(jax.random.key(0), jnp.ones((8, 7, 7, 16)))
    >>> params["weight"].shape, up(params, jnp.ones((8, 7, 7, 16))).shape
    ((4, 4, 16, 3), (8, 14, 14, 3))
    """

    keyless = True
    rank: ClassVar[int | None] = None

    out_channels: int
    kernel_size: PerAxis
    stride: PerAxis = 1
    padding: PerAxis = 0
    output_padding: PerAxis = 0
    groups: int = 1
    bias: bool = True
    dilation: PerAxis = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self)

    def spec(self, x: Any) -> dict[str, Param]:
        shape = _weight_shape(self, x)
        return _params(shape, math.prod(shape[:-2]) * self.out_channels // self.groups, self.bias)

    def apply(self, params: dict, state: dict, x: Any, key: Any = None, train: bool = False) -> tuple[jax.Array, dict]:
        bias = params["bias"] if self.bias else None
        out = F.conv_transpose(
            x, params["weight"], bias, self.stride, self.padding, self.output_padding, self.groups, self.dilation
        )
        return out, state


class ConvTranspose1d(ConvTranspose):
    """`ConvTranspose` over one spatial axis: input ``(…, length, in)``; at init without a batch axis too.

    >>> import jax, jax.numpy as jnp
    >>> from fnet import nn
    >>> params, state = nn.ConvTranspose1d(3, 2, stride=2).init(jax.random.key(0), jnp.ones((8, 50, 16)))
    >>> params["weight"].shape
    (2, 16, 3)
    """

    rank = 1


class ConvTranspose2d(ConvTranspose):
    """`ConvTranspose` over two spatial axes: input ``(…, height, width, in)``; at init without a batch axis too.

    >>> import jax, jax.numpy as jnp
    >>> from fnet import nn
    >>> params, state = nn.ConvTranspose2d(3, 2, stride=2).init(jax.random.key(0), jnp.ones((8, 7, 7, 16)))
    >>> params["weight"].shape
    (2, 2, 16, 3)
    """

    rank = 2


class ConvTranspose3d(ConvTranspose):
    """`ConvTranspose` over three spatial axes: input ``(…, depth, height, width, in)``; at init also without a batch.

    >>> import jax, jax.numpy as jnp
    >>> from fnet import nn
    >>> params, state = nn.ConvTranspose3d(3, 2, stride=2).init(jax.random.key(0), jnp.ones((2, 4, 4, 4, 8)))
    >>> params["weight"].shape
    (2, 2, 2, 8, 3)
    """

    rank = 3


@dataclass(frozen=True, repr=False)
class Unfold(Layer):
    """`F.unfold`: the windows of ``(…, *spatial, channels)`` as rows ``(…, windows, channels · prod(kernel_size))``.

    >>> import jax.numpy as jnp
    >>> from fnet import nn
    >>> nn.Unfold(4, stride=4)({}, jnp.ones((8, 28, 28, 3))).shape
    (8, 49, 48)
    """

    keyless = True

    kernel_size: PerAxis
    dilation: PerAxis = 1
    padding: PerAxis = 0
    stride: PerAxis = 1

    def apply(self, params: dict, state: dict, x: Any, key: Any = None, train: bool = False) -> tuple[jax.Array, dict]:
        return F.unfold(x, self.kernel_size, self.dilation, self.padding, self.stride), state


@dataclass(frozen=True, repr=False)
class Fold(Layer):
    """`F.fold`: rows ``(…, windows, channels · prod(kernel_size))`` summed into ``(…, *output_size, channels)``.

    >>> import jax.numpy as jnp
    >>> from fnet import nn
    >>> nn.Fold((28, 28), 4, stride=4)({}, jnp.ones((8, 49, 48))).shape
    (8, 28, 28, 3)
    """

    keyless = True

    output_size: PerAxis
    kernel_size: PerAxis
    dilation: PerAxis = 1
    padding: PerAxis = 0
    stride: PerAxis = 1

    def apply(self, params: dict, state: dict, x: Any, key: Any = None, train: bool = False) -> tuple[jax.Array, dict]:
        return F.fold(x, self.output_size, self.kernel_size, self.dilation, self.padding, self.stride), state


def _check(layer: Conv | ConvTranspose) -> None:
    name = type(layer).__name__
    if not isinstance(layer.out_channels, int) or layer.out_channels < 1:
        raise ValueError(f"{name} needs out_channels of at least 1, got {layer.out_channels!r}")
    sizes = layer.kernel_size if isinstance(layer.kernel_size, tuple) else (layer.kernel_size,)
    if not sizes or not all(isinstance(size, int) and size >= 1 for size in sizes):
        raise ValueError(f"{name} needs a kernel_size of at least 1 in each axis, got {layer.kernel_size!r}")
    if layer.rank is not None and isinstance(layer.kernel_size, tuple) and len(sizes) != layer.rank:
        raise ValueError(f"{name} has {layer.rank} spatial axes, got kernel_size={layer.kernel_size!r}")
    if not isinstance(layer.groups, int) or layer.groups < 1 or layer.out_channels % layer.groups:
        raise ValueError(
            f"{name}: groups={layer.groups!r} must be an int that divides out_channels={layer.out_channels}"
        )
    if not isinstance(layer.bias, bool):
        raise TypeError(
            f"{name}'s bias is True or False, got {layer.bias!r}; the input's channels are read from the data, so "
            f"PyTorch's {name}(in, out, kernel) is {name}(out, kernel) here"
        )


def _weight_shape(layer: Conv | ConvTranspose, x: Any) -> tuple[int, ...]:
    name = type(layer).__name__
    kernel = layer.kernel_size
    rank = layer.rank or (len(kernel) if isinstance(kernel, tuple) else len(x.shape) - 2)
    if layer.rank is None and len(x.shape) != rank + 2:
        raise ValueError(
            f"{name} got an input of shape {tuple(x.shape)}, expected (batch, *spatial, channels) with "
            f"{'at least one spatial axis' if isinstance(kernel, int) else f'{rank} spatial axes for {kernel=}'}; "
            f"Conv1d, Conv2d and Conv3d fix the number of axes"
        )
    if rank < 1 or len(x.shape) < rank + 1:
        raise ValueError(
            f"{name} got an input of shape {tuple(x.shape)}, expected (…, *spatial, channels) with "
            f"{max(rank, 1)} spatial axes"
        )
    channels = x.shape[-1]
    if channels % layer.groups:
        raise ValueError(f"{name}: groups={layer.groups} must divide the {channels} channels of {tuple(x.shape)}")
    sizes = kernel if isinstance(kernel, tuple) else (kernel,) * rank
    _refuse_pytorchs_order(layer, channels)
    _warn_of_layout(layer, tuple(x.shape))
    too_large = isinstance(layer, Conv) and layer.padding == 0 and min(sizes) > max(x.shape[-rank - 1 : -1])
    if too_large and layer.out_channels == channels:
        raise ValueError(
            f"{name} got a kernel of {sizes} for an input of shape {tuple(x.shape)}. The input's channels are read "
            f"from the data: PyTorch's {name}(in, out, kernel) is {name}(out, kernel) here"
        )
    return (*sizes, channels // layer.groups, layer.out_channels)


def _refuse_pytorchs_order(layer: Conv | ConvTranspose, channels: int) -> None:
    """Refuse PyTorch's Conv2d(3, 64, 7): from a colour or two to as many, with a step of a size that kernels have."""
    size, step = layer.kernel_size, layer.stride
    name, plain = type(layer).__name__, isinstance(size, int) and isinstance(step, int) and layer.groups == 1
    if plain and layer.out_channels == channels and size >= 32 and isinstance(layer, ConvTranspose):  # type: ignore[operator]
        raise ValueError(
            f"{name} got out_channels={channels} and kernel_size={size} for an input of {channels} channels. These are "
            f"read from the data: PyTorch's {name}({channels}, {size}, {step}) is {name}({size}, {step}) here. If a "
            f"kernel of {size} is meant, give it as a tuple"
        )
    if plain and layer.out_channels == channels <= 4 and 2 < step < size:  # type: ignore[operator]
        raise ValueError(
            f"{name} got out_channels={channels}, kernel_size={size} and stride={step} for an input of {channels} "
            f"channels. These are read from the data: PyTorch's {name}({channels}, {size}, {step}) is "
            f"{name}({size}, {step}) here. If a stride of {step} is meant, give kernel_size as a tuple"
        )


def _params(shape: tuple[int, ...], fan_in: int, bias: bool) -> dict[str, Param]:
    draw = init.torch_uniform(fan_in)
    spec = {"weight": Param(shape, draw)}
    return spec | {"bias": Param(shape[-1:], draw)} if bias else spec


def _warn_of_layout(layer: Conv | ConvTranspose, shape: tuple[int, ...]) -> None:
    """Say what colour pictures in PyTorch's layout are taken for: nothing would fail."""
    if layer.rank == 2 and len(shape) == 4 and shape[1] == 3 and shape[2] == shape[3] > 16:
        name = type(layer).__name__
        warnings.warn(
            f"{name} takes an input of shape {shape} for images 3 pixels high with {shape[3]} channels; "
            "if channels are first, jnp.moveaxis(x, 1, -1) puts them last",
            stacklevel=2,
        )
