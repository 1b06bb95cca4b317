"""`summary`: a model as a table by layer, from one abstract trace."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax

from fnet import tree
from fnet.inspect.table import table_html, table_text
from fnet.nn.core.frame import shape_text
from fnet.nn.core.param import Param, Spec, flat_specs, stand_ins
from fnet.nn.core.surgery import rebuild, walk_parts
from fnet.nn.core.values import text
from fnet.nn.core.walk import abstract, is_layer, record, run, specs_of, split_arrays


@dataclass
class Row:
    """One part of a model as it was called: its dotted name, the layer, its output, its Params and those inside it."""

    name: str
    layer: str
    output: str
    parameters: int = 0
    nbytes: int = 0
    calls: int = 1


@dataclass
class Summary:
    """What `summary` found; prints as a table and shows as HTML in Jupyter."""

    title: str
    rows: list[Row]
    parameters: int
    nbytes: int
    state: int
    output: str
    header: tuple[str, ...] = field(default=("name", "layer", "output", "parameters", "bytes"), repr=False)

    def _cells(self) -> list[tuple[str, ...]]:
        return [
            (
                row.name + (f" ×{row.calls}" if row.calls > 1 else ""),
                row.layer,
                row.output,
                f"{row.parameters:,}",
                f"{row.nbytes:,}",
            )
            for row in self.rows
        ]

    def _footer(self) -> list[str]:
        state = f", and {self.state:,} values of state" if self.state else ""
        return [f"{self.title} → {self.output}: {self.parameters:,} parameters, {_size(self.nbytes)}{state}"]

    def __str__(self) -> str:
        return table_text(self.header, self._cells(), self._footer())

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return table_html(self.header, self._cells(), self._footer())


def summary(model: Any, *inputs: Any, train: bool = False, **kwargs: Any) -> Summary:
    """A table of a model by layer: dotted name, configuration, output shape, parameters and bytes.

    ``inputs`` are arrays or ShapeDtypeStructs, as for ``model.init``; one abstract trace is made and nothing is
    computed or allocated. A composite's row counts what is inside it, too.

    >>> import jax
    >>> from fnet import nn
    >>> print(summary(nn.Sequential(nn.Flatten(), nn.Linear(10)), jax.ShapeDtypeStruct((8, 4, 4), "float32")))
    name  layer       output          parameters  bytes
    ───────────────────────────────────────────────────
    0     Flatten()   float32[8, 16]           0      0
    1     Linear(10)  float32[8, 10]         170    680
    ───────────────────────────────────────────────────
    Sequential → float32[8, 10]: 170 parameters, 680 bytes
    """
    flat = flat_specs(specs_of(model, inputs, kwargs, train))
    calls: dict[str, Row] = {}
    probed = rebuild(model, "", lambda path, part: Probe(part, path, calls) if is_layer(part) else part)
    arrays, join = split_arrays((inputs, kwargs))

    def forward(key: jax.Array, arrays: list[Any]) -> Any:
        args, kw = join(arrays)
        return run(probed, stand_ins(flat, True), stand_ins(flat, False), args, kw, key, train)[0]

    output = shape_text(jax.eval_shape(forward, jax.eval_shape(lambda: jax.random.key(0)), abstract(arrays)))
    title = model.title() if hasattr(model, "title") else text(model)
    rows = _with_params(model, calls) or [Row("", title, output)]
    trainable = {name: param for name, param in flat.items() if param.trainable}
    for row in rows:
        inside = {n: p for n, p in trainable.items() if not row.name or n == row.name or n.startswith(f"{row.name}.")}
        row.parameters, row.nbytes = tree.count(_shapes(inside)), tree.nbytes(_shapes(inside))
    state = {name: param for name, param in flat.items() if not param.trainable}
    sizes = tree.count(_shapes(trainable)), tree.nbytes(_shapes(trainable)), tree.count(_shapes(state))
    return Summary(title, rows, *sizes, output)


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


class Probe:
    """A layer that does what another does and notes each call as a row."""

    def __init__(self, layer: Any, name: str, rows: dict[str, Row]):
        self.layer, self.name, self.rows = layer, name, rows

    def __getattr__(self, name: str) -> Any:
        return getattr(self.layer, name)  # hyperparameters, for forwards that read them

    def spec(self, *inputs: Any, **kwargs: Any) -> Spec:
        """The Params of the layer inside."""
        return self.layer.spec(*inputs, **kwargs)

    def record_parts(self, inputs: tuple[Any, ...], kwargs: Any, key: Any, train: bool) -> tuple[Spec, Any]:
        """The walk of the layer inside."""
        return record(self.layer, inputs, kwargs, key, train)

    def apply(self, params: Any, state: Any, *inputs: Any, **kwargs: Any) -> tuple[Any, Any]:
        """The output of the layer inside."""
        title = self.layer.title() if hasattr(self.layer, "title") else text(self.layer)
        row = self.rows.setdefault(self.name, Row(self.name, title, "", calls=0))
        output, state = self.layer.apply(params, state, *inputs, **kwargs)
        row.output, row.calls = shape_text(output), row.calls + 1
        return output, state


def _shapes(params: dict[str, Param]) -> dict[str, jax.ShapeDtypeStruct]:
    return {name: jax.ShapeDtypeStruct(param.shape, param.dtype) for name, param in params.items()}


def _size(nbytes: int) -> str:
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if nbytes >= factor:
            return f"{nbytes / factor:.1f} {unit}"
    return f"{nbytes} bytes"
