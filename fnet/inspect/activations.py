"""`activations`: the outputs of a model's parts, captured or changed by name, with no change to its code.

A captured output travels as state, which every combinator carries already: out of a scan stacked by layer, out of a
checkpoint and out of a vmap as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnet import init
from fnet.inspect.table import table_html, table_text
from fnet.nn.core.frame import dotted, shape_text
from fnet.nn.core.param import Param, Spec, Tree, flat_specs, keys_of, replaced
from fnet.nn.core.surgery import Around, part_at, rebuild, walk_parts
from fnet.nn.core.walk import abstract, is_layer, run, specs_of, split_arrays
from fnet.nn.sequential import Sequential
from fnet.selectors import Selector, match

OUTPUT = "(output)"  # the name in a part's state of what it returned; no Python name, so none of a part's own


@dataclass(frozen=True)
class Activations:
    """What `activations` gave: the model's ``output`` and new ``state``, and ``values`` by dotted name.

    ``captured["encoder.0"]`` is one of the values; printed, or shown in Jupyter, it is a table of statistics, in which
    ``dead`` is the share of units (of the last axis) that are above 0 for no example: after a ReLU, or before one,
    these are dead.
    """

    output: Any
    state: Any
    values: dict[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def dead(self, name: str) -> Any:
        """Which units (of the last axis) of an output are above 0 for no example and at no position."""
        value = np.asarray(self.values[name])
        return np.logical_not((value.reshape(-1, value.shape[-1] if value.ndim else 1) > 0).any(axis=0))

    def _table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        header = ("name", "output", "", "mean", "std", "min", "max", "zeros", "dead", "not finite")
        rows = []
        for name, value in self.values.items():
            for index, leaf in enumerate(leaves := jax.tree.leaves(value)):
                label = name if len(leaves) == 1 else f"{name}[{index}]"
                rows.append((label, f"{leaf.dtype}{list(leaf.shape)}", "", *_statistics(leaf)))
        return header, rows

    def __str__(self) -> str:
        return table_text(*self._table())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return table_html(*self._table())


def activations(
    model: Any,
    params: Any,
    state: Any,
    *inputs: Any,
    select: Selector = "*",
    patch: Mapping[Selector, Callable[[Any], Any]] | None = None,
    key: jax.Array | None = None,
    train: bool = False,
    **kwargs: Any,
) -> Activations:
    """Run a model and keep the output of every part whose dotted name ``select`` matches, functions of a `Sequential`
    among them.

    Inside a `Stack` or an `Ensemble` a captured output has their leading axis, one slice a layer; inside a `Remat` it
    is as it is. Of a part that is called more than once, the last output is kept. ``patch`` maps selectors to functions
    of an output that give the one to go on with, of the same shapes and dtypes: ``{"blocks.3": jnp.zeros_like}`` takes
    a block out. It is a pure function: jit it, or differentiate in it, as you would ``model.apply``.

    Raises ValueError for a selector that matches no part, TransformError for a part that the forward calls inside a
    JAX transform of its own (select others). Parts of an `nn.RNN`'s cell are inside its scan, of which only the last
    step would come out: capture the RNN itself.

    >>> import jax, jax.numpy as jnp
    >>> from fnet import functional as F, nn
    >>> model, x = nn.Sequential(fc=nn.Linear(4), act=F.relu, head=nn.Linear(2)), jnp.ones((3, 5))
    >>> params, state = model.init(jax.random.key(0), x)
    >>> found = activations(model, params, state, x, select=["fc", "act"])
    >>> {name: value.shape for name, value in found.values.items()}, found.output.shape
    ({'fc': (3, 4), 'act': (3, 4)}, (3, 2))
    >>> off = activations(model, params, state, x, patch={"act": jnp.zeros_like})
    >>> bool((off["head"] == params["head"]["bias"]).all())
    True
    """
    parts = {name: part for name, part in walk_parts(model) if is_layer(part) or _is_step(model, name, part)}
    chosen = set(match(select, parts))
    changes = {name: f for selector, f in (patch or {}).items() for name in match(selector, parts)}

    def instrumented(kind: Callable[..., Any]) -> Any:
        def one(path: str, part: Any) -> Any:
            if path not in chosen and path not in changes:
                return part
            return kind(part if is_layer(part) else _Function(part), path)

        return rebuild(model, "", one)

    kinds: dict[str, Any] = {}
    _note(instrumented(lambda part, path: _Note(part, path, kinds)), params, state, inputs, kwargs, key, train)
    tapped = instrumented(lambda part, path: _Tap(part, path, changes.get(path), path in chosen))
    state = {**state}
    for name, param in flat_specs(specs_of(tapped, inputs, kwargs, train)).items():
        if OUTPUT in (path := keys_of(name)):
            part, index = dotted(path[: path.index(OUTPUT)]), int(path[-1])
            state = replaced(state, path, jnp.zeros(param.shape, kinds[part][1][index]))
    output, new = run(tapped, params, state, inputs, kwargs, key, train)
    values: dict[str, Any] = {}
    new = _without_outputs(new, (), values)
    if lost := [name for name in parts if name in chosen and name not in values]:
        raise ValueError(f"activations: {lost[0]!r} is inside a loop that brings no state out; select others")
    found = {name: jax.tree.unflatten(kinds[name][0], values[name]) for name in parts if name in chosen}
    return Activations(output, new, found)


class _Function:
    """A function of a Sequential as a layer."""

    def __init__(self, f: Callable[..., Any]):
        self.f = f

    def spec(self, *inputs: Any, **kwargs: Any) -> Spec:
        """No Params."""
        return {}

    def apply(self, params: Tree, state: Tree, *inputs: Any, key: Any, train: bool, **kwargs: Any) -> Any:
        """The function's value."""
        return self.f(*inputs, **kwargs), state


class _Note(Around):
    """Notes the structure and the dtypes of each output."""

    def __init__(self, layer: Any, name: str, kinds: dict[str, Any]):
        super().__init__(layer, name)
        self.kinds = kinds

    def apply(self, params: Tree, state: Tree, *inputs: Any, **kwargs: Any) -> Any:
        """The output of the layer inside."""
        output, state = self.layer.apply(params, state, *inputs, **kwargs)
        leaves, treedef = jax.tree.flatten(output)
        self.kinds[self.name] = (treedef, [jnp.result_type(leaf) for leaf in leaves])
        return output, state


class _Tap(Around):
    """Puts each output into the state, and changes it before, if so asked."""

    def __init__(self, layer: Any, name: str, change: Callable[[Any], Any] | None, keep: bool):
        super().__init__(layer, name)
        self.change, self.keep = change, keep

    def record_parts(self, inputs: tuple[Any, ...], kwargs: Any, key: Any, train: bool) -> tuple[Spec, Any]:
        """The walk of the layer inside, with a place in the state for its output."""
        specs, output = super().record_parts(inputs, kwargs, key, train)
        places = {
            str(index): Param(jnp.shape(leaf), init.zeros, jnp.result_type(leaf), trainable=False)
            for index, leaf in enumerate(jax.tree.leaves(output))
        }
        return ({**specs, OUTPUT: places} if self.keep else specs), output

    def apply(self, params: Tree, state: Tree, *inputs: Any, **kwargs: Any) -> Any:
        """The output of the layer inside, as it was changed."""
        own = {name: value for name, value in state.items() if name != OUTPUT}
        output, new = self.layer.apply(params, own, *inputs, **kwargs)
        if self.change is not None:
            output = self._changed(output)
        if self.keep:
            kept = {str(index): jnp.asarray(leaf) for index, leaf in enumerate(jax.tree.leaves(output))}
            new = {**new, OUTPUT: kept}
        return output, new

    def _changed(self, output: Any) -> Any:
        assert self.change is not None
        changed = self.change(output)
        before, after = (jax.tree.map(lambda x: (jnp.shape(x), jnp.result_type(x)), y) for y in (output, changed))
        if before != after:
            raise ValueError(
                f"activations: the patch of {self.name!r} turned {shape_text(output)} into {shape_text(changed)}; it "
                "must keep shapes and dtypes"
            )
        return changed


def _is_step(model: Any, name: str, part: Any) -> bool:
    """Whether a part is a function of a Sequential, one of its steps."""
    above = name.rpartition(".")[0]
    parent = part_at(model, above) if above else model
    while hasattr(parent, "layer"):  # inside a combinator
        parent = parent.layer
    return isinstance(parent, Sequential) and callable(part)


def _note(model: Any, params: Any, state: Any, inputs: Any, kwargs: Any, key: Any, train: bool) -> None:
    arrays, join = split_arrays((params, state, inputs, kwargs, key))

    def once(arrays: list[Any]) -> None:
        params, state, inputs, kwargs, key = join(arrays)
        run(model, params, state, inputs, kwargs, key, train)

    jax.eval_shape(once, abstract(arrays))


def _without_outputs(state: Any, path: tuple[str, ...], values: dict[str, Any]) -> Any:
    """The state without what was captured, which goes into ``values`` by dotted name."""
    if not isinstance(state, dict):
        return state
    if OUTPUT in state:
        kept = state[OUTPUT]
        values[dotted(path)] = [kept[str(index)] for index in range(len(kept))]
    inner = {k: _without_outputs(v, (*path, k), values) for k, v in state.items() if k != OUTPUT}
    return {k: v for k, v in inner.items() if not _is_emptied(v, state[k])}


def _is_emptied(new: Any, old: Any) -> bool:
    return isinstance(new, dict) and not new and bool(old)


def _statistics(leaf: Any) -> tuple[str, ...]:
    values = np.asarray(leaf)
    if not values.size or values.dtype.kind == "b":
        return ("",) * 7
    values = values.astype(np.float64)
    finite = values[np.isfinite(values)]
    units = values.reshape(-1, values.shape[-1] if values.ndim else 1)
    numbers = [f"{f(finite):.3g}" for f in (np.mean, np.std, np.min, np.max)] if finite.size else [""] * 4
    shares = np.mean(values == 0), np.mean(~(units > 0).any(axis=0)), 1 - finite.size / values.size
    return (*numbers, *(f"{share:.1%}" for share in shares))
