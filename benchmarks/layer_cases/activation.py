"""Activations and the softmax family, of a layer's size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import torch.nn.functional as torch_functional
from flax import nnx

import fnet.functional as F
from layer_cases import Case, Pure

SHAPE = (256, 4096)


def activation(name: str, theirs: Callable[..., Any] | None = None, **options: Any) -> Case:
    """`theirs`: what Flax calls it; Equinox users take jax.nn's, which is Flax's too."""
    label = name + "".join(f", {value}" for value in options.values())
    return Case(
        f"{label}, {' x '.join(map(str, SHAPE))}",
        inputs=(SHAPE,),
        fnet=lambda: lambda x: getattr(F, name)(x, **options),
        torch=lambda: lambda x: getattr(torch_functional, name)(x, **options),
        flax=None if theirs is None else lambda rngs: Pure(lambda params, x: theirs(x)),
    )


CASES = [
    activation("relu", nnx.relu),
    activation("gelu", lambda x: nnx.gelu(x, approximate=False)),
    activation("gelu", lambda x: nnx.gelu(x, approximate=True), approximate="tanh"),
    activation("silu", nnx.silu),
    activation("elu", nnx.elu),
    activation("softplus", nnx.softplus),
    activation("mish", jax.nn.mish),
    activation("hardswish", nnx.hard_swish),
    activation("glu", nnx.glu),
    activation("softmax", nnx.softmax, dim=-1),
    activation("log_softmax", nnx.log_softmax, dim=-1),
]
