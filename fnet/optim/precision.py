"""Wrappers about the dtypes of parameters and slots."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from fnet.optim.core import Optimizer, State, ValueAndGrad, Wrapper
from fnet.optim.leaves import PyTree, fill, wide, with_holes
from fnet.tree import HOLE, fold_name, is_hole, map_named


@dataclass(frozen=True)
class master_weights(Wrapper):
    """Train a float32 copy of each 16-bit parameter and round it to the parameter after every update.

    Without it, updates below a bfloat16 parameter's resolution (1 part in 256) vanish (Micikevicius et al. 2018,
    section 3.1). The loss and its gradients are those of the rounded parameters. A parameter changed from outside
    starts its copy anew. Wider parameters have no copy.

    Slot: "master", with holes at wider parameters.

    >>> import jax.numpy as jnp
    >>> from fnet import optim
    >>> opt = master_weights(optim.sgd(1.0))
    >>> params = {"w": jnp.ones(1, "bfloat16")}
    >>> opt_state = opt.init(params)
    >>> for _ in range(100):
    ...     params, opt_state = opt.update({"w": jnp.full(1, 1e-3)}, opt_state, params)
    >>> float(params["w"][0]), round(float(opt_state["master"]["w"][0]), 3)
    (0.8984375, 0.9)
    """

    keys = ("master",)

    @property
    def slots(self) -> tuple[str, ...]:
        return (*self.inner.slots, "master")

    def init(self, params: PyTree) -> State:
        master = jax.tree.map(lambda p: _widened(p) if _narrow(p) else HOLE, self.trainable(params))
        return self.beside(self.inner.init(fill(master, params)), master=master)

    def update(
        self,
        grads: PyTree,
        opt_state: State,
        params: PyTree,
        *,
        value_and_grad: ValueAndGrad | None = None,
        **more: Any,
    ) -> tuple[PyTree, State]:
        inner, own = self.apart(opt_state)
        master = _map(_current, own["master"], params)
        new, inner = self.inner.update(
            grads,
            inner,
            fill(master, params),
            value_and_grad=_at_dtypes_of(params, value_and_grad),
            **more,
        )
        return _rounded(new, params), self.beside(inner, master=with_holes(master, new))

    def eval_params(self, opt_state: State, params: PyTree) -> PyTree:
        inner, own = self.apart(opt_state)
        master = _map(_current, own["master"], params)
        return _rounded(self.inner.eval_params(inner, fill(master, params)), params)


@dataclass(frozen=True)
class stochastic_rounding(Wrapper):
    """Round the new value of each bfloat16 parameter up or down at random, so that it is right in expectation.

    Small updates then survive without a float32 copy: of a hundred steps of a hundredth of the resolution, about one
    moves the parameter. ``update`` needs ``key``, which `train.make_step` passes; each parameter's draws depend on the
    key and on its name. Wider parameters are left alone; float16 is refused, use `master_weights`.

    >>> import jax, jax.numpy as jnp
    >>> from fnet import optim
    >>> opt = stochastic_rounding(optim.sgd(1.0))
    >>> params = {"w": jnp.ones(4096, "bfloat16")}
    >>> new, _ = opt.update({"w": jnp.full(4096, 1e-4)}, opt.init(params), params, key=jax.random.key(0))
    >>> jnp.unique(new["w"]), new["w"].astype(float).mean().round(4)
    (Array([0.996094, 1], dtype=bfloat16), Array(0.9999, dtype=float32))
    """

    def init(self, params: PyTree) -> State:
        return self.inner.init(self._wide(params))

    def _wide(self, params: PyTree) -> PyTree:
        def one(name: str, p: Any) -> Any:
            if _narrow(p) and jnp.result_type(p) != jnp.bfloat16:
                raise ValueError(
                    f"stochastic_rounding is for bfloat16 parameters, {name!r} is {jnp.result_type(p).name}; use "
                    f"optim.master_weights"
                )
            return _widened(p) if _narrow(p) else HOLE

        return fill(map_named(one, self.trainable(params)), params)

    def update(
        self,
        grads: PyTree,
        opt_state: State,
        params: PyTree,
        *,
        value_and_grad: ValueAndGrad | None = None,
        key: jax.Array | None = None,
        **more: Any,
    ) -> tuple[PyTree, State]:
        if key is None:
            raise ValueError("stochastic_rounding draws at random: update needs key=, which train.make_step passes")
        at = _at_dtypes_of(params, value_and_grad)
        new, opt_state = self.inner.update(grads, opt_state, self._wide(params), value_and_grad=at, key=key, **more)

        def one(name: str, n: Any, p: Any) -> Any:
            trained = not is_hole(p) and _narrow(p)
            return _round_at_random(fold_name(key, f"stochastic_rounding.{name}"), n) if trained else n

        live = self.trainable(params)
        rounded = map_named(one, with_holes(live, new), live)
        return fill(rounded, params), opt_state

    def eval_params(self, opt_state: State, params: PyTree) -> PyTree:
        return _rounded(self.inner.eval_params(opt_state, self._wide(params)), params)


def _round_at_random(key: jax.Array, x: jax.Array) -> jax.Array:
    """float32 to bfloat16, which keeps the upper 16 bits: adding 16 random ones carries as often as it should."""
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    noise = jax.random.bits(key, x.shape, jnp.uint16).astype(jnp.uint32)
    upper = ((bits + noise) >> 16).astype(jnp.uint16)
    return jnp.where(jnp.isfinite(x), jax.lax.bitcast_convert_type(upper, jnp.bfloat16), x.astype(jnp.bfloat16))


@dataclass(frozen=True)
class slot_dtype(Wrapper):
    """Keep the slots of the inner rule in another dtype, such as bfloat16, and compute in float32 as before.

    ``only`` says which, all those of the rule by default (never what a wrapper inside keeps). An average of
    squares that decays by less than 1 part in 256 a step (``b2`` above 0.996) hardly falls in bfloat16, since
    rounding undoes each step: for Adam choose ``only=("mu",)``, as optax's ``mu_dtype``, or `slots_8bit`.
    Raises ValueError for a name that is no slot and TypeError for a dtype that is not floating.

    >>> import jax.numpy as jnp
    >>> from fnet import optim
    >>> opt_state = slot_dtype(optim.adam(), "bfloat16", only=("mu",)).init({"w": jnp.ones(2)})
    >>> opt_state["mu"]["w"].dtype, opt_state["nu"]["w"].dtype
    (dtype(bfloat16), dtype('float32'))
    """

    dtype: Any
    only: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "dtype", jnp.dtype(self.dtype))
        if not jnp.issubdtype(self.dtype, jnp.floating):
            raise TypeError(f"slot_dtype is for floating dtypes such as bfloat16, got {self.dtype.name}")
        names = slots_of_rule("slot_dtype", self.inner) if self.only is None else self.only
        object.__setattr__(self, "only", chosen_slots("slot_dtype", names, self.inner))

    def __repr__(self) -> str:
        return f"slot_dtype({self.inner!r}, {self.dtype.name!r}, only={self.only!r})"

    def _cast(self, opt_state: State, to: Any) -> State:
        def one(x: Any) -> Any:
            return x.astype(to(x.dtype)) if jnp.issubdtype(x.dtype, jnp.floating) else x

        return {**opt_state, **{name: jax.tree.map(one, opt_state[name]) for name in self.only or ()}}

    def init(self, params: PyTree) -> State:
        return self._cast(self.inner.init(params), lambda dtype: self.dtype)

    def update(self, grads: PyTree, opt_state: State, params: PyTree, **more: Any) -> tuple[PyTree, State]:
        params, opt_state = self.inner.update(grads, self._cast(opt_state, wide), params, **more)
        return params, self._cast(opt_state, lambda dtype: self.dtype)

    def eval_params(self, opt_state: State, params: PyTree) -> PyTree:
        return self.inner.eval_params(self._cast(opt_state, wide), params)


def slots_of_rule(owner: str, opt: Optimizer) -> tuple[str, ...]:
    """The slots of what stands inside all wrappers."""
    while isinstance(opt, Wrapper):
        opt = opt.inner
    if not opt.slots:
        raise ValueError(f"{owner}: {opt!r} has no slots")
    return opt.slots


def chosen_slots(owner: str, names: Any, opt: Optimizer) -> tuple[str, ...]:
    """``names`` as a tuple, or a ValueError unless all of them are slots of ``opt``."""
    names = (names,) if isinstance(names, str) else tuple(names)
    unknown = [name for name in names if name not in opt.slots]
    if unknown:
        has = ", ".join(map(repr, opt.slots)) or "none"
        raise ValueError(f"{owner}: {unknown[0]!r} is no slot of {opt!r}; its slots: {has}")
    return names


def _narrow(p: Any) -> bool:
    return jnp.finfo(jnp.result_type(p)).bits < 32


def _widened(p: Any) -> jax.Array:
    return jnp.asarray(p, wide(jnp.result_type(p)))


def _map(f: Any, tree: PyTree, *rest: PyTree) -> PyTree:
    """``f`` at the leaves of ``tree``; where that has a hole the others may have leaves."""
    return jax.tree.map(lambda x, *others: x if is_hole(x) else f(x, *others), tree, *rest, is_leaf=is_hole)


def _current(master: jax.Array, p: Any) -> jax.Array:
    """The float32 copy, or the parameter where that is no longer what the copy rounds to."""
    dtype = jnp.result_type(p)
    raw = jnp.dtype(f"uint{jnp.finfo(dtype).bits}")  # compared as bits: XLA may compute bfloat16 in float32 otherwise
    seen = jax.lax.bitcast_convert_type(jnp.asarray(p), raw)
    return jnp.where(jax.lax.bitcast_convert_type(master.astype(dtype), raw) == seen, master, _widened(p))


def _rounded(new: PyTree, params: PyTree) -> PyTree:
    """``new`` in the dtypes of ``params``; leaves that are the same object stay it."""
    return jax.tree.map(lambda n, p: p if n is p else n.astype(jnp.result_type(p)), new, params)


def _at_dtypes_of(params: PyTree, value_and_grad: ValueAndGrad | None) -> ValueAndGrad | None:
    """The loss at other parameters rounded to the dtypes of ``params``: the loss that is trained."""
    if value_and_grad is None:
        return None
    return lambda point: value_and_grad(_rounded(point, params))
