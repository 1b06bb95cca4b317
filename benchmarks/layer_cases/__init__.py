"""The cases that benchmarks/layers.py times: one file a family, each with a list `CASES`."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np


@dataclass(frozen=True)
class Ints:
    """Integer inputs: ids or labels from 0 to `below` - 1, which get no gradient."""

    shape: tuple[int, ...]
    below: int


@dataclass(frozen=True)
class Pure:
    """A function of (params, *inputs), for what the library's plain module would not show."""

    function: Callable[..., Any]
    params: Any = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """The same computation in four libraries.

    `inputs`: a shape for each float32 input, `Ints` for integers. `fnet` builds a layer, or a plain function of the
    inputs; `torch` a torch.nn.Module or a function; `flax` takes an nnx.Rngs and gives an nnx module or a function;
    `equinox` takes a key and gives a module of one example, which is then vmapped over the first axis of every input,
    or a `Pure` of whole batches. Each may give a `Pure`; None: the library does not have it. `channels_first` moves
    the last axis of the float inputs to the second place for torch and Equinox, whose images and sequences have
    it there. `train` is the mode in which layers that have one run.
    """

    name: str
    inputs: tuple[tuple[int, ...] | Ints, ...]
    fnet: Callable[[], Any]
    torch: Callable[[], Any] | None = None
    flax: Callable[[Any], Any] | None = None
    equinox: Callable[[jax.Array], Any] | None = None
    channels_first: bool = False
    train: bool = False

    def arrays(self) -> list[np.ndarray]:
        rng = np.random.default_rng(0)
        return [
            rng.integers(given.below, size=given.shape).astype("int32")
            if isinstance(given, Ints)
            else rng.standard_normal(given, dtype="float32")
            for given in self.inputs
        ]


def families() -> dict[str, list[Case]]:
    """Every family's cases, by the name of its file."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return {name: importlib.import_module(f"{__name__}.{name}").CASES for name in names}
