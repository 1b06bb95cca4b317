"""Sizes per axis, and the shapes that a convolution refuses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

IntPerAxis = int | Sequence[int]
Axes = tuple[int, ...]


def per_axis(value: Any, rank: int, name: str, where: str, least: int = 1) -> Axes:
    """`value`, one int or one for each of `rank` axes, as a tuple of `rank` ints that are at least `least`."""
    axes = (value,) * rank if isinstance(value, int) else tuple(value)
    if len(axes) != rank or not all(isinstance(a, int) and not isinstance(a, bool) for a in axes):
        raise ValueError(f"{where}: {name}={value!r}, expected an int or {rank} of them, one for each spatial axis")
    if any(a < least for a in axes):
        raise ValueError(f"{where}: {name}={value!r}, expected at least {least}")
    return axes


def check_rank(weight: jax.Array, rank: int, where: str) -> None:
    """A ValueError unless the weight is one of a convolution over `rank` axes."""
    if weight.ndim != rank + 2:
        raise ValueError(
            f"{where}: weight has shape {weight.shape} with {weight.ndim} axes, expected {rank + 2}: "
            f"({'kernel, ' * rank}in / groups, out)"
        )


def check_shapes(x: jax.Array, weight: jax.Array, groups: Any, where: str) -> None:
    """ValueErrors for ranks, channels and groups of (..., *spatial, in) and (*kernel, in / groups, out)."""
    rank = weight.ndim - 2
    if rank < 1:
        raise ValueError(
            f"{where}: weight has shape {weight.shape}, expected three axes or more, (*kernel, in / groups, out); "
            f"without a kernel axis it is a linear"
        )
    if x.ndim < rank + 1:
        raise ValueError(
            f"{where}: input has shape {x.shape}, expected (..., {'spatial, ' * rank}channels) with at least "
            f"{rank + 1} axes for a weight of shape {weight.shape}, which has {rank} kernel axes"
        )
    if not isinstance(groups, int) or groups < 1:
        raise ValueError(f"{where}: groups={groups!r}, expected an int of at least 1")
    channels, (per_group, out) = x.shape[-1], weight.shape[-2:]
    if channels % groups or out % groups:
        raise ValueError(
            f"{where}: groups={groups} must divide the {channels} channels of the input {x.shape} and the {out} "
            f"out-channels of the weight {weight.shape}"
        )
    if channels != per_group * groups:
        raise ValueError(
            f"{where}: input has shape {x.shape} with {channels} channels in the last axis, expected "
            f"{per_group * groups}: the weight {weight.shape} takes {per_group} channels in each of {groups} groups"
            f"{_layout_hint(x, weight, groups)}"
        )


def _layout_hint(x: jax.Array, weight: jax.Array, groups: int) -> str:
    rank = weight.ndim - 2
    if x.shape[-rank - 1] == weight.shape[-2] * groups:
        axes = "NCDHW"[: 2] + "NCDHW"[5 - rank :]
        return f". The channels are last here: move them there from {axes}, jnp.moveaxis(x, {-rank - 1}, -1)"
    if weight.shape[1] * groups == x.shape[-1]:
        return ". Its second axis fits: PyTorch's weights are (out, in / groups, *kernel), pass it with axes moved"
    return ""


def check_window(size: Axes, kernel: Axes, dilation: Axes, pads: Sequence[tuple[int, int]], where: str) -> None:
    """A ValueError when the (dilated) kernel is larger than the padded input."""
    for n, k, d, (low, high) in zip(size, kernel, dilation, pads, strict=True):
        if n + low + high < d * (k - 1) + 1:
            raise ValueError(
                f"{where}: the kernel {kernel}{f' dilated by {dilation}' if max(dilation) > 1 else ''} is larger than "
                f"the input: spatial axes {size} and padding {tuple(pads)}"
            )
