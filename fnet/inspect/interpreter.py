"""Running a jaxpr equation by equation, with a record of where each value's NaN and infinity were made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal

from fnet.autograd.jaxprs import called, is_differentiated, lines_of, name_stack


class Value(NamedTuple):
    """An array, and the numbers of the events that made its first NaN and infinity; None where it has none."""

    array: Any
    nan: int | None = None
    inf: int | None = None


class Event(NamedTuple):
    """An equation whose result has a NaN or an infinity that its inputs have not."""

    kind: str  # "NaN" or "inf"
    eqn: Any
    stack: str
    lines: list[str]
    inputs: list[Value]
    iterations: tuple[tuple[int, int | None], ...]  # of the loops around it, outermost first: (index, length)
    differentiated: bool  # whether a derivative had been taken before


class Place(NamedTuple):
    """Where an equation stands: the scopes, lines and iterations of the equations that it is inside of."""

    stack: str = ""
    lines: tuple[str, ...] = ()
    iterations: tuple[tuple[int, int | None], ...] = ()


TOP = Place()


class Interpreter:
    """Runs jaxprs on values; ``events`` grows in the order of the equations.

    Calls and branches are entered. A loop runs whole first, and is run again step by step if something that is not
    finite came out of it and nothing such went in.
    """

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._differentiated = False

    def run(self, jaxpr: ClosedJaxpr, args: Sequence[Value], place: Place = TOP) -> list[Value]:
        """The results of a jaxpr."""
        values: dict[Any, Value] = dict(zip(jaxpr.jaxpr.constvars, map(Value, jaxpr.consts), strict=True))
        values.update(zip(jaxpr.jaxpr.invars, args, strict=True))

        def read(var: Any) -> Value:
            return Value(var.val) if isinstance(var, Literal) else values[var]

        for eqn in jaxpr.jaxpr.eqns:
            values.update(zip(eqn.outvars, self._equation(eqn, [read(v) for v in eqn.invars], place), strict=True))
        return [read(var) for var in jaxpr.jaxpr.outvars]

    def _equation(self, eqn: Any, inputs: list[Value], place: Place) -> list[Value]:
        stack = name_stack(eqn, place.stack)
        self._differentiated |= is_differentiated(stack)
        inside = Place(stack, tuple(lines_of(eqn)) or place.lines, place.iterations)
        name = eqn.primitive.name
        if (function := called(eqn)) is not None:
            return self.run(function, inputs, inside)
        if name == "cond":
            branch = eqn.params["branches"][int(inputs[0].array)]
            return self.run(branch, inputs[1:], inside)
        outputs = _bind(eqn, [value.array for value in inputs])
        flags = [not_finite(y) for y in outputs]
        from_nan, from_inf = _first(value.nan for value in inputs), _first(value.inf for value in inputs)
        new_nan = any(nan for nan, _ in flags) and from_nan is None
        new_inf = any(inf for _, inf in flags) and from_inf is None and from_nan is None
        if (new_nan or new_inf) and name in ("scan", "while"):
            entered = self._scan if name == "scan" else self._while
            found = len(self.events)
            entered(eqn, inputs, inside, "NaN" if new_nan else "inf")
            kinds = {self.events[i].kind: i for i in reversed(range(found, len(self.events)))}
            from_nan, from_inf = _first([from_nan, kinds.get("NaN")]), _first([from_inf, kinds.get("inf")])
        if new_nan and from_nan is None:
            from_nan = self._event("NaN", eqn, inputs, inside)
        if new_inf and from_inf is None:
            from_inf = self._event("inf", eqn, inputs, inside)
        return [
            Value(y, from_nan if nan else None, _first([from_inf, from_nan]) if inf else None)
            for y, (nan, inf) in zip(outputs, flags, strict=True)
        ]

    def _event(self, kind: str, eqn: Any, inputs: list[Value], place: Place) -> int:
        event = Event(kind, eqn, place.stack, list(place.lines), inputs, place.iterations, self._differentiated)
        self.events.append(event)
        return len(self.events) - 1

    def _scan(self, eqn: Any, inputs: list[Value], place: Place, kind: str) -> None:
        """Step through a scan until something of the kind sought comes up."""
        consts, carried = eqn.params["num_consts"], eqn.params["num_carry"]
        fixed, carry, rows = inputs[:consts], inputs[consts : consts + carried], inputs[consts + carried :]
        length = eqn.params["length"]
        for step in reversed(range(length)) if eqn.params["reverse"] else range(length):
            at = place._replace(iterations=(*place.iterations, (step, length)))
            row = [self._checked(x.array[step], x) for x in rows]
            outputs = self.run(eqn.params["jaxpr"], [*fixed, *carry, *row], at)
            if self._has(outputs, kind):
                return
            carry = outputs[:carried]

    def _while(self, eqn: Any, inputs: list[Value], place: Place, kind: str) -> None:
        tests, bodies = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
        for_test, for_body, carry = inputs[:tests], inputs[tests : tests + bodies], inputs[tests + bodies :]
        step = 0
        while bool(self.run(eqn.params["cond_jaxpr"], [*for_test, *carry], place)[0].array):
            at = place._replace(iterations=(*place.iterations, (step, None)))
            carry = self.run(eqn.params["body_jaxpr"], [*for_body, *carry], at)
            if self._has(carry, kind):
                return
            step += 1

    def _has(self, values: Sequence[Value], kind: str) -> bool:
        return any((value.nan if kind == "NaN" else value.inf) is not None for value in values)

    def _checked(self, array: Any, whole: Value) -> Value:
        nan, inf = not_finite(array)
        return Value(array, whole.nan if nan else None, whole.inf if inf else None)


def _bind(eqn: Any, arrays: list[Any]) -> list[Any]:
    found = eqn.primitive.get_bind_params(eqn.params)
    functions, params = found if isinstance(found, tuple) else ((), found)  # jax 0.10.0 keeps functions apart
    with eqn.ctx.manager:
        out = eqn.primitive.bind(*functions, *arrays, **params)
    return list(out) if eqn.primitive.multiple_results else [out]


def _first(numbers: Any) -> int | None:
    return min((n for n in numbers if n is not None), default=None)


def not_finite(array: Any) -> tuple[bool, bool]:
    """Whether an array has NaN, and whether it has infinity."""
    if not jnp.issubdtype(jax.dtypes.result_type(array) if np.isscalar(array) else array.dtype, jnp.inexact):
        return False, False
    values = np.asarray(array)
    return bool(np.isnan(values).any()), bool(np.isinf(values).any())


