"""Slots in 8 bits: a quarter of the memory, in blocks with a scale each (Dettmers et al. 2021)."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnet.optim.checks import whole
from fnet.optim.core import State, Wrapper
from fnet.optim.leaves import PyTree
from fnet.optim.precision import chosen_slots, slots_of_rule
from fnet.tree import HOLE, is_hole

AVERAGES = ("mu", "nu", "nu_max", "momentum")  # slots of update rules that bear 8 bits


@functools.cache
def dynamic_map(signed: bool) -> np.ndarray:
    """The 256 values that a code can stand for, from -1 (or 0) to 1, rising: the dynamic tree quantization map.

    Seven decades, the lower ones with fewer values (Dettmers et al. 2021, section 1.3 and appendix F.2): each decade
    holds the midpoints of equal parts of [0.1, 1], twice as many as the one below it.

    >>> dynamic_map(signed=False)[[0, 1, -1]]
    array([0.00e+00, 3.25e-07, 1.00e+00], dtype=float32)
    """
    values = [0.0, 1.0]
    for decade in range(7):
        edges = np.linspace(0.1, 1.0, 2 ** (decade + (0 if signed else 1)) + 1)
        means = 10.0 ** (decade - 6) * (edges[1:] + edges[:-1]) / 2
        values += [*means, *(-means if signed else [])]
    return np.sort(np.asarray(values)).astype(np.float32)


def quantize(x: jax.Array, block: int, signed: bool = True) -> tuple[jax.Array, jax.Array]:
    """``(codes, scales)``: each value as the nearest of its block's scale times `dynamic_map`.

    ``codes`` is uint8 of the shape of ``x``; ``scales`` is float32 with the largest magnitude of each run of ``block``
    elements in row-major order. Unsigned, what is above 0 stays above 0: it may be a divisor.
    """
    blocks = _blocks(jnp.asarray(x, jnp.float32), block)
    scales = jnp.max(jnp.abs(blocks), axis=1)
    unit = blocks / jnp.where(scales == 0, 1, scales)[:, None]
    values = dynamic_map(signed)
    codes = jnp.searchsorted(jnp.asarray((values[1:] + values[:-1]) / 2), unit, method="scan_unrolled")
    if not signed:
        codes = jnp.where(unit > 0, jnp.maximum(codes, 1), codes)
    return _unblocked(codes.astype(jnp.uint8), x.shape), scales


def dequantize(codes: jax.Array, scales: jax.Array, block: int, signed: bool = True) -> jax.Array:
    """The values that `quantize` rounded to, float32."""
    values = jnp.asarray(dynamic_map(signed))[_blocks(codes, block)]
    return _unblocked(values * scales[:, None], codes.shape)


def _blocks(x: jax.Array, block: int) -> jax.Array:
    return jnp.pad(x.reshape(-1), (0, -x.size % block)).reshape(-1, block)


def _unblocked(blocks: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return blocks.reshape(-1)[: int(np.prod(shape))].reshape(shape)


@dataclass(frozen=True)
class slots_8bit(Wrapper):
    """Keep the slots of Adam and its like in 8 bits and compute in float32: 2 bytes a parameter in place of 8.

    Blockwise dynamic quantization (Dettmers et al. 2021): each run of ``block`` elements has its own scale, so one
    outlier costs only its block precision. Slots named "mu", "nu", "nu_max" and "momentum" are quantized, or those in
    ``only``; leaves of fewer than ``min_size`` elements, where precision matters more than memory, stay as they are.
    Slots in ``squares`` are averages of squares: their roots are stored, on the unsigned map, which gives them the
    range of the gradients, where the paper stores the squares and tiny ones become 0.

    A quantized slot holds uint8 codes of the parameter's shape; ``opt_state["scales"][slot]`` is a tree with float32
    scales, one a block. Raises ValueError when nothing would be quantized or a name is no slot.

    >>> import jax.numpy as jnp
    >>> from fnet import optim
    >>> params = {"w": jnp.ones((64, 64))}
    >>> optim.memory(slots_8bit(optim.adamw(3e-4)).init(params))["total"] < 9000
    True
    >>> optim.memory(optim.adamw(3e-4).init(params))["total"]
    32792
    """

    only: tuple[str, ...] | None = None
    squares: tuple[str, ...] = ("nu", "nu_max")
    block: int = 256
    min_size: int = 4096

    keys = ("scales",)

    def __post_init__(self) -> None:
        super().__post_init__()
        known = [name for name in slots_of_rule("slots_8bit", self.inner) if name in AVERAGES]
        chosen = chosen_slots("slots_8bit", known if self.only is None else self.only, self.inner)
        if not chosen:
            raise ValueError(
                f"slots_8bit: none of the slots of {self.inner!r} ({', '.join(self.inner.slots)}) is known to bear 8 "
                f"bits; name those that are averages of gradients with only="
            )
        whole("slots_8bit", "block", self.block, 1)
        whole("slots_8bit", "min_size", self.min_size, 1)
        object.__setattr__(self, "only", chosen)
        object.__setattr__(self, "squares", tuple(self.squares))

    def init(self, params: PyTree) -> State:
        return self._packed(self.inner.init(params))

    def update(self, grads: PyTree, opt_state: State, params: PyTree, **more: Any) -> tuple[PyTree, State]:
        params, inner = self.inner.update(grads, self._unpacked(opt_state), params, **more)
        return params, self._packed(inner)

    def eval_params(self, opt_state: State, params: PyTree) -> PyTree:
        return self.inner.eval_params(self._unpacked(opt_state), params)

    def _packed(self, inner: State) -> State:
        codes, scales = {}, {}
        for name in self.only or ():
            packed = jax.tree.map(functools.partial(self._pack, name), inner[name])
            codes[name], scales[name] = (_column(packed, i) for i in (0, 1))
        return self.beside({**inner, **codes}, scales=scales)

    def _pack(self, name: str, x: jax.Array) -> _Pair:
        if x.size < self.min_size:
            return _Pair(x, HOLE)
        if name in self.squares:
            return _Pair(*quantize(jnp.sqrt(x), self.block, signed=False))
        return _Pair(*quantize(x, self.block))

    def _unpacked(self, opt_state: State) -> State:
        inner, own = self.apart(opt_state)

        def one(name: str, x: Any, scales: Any) -> Any:
            if is_hole(scales):
                return x
            if name in self.squares:
                return jnp.square(dequantize(x, scales, self.block, signed=False))
            return dequantize(x, scales, self.block)

        slots = {
            name: jax.tree.map(functools.partial(one, name), inner[name], own["scales"][name], is_leaf=is_hole)
            for name in self.only or ()
        }
        return {**inner, **slots}


class _Pair:
    """Codes and scales of one leaf, on their way into two trees."""

    def __init__(self, codes: Any, scales: Any) -> None:
        self.columns = codes, scales


def _column(pairs: PyTree, index: int) -> PyTree:
    return jax.tree.map(lambda pair: pair.columns[index], pairs)
