"""`replay`: the exact run, batch and key of any step of a training run."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import jax

from fnet import io
from fnet.train import TrainState


class Replay(NamedTuple):
    """A step as it was: ``step(run, batch)`` takes it again, and ``key`` is what the loss was given."""

    run: TrainState
    batch: Any
    key: jax.Array


def replay(checkpoint: Any, loader: Any, step: Any, at: int | None = None, *, like: Any = None) -> Replay:
    """What a training step was given: the step number ``at``, counted from 0, by default the checkpoint's next.

    ``checkpoint`` is an `fnet.io.Checkpoints`, of which the latest at or before that step is taken, the file of one, or
    a run; ``loader`` is the one that trained, whose batches depend on the seed and the step alone. From the checkpoint
    to the step, ``step`` (what `make_step` gave) is taken again, so the run is the one that was there, bit for bit on
    the same machine. ``like`` is that of `fnet.load`. Raises ValueError for a step before the checkpoint.

    >>> import jax, numpy as np
    >>> from fnet import data, functional as F, nn, optim, train
    >>> points = data.ArrayDataset(np.eye(4, dtype="float32"), np.arange(4))
    >>> loader = data.DataLoader(points, batch_size=2, shuffle=True)
    >>> model, opt = nn.Linear(4), optim.sgd(1.0)
    >>> run = train.start(model, opt, jax.random.key(0), np.eye(4, dtype="float32"))
    >>> step = train.make_step(train.supervised(model, F.cross_entropy), opt)
    >>> again = replay(run, loader, step, 3)
    >>> int(again.run.step), bool((again.batch[1] == loader.batch(3)[1]).all())
    (3, True)
    """
    check_loader(loader, "replay")
    run = _run_of(checkpoint, at, like)
    start = int(run.step)
    number = start if at is None else int(at)
    if number < start:
        raise ValueError(f"replay: step {number} is before the checkpoint, of step {start}; give an earlier one")
    if number > start and not callable(step):
        raise TypeError(f"replay: to go from step {start} to {number} it needs the step of make_step, got {step!r}")
    if number > start:
        run = jax.tree.map(jax.numpy.copy, run)  # a step that donates would take the caller's
    for n in range(start, number):
        run, _ = step(run, loader.batch(n))
    return Replay(run, loader.batch(number), jax.random.fold_in(run.key, run.step))


def check_loader(loader: Any, where: str) -> None:
    """Raise TypeError where a loader cannot give the batch of a step."""
    if not hasattr(loader, "batch"):
        raise TypeError(
            f"{where} takes a loader with batch(step), got {type(loader).__name__}; wrap your data: "
            "data.DataLoader(data.ArrayDataset(x, y), batch_size=128, shuffle=True)"
        )


def _run_of(checkpoint: Any, at: int | None, like: Any) -> Any:
    if isinstance(checkpoint, io.Checkpoints):
        steps = checkpoint.steps()
        before = [n for n in steps if at is None or n <= at]
        if steps and not before:
            raise ValueError(f"replay: step {at} is before the first checkpoint, of step {steps[0]}; there are {steps}")
        return checkpoint.restore(like=like, step=before[-1] if before else None)
    run = io.load(checkpoint, like=like) if isinstance(checkpoint, str | os.PathLike) else checkpoint
    if not hasattr(run, "step") or not hasattr(run, "key"):
        raise TypeError(f"replay takes Checkpoints, the file of one, or a run, got {type(run).__name__}")
    return run


