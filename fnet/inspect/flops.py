"""Floating-point operations of a function, counted from its trace.

What is counted is the mathematics as it is written, whatever form a backend runs it in: fnet's CPU-only forms
(Winograd convolutions and the like) are left out by tracing on a stand-in for a mesh, where they do not apply.

- a matrix product or convolution: 2 for each multiplication with its addition. As in XLA's own count, products of a
  convolution with its padding are not among them;
- elementwise arithmetic, comparisons, selections, and functions such as exp: 1 for each element of the result (XLA
  puts exp and its like under "transcendentals" and not under "flops");
- a reduction: 1 for each element that it takes in, less one for each that it gives;
- `jax.lax.scan`: its body times its length; `cond`: the dearest branch; `while_loop`: its body once, since its length
  is not known;
- moving data, random bits, sorts, FFTs and decompositions: nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

from fnet.autograd.jaxprs import name_stack, part_of, subjaxprs

ELEMENTWISE = set(
    "abs acos acosh add add_any and asin asinh atan atan2 atanh cbrt ceil clamp cos cosh digamma div eq erf erf_inv "
    "erfc exp exp2 expm1 floor ge gt is_finite le lgamma log log1p logistic lt max min mul ne neg nextafter not or "
    "pow rem round rsqrt select_n sign sin sinh sqrt square sub tan tanh xor".split()
)
REDUCTIONS = set("reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or argmax argmin reduce".split())
CUMULATIVE = set("cumsum cumprod cummax cummin cumlogsumexp".split())


def trace(f: Callable[..., Any], *args: Any) -> Any:
    """The jaxpr of a function of trees of arrays or ShapeDtypeStructs, without the forms that only CPUs run."""
    mesh = AbstractMesh((1,), ("_",), axis_types=(AxisType.Auto,))
    everywhere = NamedSharding(mesh, PartitionSpec())
    placed = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere), args)
    with jax.sharding.use_abstract_mesh(mesh):
        return jax.make_jaxpr(f)(*placed)


def flops_by_part(jaxpr: Any) -> Counter[str]:
    """The operations of a jaxpr by the dotted path of the part that they are in; "" is outside of all parts."""
    counts: Counter[str] = Counter()
    _count(jaxpr, "", 1, counts)
    return counts


def _count(jaxpr: Any, outer: str, times: int, counts: Counter[str]) -> None:
    for eqn in _needed(jaxpr):
        stack, name = name_stack(eqn, outer), eqn.primitive.name
        inner = subjaxprs(eqn)
        if name == "scan":
            _count(inner[0], stack, times * eqn.params["length"], counts)
        elif name == "cond":
            branches: list[Counter[str]] = []
            for branch in inner:
                branches.append(Counter[str]())
                _count(branch, stack, times, branches[-1])
            counts.update(max(branches, key=lambda branch: sum(branch.values())))
        elif name == "while":
            _count(eqn.params["body_jaxpr"].jaxpr, stack, times, counts)
        elif inner and name not in REDUCTIONS and not name.startswith(("scatter", "reduce_window", "select_and")):
            for each in inner[:1]:  # a custom derivative's own functions come after
                _count(each, stack, times, counts)
        elif own := of_equation(eqn):
            counts[part_of(stack)] += times * own


def _needed(jaxpr: Any) -> Sequence[Any]:
    """The equations on which the results depend; XLA drops the others, too."""
    wanted = {v for v in jaxpr.outvars if not hasattr(v, "val")}
    kept = []
    for eqn in reversed(jaxpr.eqns):
        if eqn.effects or any(v in wanted for v in eqn.outvars):
            kept.append(eqn)
            wanted.update(v for v in eqn.invars if not hasattr(v, "val"))
    return kept[::-1]


def of_equation(eqn: Any) -> int:
    """The operations of one equation."""
    if not eqn.outvars:
        return 0
    name, out = eqn.primitive.name, eqn.outvars[0].aval
    ins = [v.aval for v in eqn.invars]
    if name == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        return 2 * out.size * math.prod(ins[0].shape[axis] for axis in contracted)
    if name == "conv_general_dilated":
        return _of_convolution(eqn.params, ins[0].shape, ins[1].shape, out.shape)
    if name in ("ragged_dot", "ragged_dot_general"):
        return 2 * out.size * ins[0].shape[-1]
    if name == "integer_pow":
        power = abs(eqn.params["y"])
        return out.size * max(power.bit_length() + power.bit_count() - 2, 0)
    if name in ELEMENTWISE:
        return out.size
    if name in REDUCTIONS:
        return ins[0].size - out.size
    if name in CUMULATIVE:
        return out.size
    if name.startswith("reduce_window"):
        return out.size * (math.prod(eqn.params["window_dimensions"]) - 1)
    if name.startswith(("scatter_", "scatter-")):
        return ins[-1].size
    if name.startswith("select_and_"):
        return min(aval.size for aval in ins) * math.prod(eqn.params["window_dimensions"])
    return 0


def _of_convolution(params: Any, x: Sequence[int], weight: Sequence[int], out: Sequence[int]) -> int:
    """2 × batch × outputs × inputs of a group × the pairs of output and kernel positions that meet an input."""
    numbers = params["dimension_numbers"]
    pairs = 1
    for axis, (low, _) in enumerate(params["padding"]):
        size, kernel, outputs = (
            shape[spec[2 + axis]]
            for shape, spec in ((x, numbers.lhs_spec), (weight, numbers.rhs_spec), (out, numbers.out_spec))
        )
        spread = params["lhs_dilation"][axis]
        first = np.arange(outputs)[:, None] * params["window_strides"][axis] - low
        at = first + np.arange(kernel) * params["rhs_dilation"][axis]
        pairs *= int(np.sum((at >= 0) & (at % spread == 0) & (at // spread < size)))
    return 2 * pairs * out[numbers.out_spec[0]] * out[numbers.out_spec[1]] * weight[numbers.rhs_spec[1]]
