"""One cell over time, and which steps count."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from fnet.functional.ids import in_range
from fnet.nn.core.frame import shape_text
from fnet.nn.core.keys import fold_index
from fnet.nn.core.param import Spec, Tree
from fnet.nn.core.values import text
from fnet.nn.core.walk import record, run


def time_axis(cell: Any) -> int:
    """The axis of time in the input of `RNN`: after one batch axis, unless the cell says otherwise."""
    return getattr(cell, "time_axis", 1)


def counted_steps(x: Any, axis: int, lengths: Any, mask: Any) -> tuple[jax.Array | None, jax.Array | None]:
    """The bool mask (batch, time) of the steps that count, if any do not; and, for lengths, which are possible."""
    leaves = jax.tree.leaves(x)
    if any(jnp.ndim(leaf) < (2 if axis == 1 else -axis) for leaf in leaves) or not leaves:
        raise ValueError(f"RNN needs an input (batch, time, …), got {shape_text(x)}")
    shape = jnp.shape(leaves[0])
    batch, steps = shape[: axis % len(shape)], shape[axis]
    if steps == 0 or any(jnp.shape(leaf)[axis] != steps for leaf in leaves):
        raise ValueError(f"RNN needs inputs of one length of at least 1 on the axis of time, got {shape_text(x)}")
    if lengths is not None:
        if mask is not None:
            raise ValueError("RNN takes lengths or mask, not both: they say the same")
        if jnp.shape(lengths) != batch:
            raise ValueError(f"RNN: lengths has shape {jnp.shape(lengths)}, expected {batch}, one for each sequence")
        valid = in_range(lengths, steps + 1, "RNN lengths")
        return jnp.arange(steps) < jnp.asarray(lengths)[..., None], valid
    if mask is None:
        return None, None
    mask = jnp.asarray(mask)
    if mask.dtype != bool:
        raise TypeError(f"RNN: mask is {mask.dtype}, expected bool (True: a step that counts); pass mask > 0")
    if mask.shape != (*batch, steps):
        raise ValueError(f"RNN: mask has shape {mask.shape}, expected {(*batch, steps)}")
    return mask, None


def check_leading(initial: Any, count: int) -> None:
    """Raise ValueError unless every array of an initial state has one row for each layer and direction."""
    if any(jnp.ndim(leaf) == 0 or jnp.shape(leaf)[0] != count for leaf in jax.tree.leaves(initial)):
        raise ValueError(
            f"RNN: initial is {shape_text(initial)}, expected arrays ({count}, batch, …): one row for each layer and "
            "direction, in the order l0, l0_reverse, l1, …"
        )


def record_cell(cell: Any, x: Any, hx: Any, key: Any, train: bool) -> tuple[Spec, Any, Any]:
    """Walk one step of a cell: (its Params, outputs as over time, last state)."""
    axis = time_axis(cell)
    steps = jax.tree.leaves(x)[0].shape[axis]
    first = jax.tree.map(lambda a: jax.lax.index_in_dim(jnp.moveaxis(a, axis, 0), 0, keepdims=False), x)
    try:
        specs, last = record(cell, (first,) if hx is None else (first, hx), {}, key, train)
    except TypeError as error:
        raise _explained(error, cell, hx) from None
    return specs, jax.tree.map(lambda a: jnp.stack([a] * steps, axis), _output(last)), last


def run_cell(
    cell: Any, params: Tree, state: Tree, x: Any, hx: Any, mask: Any, reverse: bool, key: Any, train: bool
) -> tuple[Any, Any, Tree]:
    """A cell over time: (outputs, last state, the cell's own new state)."""
    if hasattr(cell, "sequence"):
        return *cell.sequence(params, x, hx, mask, reverse), state
    xs = jax.tree.map(lambda a: jnp.moveaxis(jnp.asarray(a), 1, 0), x)
    steps = jax.tree.leaves(xs)[0].shape[0]
    hx = _first_state(cell, params, state, jax.tree.map(lambda a: a[0], xs), hx, key, train)

    def step(carry: Any, inputs: Any) -> Any:
        hx, state = carry
        x, counts, index = inputs
        new, state = run(cell, params, state, (x, hx), {}, fold_index(key, index), train)
        if counts is not None:
            new = jax.tree.map(lambda a, b: jnp.where(_like(counts, a), a, b), new, hx)
        return (new, state), _output(new)

    counts = None if mask is None else jnp.moveaxis(mask, 1, 0)
    (last, state), ys = jax.lax.scan(step, (hx, state), (xs, counts, jnp.arange(steps)), reverse=reverse)
    ys = jax.tree.map(lambda a: jnp.moveaxis(a, 0, 1), ys)
    if mask is not None:
        ys = jax.tree.map(lambda a: jnp.where(_like(mask, a), a, 0), ys)
    return ys, last, state


def _first_state(cell: Any, params: Tree, state: Tree, x: Any, hx: Any, key: Any, train: bool) -> Any:
    """The given state in the dtypes that the cell returns, or zeros: a scan cannot change what it carries."""
    inputs = (x,) if hx is None else (x, hx)
    try:
        last, _ = jax.eval_shape(lambda: run(cell, params, state, inputs, {}, key, train))
    except TypeError as error:
        raise _explained(error, cell, hx) from None
    if hx is None:
        return jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), last)
    if jax.tree.map(jnp.shape, hx) != jax.tree.map(jnp.shape, last):
        raise ValueError(
            f"RNN needs a cell whose new state is shaped like its state; {text(cell)} was given {shape_text(hx)} and "
            f"returned {shape_text(last)}"
        )
    return jax.tree.map(lambda a, b: jnp.asarray(a, b.dtype), hx, last)


def _explained(error: TypeError, cell: Any, hx: Any) -> TypeError:
    if hx is None:
        error.add_note(
            f"RNN was given no initial=, so it called {text(cell)} without a state to learn its shapes; give initial=, "
            "or let the cell do without: def cell(x, h=0.0, …)"
        )
    return error


def _output(state: Any) -> Any:
    """What a step puts out: the state, or the first of it where it is a tuple."""
    return state[0] if isinstance(state, tuple) else state


def _like(mask: jax.Array, array: jax.Array) -> jax.Array:
    return jnp.expand_dims(mask, range(mask.ndim, array.ndim))
