"""Scores of a run on held-out batches, and its predictions."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnet import tree
from fnet.metrics import Partial
from fnet.train.state import TrainState
from fnet.train.step import Loss, check_loss, check_run, checked


def evaluate(loss: Loss, run: TrainState, batches: Any) -> dict[str, Any]:
    """The loss and its metrics over one epoch of a loader (or any iterable of batches), with ``train=False``.

    Each batch counts by its number of examples, or by the True entries of its mask where it has one (the third of
    ``(x, y, mask)``, key ``"mask"``, or what a loader with ``last="pad"`` put last), so uneven and padded batches
    give the exact mean of per-example values; the states of streaming metrics (`metrics.F1`) are merged and computed
    once, and give a float or, for a confusion matrix, an array. What a loader with ``last="drop"`` drops is not
    counted. Raises ValueError when there are no batches, or when the masks leave no example that counts.

    >>> import jax, jax.numpy as jnp
    >>> from fnet import functional as F, nn, optim, train
    >>> model = nn.Linear(3)
    >>> x, y = jnp.ones((8, 5)), jnp.zeros(8, "int32")
    >>> run = train.start(model, optim.sgd(0.1), jax.random.key(0), x)
    >>> sorted(train.evaluate(train.supervised(model, F.cross_entropy), run, [(x, y)]))
    ['loss']
    """
    check_loss(loss, "evaluate")
    check_run(run, "evaluate")
    if not isinstance(batches, Iterable):
        raise TypeError(
            f"evaluate takes a loader or batches, got {type(batches).__name__}; for a dataset give "
            "data.DataLoader(dataset, batch_size=256)"
        )
    padded = getattr(batches, "last", None) == "pad"
    total: Any = 0.0
    sums: dict[str, Any] = {}
    partials: list[dict[str, Partial]] = []
    for batch in batches.epoch(0) if hasattr(batches, "epoch") else batches:
        values, parts, count = _weighted(loss, padded, run.params, run.state, batch)
        total = total + count
        partials.append(parts)
        sums = {name: sums.get(name, 0.0) + value for name, value in values.items()}
    if not sums:
        raise ValueError("evaluate got no batches: the loader is empty")
    sums, total = jax.device_get((sums, total))
    if not total:
        raise ValueError("evaluate has nothing to average: the masks of all batches are False everywhere")
    means = {name: scalar(name, value / total) for name, value in sums.items()}
    return means | {name: _merged([parts[name] for parts in partials]) for name in partials[0]}


def _merged(partials: list[Partial]) -> Any:
    metric = partials[0].metric
    value = np.asarray(metric.compute(metric.merge(*(partial.state for partial in partials))))
    return value if value.ndim else float(value)


def scalar(name: str, value: Any) -> float:
    """A measured value as a float; raises TypeError naming the metric when it is no scalar."""
    if value is None or np.ndim(value) != 0:
        raise TypeError(f"the metric {name!r} is a scalar for each batch, got {value!r}; take its mean")
    return float(value)


def predict(model: Any, run: TrainState, inputs: Any, batch_size: int = 256) -> Any:
    """The model's outputs for all of ``inputs``, a pytree of arrays with the examples on the first axis.

    Runs with ``train=False`` in batches of ``batch_size`` (the last one padded, so that nothing is compiled twice)
    and returns the outputs put together, as jax arrays.

    >>> import jax, jax.numpy as jnp
    >>> from fnet import nn, optim, train
    >>> model, x = nn.Linear(3), jnp.ones((1000, 5))
    >>> train.predict(model, train.start(model, optim.sgd(0.1), jax.random.key(0), x), x).shape
    (1000, 3)
    """
    check_run(run, "predict")
    if jax.tree_util.all_leaves([inputs]) and not hasattr(inputs, "shape"):
        raise TypeError(
            f"predict takes arrays, got {type(inputs).__name__}; for those of a dataset or its loader "
            "[train.predict(model, run, x) for x, *_ in loader.epoch(0)]"
        )
    shapes = {np.shape(leaf) for leaf in jax.tree.leaves(inputs)}
    if len({shape[:1] for shape in shapes}) != 1 or () in shapes:
        raise ValueError(f"predict needs arrays with the examples on a first axis of one length, got shapes {shapes}")
    count = shapes.pop()[0]
    size = max(1, min(batch_size, count))
    outputs = []
    for begin in range(0, max(count, 1), size):
        part = jax.tree.map(lambda leaf: np.asarray(leaf[begin : begin + size]), inputs)  # noqa: B023
        short = size - min(size, count - begin)
        if short and count:
            part = jax.tree.map(lambda leaf: np.concatenate([leaf, np.repeat(leaf[-1:], short, 0)]), part)  # noqa: B023
        outputs.append(_apply(model, run.params, run.state, part))
        for name, leaf in tree.named(outputs[-1]):
            if np.shape(leaf)[:1] != (len(jax.tree.leaves(part)[0]),):
                raise ValueError(
                    f"predict puts batches together on the first axis, but of {size} examples the model made an output "
                    f"{name!r} of shape {np.shape(leaf)}; one example alone is x[None] here, and for an output without "
                    "a batch call model.apply(run.params, run.state, inputs)"
                )
    return jax.tree.map(lambda *parts: jnp.concatenate(parts)[:count], *outputs)


@partial(jax.jit, static_argnums=(0, 1))
def _weighted(
    loss: Loss, padded: bool, params: Any, state: Any, batch: Any
) -> tuple[dict[str, jax.Array], dict[str, Partial], jax.Array]:
    value, _, metrics = checked(loss(params, state, batch, key=None, train=False))
    count = _examples(batch, padded)
    partials = {name: item for name, item in metrics.items() if isinstance(item, Partial)}
    means = {"loss": value, **{name: item for name, item in metrics.items() if name not in partials}}
    return {name: jnp.where(count > 0, item, 0) * count for name, item in means.items()}, partials, count


@partial(jax.jit, static_argnums=0)
def _apply(model: Any, params: Any, state: Any, inputs: Any) -> Any:
    return model.apply(params, state, inputs, train=False)[0]


def _examples(batch: Any, padded: bool) -> jax.Array:
    if isinstance(batch, dict):
        mask = batch.get("mask")
    else:
        last = batch[-1] if isinstance(batch, tuple | list) and len(batch) > 1 else None
        is_mask = getattr(last, "dtype", None) == np.bool_ and (padded or len(batch) == 3)
        mask = last if is_mask else None
    if mask is not None:
        return jnp.sum(mask, dtype=jnp.float32)
    return jnp.float32(next(jnp.shape(leaf)[0] for leaf in jax.tree.leaves(batch) if jnp.ndim(leaf)))
