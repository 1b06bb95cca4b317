"""`TrainState`: the whole of a training run as one pytree."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fnet.tree import count, fold_name

PyTree = Any


class TrainState(NamedTuple):
    """A training run: save it, rewind it, branch it; `make_step` maps one to the next.

    ``params`` and ``state`` are what `nn.Layer.init` gives, ``opt_state`` what ``opt.init`` gives; ``key`` is the
    random key of the run, from which each step derives its own; ``step`` counts batches, int32.
    """

    params: PyTree
    state: PyTree
    opt_state: PyTree
    key: jax.Array
    step: jax.Array

    def __repr__(self) -> str:
        at = "" if isinstance(self.step, jax.core.Tracer) else f"step {self.step}, "
        return f"<TrainState: {at}{count(self.params):,} parameters; fields {', '.join(self._fields)}>"


def start(model: Any, opt: Any, key: jax.Array, *inputs: Any, init: Any = None, **kwargs: Any) -> TrainState:
    """A fresh run: parameters, state and optimizer state for inputs of these shapes, at step 0.

    ``inputs`` and ``init`` are those of `nn.Layer.init`, and the parameters are those of ``model.init(key, *inputs)``.
    To start from other parameters: ``run._replace(params=params, opt_state=opt.init(params))``.

    >>> import jax, jax.numpy as jnp
    >>> from fnet import nn, optim, train
    >>> run = train.start(nn.Linear(3), optim.sgd(0.1), jax.random.key(0), jnp.ones((8, 5)))
    >>> run.params["weight"].shape, int(run.step)
    ((5, 3), 0)
    """
    params, state = model.init(key, *inputs, init=init, **kwargs)
    return TrainState(params, state, opt.init(params), fold_name(key, "run"), jnp.zeros((), jnp.int32))
