"""`find_nan`: where in a step the first NaN or infinity that reaches its results was made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnet import tree
from fnet.autograd.jaxprs import is_backward, is_differentiated, part_of
from fnet.functional.reduction import or_nan
from fnet.inspect.interpreter import Event, Interpreter, Value, not_finite


@dataclass(frozen=True)
class Fault:
    """The operation that made the first NaN (or infinity) of those that reach the results; prints as a report.

    ``layer`` is the dotted path of the part ("" outside of all parts), ``phase`` "input", "forward", "backward" or
    "update", ``operation`` the name of the JAX primitive, ``source`` the line as ``file:line in function``, ``inputs``
    the range of each operand, ``iterations`` those of the loops around it, ``results`` the names of what is not finite
    in the end, and ``cause`` the fault that made an infinity among the inputs.
    """

    kind: str
    layer: str
    phase: str
    operation: str
    source: str
    inputs: tuple[str, ...]
    iterations: tuple[str, ...] = ()
    results: tuple[str, ...] = ()
    cause: Fault | None = None

    def __str__(self) -> str:
        if self.phase == "input":
            lines = [f"{self.layer} has {self.kind} {self.source}"]
        else:
            where = f"layer {self.layer!r}" if self.layer else "no named layer"
            phase = {"update": "the update, after the gradient"}.get(self.phase, f"the {self.phase} pass")
            loops = "".join(f", {text}" for text in self.iterations)
            lines = [f"{self.kind} was made by {self.operation} in {where}, in {phase}{loops}"]
            lines += [f"  at {self.source}"] if self.source else []
            lines += [f"  given {text}" for text in self.inputs]
            if self.source.partition(", called at ")[0].endswith(f" in {or_nan.__name__}"):
                lines.append(
                    "  (fnet's own mark, under jit, of a label, target or length out of range: call the loss, or the "
                    "model, without jit, and it says which)"
                )
        if self.cause is not None:
            lines += ["  its infinity came from this:", *("  " + line for line in str(self.cause).splitlines())]
            if self.operation == "mul":
                lines.append(
                    "  (0 × inf: often the gradient of a branch that jnp.where did not choose; give that branch a "
                    "harmless input with a where of its own)"
                )
        if self.results:
            more = f" … ({len(self.results)} in all)" if len(self.results) > 4 else ""
            lines.append(f"it reaches {', '.join(self.results[:4])}{more}")
        return "\n".join(lines)

    __repr__ = __str__


def find_nan(step: Callable[..., Any], *args: Any) -> Fault | None:
    """Run a step again, operation by operation, and say which one made the first NaN that reaches its results.

    ``step(*args)`` is a training step with the run and the batch that failed, or any function of trees of arrays. Its
    trace is interpreted, into loops, checkpoints and the backward pass, so that each value is checked; that takes many
    times as long as the step and no change to the model. A NaN that is masked out and reaches no result is no fault.
    An infinity that reaches a result, as of a loss that overflows, is one too. None if all results are finite.

    >>> import jax, jax.numpy as jnp
    >>> from fnet import nn
    >>> model = nn.Sequential(fc=nn.Linear(2), log=jnp.log)
    >>> params, _ = model.init(jax.random.key(0), jnp.ones((1, 3)))
    >>> fault = find_nan(model, {"fc": {"weight": -jnp.ones((3, 2)), "bias": jnp.zeros(2)}}, jnp.ones((1, 3)))
    >>> fault.layer, fault.operation, fault.inputs
    ('log', 'log', ('float32[1, 2] from -3 to -3',))
    """
    jaxpr, shapes = jax.make_jaxpr(step, return_shape=True)(*args)
    names, leaves = _names(args), jax.tree.leaves(args)
    interpreter = Interpreter()
    inputs = []
    for index, leaf in enumerate(leaves):
        nan, inf = not_finite(leaf)
        number = index - len(leaves)  # before every event, and in the order of the arguments
        inputs.append(Value(leaf, number if nan else None, number if inf else None))
    outputs = interpreter.run(jaxpr, inputs)
    found: dict[str, tuple[int, str]] = {}
    for name, value in zip(_results(args, shapes), outputs, strict=True):
        # What came in infinite, as a best loss yet may, is meant so; a NaN never is.
        numbers = [(value.nan, "NaN"), (value.inf if value.inf is None or value.inf >= 0 else None, "inf")]
        if bad := [(number, kind) for number, kind in numbers if number is not None]:
            found[name] = min(bad)
    if not found:
        return None
    number, kind = min(found.values())
    results = tuple(sorted((name for name, (n, _) in found.items() if n == number), key=lambda n: n.startswith("the ")))
    if number < 0:
        return _of_input(kind, names[number], leaves[number], results)
    return _of_event(interpreter.events, number, results)


def _is_step(args: tuple[Any, ...]) -> bool:
    return len(args) == 2 and hasattr(args[0], "opt_state")


def _results(args: tuple[Any, ...], shapes: Any) -> list[str]:
    """What each leaf of the results is called: the metrics of a step by their names."""
    names = [name for name, _ in _named(shapes)]
    if not _is_step(args):
        return [f"result {name}" if name else "the result" for name in names]
    return [f"the run's {name[2:]}" if name.startswith("0.") else name.removeprefix("1.") for name in names]


def _named(value: Any) -> list[tuple[str, Any]]:
    return [("", value)] if hasattr(value, "shape") else list(tree.named(value))


def _names(args: tuple[Any, ...]) -> list[str]:
    """What each leaf of the arguments is called: those of a step by their part in it."""
    titles = ["the run", "the input batch"] if _is_step(args) else [f"argument {index}" for index in range(len(args))]
    return [
        f"{title}{f' at {name!r}' if name else ''}"
        for title, value in zip(titles, args, strict=True)
        for name, _ in _named(value)
    ]


def _of_input(kind: str, name: str, leaf: Any, results: tuple[str, ...]) -> Fault:
    values = np.asarray(leaf)
    where = np.argwhere(np.isnan(values) if kind == "NaN" else np.isinf(values))
    more = f" and {len(where) - 1} more places" if len(where) > 1 else ""
    at = f"at [{', '.join(map(str, where[0].tolist()))}]{more}" if values.ndim else ""
    return Fault(kind, name, "input", "", f"{at} already".strip(), (_range(leaf),), (), results)


def _of_event(events: list[Event], number: int, results: tuple[str, ...] = ()) -> Fault:
    event = events[number]
    if is_backward(event.stack):
        phase = "backward"
    else:
        phase = "update" if event.differentiated and not is_differentiated(event.stack) else "forward"
    source = event.lines[0] if event.lines else ""
    if len(event.lines) > 1:
        source += f", called at {event.lines[-1]}"
    loops = tuple(f"step {i}" + (f" of {n}" if n is not None else "") + " of a loop" for i, n in event.iterations)
    infinite = [value.inf for value in event.inputs if value.inf is not None and value.inf >= 0]
    cause = _of_event(events, min(infinite)) if event.kind == "NaN" and infinite else None
    ranges = tuple(_range(value.array) for value in event.inputs)
    operation = event.eqn.primitive.name
    return Fault(event.kind, part_of(event.stack), phase, operation, source, ranges, loops, results, cause)


def _range(array: Any) -> str:
    """``float32[8, 4] from -1.5 to 3``, of its finite values, with how many are not."""
    values = np.asarray(array) if not jnp.issubdtype(jnp.result_type(array), jax.dtypes.extended) else np.zeros(0)
    title = f"{jnp.result_type(array)}{list(np.shape(array))}"  # as JAX takes it: float32 of a Python float
    if not values.size:
        return title
    as_floats = values.astype(np.float64) if values.dtype.kind != "c" else np.abs(values)
    finite = as_floats[np.isfinite(as_floats)]
    parts = [f"from {finite.min():.6g} to {finite.max():.6g}"] if finite.size else []
    for count, what in ((np.isnan(as_floats).sum(), "NaN"), (np.isinf(as_floats).sum(), "infinite")):
        parts += [f"{count} of {values.size} {what}"] if count else []
    return f"{title} {', '.join(parts)}"
