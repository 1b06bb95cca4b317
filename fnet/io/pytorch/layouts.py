"""How each kind of layer holds its arrays in PyTorch, and the way between the two.

fnet's arrays have JAX's layouts: (in, out) where PyTorch has (out, in), HWIO where it has OIHW; names are the same
but for attention, whose three projections PyTorch packs into one. A layer of a kind that is not here has, name by name,
the same arrays in PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fnet import nn

Arrays = tuple[np.ndarray, ...]
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Weight:
    """One array of PyTorch, and the one or more of fnet that hold its numbers; names are relative to the layer."""

    theirs: str
    ours: tuple[str, ...]
    take: Callable[[np.ndarray], Arrays]  # from PyTorch's array to fnet's
    give: Callable[[Arrays], np.ndarray]  # and back


def layout_of(layer: Any, shapes: Shapes, there: Container[str]) -> Iterator[Weight]:
    """The arrays of one layer, whose own are ``shapes`` by name; ``there`` says which names PyTorch's side has."""
    if isinstance(layer, nn.MultiheadAttention):
        yield from _attention(shapes, there)
        return
    for name in shapes:
        yield _same(name, *_axes(layer, name))


def _axes(layer: Any, name: str) -> tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray]]:
    """How an array turns from PyTorch's axes to fnet's, and back."""
    if isinstance(layer, nn.Linear | nn.LinearLike) and name == "weight":
        return np.transpose, np.transpose
    if isinstance(layer, nn.RNN | nn.LSTM | nn.GRU | nn.ElmanRNN | nn.RNNCell | nn.LSTMCell | nn.GRUCell):
        return (np.transpose, np.transpose) if name.startswith("weight_") else (_as_is, _as_is)
    if isinstance(layer, nn.SwiGLU | nn.GEGLU | nn.MoE) and name.endswith(".weight"):
        return np.transpose, np.transpose
    if isinstance(layer, nn.Bilinear) and name == "weight":
        return lambda w: np.moveaxis(w, 0, -1), lambda w: np.moveaxis(w, -1, 0)
    if isinstance(layer, nn.Conv) and name == "weight":
        return _kernel, _kernel_back
    if isinstance(layer, nn.ConvTranspose) and name == "weight":
        groups = layer.groups
        return lambda w: _spread_kernel(w, groups), lambda w: _spread_kernel_back(w, groups)
    shape = getattr(layer.parts.get(name), "torch_shape", None) if isinstance(layer, nn.Model) else None
    if shape is not None:  # axes of one, which from_torch drops for any array
        return _as_is, lambda w: w.reshape(shape)
    return _as_is, _as_is


def _same(
    name: str, take: Callable[[np.ndarray], np.ndarray], give: Callable[[np.ndarray], np.ndarray], theirs: str = ""
) -> Weight:
    return Weight(theirs or name, (name,), lambda w: (take(w),), lambda arrays: give(arrays[0]))


def _as_is(w: np.ndarray) -> np.ndarray:
    return w


def _kernel(w: np.ndarray) -> np.ndarray:
    """OI… to …IO."""
    return np.moveaxis(w, (0, 1), (-1, -2))


def _kernel_back(w: np.ndarray) -> np.ndarray:
    return np.moveaxis(w, (-1, -2), (0, 1))


def _spread_kernel(w: np.ndarray, groups: int) -> np.ndarray:
    """A transposed convolution's (in, out / groups, …) to (…, in / groups, out), mirrored in space."""
    n_in, n_out, *kernel = w.shape
    w = np.flip(w, tuple(range(2, w.ndim))).reshape(groups, n_in // groups, n_out, *kernel)
    return np.moveaxis(w, (1, 0, 2), (-3, -2, -1)).reshape(*kernel, n_in // groups, groups * n_out)


def _spread_kernel_back(w: np.ndarray, groups: int) -> np.ndarray:
    *kernel, n_in, n_out = w.shape
    w = np.moveaxis(w.reshape(*kernel, n_in, groups, n_out // groups), (-3, -2, -1), (1, 0, 2))
    return np.flip(w.reshape(groups * n_in, n_out // groups, *kernel), tuple(range(2, 2 + len(kernel))))


PROJECTIONS = ("q_proj", "k_proj", "v_proj")


def _attention(shapes: Shapes, there: Container[str]) -> Iterator[Weight]:
    """The packed in_proj of torch.nn.MultiheadAttention, or projections of their own where the widths differ."""
    weights, biases = ([f"{name}.{kind}" for name in PROJECTIONS] for kind in ("weight", "bias"))
    separate = f"{weights[0]}" in there  # as many other models name them
    packed = len({shapes[name] for name in weights}) == 1
    if separate:
        yield from (_same(name, np.transpose, np.transpose) for name in weights)
    elif packed:
        yield Weight("in_proj_weight", tuple(weights), lambda w: _split(w.T), lambda ws: np.concatenate(ws, -1).T)
    else:
        for name in weights:
            yield _same(name, np.transpose, np.transpose, name.replace(".", "_"))
    if biases[0] in shapes:
        if separate:
            yield from (_same(name, _as_is, _as_is) for name in biases)
        else:
            yield Weight("in_proj_bias", tuple(biases), _split, lambda bs: np.concatenate(bs))
    yield _same("out_proj.weight", np.transpose, np.transpose)
    if "out_proj.bias" in shapes:
        yield _same("out_proj.bias", _as_is, _as_is)


def _split(w: np.ndarray) -> Arrays:
    return tuple(np.split(w, 3, -1))
