"""How pooling cuts axes into windows: which axes, where windows begin, how many there are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import numpy as np

Sizes: TypeAlias = int | Sequence[int]


@dataclass(frozen=True)
class Window:
    """How one axis is cut into windows."""

    axis: int
    size: int  # of the axis
    kernel: int
    stride: int
    padding: int  # before the axis and, but for what ceil_mode adds or the stride leaves over, after it
    dilation: int
    out: int  # number of windows

    @property
    def pads(self) -> tuple[int, int]:
        """What to add before and after the axis (or to cut off where negative), so that the windows just cover it."""
        covered = (self.out - 1) * self.stride + self.dilation * (self.kernel - 1) + 1
        return self.padding, covered - self.size - self.padding

    @property
    def tiles(self) -> bool:
        """Whether the windows lie side by side."""
        return self.stride == self.kernel and self.dilation == 1

    def counts(self, include_pad: bool) -> np.ndarray:
        """How many values each window averages: PyTorch counts padding, and never what ceil_mode adds beyond it."""
        start = np.arange(self.out) * self.stride - self.padding
        end = np.minimum(start + self.kernel, self.size + self.padding)
        return end - start if include_pad else np.minimum(end, self.size) - np.maximum(start, 0)


def windows_of(
    where: str, x: jax.Array, kernel_size: Sizes, stride: Any, padding: Sizes, dilation: Sizes, ceil_mode: bool
) -> list[Window]:
    given = {"kernel_size": kernel_size, "stride": stride, "padding": padding, "dilation": dilation}
    lengths = {len(value) for value in given.values() if isinstance(value, Sequence)}
    rank = lengths.pop() if lengths else x.ndim - 2
    if lengths:
        shown = ", ".join(f"{name}={value}" for name, value in given.items() if isinstance(value, Sequence))
        raise ValueError(f"{where}: sizes for different numbers of axes: {shown}")
    if rank < 1 or x.ndim < rank + 1:
        raise ValueError(
            f"{where}: input has shape {x.shape}, expected (..., *spatial, C) with {max(rank, 1)} spatial axes"
            + ("" if rank >= 1 else "; a plain kernel_size takes (N, ..., C), so without a batch axis give a tuple")
        )
    kernels, paddings, dilations = (each(value, rank) for value in (kernel_size, padding, dilation))
    strides = kernels if stride is None else each(stride, rank)
    windows = []
    for index, (kernel, step, pad, spread) in enumerate(zip(kernels, strides, paddings, dilations, strict=True)):
        axis = x.ndim - 1 - rank + index
        if min(kernel, step, spread) < 1 or not 0 <= pad <= (spread * (kernel - 1) + 1) // 2:
            raise ValueError(
                f"{where}: kernel_size={kernel}, stride={step} and dilation={spread} are at least 1, and "
                f"padding={pad} is at most half of the window"
            )
        room = x.shape[axis] + 2 * pad - spread * (kernel - 1) - 1
        out = (-(-room // step) if ceil_mode else room // step) + 1
        if ceil_mode and (out - 1) * step >= x.shape[axis] + pad:
            out -= 1  # the last window would begin in the padding
        if out < 1:
            raise ValueError(
                f"{where}: axis {axis} of the input {x.shape} is too short for a window of "
                f"{spread * (kernel - 1) + 1} with padding={pad}"
            )
        windows.append(Window(axis, x.shape[axis], kernel, step, pad, spread, out))
    return windows


def each(value: Any, rank: int) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, Sequence) else (value,) * rank
