"""What all schedules share: the float they compute in and the checks of what they were built with."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from fnet.optim.checks import whole


def floating(step: Any) -> jax.Array:
    """The step in JAX's default float."""
    return jnp.asarray(step, jnp.result_type(float))


def check(schedule: Any, /, **values: Any) -> None:
    """Raise ValueError unless the fields ``values`` are finite numbers."""
    for field, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"{name_of(schedule)}: {field} must be a finite number, got {value!r}")


def check_choice(schedule: Any, field: str, value: Any, choices: tuple[Any, ...]) -> None:
    """Raise ValueError unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise ValueError(f"{name_of(schedule)}: {field} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def check_rising(schedule: Any, field: str, values: Any, strictly: bool = True) -> tuple[int, ...]:
    """The steps ``values`` as a tuple; raises ValueError unless they are integers from 0 on that rise."""
    try:
        steps = tuple(values)
    except TypeError:
        raise ValueError(f"{name_of(schedule)}: {field} must be a sequence of steps, got {values!r}") from None
    for value in steps:
        whole(name_of(schedule), f"each of {field}", value, 0)
    for a, b in zip(steps, steps[1:], strict=False):
        if b < a or (strictly and a == b):
            raise ValueError(f"{name_of(schedule)}: {field} must rise, got {a} before {b}")
    return steps


def name_of(schedule: Any) -> str:
    return type(schedule).__name__


def line(done: jax.Array) -> jax.Array:
    """Of a way that is ``done`` (0 to 1), what is left on a straight line."""
    return 1 - done


def half_cosine(done: jax.Array) -> jax.Array:
    """Of a way that is ``done`` (0 to 1), what is left on half a cosine."""
    return (1 + jnp.cos(jnp.pi * done)) / 2


def between(start: Any, end: Any, left: jax.Array) -> jax.Array:
    """The value where ``left`` (1 to 0) of the way from ``start`` to ``end`` remains; exact at both ends."""
    return left * start + (1 - left) * end
