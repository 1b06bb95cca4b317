"""The cell of the convolutional LSTM."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from fnet import functional as F
from fnet import init
from fnet.nn.core import Layer, Param


@dataclass(frozen=True, repr=False)
class ConvLSTMCell(Layer):
    """One step of an LSTM whose gates are convolutions; over time, ``nn.RNN(nn.ConvLSTMCell(16))``.

    Input x ``(batch, *spatial, in)``; h and c are ``(batch, *spatial, hidden_channels)``, zeros if left out; the
    output is the new ``(h, c)``. Any number of spatial axes, kept by "SAME" padding; an int ``kernel_size`` is that of
    every axis. ``weight_ih`` is ``(*kernel, in, 4 * hidden_channels)`` with the gates i, f, g, o, ``weight_hh``
    ``(*kernel, hidden_channels, 4 * hidden_channels)``, ``bias`` ``(4 * hidden_channels,)``, drawn as `Conv`'s are.
    Source: Shi et al. 2015, without the peephole connections.

    >>> import jax, jax.numpy as jnp
    >>> from fnet import nn
    >>> model, video = nn.RNN(nn.ConvLSTMCell(4)), jnp.ones((2, 5, 8, 8, 3))
    >>> params, _ = model.init(jax.random.key(0), video)
    >>> model(params, video).shape, params["weight_hh"].shape
    ((2, 5, 8, 8, 4), (3, 3, 4, 16))
    """

    keyless = True

    hidden_channels: int
    kernel_size: int | tuple[int, ...] = 3
    bias: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        sizes = self.kernel_size if isinstance(self.kernel_size, tuple) else (self.kernel_size,)
        if not isinstance(self.hidden_channels, int) or self.hidden_channels < 1:
            raise ValueError(f"ConvLSTMCell needs hidden_channels of at least 1, got {self.hidden_channels!r}")
        if not all(isinstance(size, int) and size >= 1 for size in sizes):
            raise ValueError(f"ConvLSTMCell needs a kernel_size of at least 1, got {self.kernel_size!r}")
        if not isinstance(self.bias, bool):
            raise TypeError(f"ConvLSTMCell's bias is True or False, got {self.bias!r}")

    def spec(self, x: Any, hx: Any = None) -> dict[str, Param]:
        spatial = len(x.shape) - 2
        kernel = self.kernel_size if isinstance(self.kernel_size, tuple) else (self.kernel_size,) * spatial
        if spatial < 1 or len(kernel) != spatial:
            raise ValueError(
                f"ConvLSTMCell needs an input (batch, *spatial, in) with one spatial axis for each axis of its kernel "
                f"{self.kernel_size}, got shape {tuple(x.shape)}"
            )
        wide, channels = 4 * self.hidden_channels, x.shape[-1]
        spec = {
            "weight_ih": Param((*kernel, channels, wide), init.torch_uniform()),
            "weight_hh": Param((*kernel, self.hidden_channels, wide), init.torch_uniform()),
        }
        return spec | ({"bias": Param((wide,), init.torch_uniform(math.prod(kernel) * channels))} if self.bias else {})

    def _weights(self, params: dict) -> dict[str, Any]:
        return {name: params[name] for name in ("weight_ih", "weight_hh", *(["bias"] if self.bias else []))}

    def apply(self, params: dict, state: dict, x: Any, hx: Any = None, key: Any = None, train: bool = False) -> Any:
        return F.conv_lstm_cell(x, hx, **self._weights(params)), state

    def sequence(self, params: dict, x: Any, hx: Any, mask: Any, reverse: bool) -> Any:
        """All steps at once, as `RNN` asks for them: (outputs, last state)."""
        return F.conv_lstm(x, hx, **self._weights(params), mask=mask, reverse=reverse)
