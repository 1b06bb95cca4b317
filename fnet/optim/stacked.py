"""Rules that look at a parameter as a whole, and at each slice of one that stacks the layers of a scan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnet.optim.core import State
from fnet.optim.leaves import PyTree, wide
from fnet.optim.rule import Now, Rule
from fnet.selectors import Selector, match
from fnet.tree import HOLE, map_named, merge, named

Shape = tuple[int, ...]


@dataclass(frozen=True, repr=False)
class PerLayer(Rule):
    """A rule whose update of one element depends on the whole parameter: on its norm, its matrix, its factors.

    ``stacked`` selects the parameters whose leading axis counts layers, as `nn.Stack` makes them; each slice is then
    treated as a parameter of its own. Shapes cannot tell: a stack of n matrices looks like a convolution's kernel.
    """

    stacked: Selector | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if isinstance(self.stacked, list):
            object.__setattr__(self, "stacked", tuple(self.stacked))
        super().__post_init__()

    def layers(self, params: PyTree) -> dict[str, Shape]:
        """The shape of one layer's slice by parameter name; the whole shape where nothing is stacked.

        Raises ValueError when ``stacked`` matches no name, with near names, or matches a scalar.
        """
        leaves = dict(named(params))
        stacks = self._stacks(leaves)
        scalars = [name for name in stacks if np.ndim(leaves[name]) == 0]
        if scalars:
            raise ValueError(
                f"{type(self).__name__}: stacked={self.stacked!r} matches {scalars[0]!r}, a scalar, which has no axis "
                f"that could count layers; name the stacked parameters more narrowly"
            )
        return {name: np.shape(leaf)[name in stacks :] for name, leaf in leaves.items()}

    def _stacks(self, leaves: dict[str, Any]) -> set[str]:
        return set() if self.stacked is None or not leaves else set(match(self.stacked, leaves))

    def memory(self, params: PyTree) -> State:
        self.layers(params)  # so that a selector's typing mistake shows at init
        return super().memory(params)

    def slot(self, params: PyTree, shape: Callable[[Shape], Shape | None]) -> PyTree:
        """A slot of zeros: for a layer of shape s an array of ``shape(s)``, stacked as the layer is; None: a hole."""
        layers = self.layers(params)

        def one(name: str, p: Any) -> Any:
            own = shape(layers[name])
            stack = np.shape(p)[: np.ndim(p) - len(layers[name])]
            return HOLE if own is None else _zeros_beside(p, (*stack, *own))

        return map_named(one, params)

    def by_layer(
        self,
        now: Now,
        leaf: Callable[..., tuple[Any, State]],
        params: PyTree,
        grads: PyTree,
        memory: State,
        **shared: Any,
    ) -> tuple[PyTree, State]:
        """`Now.each`, where ``leaf`` sees the slices of a stacked parameter one by one."""
        stacks = self._stacks(dict(named(params)))

        def slices(h: Any, p: Any, g: Any, slots: State) -> tuple[Any, State]:
            return jax.vmap(lambda p, g, slots: leaf(h, p, g, slots))(p, g, slots)

        def part(tree: PyTree, stacked: bool) -> PyTree:
            return map_named(lambda name, x: x if (name in stacks) == stacked else HOLE, tree)

        if not stacks:
            return now.each(leaf, params, grads, memory, **shared)
        sides = []
        for f, stacked in ((leaf, False), (slices, True)):
            slots = {name: part(slot, stacked) for name, slot in memory.items()}
            sides.append(now.each(f, part(params, stacked), part(grads, stacked), slots, **shared))
        (new, slots), (new_stacked, slots_stacked) = sides
        return merge(new, new_stacked), {name: merge(slots[name], slots_stacked[name]) for name in memory}


def flat_matrix(shape: Shape) -> Shape:
    """The matrix that a parameter is to a rule for matrices: all axes but the last, JAX's inputs, become the rows.

    >>> flat_matrix((3, 3, 16, 32))
    (144, 32)
    """
    return (prod(shape[:-1]), shape[-1])


def _zeros_beside(p: Any, shape: Shape) -> jax.Array:
    """Zeros of another shape than the parameter, on its devices, each of which holds them whole."""
    dtype = wide(jnp.result_type(p))
    if isinstance(p, jax.core.Tracer):
        return jnp.zeros(shape, dtype)
    where = p.sharding if isinstance(p, jax.Array) and p.committed else None
    if isinstance(where, jax.sharding.NamedSharding):
        where = jax.sharding.NamedSharding(where.mesh, jax.sharding.PartitionSpec())
    return jax.device_put(np.zeros(shape, dtype), where)
