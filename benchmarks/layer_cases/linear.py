"""Affine maps and embeddings, on two axes and on more."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import torch
from flax import nnx

from fnet import nn
from layer_cases import Case, Ints


def linear(leading: tuple[int, ...], n_in: int, n_out: int) -> Case:
    def equinox(key: jax.Array) -> Any:
        module = eqx.nn.Linear(n_in, n_out, key=key)
        for _ in leading[2:]:
            module = eqx.filter_vmap(module)
        return eqx.filter_vmap(module) if len(leading) > 1 else module

    return Case(
        f"{'x'.join(map(str, leading))}, {n_in} to {n_out}",
        inputs=((*leading, n_in),),
        fnet=lambda: nn.Linear(n_out),
        torch=lambda: torch.nn.Linear(n_in, n_out),
        flax=lambda rngs: nnx.Linear(n_in, n_out, rngs=rngs),
        equinox=equinox,
    )


CASES = [
    linear((128,), 784, 512),
    linear((32, 128), 256, 1024),
    linear((32, 128), 1024, 256),
    Case(
        "embedding 1000 x 64, ids 32x128",
        inputs=(Ints((32, 128), 1000),),
        fnet=lambda: nn.Embedding(1000, 64),
        torch=lambda: torch.nn.Embedding(1000, 64),
        flax=lambda rngs: nnx.Embed(1000, 64, rngs=rngs),
        equinox=lambda key: eqx.filter_vmap(eqx.nn.Embedding(1000, 64, key=key)),
    ),
    Case(
        "embedding bag 1000 x 64, 128 bags of 32",
        inputs=(Ints((128, 32), 1000),),
        fnet=lambda: nn.EmbeddingBag(1000, 64),
        torch=lambda: torch.nn.EmbeddingBag(1000, 64),
    ),
    Case(
        "bilinear 256, 64 and 32 to 64",
        inputs=((256, 64), (256, 32)),
        fnet=lambda: nn.Bilinear(64),
        torch=lambda: torch.nn.Bilinear(64, 32, 64),
    ),
]
