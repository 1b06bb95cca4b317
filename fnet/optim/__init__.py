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
from fnet.optim.clip import adaptive_clip, clip_by_global_norm, clip_by_value, global_norm
from fnet.optim.conditional import accumulate, all_finite, dynamic_loss_scale, skip_nonfinite
from fnet.optim.core import Optimizer, Wrapper
from fnet.optim.eight_bit import slots_8bit
from fnet.optim.groups import groups
from fnet.optim.hyper import Decay, Rate, Schedule, get_hyper, set_hyper
from fnet.optim.plateau import reduce_on_plateau
from fnet.optim.precision import master_weights, slot_dtype, stochastic_rounding
from fnet.optim.report import memory
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
    "Decay", "Now", "Optimizer", "Rate", "Rule", "Schedule", "Wrapper", "accumulate", "adagrad", "adam", "adamw",
    "adaptive_clip", "all_finite", "clip_by_global_norm", "clip_by_value", "constant", "cosine",
    "cosine_restarts", "cyclic", "dynamic_loss_scale", "exponential", "get_hyper", "global_norm", "groups",
    "inverse_sqrt", "join", "l2", "linear", "master_weights", "memory", "multistep", "one_cycle", "piecewise",
    "polynomial", "reduce_on_plateau", "rmsprop", "set_hyper", "sgd", "skip_nonfinite", "slot_dtype",
    "slots_8bit", "step_decay", "stochastic_rounding", "warmup", "warmup_stable_decay",
]  # fmt: skip
