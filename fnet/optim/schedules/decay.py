"""Schedules that fall, or stay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from fnet.optim.checks import whole
from fnet.optim.schedules.base import between, check, check_rising, floating, half_cosine, line


@dataclass(frozen=True)
class constant:
    """The same value at every step; unlike a plain float it cannot be changed by `set_hyper`.

    >>> float(constant(0.5)(7))
    0.5
    """

    value: float

    def __post_init__(self) -> None:
        check(self, value=self.value)

    def __call__(self, step: Any) -> jax.Array:
        return jnp.full_like(floating(step), self.value)


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
        check(self, start=self.start, end=self.end)
        whole("linear", "steps", self.steps, 1)

    def __call__(self, step: Any) -> jax.Array:
        return between(self.start, self.end, line(_done(step, self.steps)))


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
        check(self, peak=self.peak, end=self.end)
        whole("cosine", "steps", self.steps, 1)

    def __call__(self, step: Any) -> jax.Array:
        return between(self.peak, self.end, half_cosine(_done(step, self.steps)))


@dataclass(frozen=True)
class polynomial:
    """``(start - end) · (1 - step / steps)^power + end``, and ``end`` from step ``steps`` on.

    As torch's PolynomialLR, whose ``end`` is 0, and as optax's polynomial_schedule.

    >>> s = polynomial(1.0, 0.0, steps=4, power=2.0)
    >>> [float(s(i)) for i in (0, 1, 2, 4, 9)]
    [1.0, 0.5625, 0.25, 0.0, 0.0]
    """

    start: float
    end: float
    steps: int
    power: float = 1.0

    def __post_init__(self) -> None:
        check(self, start=self.start, end=self.end, power=self.power)
        whole("polynomial", "steps", self.steps, 1)
        if not self.power > 0:
            raise ValueError(f"polynomial: power must be above 0, got {self.power!r}")

    def __call__(self, step: Any) -> jax.Array:
        return between(self.start, self.end, (1 - _done(step, self.steps)) ** self.power)


@dataclass(frozen=True)
class exponential:
    """``start · gamma^(step / steps)``: a factor of ``gamma`` every ``steps`` updates, smoothly.

    As torch's ExponentialLR (``steps=1``). With ``end`` the value never passes it, as in optax's exponential_decay.

    >>> s = exponential(1.0, gamma=0.25, steps=2, end=0.1)
    >>> [round(float(s(i)), 6) for i in (0, 1, 2, 9)]
    [1.0, 0.5, 0.25, 0.1]
    """

    start: float
    gamma: float
    steps: int = 1
    end: float | None = None

    def __post_init__(self) -> None:
        check(self, start=self.start, gamma=self.gamma, end=self.start if self.end is None else self.end)
        whole("exponential", "steps", self.steps, 1)
        _check_gamma(self)

    def __call__(self, step: Any) -> jax.Array:
        value = self.start * self.gamma ** (floating(step) / self.steps)
        if self.end is None:
            return value
        return jnp.minimum(value, self.end) if self.end > self.start else jnp.maximum(value, self.end)


@dataclass(frozen=True)
class step_decay:
    """A drop by the factor ``gamma`` after every ``steps`` updates, as torch's StepLR.

    >>> s = step_decay(1.0, steps=2, gamma=0.5)
    >>> [float(s(i)) for i in (0, 1, 2, 3, 4)]
    [1.0, 1.0, 0.5, 0.5, 0.25]
    """

    start: float
    steps: int
    gamma: float = 0.1

    def __post_init__(self) -> None:
        check(self, start=self.start, gamma=self.gamma)
        whole("step_decay", "steps", self.steps, 1)
        _check_gamma(self)

    def __call__(self, step: Any) -> jax.Array:
        return self.start * self.gamma ** floating(jnp.asarray(step) // self.steps)


@dataclass(frozen=True)
class multistep:
    """A drop by the factor ``gamma`` at each of the steps ``milestones``, as torch's MultiStepLR.

    ``milestones`` rise; one that is listed twice counts twice.

    >>> s = multistep(1.0, milestones=(2, 5), gamma=0.5)
    >>> [float(s(i)) for i in (0, 1, 2, 4, 5)]
    [1.0, 1.0, 0.5, 0.5, 0.25]
    """

    start: float
    milestones: tuple[int, ...]
    gamma: float = 0.1

    def __post_init__(self) -> None:
        check(self, start=self.start, gamma=self.gamma)
        _check_gamma(self)
        object.__setattr__(self, "milestones", check_rising(self, "milestones", self.milestones, strictly=False))

    def __call__(self, step: Any) -> jax.Array:
        passed = sum((jnp.asarray(step) >= at for at in self.milestones), start=jnp.zeros_like(step))
        return self.start * self.gamma ** floating(passed)


@dataclass(frozen=True)
class inverse_sqrt:
    """``peak · sqrt(steps / (step + steps))``: after ``steps`` updates 0.71 of the peak, after three times that half.

    After a warm-up it is the Transformer's (Vaswani et al. 2017, eq. 3):
    ``warmup(inverse_sqrt(peak, steps=n), steps=n - 1)`` is ``peak · min(t / n, sqrt(n / t))`` at the t-th update.

    >>> s = inverse_sqrt(1.0, steps=10)
    >>> [float(s(i)) for i in (0, 30, 150)]
    [1.0, 0.5, 0.25]
    """

    peak: float
    steps: int

    def __post_init__(self) -> None:
        check(self, peak=self.peak)
        whole("inverse_sqrt", "steps", self.steps, 1)

    def __call__(self, step: Any) -> jax.Array:
        return self.peak * jnp.sqrt(self.steps / (floating(step) + self.steps))


def _done(step: Any, steps: int) -> jax.Array:
    return jnp.clip(floating(step) / steps, 0, 1)


def _check_gamma(schedule: Any) -> None:
    if not schedule.gamma > 0:
        raise ValueError(f"{type(schedule).__name__}: gamma must be above 0, got {schedule.gamma!r}")
