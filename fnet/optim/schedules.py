"""Schedules: hyperparameters as pure functions of the step.

A schedule is any function of the number of updates applied before this one, so the first update uses ``s(0)``.
Those here are frozen values (equal, hashable, picklable) that take Python ints, traced int32 steps and whole
arrays of steps, as in ``plt.plot(schedule(np.arange(1000)))``, and return an array of that shape in JAX's default
float. At both of its ends each gives exactly the number that it was built with.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from fnet.optim.hyper import Schedule


def _float(step: Any) -> jax.Array:
    return jnp.asarray(step, jnp.result_type(float))


def _check(schedule: Any, /, least: int = 1, **values: float) -> None:
    name = type(schedule).__name__
    steps = getattr(schedule, "steps", least)
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < least:
        raise ValueError(f"{name}: steps must be an integer of at least {least}, got {steps!r}")
    for field, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"{name}: {field} must be a finite number, got {value!r}")


@dataclass(frozen=True)
class constant:
    """The same value at every step; unlike a plain float it cannot be changed by `set_hyper`.

    >>> float(constant(0.5)(7))
    0.5
    """

    value: float

    def __post_init__(self) -> None:
        _check(self, value=self.value)

    def __call__(self, step: Any) -> jax.Array:
        return jnp.full_like(_float(step), self.value)


@dataclass(frozen=True)
class linear:
    """A straight line from ``start`` at step 0 to ``end`` at step ``steps``, and ``end`` from there on.

    >>> s = linear(1.0, 0.0, steps=4)
    >>> [float(s(i)) for i in (0, 1, 4, 9)]
    [1.0, 0.75, 0.0, 0.0]
    """

    start: float
    end: float
    steps: int

    def __post_init__(self) -> None:
        _check(self, start=self.start, end=self.end)

    def __call__(self, step: Any) -> jax.Array:
        done = jnp.clip(_float(step) / self.steps, 0, 1)
        return (1 - done) * self.start + done * self.end


@dataclass(frozen=True)
class cosine:
    """Half a cosine from ``peak`` at step 0 down to ``end`` at step ``steps``, and ``end`` from there on.

    SGDR without restarts (Loshchilov & Hutter 2017, eq. 5). As torch's CosineAnnealingLR up to ``steps``, after which
    that one rises again.

    >>> s = cosine(1.0, steps=4)
    >>> [round(float(s(i)), 3) for i in (0, 1, 2, 4, 9)]
    [1.0, 0.854, 0.5, 0.0, 0.0]
    """

    peak: float
    steps: int
    end: float = 0.0

    def __post_init__(self) -> None:
        _check(self, peak=self.peak, end=self.end)

    def __call__(self, step: Any) -> jax.Array:
        left = (1 + jnp.cos(jnp.pi * jnp.clip(_float(step) / self.steps, 0, 1))) / 2
        return left * self.peak + (1 - left) * self.end


@dataclass(frozen=True)
class warmup:
    """A linear rise over ``steps`` updates to the first value of another schedule, which takes over at its step 0.

    ``schedule`` is a schedule or a float. By default the rise begins one increment above zero, at
    ``peak / (steps + 1)``, since an update at rate 0 would be wasted; ``start`` gives another first value (0.0
    for optax's warm-up, ``0.1 * peak`` for ``LinearLR(start_factor=0.1)`` in torch's SequentialLR).

    >>> s = warmup(cosine(1.0, steps=100), steps=3)
    >>> [float(s(i)) for i in (0, 1, 2, 3)]
    [0.25, 0.5, 0.75, 1.0]
    """

    schedule: Schedule | float
    steps: int
    start: float | None = None

    def __post_init__(self) -> None:
        if not callable(self.schedule):
            _check(self, least=0, schedule=self.schedule)
            object.__setattr__(self, "schedule", constant(self.schedule))
        _check(self, least=0, **({} if self.start is None else {"start": self.start}))

    def __call__(self, step: Any) -> jax.Array:
        assert callable(self.schedule)
        peak = self.schedule(jnp.zeros_like(step))
        if self.start is None:
            rising = peak * (_float(step) + 1) / (self.steps + 1)
        else:
            done = _float(step) / max(self.steps, 1)
            rising = (1 - done) * self.start + done * peak
        step = jnp.asarray(step)
        return jnp.where(step < self.steps, rising, self.schedule(jnp.maximum(step - self.steps, 0)))
