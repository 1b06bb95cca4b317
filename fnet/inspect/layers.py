"""`summary`: a model or a function as a table by layer, from abstract traces."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from fnet import tree
from fnet.autograd.jaxprs import called, name_stack, part_of, subjaxprs
from fnet.inspect.flops import flops_by_part, trace
from fnet.inspect.table import amount, size_text, table_html, table_text
from fnet.nn.core.frame import shape_text
from fnet.nn.core.layer import refuse_shapes
from fnet.nn.core.param import Param, flat_specs, stand_ins
from fnet.nn.core.surgery import Around, rebuild, walk_parts
from fnet.nn.core.values import text
from fnet.nn.core.walk import abstract, is_layer, run, specs_of, split_arrays


@dataclass
class Row:
    """One part of a model as it was called: its dotted name, the layer, its output, its Params and those inside it.

    ``flops`` are the operations of the forward pass in it, ``backward_flops`` those that its gradients add, None where
    there is no derivative.
    """

    name: str
    layer: str
    output: str
    parameters: int = 0
    nbytes: int = 0
    calls: int = 1
    flops: int = 0
    backward_flops: int | None = 0


@dataclass
class Summary:
    """What `summary` found; prints as a table and shows as HTML in Jupyter."""

    title: str
    rows: list[Row]
    parameters: int
    nbytes: int
    state: int
    output: str
    flops: int
    backward_flops: int | None
    note: str = ""
    header: tuple[str, ...] = field(
        default=("name", "layer", "output", "parameters", "bytes", "FLOPs", "backward FLOPs"), repr=False
    )

    def _cells(self) -> list[tuple[str, ...]]:
        return [
            (
                row.name + (f" ×{row.calls}" if row.calls > 1 else ""),
                row.layer,
                row.output,
                f"{row.parameters:,}",
                f"{row.nbytes:,}",
                amount(row.flops),
                "–" if row.backward_flops is None else amount(row.backward_flops),
            )
            for row in self.rows
        ]

    def _footer(self) -> list[str]:
        state = f", and {self.state:,} values of state" if self.state else ""
        backward = "" if self.backward_flops is None else f" + {amount(self.backward_flops)} backward"
        lines = [
            f"{self.title} → {self.output}: {self.parameters:,} parameters, {size_text(self.nbytes)}{state}",
            f"{amount(self.flops)} FLOPs forward{backward} (a multiplication with its addition is 2)",
        ]
        return [*lines, self.note] if self.note else lines

    def __str__(self) -> str:
        return table_text(self.header, self._cells(), self._footer())

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return table_html(self.header, self._cells(), self._footer())


def summary(model: Any, *inputs: Any, train: bool = False, **kwargs: Any) -> Summary:
    """A table of a model by layer: dotted name, configuration, output shape, parameters, bytes and FLOPs.

    ``inputs`` are arrays or ShapeDtypeStructs, as for ``model.init``; only abstract traces are made, and nothing is
    computed or allocated. A composite's row counts what is inside it, too. ``model`` may also be any pure function of
    trees of arrays: its rows are its named scopes, which are the parts of the models that it calls.

    FLOPs are the mathematics of the forward pass, whatever form a backend runs them in: 2 for a multiplication with
    its addition, 1 for other arithmetic on an element; `fnet.inspect.flops` lists it all. The backward pass is what a
    training step adds: the gradients of the parameters, and what they need of those of activations, but not the
    gradient of the input. For a function it is the gradient of all floating inputs.

    >>> import jax
    >>> from fnet import nn
    >>> print(summary(nn.Sequential(nn.Flatten(), nn.Linear(10)), jax.ShapeDtypeStruct((8, 4, 4), "float32")))
    name  layer       output          parameters  bytes  FLOPs  backward FLOPs
    ──────────────────────────────────────────────────────────────────────────
    0     Flatten()   float32[8, 16]           0      0      0               0
    1     Linear(10)  float32[8, 10]         170    680  2,640           2,630
    ──────────────────────────────────────────────────────────────────────────
    Sequential → float32[8, 10]: 170 parameters, 680 bytes
    2,640 FLOPs forward + 2,630 backward (a multiplication with its addition is 2)
    """
    if not is_layer(model):
        return _of_function(model, inputs, kwargs)
    refuse_shapes(inputs, "summary")
    flat = flat_specs(specs_of(model, inputs, kwargs, train))
    calls: dict[str, Row] = {}
    probed = rebuild(model, "", lambda path, part: Probe(part, path, calls) if is_layer(part) else part)
    arrays, join = split_arrays((inputs, kwargs))

    def forward(params: Any, state: Any, key: jax.Array, arrays: list[Any]) -> Any:
        args, kw = join(arrays)
        return run(model, params, state, args, kw, key, train)[0]

    def noted(params: Any, state: Any, key: jax.Array, arrays: list[Any]) -> Any:
        args, kw = join(arrays)
        return run(probed, params, state, args, kw, key, train)[0]

    given = jax.eval_shape(lambda: (stand_ins(flat, True), stand_ins(flat, False), jax.random.key(0)))
    output = shape_text(jax.eval_shape(noted, *given, abstract(arrays)))
    title = model.title() if hasattr(model, "title") else text(model)
    rows = _with_params(model, calls) or [Row("", title, output)]
    trainable = {name: param for name, param in flat.items() if param.trainable}
    for row in rows:
        inside = {n: p for n, p in trainable.items() if _inside(n, row.name)}
        row.parameters, row.nbytes = tree.count(_shapes(inside)), tree.nbytes(_shapes(inside))
    totals = _put_flops(rows, forward, given[0], *given[1:], abstract(arrays))
    state = {name: param for name, param in flat.items() if not param.trainable}
    sizes = tree.count(_shapes(trainable)), tree.nbytes(_shapes(trainable)), tree.count(_shapes(state))
    return Summary(title, rows, *sizes, output, *totals)


def _of_function(f: Callable[..., Any], inputs: tuple[Any, ...], kwargs: Any) -> Summary:
    if not callable(f):
        raise TypeError(f"summary takes a model or a function, and its inputs, got {type(f).__name__}")
    arrays, join = split_arrays((inputs, kwargs))
    floats = [i for i, x in enumerate(arrays) if jnp.issubdtype(x.dtype, jnp.inexact)]
    rest = {i: x for i, x in enumerate(abstract(arrays)) if i not in floats}

    def forward(chosen: dict[int, Any], rest: dict[int, Any]) -> Any:
        every = chosen | rest
        args, kw = join([every[i] for i in range(len(every))])
        return f(*args, **kw)

    chosen = {i: x for i, x in enumerate(abstract(arrays)) if i in floats}
    output, jaxpr = jax.eval_shape(forward, chosen, rest), trace(forward, chosen, rest)
    rows: dict[str, Row] = {}
    for part, aval in _results_by_part(jaxpr.jaxpr, ""):
        path = part.split(".")
        for name in (".".join(path[:depth]) for depth in range(1, len(path) + 1) if part):
            rows.setdefault(name, Row(name, "scope", "")).output = f"{aval.dtype}{list(aval.shape)}"
    title = text(f)
    found = list(rows.values()) or [Row("", title, shape_text(output))]
    return Summary(title, found, 0, 0, 0, shape_text(output), *_put_flops(found, forward, chosen, rest))


def _results_by_part(jaxpr: Any, outer: str) -> Iterator[tuple[str, Any]]:
    """The dotted path and the result of each equation in the order in which they end, those inside of others too."""
    for eqn in jaxpr.eqns:
        stack = name_stack(eqn, outer)
        if called(eqn) is not None or eqn.primitive.name in ("scan", "while", "cond"):
            for inner in subjaxprs(eqn):
                yield from _results_by_part(inner, stack)
        if eqn.outvars:
            yield part_of(stack), eqn.outvars[0].aval


def _put_flops(rows: list[Row], f: Callable[..., Any], params: Any, *rest: Any) -> tuple[int, int | None, str]:
    """Set the FLOPs of rows, and return those of the whole, with a note where there is no derivative."""
    forward = flops_by_part(trace(f, params, *rest).jaxpr)
    note, both = "", None
    try:
        both = flops_by_part(trace(*_with_gradient(f, params, rest)).jaxpr)
    except (TypeError, ValueError, NotImplementedError) as error:
        note = f"no backward pass: {str(error).splitlines()[0]}"
    for row in rows:
        row.flops = _total(forward, row.name)
        row.backward_flops = None if both is None else max(_total(both, row.name) - row.flops, 0)
    whole = _total(forward, "")
    return whole, None if both is None else max(_total(both, "") - whole, 0), note


def _with_gradient(f: Callable[..., Any], params: Any, rest: tuple[Any, ...]) -> tuple[Any, ...]:
    """A function that gives the outputs and the gradient for a cotangent of each float among them; its arguments."""

    def floats(params: Any, *rest: Any) -> list[Any]:
        return [y for y in jax.tree.leaves(f(params, *rest)) if jnp.issubdtype(y.dtype, jnp.inexact)]

    def both(params: Any, cotangents: Any, *rest: Any) -> Any:
        outputs, back = jax.vjp(lambda params: floats(params, *rest), params)
        return outputs, back(cotangents)

    return both, params, jax.eval_shape(floats, params, *rest), *rest


def _total(flops: Counter[str], part: str) -> int:
    return sum(count for name, count in flops.items() if _inside(name, part))


def _inside(name: str, part: str) -> bool:
    return not part or name == part or name.startswith(f"{part}.")


def _with_params(model: Any, calls: dict[str, Row]) -> list[Row]:
    """The rows of the layers in the order of their calls, each followed by the Params that it holds itself."""
    own: dict[str, list[Row]] = {}
    for name, part in walk_parts(model):
        if isinstance(part, Param):
            row = Row(name, "Param" if part.trainable else "Param (state)", f"{part.dtype}{list(part.shape)}")
            parent = name
            while parent and parent not in calls:
                parent = parent.rpartition(".")[0]
            own.setdefault(parent, []).append(row)
    rows = own.get("", [])
    for name, row in calls.items():
        rows += [row, *own.get(name, [])]
    return rows


class Probe(Around):
    """A layer that does what another does and notes each call as a row."""

    def __init__(self, layer: Any, name: str, rows: dict[str, Row]):
        super().__init__(layer, name)
        self.rows = rows

    def apply(self, params: Any, state: Any, *inputs: Any, **kwargs: Any) -> tuple[Any, Any]:
        """The output of the layer inside."""
        title = self.layer.title() if hasattr(self.layer, "title") else text(self.layer)
        row = self.rows.setdefault(self.name, Row(self.name, title, "", calls=0))
        output, state = self.layer.apply(params, state, *inputs, **kwargs)
        row.output, row.calls = shape_text(output), row.calls + 1
        return output, state


def _shapes(params: dict[str, Param]) -> dict[str, jax.ShapeDtypeStruct]:
    return {name: jax.ShapeDtypeStruct(param.shape, param.dtype) for name, param in params.items()}
