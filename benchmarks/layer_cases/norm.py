"""Normalisation. Equinox's BatchNorm needs a named axis and its own state, so it is left out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import torch
from flax import nnx

from fnet import nn
from layer_cases import Case, Pure


def batch(name: str, shape: tuple[int, ...], train: bool) -> Case:
    channels = shape[-1]
    kind = torch.nn.BatchNorm2d if len(shape) == 4 else torch.nn.BatchNorm1d
    return Case(
        f"BatchNorm {name}, {'training' if train else 'evaluation'}",
        inputs=(shape,),
        fnet=nn.BatchNorm,
        torch=lambda: kind(channels),
        flax=lambda rngs: flax_batch(nnx.BatchNorm(channels, momentum=0.9, epsilon=1e-5, rngs=rngs), train),
        channels_first=True,
        train=train,
    )


def flax_batch(module: Any, train: bool) -> Pure:
    """The module with its statistics made anew in each trace: nnx refuses to write those of another."""
    module.train() if train else module.eval()
    graph, params, rest = nnx.split(module, nnx.Param, ...)
    return Pure(lambda params, x: nnx.merge(graph, params, jax.tree.map(lambda leaf: leaf, rest))(x), params)


def positions(layer: Callable[[], Any], shape: tuple[int, ...], theirs: Any, flax: Any, equinox: Any) -> Case:
    size = shape[-1]

    def build(key: jax.Array) -> Any:
        module = equinox(size)
        for _ in shape[2:]:
            module = eqx.filter_vmap(module)  # still a module: of a plain function the weights would be constants
        return module

    return Case(
        f"{layer.__name__} {'x'.join(map(str, shape))}",
        inputs=(shape,),
        fnet=layer,
        torch=lambda: theirs(size),
        flax=lambda rngs: flax(size, epsilon=1e-5, rngs=rngs),
        equinox=build,
    )


def group(shape: tuple[int, ...], groups: int) -> Case:
    channels = shape[-1]
    return Case(
        f"GroupNorm({groups}) {'x'.join(map(str, shape))}",
        inputs=(shape,),
        fnet=lambda: nn.GroupNorm(groups),
        torch=lambda: torch.nn.GroupNorm(groups, channels),
        flax=lambda rngs: nnx.GroupNorm(channels, num_groups=groups, epsilon=1e-5, rngs=rngs),
        equinox=lambda key: eqx.nn.GroupNorm(groups, channels),
        channels_first=True,
    )


CASES = [
    batch("32x28x28x64", (32, 28, 28, 64), True),
    batch("64x32x32x16", (64, 32, 32, 16), True),
    batch("256x512", (256, 512), True),
    batch("32x28x28x64", (32, 28, 28, 64), False),
    positions(nn.LayerNorm, (32, 128, 256), torch.nn.LayerNorm, nnx.LayerNorm, eqx.nn.LayerNorm),
    positions(nn.LayerNorm, (128, 1024), torch.nn.LayerNorm, nnx.LayerNorm, eqx.nn.LayerNorm),
    positions(
        nn.RMSNorm,
        (32, 128, 256),
        lambda size: torch.nn.RMSNorm(size, 1e-5),
        nnx.RMSNorm,
        lambda size: eqx.nn.RMSNorm(size, use_bias=False),
    ),
    group((32, 28, 28, 64), 8),
    Case(
        "InstanceNorm 32x28x28x64",
        inputs=((32, 28, 28, 64),),
        fnet=nn.InstanceNorm,
        torch=lambda: torch.nn.InstanceNorm2d(64),
        flax=lambda rngs: nnx.InstanceNorm(64, epsilon=1e-5, use_bias=False, use_scale=False, rngs=rngs),
        channels_first=True,
    ),
]
