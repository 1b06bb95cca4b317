"""What a streaming metric is: a frozen value with pure functions over a small state."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp

State = dict[str, jax.Array]


class Metric:
    """A measure of a whole data set, taken batch by batch: `init`, `update`, `merge`, `compute`.

    The state is a dict of arrays, so it can be saved, go through `jax.jit` and `jax.lax.scan`, and be added up over
    devices and processes. What a mask leaves out counts nowhere, and batches of any sizes, in any order, give the
    value of all examples at once, which a mean over batches does not.

    >>> import jax.numpy as jnp
    >>> from fnet import metrics
    >>> f1 = metrics.F1(2, average="binary")
    >>> state = f1.init()
    >>> for logits, labels in [([-1.0, 2.0], [0, 1]), ([3.0], [0])]:
    ...     state = f1.update(state, jnp.array(logits), jnp.array(labels))
    >>> f1.compute(state)
    Array(0.6666667, dtype=float32)
    """

    def init(self) -> State:
        """The state before the first batch."""
        raise NotImplementedError(f"{type(self).__name__} must define init()")

    def update(self, state: State, outputs: Any, targets: Any, *, mask: Any = None) -> State:
        """The state with one batch more; ``mask`` (bool, over leading axes of the targets) is False for padding."""
        raise NotImplementedError(f"{type(self).__name__} must define update(state, outputs, targets)")

    def merge(self, *states: State) -> State:
        """One state of several, as if all their batches had been seen one after another."""
        return reduce(lambda a, b: jax.tree.map(jnp.add, a, b), states)

    def compute(self, state: State) -> Any:
        """The metric of everything that the state has seen."""
        raise NotImplementedError(f"{type(self).__name__} must define compute(state)")

    def __call__(self, outputs: Any, targets: Any, *, mask: Any = None) -> Any:
        """The metric of one batch alone."""
        return self.compute(self.update(self.init(), outputs, targets, mask=mask))


@jax.tree_util.register_pytree_node_class
@dataclass(frozen=True)
class Partial:
    """A metric with the state of some batches: what a loss returns for a streaming metric, for others to merge."""

    metric: Metric
    state: State

    def compute(self) -> Any:
        """The metric of these batches."""
        return self.metric.compute(self.state)

    def tree_flatten(self) -> tuple[tuple[State], Metric]:
        return (self.state,), self.metric

    @classmethod
    def tree_unflatten(cls, metric: Metric, children: tuple[State]) -> Partial:
        return cls(metric, *children)


def ratio(above: jax.Array, below: jax.Array) -> jax.Array:
    """above / below in floats, 0 where there is nothing to divide by."""
    above, below = (jnp.asarray(x, jnp.result_type(float, x)) for x in (above, below))
    return above / jnp.where(below == 0, 1, below)


def integers() -> Any:
    """The dtype that counts: JAX's default integer."""
    return jnp.result_type(int)
