"""`memory`: what a training step needs, before anything is allocated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
from jax.extend.core import Literal

from fnet import tree
from fnet.autograd.jaxprs import is_backward, name_stack, subjaxprs
from fnet.inspect.table import size_text
from fnet.nn.core.walk import abstract


@dataclass(frozen=True)
class Memory:
    """Bytes that a step needs; prints as a report.

    ``parameters``, ``optimizer``, ``state`` and ``batch`` are what goes in; ``outputs`` what comes out and takes no
    input's place; ``temporaries`` what XLA allocates while it runs, at most at one time; ``total`` all of these.
    ``activations`` is what the forward pass keeps for the backward pass, as the trace says it: XLA keeps it among the
    temporaries or where outputs will be, fuses some of it away, or computes it again.
    """

    parameters: int
    optimizer: int
    state: int
    batch: int
    outputs: int
    temporaries: int
    activations: int

    @property
    def total(self) -> int:
        """The most that the step holds at one time."""
        return self.parameters + self.optimizer + self.state + self.batch + self.outputs + self.temporaries

    def __str__(self) -> str:
        rows = [
            ("parameters", self.parameters),
            ("optimizer state", self.optimizer),
            ("model state, key and step", self.state),
            ("batch", self.batch),
            ("outputs that replace no input", self.outputs),
            ("temporaries", self.temporaries),
            ("  activations kept, at most", self.activations),
        ]
        lines = [f"{name:30} {size_text(value):>12}" for name, value in rows]
        return "\n".join([*lines, f"{'total':30} {size_text(self.total):>12}"])

    __repr__ = __str__


def memory(step: Callable[..., Any], run: Any, batch: Any) -> Memory:
    """The memory of a training step by what it is for, from its compiled form; nothing is computed or allocated.

    ``run`` and ``batch`` are arrays or ShapeDtypeStructs, so a run too large for this machine can be asked about:
    ``jax.eval_shape(lambda key: train.start(model, opt, key, x), jax.random.key(0))``. The numbers are those of the
    backend at hand, per device. A step made with ``donate=True`` writes its outputs where its inputs were.

    >>> import jax, jax.numpy as jnp
    >>> from fnet import functional as F, nn, optim, train
    >>> model, opt, x = nn.Linear(3), optim.adamw(1e-3), jax.ShapeDtypeStruct((8, 5), "float32")
    >>> run = jax.eval_shape(lambda key: train.start(model, opt, key, x), jax.random.key(0))
    >>> step = train.make_step(train.supervised(model, F.cross_entropy), opt)
    >>> found = memory(step, run, (x, jax.ShapeDtypeStruct((8,), "int32")))
    >>> found.parameters, found.batch
    (72, 192)
    """
    given, rows = abstract(run), abstract(batch)
    stages = step if hasattr(step, "lower") else jax.jit(step)
    analysis = stages.lower(given, rows).compile().memory_analysis()
    parts = {name: tree.nbytes(getattr(given, name, ())) for name in ("params", "opt_state")}
    whole = tree.nbytes(given)
    return Memory(
        parameters=parts["params"],
        optimizer=parts["opt_state"],
        state=whole - sum(parts.values()),
        batch=tree.nbytes(rows),
        outputs=max(analysis.output_size_in_bytes - analysis.alias_size_in_bytes, 0),
        temporaries=analysis.temp_size_in_bytes,
        activations=_kept(jax.make_jaxpr(step)(given, rows).jaxpr),
    )


def _kept(jaxpr: Any) -> int:
    """The bytes of what equations of the forward pass give and equations of the backward pass take."""
    forward: dict[Any, Any] = {}
    kept = {}
    inside = 0  # a step in a jit, or in the scan over microbatches
    for eqn in jaxpr.eqns:
        inside = max([inside, *map(_kept, subjaxprs(eqn))])
        if is_backward(name_stack(eqn)):
            kept.update({v: v.aval for v in eqn.invars if not isinstance(v, Literal) and v in forward})
        else:
            forward.update(dict.fromkeys(eqn.outvars))
    return inside + sum(aval.size * aval.dtype.itemsize for aval in kept.values())
