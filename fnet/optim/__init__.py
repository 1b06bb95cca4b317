"""Optimizers: update rules, schedules, groups by name and wrappers, as frozen values with pure functions.

>>> import jax.numpy as jnp
>>> from fnet import optim
>>> opt = optim.clip_by_global_norm(optim.adamw(optim.warmup(3e-4, steps=100), weight_decay=0.1), 1.0)
>>> params = {"weight": jnp.ones((2, 3)), "bias": jnp.zeros(3)}
>>> opt_state = opt.init(params)
>>> grads = {"weight": jnp.ones((2, 3)), "bias": jnp.ones(3)}
>>> params, opt_state = opt.update(grads, opt_state, params)
>>> int(opt_state["step"])
1
"""

from fnet.optim.adam import adam, adamw
from fnet.optim.adaptive import adagrad, rmsprop
from fnet.optim.clip import clip_by_global_norm, global_norm
from fnet.optim.core import Optimizer, Wrapper
from fnet.optim.groups import groups
from fnet.optim.hyper import Decay, Rate, Schedule, get_hyper, set_hyper
from fnet.optim.rule import Now, Rule, l2
from fnet.optim.schedules import (
    constant,
    cosine,
    cosine_restarts,
    cyclic,
    exponential,
    inverse_sqrt,
    join,
    linear,
    multistep,
    one_cycle,
    piecewise,
    polynomial,
    step_decay,
    warmup,
    warmup_stable_decay,
)
from fnet.optim.sgd import sgd

__all__ = [
    "Decay", "Now", "Optimizer", "Rate", "Rule", "Schedule", "Wrapper", "adagrad", "adam", "adamw",
    "clip_by_global_norm", "constant", "cosine", "cosine_restarts", "cyclic", "exponential", "get_hyper",
    "global_norm", "groups", "inverse_sqrt", "join", "l2", "linear", "multistep", "one_cycle", "piecewise",
    "polynomial", "rmsprop", "set_hyper", "sgd", "step_decay", "warmup", "warmup_stable_decay",
]  # fmt: skip
