"""`profile`: how long a step takes, with compiling apart."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np


@dataclass(frozen=True)
class Profile:
    """Seconds: of tracing, of compiling, and of each step that was timed. Prints as one line."""

    trace: float
    compile: float
    steps: tuple[float, ...]
    folder: str | None = None

    @property
    def median(self) -> float:
        """The middle of the times of the steps."""
        return float(np.median(self.steps))

    def __str__(self) -> str:
        spread = f"{min(self.steps) * 1e3:.3g}–{max(self.steps) * 1e3:.3g}"
        seen = f"; traces for TensorBoard or Perfetto in {self.folder}" if self.folder else ""
        return (
            f"{self.median * 1e3:.3g} ms a step (median of {len(self.steps)}, {spread}); traced in {self.trace:.2f} s, "
            f"compiled in {self.compile:.2f} s{seen}"
        )

    __repr__ = __str__


def profile(
    step: Callable[..., Any], run: Any, batch: Any, *, steps: int = 20, warm_up: int = 2, folder: str | None = None
) -> Profile:
    """Time a training step, each until its results are there, after it was traced and compiled, which are timed apart.

    ``step(run, batch)`` is jitted if it is not, and each step goes on from the run that the one before gave; the run
    that is passed stays as it is. With ``folder`` the timed steps are recorded by `jax.profiler.trace`, in which parts
    of a model go by their names.

    >>> import jax, jax.numpy as jnp
    >>> found = profile(lambda run, batch: (run + batch, {}), jnp.ones(3), jnp.ones(3), steps=5)
    >>> len(found.steps), found.median > 0, found.folder
    (5, True, None)
    """
    if steps < 1 or warm_up < 0:
        raise ValueError(f"profile needs 1 step and a warm-up of 0, at least; got steps={steps}, warm_up={warm_up}")
    stages = step if hasattr(step, "lower") else jax.jit(step)
    run = jax.tree.map(jax.numpy.copy, run)  # a step that donates would take the caller's
    start = time.perf_counter()
    lowered = stages.lower(run, batch)
    traced = time.perf_counter()
    compiled = lowered.compile()
    ready = time.perf_counter()
    for _ in range(warm_up):
        run = jax.block_until_ready(compiled(run, batch))[0]
    if folder is None:
        times = _timed(compiled, run, batch, steps)
    else:
        with jax.profiler.trace(folder):
            times = _timed(compiled, run, batch, steps)
    return Profile(traced - start, ready - traced, tuple(times), folder)


def _timed(compiled: Any, run: Any, batch: Any, steps: int) -> list[float]:
    times = []
    for number in range(steps):
        start = time.perf_counter()
        with jax.profiler.StepTraceAnnotation("step", step_num=number):
            run = jax.block_until_ready(compiled(run, batch))[0]
        times.append(time.perf_counter() - start)
    return times
