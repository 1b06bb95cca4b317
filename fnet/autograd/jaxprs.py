"""What the equations of a traced function say: the part of the model, the pass, the line, the functions inside."""

from __future__ import annotations

import os
import re
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr

# Equations that only call the function inside them, once and with their own inputs.
CALLS = set("jit pjit closed_call core_call remat2 checkpoint custom_jvp_call custom_vjp_call".split())
REMATTED = "rematted_computation"  # JAX's own scope around what a checkpoint computes again
_WRAPPED = re.compile(r"^(\w+)\((.*)\)$")
_JAX = os.path.dirname(jax.__file__)
_FNET = os.path.dirname(os.path.dirname(__file__))


def name_stack(eqn: Any, outer: str = "") -> str:
    """The named scopes around an equation, with those of the equations that it is inside of."""
    own = str(eqn.source_info.name_stack)
    return f"{outer}/{own}" if outer and own else outer or own


def part_of(stack: str) -> str:
    """The dotted path of the part in a stack of scopes, ``"encoder.0.fc1"`` for ``"transpose(jvp(encoder))/0/fc1"``.

    >>> part_of("transpose(jvp(encoder))/0/fc1"), part_of("transpose(jvp(a))/b/jvp(a)/b/fc"), part_of("jvp()")
    ('encoder.0.fc1', 'a.b.fc', '')
    >>> part_of("transpose(jvp(a))/rematted_computation/fc")  # what a checkpoint computes again
    'a.fc'
    """
    path: list[str] = []
    first: str | None = None
    for segment in stack.split("/"):
        plain, wrapped = segment, False
        while found := _WRAPPED.match(plain):
            plain, wrapped = found[2], True
        if wrapped and first == plain:
            path = []  # a checkpoint: the scopes of the backward pass, then those of the forward pass that it repeats
        if wrapped and first is None:
            first = plain
        if plain and plain != REMATTED:
            path.append(plain)
    return ".".join(path)


def is_backward(stack: str) -> bool:
    """Whether an equation came of transposing, which is what makes a backward pass."""
    return "transpose(" in stack


def is_differentiated(stack: str) -> bool:
    """Whether an equation belongs to a function whose derivative is taken."""
    return "jvp(" in stack


def subjaxprs(eqn: Any) -> list[Jaxpr]:
    """The functions inside an equation."""
    found = []
    for value in eqn.params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, ClosedJaxpr):
                found.append(item.jaxpr)
            elif isinstance(item, Jaxpr):
                found.append(item)
    return found


def called(eqn: Any) -> ClosedJaxpr | None:
    """The function that an equation only calls; None for every other equation."""
    if eqn.primitive.name not in CALLS:
        return None
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        value = eqn.params.get(name)
        if isinstance(value, ClosedJaxpr):
            return value
        if isinstance(value, Jaxpr):
            return ClosedJaxpr(value, ())
    return None


def lines_of(eqn: Any) -> list[str]:
    """Where an equation was written, ``"file:line in function"``: the innermost line outside of JAX, and, where that is
    one of fnet's, the innermost outside of fnet as well. Empty where JAX took the trace from its cache.
    """
    traceback = eqn.source_info.traceback
    found: list[str] = []
    for frame in traceback.frames if traceback is not None else ():
        inside_fnet = frame.file_name.startswith(_FNET + os.sep)
        if frame.file_name.startswith(_JAX + os.sep) or (found and inside_fnet):
            continue
        found.append(f"{frame.file_name}:{frame.line_num} in {frame.function_name}")
        if not inside_fnet:
            break
    return found
