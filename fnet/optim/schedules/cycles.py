"""Schedules that rise and fall: SGDR's restarts, one cycle, many cycles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnet.optim.checks import whole
from fnet.optim.schedules.base import between, check, check_choice, floating, half_cosine, line

SHAPES = {"cos": half_cosine, "linear": line}
LAST_STEP = 2**31 - 1  # steps are int32


@dataclass(frozen=True)
class cosine_restarts:
    """Half cosines from ``peak`` down to ``end``, the first over ``steps`` updates, each next ``mult`` times longer.

    SGDR (Loshchilov & Hutter 2017, eq. 5), as torch's CosineAnnealingWarmRestarts (``T_0``, ``T_mult``, ``eta_min``).
    The update at a restart uses ``peak``; ``end`` itself is approached and never used.

    >>> s = cosine_restarts(1.0, steps=2, mult=2)
    >>> [round(float(s(i)), 3) for i in range(8)]
    [1.0, 0.5, 1.0, 0.854, 0.5, 0.146, 1.0, 0.962]
    """

    peak: float
    steps: int
    mult: int = 1
    end: float = 0.0

    def __post_init__(self) -> None:
        check(self, peak=self.peak, end=self.end)
        whole("cosine_restarts", "steps", self.steps, 1)
        whole("cosine_restarts", "mult", self.mult, 1)

    def __call__(self, step: Any) -> jax.Array:
        step = jnp.asarray(step)
        if self.mult == 1:
            done = floating(step % self.steps) / self.steps
        else:  # from a table, since the logarithm in the closed form is off by one period at some restarts
            starts, length = [0], self.steps
            while starts[-1] + length <= LAST_STEP:
                starts.append(starts[-1] + length)
                length *= self.mult
            lengths = self.steps * self.mult ** np.arange(len(starts), dtype=float)
            period = jnp.searchsorted(jnp.asarray(starts), step, side="right") - 1
            done = floating(step - jnp.asarray(starts)[period]) / floating(lengths)[period]
        return between(self.peak, self.end, half_cosine(done))


@dataclass(frozen=True)
class one_cycle:
    """Up from ``peak / div_factor`` to ``peak``, then down to ``peak / div_factor / final_div_factor``.

    The 1cycle policy (Smith & Topin 2018), as torch's OneCycleLR: ``steps`` is its ``total_steps``, the peak comes at
    update ``pct_start · steps - 1``, the last value at ``steps - 1``; it stays, where torch raises. ``anneal`` is
    "cos" or "linear". ``three_phase`` first goes down as far as it came up, as the paper does, then to the last value.

    >>> s = one_cycle(1.0, steps=11, pct_start=6 / 11, anneal="linear", div_factor=10.0)
    >>> [round(float(s(i)), 4) for i in (0, 5, 10)]
    [0.1, 1.0, 0.0]
    """

    peak: float
    steps: int
    pct_start: float = 0.3
    anneal: str = "cos"
    div_factor: float = 25.0
    final_div_factor: float = 1e4
    three_phase: bool = False

    def __post_init__(self) -> None:
        check(self, peak=self.peak, div_factor=self.div_factor, final_div_factor=self.final_div_factor)
        whole("one_cycle", "steps", self.steps, 1)
        check_choice(self, "anneal", self.anneal, tuple(SHAPES))
        if not 0 <= self.pct_start <= 1:
            raise ValueError(f"one_cycle: pct_start must be in [0, 1], got {self.pct_start!r}")
        if not (self.div_factor > 0 and self.final_div_factor > 0):
            raise ValueError("one_cycle: div_factor and final_div_factor must be above 0")

    def __call__(self, step: Any) -> jax.Array:
        first = self.peak / self.div_factor
        top, last = self.pct_start * self.steps - 1, self.steps - 1
        ends = [(top, first, self.peak)]
        if self.three_phase:
            ends.append((2 * top, self.peak, first))
        ends.append((last, ends[-1][2], first / self.final_div_factor))
        begins = [0, *(end for end, _, _ in ends)]
        step, value = floating(step), None
        for begin, (end, start, stop) in reversed(list(zip(begins, ends, strict=False))):
            done = jnp.clip((step - begin) / (end - begin), 0, 1) if end > begin else jnp.ones_like(step)
            phase = between(start, stop, SHAPES[self.anneal](done))
            value = phase if value is None else jnp.where(step <= end, phase, value)
        assert value is not None
        return value


@dataclass(frozen=True)
class cyclic:
    """Straight up from ``base`` to ``peak`` over ``steps`` updates, down over ``steps_down`` (None: as many), again.

    Cyclical learning rates (Smith 2017), as torch's CyclicLR. ``mode`` is "triangular", "triangular2" (each cycle
    half as high as the one before) or "exp_range" (the height falls as ``gamma^step``).

    >>> s = cyclic(0.0, 1.0, steps=2, mode="triangular2")
    >>> [float(s(i)) for i in range(8)]
    [0.0, 0.5, 1.0, 0.5, 0.0, 0.25, 0.5, 0.25]
    """

    base: float
    peak: float
    steps: int
    steps_down: int | None = None
    mode: str = "triangular"
    gamma: float = 1.0

    def __post_init__(self) -> None:
        check(self, base=self.base, peak=self.peak, gamma=self.gamma)
        whole("cyclic", "steps", self.steps, 1)
        if self.steps_down is not None:
            whole("cyclic", "steps_down", self.steps_down, 1)
        check_choice(self, "mode", self.mode, ("triangular", "triangular2", "exp_range"))
        if not self.gamma > 0:
            raise ValueError(f"cyclic: gamma must be above 0, got {self.gamma!r}")

    def __call__(self, step: Any) -> jax.Array:
        step, down = jnp.asarray(step), self.steps_down or self.steps
        cycle, place = jnp.divmod(step, self.steps + down)
        place = floating(place)
        height = jnp.where(place <= self.steps, place / self.steps, 1 - (place - self.steps) / down)
        if self.mode == "triangular2":
            height = height * 0.5 ** floating(cycle)
        elif self.mode == "exp_range":
            height = height * self.gamma ** floating(step)
        return between(self.peak, self.base, height)
