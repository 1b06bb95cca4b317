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

from typing import Any

from fnet.optim.adam import adam, adamw
from fnet.optim.adam_variants import adabelief, adamax, adopt, nadam, radam, yogi
from fnet.optim.adaptive import adadelta, adagrad, rmsprop
from fnet.optim.averaging import ema, lookahead, swa
from fnet.optim.clip import adaptive_clip, clip_by_global_norm, clip_by_value, global_norm
from fnet.optim.conditional import accumulate, all_finite, dynamic_loss_scale, skip_nonfinite
from fnet.optim.core import Optimizer, Wrapper
from fnet.optim.eight_bit import slots_8bit
from fnet.optim.factored import adafactor
from fnet.optim.groups import groups
from fnet.optim.hutchinson import sophia
from fnet.optim.hyper import Decay, Rate, Schedule, get_hyper, set_hyper
from fnet.optim.layer_moments import novograd
from fnet.optim.layerwise import lamb, lars
from fnet.optim.learning_rate_free import dadapt_adamw, dadapt_sgd, prodigy
from fnet.optim.momenta import adan, ademamix
from fnet.optim.muon import muon
from fnet.optim.plateau import reduce_on_plateau
from fnet.optim.polyak import asgd
from fnet.optim.precision import master_weights, slot_dtype, stochastic_rounding
from fnet.optim.quasi_newton import lbfgs
from fnet.optim.report import memory
from fnet.optim.rule import Now, Rule, l2
from fnet.optim.schedule_free import schedule_free_adamw, schedule_free_sgd
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
from fnet.optim.shampoo import shampoo
from fnet.optim.sharpness import sam
from fnet.optim.sign import lion, rprop
from fnet.optim.soap import soap
from fnet.optim.stacked import PerLayer

__all__ = [
    "Decay", "Now", "Optimizer", "PerLayer", "Rate", "Rule", "Schedule", "Wrapper", "accumulate", "adabelief",
    "adadelta", "adafactor", "adagrad", "adam", "adamax", "adamw", "adan", "adaptive_clip", "ademamix", "adopt",
    "all_finite", "asgd", "clip_by_global_norm", "clip_by_value", "constant", "cosine", "cosine_restarts",
    "cyclic", "dadapt_adamw", "dadapt_sgd", "dynamic_loss_scale", "ema", "exponential", "get_hyper",
    "global_norm", "groups", "inverse_sqrt", "join", "l2", "lamb", "lars", "lbfgs", "linear", "lion", "lookahead",
    "master_weights", "memory", "multistep", "muon", "nadam", "novograd", "one_cycle", "piecewise", "polynomial",
    "prodigy", "radam", "reduce_on_plateau", "rmsprop", "rprop", "sam", "schedule_free_adamw",
    "schedule_free_sgd", "set_hyper", "sgd", "shampoo", "skip_nonfinite", "slot_dtype", "slots_8bit", "soap",
    "sophia", "step_decay", "stochastic_rounding", "swa", "warmup", "warmup_stable_decay", "yogi",
]  # fmt: skip

PYTORCH = {
    "lr_scheduler": "a schedule in the place of the learning rate, as in optim.adam(optim.cosine(1e-3, steps=1000))",
    "swa_utils": "optim.swa(opt, …) and optim.ema(opt, …)",
}


def __getattr__(name: str) -> Any:
    from fnet.selectors import hint

    if name in PYTORCH:
        raise AttributeError(f"optim.{name} is {PYTORCH[name]} in fnet")
    if name.lower() in __all__:
        raise AttributeError(
            f"optim.{name} is optim.{name.lower()} in fnet, and holds no parameters: opt = optim.{name.lower()}(1e-3), "
            "opt_state = opt.init(params), params, opt_state = opt.update(grads, opt_state, params)"
        )
    raise AttributeError(f"module 'fnet.optim' has no {name!r}; {hint(name, __all__)}")
