"""The frame around an update rule: hyperparameters, schedules, dtypes, holes and checks; a rule is only its maths."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from fnet.optim.core import Optimizer, State, ValueAndGrad
from fnet.optim.hyper import Rate, check, decay_of, strong
from fnet.optim.leaves import PyTree, align, fill, full, wide
from fnet.tree import HOLE, is_hole, path_name


@dataclass(frozen=True, repr=False)
class Rule(Optimizer):
    """An update rule: the fields are its configuration, the methods say what it does with them.

    Parameters of 16 bits are updated in float32 and rounded back, so steps below their resolution vanish.
    """

    maximize: bool = field(default=False, kw_only=True)

    decays: ClassVar[tuple[str, ...]] = ()  # hyperparameters that are rates of running averages: `Decay` in the rule
    extras: ClassVar[tuple[str, ...]] = ()  # keys of the memory that are no slots, such as a scalar for the whole tree

    def hyper(self) -> dict[str, Rate | None]:
        """The hyperparameters by name; None switches one off and leaves no trace of it in the state."""
        raise NotImplementedError(f"{type(self).__name__} must define hyper()")

    def memory(self, params: PyTree) -> State:
        """What the rule remembers, before the first update: its slots and its extras."""
        return {name: full(params) for name in self.slots}

    def rule(self, now: Now, params: PyTree, grads: PyTree, memory: State) -> tuple[PyTree, State]:
        """The algorithm: new parameters and new memory. The trees have leaves at trainable parameters only."""
        raise NotImplementedError(f"{type(self).__name__} must define rule(now, params, grads, memory)")

    if not TYPE_CHECKING:

        def __new__(cls, /, *args: Any, **kwargs: Any) -> Rule:
            if args and "lr" in kwargs and not isinstance(args[0], float):
                raise TypeError(
                    f"{cls.__name__} takes lr first, and holds no parameters. opt = {cls.__name__}({kwargs['lr']!r}), "
                    "opt_state = opt.init(params), params, opt_state = opt.update(grads, opt_state, params)"
                )
            return super().__new__(cls)

    def __post_init__(self) -> None:
        for name, value in self._active().items():
            check(type(self).__name__, name, value, decay=name in self.decays)

    def __repr__(self) -> str:
        shown = [f for f in fields(self) if not f.kw_only or getattr(self, f.name) != f.default]
        shown.sort(key=lambda f: bool(f.kw_only))  # what every rule has comes last
        return f"{type(self).__name__}({', '.join(f'{f.name}={getattr(self, f.name)!r}' for f in shown)})"

    def _active(self) -> dict[str, Rate]:
        return {name: value for name, value in self.hyper().items() if value is not None}

    def _scheduled(self) -> State:
        names = {name: None for name, value in self._active().items() if callable(value)}
        return {"scheduled": names} if names else {}

    def init(self, params: PyTree) -> State:
        live = self.trainable(params)
        hyper = {
            name: self._scalar(name, strong(value(0) if callable(value) else value))
            for name, value in self._active().items()
        }
        return {"step": jnp.asarray(0, jnp.int32), "hyper": hyper, **self._scheduled(), **self.memory(live)}

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
        live = self.trainable(params)
        self._check(opt_state, live)
        step, sign = opt_state["step"], -1 if self.maximize else 1

        def downhill(gradients: PyTree) -> PyTree:
            gradients = align(gradients, live, params)
            return jax.tree.map(jnp.negative, gradients) if self.maximize else gradients

        def elsewhere(point: PyTree) -> tuple[Any, PyTree]:
            value, gradients = value_and_grad(fill(point, params))  # type: ignore[misc]
            return sign * value, downhill(gradients)

        hyper = self._values(opt_state)
        now = Now(
            t=strong(step + 1),
            hyper=SimpleNamespace(**self._in_use(hyper)),
            loss=None if loss is None else sign * loss,
            value_and_grad=None if value_and_grad is None else elsewhere,
            key=key,
        )
        memory = {name: opt_state[name] for name in (*self.slots, *self.extras)}
        new, memory = self.rule(now, live, downhill(grads), memory)
        return fill(new, params), {"step": step + 1, "hyper": hyper, **self._scheduled(), **memory}

    def _values(self, opt_state: State) -> dict[str, jax.Array]:
        """The hyperparameters of this update: what their schedules say, or else the state."""
        hyper = {}
        for name, value in self._active().items():
            old = opt_state["hyper"][name]
            new = strong(value(opt_state["step"]), like=old) if callable(value) else strong(old)
            hyper[name] = self._scalar(name, new)
        return hyper

    def _scalar(self, name: str, value: jax.Array) -> jax.Array:
        if value.shape != ():
            raise ValueError(f"{type(self).__name__}: {name} must be a scalar, got shape {value.shape}")
        return value

    def _in_use(self, hyper: dict[str, jax.Array]) -> dict[str, Any]:
        decays = {name: decay_of(hyper[name], self._active()[name]) for name in self.decays if name in hyper}
        return dict.fromkeys(self.hyper()) | hyper | decays

    def _check(self, opt_state: State, live: PyTree) -> None:
        """Raise ValueError, saying what differs, when the state is of another optimizer or of other parameters."""
        wanted = {"step", "hyper", *self._scheduled(), *self.slots, *self.extras}
        pairs = [("", wanted, opt_state)]
        if "hyper" in opt_state:
            pairs += [("hyper.", set(self._active()), opt_state["hyper"])]
        differs = [f"lacks {at + key!r}" for at, want, have in pairs for key in sorted(want - set(have))]
        differs += [f"has {at + key!r}" for at, want, have in pairs for key in sorted(set(have) - want)]
        if differs:
            raise ValueError(
                f"this state was made by another optimizer than {self!r}: it {', '.join(differs)}. Start from "
                f'opt.init(params), or carry over what fits: {{**opt.init(params), "step": old["step"]}}.'
            )
        shape: Any = jax.tree.structure(live, is_leaf=is_hole)
        for slot in self.slots:
            if jax.tree.structure(opt_state[slot], is_leaf=is_hole) != shape:
                raise ValueError(
                    f"the slot {slot!r} of the optimizer's state belongs to other parameters; `fnet.diff(opt_state"
                    f"[{slot!r}], params)` shows the difference. Start from opt.init(params)."
                )


@dataclass(frozen=True)
class Now:
    """What a rule may read at one update."""

    t: jax.Array  # the number of this update, from 1, as a float
    hyper: SimpleNamespace  # scalars; a `Decay` for each of the rule's decays; None for what is switched off
    loss: Any = None
    value_and_grad: ValueAndGrad | None = None  # on trees with the rule's own holes
    key: jax.Array | None = None

    def each(
        self, leaf: Callable[..., tuple[Any, State]], params: PyTree, grads: PyTree, memory: State, **shared: Any
    ) -> tuple[PyTree, State]:
        """Run ``leaf(h, p, g, slots) -> (p, slots)`` at every parameter, for rules that treat them one by one.

        ``h`` has the hyperparameters and the scalars in ``shared``, which are computed once a step rather than once
        a leaf; ``slots`` maps slot names to this parameter's arrays, None where the slot has a hole. All arrive in
        the parameter's dtype, float32 at least; results return to the dtypes they came from.
        """
        scalars = {**vars(self.hyper), **shared}
        casts: dict[Any, SimpleNamespace] = {}

        def one(path: tuple[Any, ...], p: Any, g: Any, *old: Any) -> tuple[Any, ...]:
            if is_hole(p):
                return HOLE, *old
            dtype = wide(jnp.result_type(p))
            if dtype not in casts:
                casts[dtype] = SimpleNamespace(**jax.tree.map(lambda x: jnp.asarray(x, dtype), scalars))
            slots = {name: None if is_hole(x) else jnp.asarray(x, dtype) for name, x in zip(memory, old, strict=True)}
            new_p, new = leaf(casts[dtype], jnp.asarray(p, dtype), jnp.asarray(g, dtype), slots)
            kept = (_like(new[name], x, path, f"slot {name!r}") for name, x in zip(memory, old, strict=True))
            return _like(new_p, p, path, "parameter"), *kept

        structure: Any  # mypy knows no PyTreeDef
        flat, structure = jax.tree_util.tree_flatten_with_path(params, is_leaf=is_hole)
        columns = [structure.flatten_up_to(tree) for tree in (grads, *memory.values())]
        rows = [one(path, p, *rest) for (path, p), *rest in zip(flat, *columns, strict=True)]
        new_params, *slots = (structure.unflatten([row[i] for row in rows]) for i in range(1 + len(memory)))
        return new_params, dict(zip(memory, slots, strict=True))


def _like(new: Any, old: Any, path: tuple[Any, ...], what: str) -> Any:
    if is_hole(old):
        return HOLE
    if np.shape(new) != np.shape(old):
        raise ValueError(
            f"{path_name(path)!r}: the {what} has shape {np.shape(old)} and its update {np.shape(new)}, so the "
            f"optimizer's state belongs to other parameters. Start from opt.init(params)."
        )
    return new.astype(jnp.result_type(old))


def l2(h: Any, p: jax.Array, g: jax.Array) -> jax.Array:
    """The gradient of the loss plus ``weight_decay / 2 · ‖p‖²``: weight decay as PyTorch has it, except in AdamW.

    >>> from types import SimpleNamespace
    >>> l2(SimpleNamespace(weight_decay=0.1), 2.0, 1.0)
    1.2
    """
    return g if h.weight_decay is None else g + h.weight_decay * p
