"""What Adam and its relatives share: decay rates as one tuple, and weight decay that no moment divides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import jax

from fnet.optim.hyper import Rate, check
from fnet.optim.rule import Rule


@dataclass(frozen=True, repr=False)
class Moments(Rule):
    """A rule with ``betas``, the decay rates of its running averages, in the state "b1", "b2", ….

    Raises TypeError unless ``betas`` has as many as ``decays``, and ValueError for values out of range.
    """

    lr: Rate = 1e-3
    betas: tuple[Rate, ...] = (0.9, 0.999)
    eps: Rate = 1e-8
    weight_decay: Rate = 0.0

    decays: ClassVar[tuple[str, ...]] = ("b1", "b2")

    def __post_init__(self) -> None:
        check(type(self).__name__, "lr", self.lr, decay=False)  # first, since PyTorch's first argument are parameters
        object.__setattr__(self, "betas", rates(self, "betas", self.betas, len(self.decays)))
        super().__post_init__()

    @property
    def slots(self) -> tuple[str, ...]:
        return ("mu", "nu")

    def hyper(self) -> dict[str, Rate | None]:
        betas = dict(zip(self.decays, self.betas, strict=True))
        return {"lr": self.lr, **betas, "eps": self.eps, "weight_decay": self.weight_decay or None}


def rates(rule: Rule, name: str, given: Any, count: int) -> tuple[Rate, ...]:
    """Several hyperparameters given as one, as a tuple; raises TypeError unless there are ``count``."""
    if not isinstance(given, tuple | list) or len(given) != count:
        owner, usual = type(rule).__name__, getattr(type(rule), name)
        what = {2: "a pair", 3: "a triple"}[count]
        raise TypeError(f"{owner}: {name} must be {what} such as {usual}, got {given!r}")
    return tuple(given)


def shrink(h: Any, p: jax.Array) -> jax.Array:
    """``(1 - lr · weight_decay) · p``: decoupled weight decay, as AdamW has it in PyTorch."""
    return p if h.weight_decay is None else (1 - h.lr * h.weight_decay) * p
