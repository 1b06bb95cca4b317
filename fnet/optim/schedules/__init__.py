"""Schedules: hyperparameters as pure functions of the step.

A schedule is any function of the number of updates applied before this one, so the first update uses ``s(0)``.
Those here are frozen values (equal, hashable, picklable) that take Python ints, traced int32 steps and whole
arrays of steps, as in ``plt.plot(schedule(np.arange(1000)))``, and return an array of that shape in JAX's default
float. At both of its ends each gives exactly the number that it was built with. What lasts some steps has
``steps``, and keeps its last value from there on.
"""

from fnet.optim.schedules.compose import join, piecewise, warmup, warmup_stable_decay
from fnet.optim.schedules.cycles import cosine_restarts, cyclic, one_cycle
from fnet.optim.schedules.decay import (
    constant,
    cosine,
    exponential,
    inverse_sqrt,
    linear,
    multistep,
    polynomial,
    step_decay,
)

__all__ = [
    "constant", "cosine", "cosine_restarts", "cyclic", "exponential", "inverse_sqrt", "join", "linear", "multistep",
    "one_cycle", "piecewise", "polynomial", "step_decay", "warmup", "warmup_stable_decay",
]  # fmt: skip
