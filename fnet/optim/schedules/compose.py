"""Schedules made of others, or of pieces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from fnet.optim.checks import whole
from fnet.optim.hyper import Schedule
from fnet.optim.schedules.base import (
    between,
    check,
    check_choice,
    check_rising,
    floating,
    half_cosine,
    line,
)
from fnet.optim.schedules.decay import constant


@dataclass(frozen=True)
class warmup:
    """A linear rise over ``steps`` updates to the first value of another schedule, which takes over at its step 0.

    ``schedule`` is a schedule or a float. By default the rise begins one increment above zero, at
    ``peak / (steps + 1)``, since an update at rate 0 would be wasted; ``start`` gives another first value (0.0
    for optax's warm-up, ``0.1 * peak`` for ``LinearLR(start_factor=0.1)`` in torch's SequentialLR).

    >>> from fnet import optim
    >>> s = warmup(optim.cosine(1.0, steps=100), steps=3)
    >>> [float(s(i)) for i in (0, 1, 2, 3)]
    [0.25, 0.5, 0.75, 1.0]
    """

    schedule: Schedule | float
    steps: int
    start: float | None = None

    def __post_init__(self) -> None:
        if not callable(self.schedule):
            check(self, schedule=self.schedule)
            object.__setattr__(self, "schedule", constant(self.schedule))
        whole("warmup", "steps", self.steps, 0)
        if self.start is not None:
            check(self, start=self.start)

    def __call__(self, step: Any) -> jax.Array:
        assert callable(self.schedule)
        peak = self.schedule(jnp.zeros_like(step))
        if self.start is None:
            rising = peak * (floating(step) + 1) / (self.steps + 1)
        else:
            done = floating(step) / max(self.steps, 1)
            rising = (1 - done) * self.start + done * peak
        step = jnp.asarray(step)
        return jnp.where(step < self.steps, rising, self.schedule(jnp.maximum(step - self.steps, 0)))


@dataclass(frozen=True)
class join:
    """One schedule after another: the i-th takes over at step ``boundaries[i - 1]``, which is step 0 to it.

    As torch's SequentialLR and optax's join_schedules. A float among ``schedules`` is a constant.

    >>> from fnet import optim
    >>> s = join([1.0, optim.linear(0.5, 0.1, steps=4)], boundaries=[2])
    >>> [round(float(s(i)), 3) for i in (0, 1, 2, 3, 6)]
    [1.0, 1.0, 0.5, 0.4, 0.1]
    """

    schedules: tuple[Schedule | float, ...]
    boundaries: tuple[int, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.schedules, Sequence) or not self.schedules:
            raise ValueError(f"join: schedules must be a list of schedules, got {self.schedules!r}")
        for schedule in self.schedules:
            if not callable(schedule):
                check(self, **{"each of schedules": schedule})
        whole = tuple(s if callable(s) else constant(s) for s in self.schedules)
        object.__setattr__(self, "schedules", whole)
        object.__setattr__(self, "boundaries", check_rising(self, "boundaries", self.boundaries))
        if len(self.boundaries) != len(self.schedules) - 1:
            raise ValueError(
                f"join: {len(self.schedules)} schedules have {len(self.schedules) - 1} boundaries between them, got "
                f"{len(self.boundaries)}"
            )

    def __call__(self, step: Any) -> jax.Array:
        step = jnp.asarray(step)
        value: Any = None
        for begin, schedule in zip((0, *self.boundaries), self.schedules, strict=True):
            assert callable(schedule)
            part = schedule(jnp.maximum(step - begin, 0))
            value = part if value is None else jnp.where(step < begin, value, part)
        return value


@dataclass(frozen=True)
class piecewise:
    """Given values at given steps: ``points`` is ``{step: value}``, with one at step 0, or a list of such pairs.

    Each value holds until the next step listed; with ``interpolate`` "linear" or "cosine" it moves to the next value in
    a straight line or on half a cosine. The last value stays. Optax's piecewise_constant_schedule and
    piecewise_interpolate_schedule list factors of the value before, here values stand as they are.

    >>> s = piecewise({0: 1.0, 2: 0.5, 4: 0.1})
    >>> [round(float(s(i)), 3) for i in range(6)]
    [1.0, 1.0, 0.5, 0.5, 0.1, 0.1]
    >>> s = piecewise({0: 0.0, 2: 1.0, 4: 0.0}, interpolate="linear")
    >>> [float(s(i)) for i in range(6)]
    [0.0, 0.5, 1.0, 0.5, 0.0, 0.0]
    """

    points: tuple[tuple[int, float], ...]
    interpolate: str | None = None

    def __post_init__(self) -> None:
        pairs = self.points.items() if isinstance(self.points, Mapping) else self.points
        try:
            points = tuple((at, value) for at, value in pairs)
        except (TypeError, ValueError):
            raise ValueError(f"piecewise: points must be {{step: value}}, got {self.points!r}") from None
        check_rising(self, "the steps of points", [at for at, _ in points])
        if not points or points[0][0] != 0:
            raise ValueError(f"piecewise: points must begin at step 0, got {self.points!r}")
        check(self, **{f"the value at step {at}": value for at, value in points})
        check_choice(self, "interpolate", self.interpolate, (None, "linear", "cosine"))
        object.__setattr__(self, "points", points)

    def __call__(self, step: Any) -> jax.Array:
        step = floating(step)
        value = jnp.full_like(step, self.points[0][1])
        for (begin, start), (end, stop) in zip(self.points, self.points[1:], strict=False):
            if self.interpolate is not None:
                done = jnp.clip((step - begin) / (end - begin), 0, 1)
                shape = line if self.interpolate == "linear" else half_cosine
                value = jnp.where(step > begin, between(start, stop, shape(done)), value)
            value = jnp.where(step >= end, stop, value)
        return value


@dataclass(frozen=True)
class warmup_stable_decay:
    """Up to ``peak`` over ``warmup`` updates, level, then down to ``end`` over the last ``decay`` of ``steps`` updates.

    WSD (Hu et al. 2024, MiniCPM): where the decay starts can be decided late, and a run can go on from the level
    part. The rise is that of `warmup`. ``shape`` of the decay is "linear", "cosine" or "1-sqrt" (Hägele et al. 2024).

    >>> s = warmup_stable_decay(1.0, steps=100, warmup=3, decay=20)
    >>> [float(s(i)) for i in (0, 3, 80, 90, 100)]
    [0.25, 1.0, 1.0, 0.5, 0.0]
    """

    peak: float
    steps: int
    warmup: int
    decay: int
    end: float = 0.0
    shape: str = "linear"

    def __post_init__(self) -> None:
        check(self, peak=self.peak, end=self.end)
        whole("warmup_stable_decay", "steps", self.steps, 1)
        whole("warmup_stable_decay", "warmup", self.warmup, 0)
        whole("warmup_stable_decay", "decay", self.decay, 0)
        check_choice(self, "shape", self.shape, ("linear", "cosine", "1-sqrt"))
        if self.warmup + self.decay > self.steps:
            raise ValueError(
                f"warmup_stable_decay: warmup ({self.warmup}) and decay ({self.decay}) take more than the "
                f"{self.steps} steps"
            )

    def __call__(self, step: Any) -> jax.Array:
        step, begin = floating(step), self.steps - self.decay
        rising = self.peak * (step + 1) / (self.warmup + 1)
        done = jnp.clip((step - begin) / max(self.decay, 1), 0, 1)
        left = {"linear": line, "cosine": half_cosine, "1-sqrt": lambda x: 1 - jnp.sqrt(x)}[self.shape](done)
        falling = between(self.peak, self.end, left) if self.decay else jnp.full_like(step, self.peak)
        return jnp.where(step < self.warmup, rising, falling)
