"""Losses, means of a batch. Flax and Equinox have none; optax's, which their users take, stand in Flax's column."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import optax
import torch
import torch.nn.functional as torch_functional

import fnet.functional as F
from layer_cases import Case, Ints

ROWS, FEATURES, CLASSES = 1024, 128, 50_304  # GPT-2's vocabulary, rounded up


def classes(rows: int, size: int) -> Case:
    return Case(
        f"cross_entropy, {rows} x {size} classes",
        inputs=((rows, size), Ints((rows,), size)),
        fnet=lambda: F.cross_entropy,
        torch=lambda: torch_functional.cross_entropy,
        flax=lambda rngs: lambda x, y: optax.losses.softmax_cross_entropy_with_integer_labels(x, y).mean(),
    )


def pairs(name: str, theirs: Callable[..., Any] | None = None, shape: tuple[int, ...] = (256, 4096)) -> Case:
    return Case(
        f"{name}, {' x '.join(map(str, shape))}",
        inputs=(shape, shape),
        fnet=lambda: getattr(F, name),
        torch=lambda: getattr(torch_functional, name),
        flax=None if theirs is None else lambda rngs: lambda *xs: theirs(*xs).mean(),
    )


def plain(x: Any, weight: Any, labels: Any) -> Any:
    return optax.losses.softmax_cross_entropy_with_integer_labels(x @ weight, labels).mean()


def ctc_of_optax(x: Any, labels: Any) -> Any:
    x = jnp.swapaxes(x, 0, 1)
    return optax.losses.ctc_loss(x, jnp.zeros(x.shape[:2]), labels + 1, jnp.zeros(labels.shape)).mean()


def lengths(x: Any, labels: Any) -> tuple[list[int], list[int]]:
    return [x.shape[0]] * x.shape[1], [labels.shape[1]] * labels.shape[0]


CASES = [
    classes(4096, 10),
    classes(256, CLASSES),
    Case(
        f"linear_cross_entropy, {ROWS} x {FEATURES} to {CLASSES}, 256 rows at a time",
        inputs=((ROWS, FEATURES), (FEATURES, CLASSES), Ints((ROWS,), CLASSES)),
        fnet=lambda: lambda x, w, y: F.linear_cross_entropy(x, w, y, chunk_size=256),
        torch=lambda: lambda x, w, y: torch_functional.cross_entropy(x @ w, y),
        flax=lambda rngs: plain,
    ),
    pairs("mse_loss", optax.losses.squared_error),
    pairs("huber_loss", optax.losses.huber_loss),
    pairs("smooth_l1_loss"),
    # Its targets, normal numbers here, are no probabilities: fnet's value is NaN, at the cost of any other.
    pairs("binary_cross_entropy_with_logits", optax.losses.sigmoid_binary_cross_entropy),
    pairs("cosine_similarity", None, (1024, 512)),
    Case(
        "ctc_loss, 100 frames x 16 x 64 classes, 20 labels",
        inputs=((100, 16, 64), Ints((16, 20), 63)),
        fnet=lambda: lambda x, y: F.ctc_loss(
            F.log_softmax(x), y + 1, *map(jnp.array, lengths(x, y)), reduction="none"
        ).mean(),
        torch=lambda: lambda x, y: torch_functional.ctc_loss(
            torch.log_softmax(x, -1), y + 1, *lengths(x, y), reduction="none"
        ).mean(),
        flax=lambda rngs: ctc_of_optax,
    ),
]
