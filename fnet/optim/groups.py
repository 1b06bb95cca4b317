"""Different rules for different parameters, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from fnet.optim.core import Optimizer, State, ValueAndGrad
from fnet.optim.leaves import PyTree, align, fill, inexact
from fnet.selectors import Selector
from fnet.tree import HOLE, assign, map_named, merge, names


def groups(rules: Mapping[Any, Optimizer | None]) -> Groups:
    """An optimizer that treats each parameter by the first rule whose selector matches its dotted name.

    Keys are selectors: a glob, a tuple of globs, a function ``(name, leaf) -> bool``, or `fnet.optional` of one.
    Values are optimizers, or None to freeze: no slots, no gradient, the same array for ever. In the state a slot is
    one tree with holes where a group has no such slot; all else (``hyper``) is keyed "0", "1", … in the order of the
    rules; ``step`` is shared. Raises ValueError, at the first use with parameters, for a trainable parameter that no
    rule matches and for a rule that matches nothing, unless it is `fnet.optional` or a final ``"*"``.

    >>> import jax.numpy as jnp
    >>> from fnet import optim
    >>> opt = groups({"body.*": None, "*.bias": optim.sgd(0.5), "*": optim.sgd(0.5, momentum=0.9)})
    >>> params = {"body": {"bias": jnp.ones(2)}, "head": {"bias": jnp.ones(1), "weight": jnp.ones(1)}}
    >>> opt.init(params)["momentum"]
    {'body': {'bias': HOLE}, 'head': {'bias': HOLE, 'weight': Array([0.], dtype=float32)}}
    """
    if not isinstance(rules, Mapping) or not rules:
        raise TypeError(f'groups takes a dict such as {{"*.bias": optim.sgd(0.1), "*": opt}}, got {rules!r}')
    return Groups(tuple(rules.items()))


@dataclass(frozen=True)
class Groups(Optimizer):
    """What `groups` returns."""

    rules: tuple[tuple[Selector, Optimizer | None], ...]

    def __post_init__(self) -> None:
        for selector, opt in self.rules:
            if not isinstance(opt, Optimizer | None):
                raise TypeError(f"groups: {selector!r} must have an optimizer, or None to freeze; got {opt!r}")
            if opt is not None and opt.skips:
                raise ValueError(
                    f"groups: all groups share one count of steps, and {opt!r} skips some: wrap it around the groups "
                    f"instead of around the rule of {selector!r}"
                )

    def __repr__(self) -> str:
        return "groups({" + ", ".join(f"{selector!r}: {opt!r}" for selector, opt in self.rules) + "})"

    @property
    def _trained(self) -> list[tuple[str, Optimizer]]:
        return [(str(index), opt) for index, (_, opt) in enumerate(self.rules) if opt is not None]

    @property
    def slots(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(slot for _, opt in self._trained for slot in opt.slots))

    def _owners(self, params: PyTree) -> dict[str, str]:
        """The index of each parameter's group."""
        owners = {name: str(index) for name, index in assign(params, [selector for selector, _ in self.rules]).items()}
        orphans = names(inexact(_only(None, owners, params)))
        if orphans:
            raise ValueError(
                f"groups: no rule matches {', '.join(map(repr, orphans[:5]))} ({len(orphans)} in all); end with a rule "
                f'"*", whose value may be None to leave what remains untrained'
            )
        return owners

    def trainable(self, params: PyTree) -> PyTree:
        owners = self._owners(params)
        return merge(
            _only("none", owners, params), *(opt.trainable(_only(i, owners, params)) for i, opt in self._trained)
        )

    def init(self, params: PyTree) -> State:
        owners = self._owners(params)
        states = {i: opt.init(_only(i, owners, params)) for i, opt in self._trained}
        return self._join(states, jnp.asarray(0, jnp.int32))

    def update(
        self,
        grads: PyTree,
        opt_state: State,
        params: PyTree,
        *,
        loss: Any = None,
        value_and_grad: ValueAndGrad | None = None,
        key: jax.Array | None = None,
    ) -> tuple[PyTree, State]:
        owners = self._owners(params)
        grads = align(grads, self.trainable(params), params)
        parts, states, new_params = self._split(opt_state, owners), {}, params
        for i, opt in self._trained:
            new, states[i] = opt.update(
                _only(i, owners, grads),
                parts[i],
                _only(i, owners, params),
                loss=loss,
                value_and_grad=None if value_and_grad is None else _within(value_and_grad, i, owners, params),
                key=None if key is None else jax.random.fold_in(key, int(i)),
            )
            new_params = fill(new, new_params)
        return new_params, self._join(states, opt_state["step"] + 1)

    def eval_params(self, opt_state: State, params: PyTree) -> PyTree:
        owners = self._owners(params)
        parts, shipped = self._split(opt_state, owners), params
        for i, opt in self._trained:
            shipped = fill(opt.eval_params(parts[i], _only(i, owners, params)), shipped)
        return shipped

    def loss_scale(self, opt_state: State) -> Any:
        # One loss has one scale, so what scales it must see all gradients.
        for i, opt in self._trained:
            own = {key: value[i] for key, value in opt_state.items() if isinstance(value, Mapping) and i in value}
            scale = opt.loss_scale({"step": opt_state["step"], **own})
            if not (isinstance(scale, float) and scale == 1.0):
                raise ValueError(f"groups: loss scaling must wrap the groups, not stand in group {i}: {opt!r}")
        return 1.0

    def _join(self, states: dict[str, State], step: jax.Array) -> State:
        """One state from those of the groups: slots merged, all else by group."""
        whole: State = {"step": step, "hyper": {}}
        for i, opt in self._trained:
            for key, value in states[i].items():
                if (key in self.slots) != (key in opt.slots):
                    raise ValueError(f"groups: {key!r} is a slot in one group and something else in group {i}: {opt!r}")
                if key != "step" and key not in opt.slots:
                    whole.setdefault(key, {})[i] = value
        for slot in self.slots:
            whole[slot] = merge(*(states[i][slot] for i, opt in self._trained if slot in opt.slots))
        return whole

    def _split(self, opt_state: State, owners: dict[str, str]) -> dict[str, State]:
        """The state of each group, the inverse of `_join`."""
        by_group = {key: value for key, value in opt_state.items() if key != "step" and key not in self.slots}
        for key, value in by_group.items():
            if not (isinstance(value, Mapping) and set(value) <= {i for i, _ in self._trained}):
                indices = ", ".join(i for i, _ in self._trained)
                raise ValueError(
                    f"groups: {key!r} in the optimizer's state is not divided by the trained groups ({indices}), so "
                    f"another optimizer made it. Start from opt.init(params)."
                )
        return {
            i: {
                "step": opt_state["step"],
                **{key: value[i] for key, value in by_group.items() if i in value},
                **{slot: _only(i, owners, opt_state[slot]) for slot in opt.slots if slot in opt_state},
            }
            for i, opt in self._trained
        }


def _only(group: str | None, owners: dict[str, str], tree: PyTree) -> PyTree:
    """The leaves of one group (None: of no group), with holes elsewhere."""
    return map_named(lambda name, leaf: leaf if owners.get(name) == group else HOLE, tree)


def _within(value_and_grad: ValueAndGrad, group: str, owners: dict[str, str], params: PyTree) -> ValueAndGrad:
    """``value_and_grad`` as a function of one group's parameters, the others where they are."""

    def inner(part: PyTree, /) -> tuple[Any, PyTree]:
        value, grads = value_and_grad(fill(part, params))
        return value, _only(group, owners, grads)

    return inner
