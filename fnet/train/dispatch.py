"""Several steps in one call of the device, where a step is shorter than the call."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import numpy as np

from fnet.train.state import TrainState

Step = Callable[[TrainState, Any], tuple[TrainState, Any]]


def many_steps(step: Step) -> Callable[[TrainState, Any], tuple[TrainState, Any]]:
    """A jitted ``(run, batches) -> (run, metrics)`` that takes a step for each batch of a stack.

    Every leaf of ``batches`` has a leading axis of k batches, and every metric comes back with one of k steps. It is
    `jax.lax.scan` of the step, so the numbers are those of k calls, up to rounding where XLA compiles a loop
    otherwise. It pays where a step is so short that calling it is what takes the time; `fit` does it with
    ``steps_per_call=k``.

    >>> import jax, jax.numpy as jnp
    >>> from fnet import functional as F, nn, optim, train
    >>> model, opt = nn.Linear(3), optim.sgd(0.1)
    >>> x, y = jnp.ones((4, 8, 5)), jnp.zeros((4, 8), "int32")
    >>> step = train.make_step(train.supervised(model, F.cross_entropy), opt)
    >>> run, metrics = train.many_steps(step)(train.start(model, opt, jax.random.key(0), x[0]), (x, y))
    >>> int(run.step), metrics["loss"].shape
    (4, (4,))
    """
    return partial(_scan, step)


@partial(jax.jit, static_argnums=0)
def _scan(step: Step, run: TrainState, batches: Any) -> tuple[TrainState, Any]:
    return jax.lax.scan(step, run, batches)


def calls(
    batches: Iterator[Any], begin: int, total: int, k: int, ends: Callable[[int], bool]
) -> Iterator[tuple[int, int, Any]]:
    """What to call the step with: ``(the step it begins after, how many steps, batch or stack of batches)``.

    Stacks have k batches, and none has a step within at which ``ends`` is true: there, and where shapes differ, steps
    go one by one, so that two programs are compiled and no more.
    """
    number, ahead = begin, deque[Any]()
    while number < total:
        count = 1
        if 1 < k <= total - number and not any(ends(at) for at in range(number + 1, number + k)):
            while len(ahead) < k:
                ahead.append(next(batches))
            count = k if len({_shapes(batch) for batch in ahead}) == 1 else 1
        if count == 1:
            yield number, 1, ahead.popleft() if ahead else next(batches)
        else:
            yield number, k, jax.tree.map(_stack, *(ahead.popleft() for _ in range(k)))
        number += count


def _stack(*leaves: Any) -> Any:
    return np.stack(leaves) if isinstance(leaves[0], np.ndarray | np.generic) else jax.numpy.stack(leaves)


def _shapes(batch: Any) -> Any:
    return jax.tree.structure(batch), tuple((np.shape(leaf), np.result_type(leaf)) for leaf in jax.tree.leaves(batch))
