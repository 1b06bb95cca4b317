"""What an optimizer's state costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fnet.tree import nbytes


def memory(opt_state: Mapping[str, Any]) -> dict[str, int]:
    """The bytes of an optimizer's state by its keys, slots first to last, and ``"total"``.

    ``memory(jax.eval_shape(opt.init, params))`` tells it before anything is allocated. With sharded arrays it is the
    size over all devices together.

    >>> import jax.numpy as jnp
    >>> from fnet import optim
    >>> memory(optim.sgd(0.1, momentum=0.9).init({"w": jnp.ones((64, 64))}))
    {'step': 4, 'hyper': 8, 'momentum': 16384, 'total': 16396}
    """
    sizes = {key: nbytes(value) for key, value in opt_state.items() if key != "scheduled"}
    return {**sizes, "total": sum(sizes.values())}
