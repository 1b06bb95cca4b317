"""Wrappers that apply some updates and not others. What is not applied is not computed either: it is a branch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from fnet.optim.checks import whole
from fnet.optim.core import State, Wrapper, contains
from fnet.optim.leaves import PyTree, align, fill, full, with_holes
from fnet.optim.vectors import pick


@dataclass(frozen=True)
class Skipping(Wrapper):
    """A wrapper that may leave the parameters and the inner state, its ``step`` included, as they are."""

    @property
    def skips(self) -> bool:
        return True

    def update_if(
        self, condition: Any, grads: PyTree, inner_state: State, params: PyTree, **more: Any
    ) -> tuple[PyTree, State]:
        """The inner update where the scalar ``condition`` holds, else ``params`` and ``inner_state``.

        Under `jax.vmap` over the condition both are computed, as with any branch.
        """
        live = self.inner.trainable(params)

        def run() -> tuple[PyTree, State]:
            new, state = self.inner.update(grads, inner_state, params, **more)
            return with_holes(live, new), state

        def keep() -> tuple[PyTree, State]:
            return strongly(live), inner_state

        new, state = branch(condition, run, keep)
        return fill(new, params), state

    def update_if_finite(
        self, grads: PyTree, inner_state: State, params: PyTree, *, value_and_grad: Any = None, **more: Any
    ) -> tuple[PyTree, State, Any]:
        """The inner update where all gradients are finite, else as it was; and whether it was applied.

        A rule that takes gradients at other parameters (SAM) is seen by its results: new parameters and slots.
        """
        elsewhere = []

        def watched(point: PyTree, /) -> tuple[Any, PyTree]:
            elsewhere.append(True)
            return value_and_grad(point)

        def run() -> tuple[PyTree, State, Any]:
            see = None if value_and_grad is None else watched
            new, state = self.inner.update(grads, inner_state, params, value_and_grad=see, **more)
            new = with_holes(live, new)
            if not elsewhere:
                return new, state, jnp.asarray(True)
            good = all_finite((new, {name: state[name] for name in self.inner.slots}))
            return pick(good, new, live), pick(good, state, inner_state), good

        def keep() -> tuple[PyTree, State, Any]:
            return strongly(live), inner_state, jnp.asarray(False)

        live = self.inner.trainable(params)
        new, state, applied = branch(all_finite(grads), run, keep)
        return fill(new, params), state, applied


def strongly(live: PyTree) -> PyTree:
    """The leaves as arrays of their dtypes, which a Python number has too."""
    return jax.tree.map(lambda p: jnp.asarray(p, jnp.result_type(p)), live)


def branch(condition: Any, run: Callable[[], Any], keep: Callable[[], Any]) -> Any:
    """``run()`` or ``keep()``; eagerly in Python, since an eager `jax.lax.cond` compiles anew each time."""
    if isinstance(condition, jax.core.Tracer):
        return jax.lax.cond(condition, run, keep)
    return run() if condition else keep()


@dataclass(frozen=True)
class accumulate(Skipping):
    """Gather the gradients of ``k`` calls and apply their mean once, at the k-th; the calls between only add.

    For equal micro-batches that is the update of the large batch. ``step``, and so every schedule, counts the updates
    applied; the inner optimizer sees the mean of the k losses. Wrap groups in it, not one group. Rules that
    evaluate the loss at other points (SAM, line searches) raise ValueError, since the earlier micro-batches are
    gone: ``train.make_step(loss, opt, microbatches=k)`` has them all, and needs no memory between steps.

    Slot: "accumulated", the sum so far, in float32 or wider; beside it "accumulated_calls" and "accumulated_loss".
    Raises ValueError unless ``k`` is an integer of at least 1.

    >>> import jax.numpy as jnp
    >>> from fnet import optim
    >>> opt = accumulate(optim.sgd(1.0), 2)
    >>> params = {"w": jnp.array(0.0)}
    >>> opt_state = opt.init(params)
    >>> for g in (-1.0, -3.0):
    ...     params, opt_state = opt.update({"w": jnp.array(g)}, opt_state, params)
    ...     print(float(params["w"]), int(opt_state["step"]))
    0.0 0
    2.0 1
    """

    k: int

    keys = ("accumulated", "accumulated_calls", "accumulated_loss")

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("accumulate", "k", self.k, 1)

    @property
    def slots(self) -> tuple[str, ...]:
        return (*self.inner.slots, "accumulated")

    def init(self, params: PyTree) -> State:
        return self.beside(
            self.inner.init(params),
            accumulated=full(self.trainable(params)),
            accumulated_calls=jnp.asarray(0, jnp.int32),
            accumulated_loss=jnp.asarray(0.0, jnp.result_type(float)),
        )

    def update(
        self, grads: PyTree, opt_state: State, params: PyTree, *, loss: Any = None, value_and_grad: Any = None,
        key: jax.Array | None = None,
    ) -> tuple[PyTree, State]:  # fmt: skip
        inner, own = self.apart(opt_state)
        grads = align(grads, self.trainable(params), params)
        total = jax.tree.map(lambda a, g: a + jnp.asarray(g, a.dtype), own["accumulated"], grads)
        losses = own["accumulated_loss"]
        losses = losses if loss is None else losses + jnp.asarray(loss, losses.dtype)
        calls = own["accumulated_calls"] + 1
        last = calls == self.k
        params, inner = self.update_if(
            last,
            jax.tree.map(lambda a: a / self.k, total),
            inner,
            params,
            loss=None if loss is None else losses / self.k,
            value_and_grad=None if value_and_grad is None else self._gone,
            key=key,
        )
        fresh = {"accumulated": total, "accumulated_calls": calls, "accumulated_loss": losses}
        return params, self.beside(inner, **branch(last, lambda: jax.tree.map(jnp.zeros_like, fresh), lambda: fresh))

    def _gone(self, params: PyTree, /) -> tuple[Any, PyTree]:
        raise ValueError(
            f"accumulate: {self.inner!r} evaluates the loss at other parameters, and of the {self.k} micro-batches "
            f"only the last is still there; use train.make_step(loss, opt, microbatches={self.k}) instead"
        )


def all_finite(tree: PyTree) -> jax.Array:
    """Whether no leaf holds a NaN or an infinity, a boolean scalar.

    >>> import jax.numpy as jnp
    >>> bool(all_finite({"a": jnp.ones(3), "b": jnp.array([1.0, jnp.inf])}))
    False
    """
    return jnp.all(jnp.asarray([jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(tree)], bool))


@dataclass(frozen=True)
class skip_nonfinite(Skipping):
    """Leave parameters and state as they are whenever a gradient holds a NaN or an infinity, and count it.

    A skipped call does not count as a step. ``opt_state["skipped"]`` is how many there were, int32: look at it, since a
    run that skips every update stands still. Wrap groups in it, not one group: a gradient that is not finite
    anywhere stops the whole update. Raises ValueError around `dynamic_loss_scale`, which must see each overflow.

    >>> import jax.numpy as jnp
    >>> from fnet import optim
    >>> opt = skip_nonfinite(optim.sgd(1.0))
    >>> params = {"w": jnp.array(1.0)}
    >>> params, opt_state = opt.update({"w": jnp.array(jnp.nan)}, opt.init(params), params)
    >>> float(params["w"]), int(opt_state["skipped"]), int(opt_state["step"])
    (1.0, 1, 0)
    """

    keys = ("skipped",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if contains(self.inner, dynamic_loss_scale):
            raise ValueError(
                "skip_nonfinite around dynamic_loss_scale would keep every overflow from it, so the scale could never "
                "fall and no update would be applied again; dynamic_loss_scale skips by itself: leave skip_nonfinite "
                "out, or put it inside"
            )

    def init(self, params: PyTree) -> State:
        return self.beside(self.inner.init(params), skipped=jnp.asarray(0, jnp.int32))

    def update(self, grads: PyTree, opt_state: State, params: PyTree, **more: Any) -> tuple[PyTree, State]:
        inner, own = self.apart(opt_state)
        grads = align(grads, self.trainable(params), params)
        params, inner, finite = self.update_if_finite(grads, inner, params, **more)
        return params, self.beside(inner, skipped=own["skipped"] + jnp.where(finite, 0, 1).astype(jnp.int32))


@dataclass(frozen=True)
class dynamic_loss_scale(Skipping):
    """Scale the loss so that float16 gradients do not vanish; skip the update and scale less when one overflows.

    ``opt.loss_scale(opt_state)`` is what to multiply the loss by before it is differentiated; ``update`` takes the
    gradients divided by it again, which `train.make_step` does. After a gradient with a NaN or an infinity the scale is
    multiplied by ``backoff`` and nothing else changes; after ``interval`` finite ones in a row it is multiplied by
    ``growth``. As torch.amp.GradScaler (Micikevicius et al. 2018, section 3.2). bfloat16 has float32's range and needs
    none of this. Wrap groups in it, not one group. In the state: "loss_scale" (float32) and "loss_scale_good" (how
    many finite in a row). Raises ValueError for numbers out of range.

    >>> import jax.numpy as jnp
    >>> from fnet import optim
    >>> opt = dynamic_loss_scale(optim.sgd(1.0), initial=1024.0)
    >>> params = {"w": jnp.array(1.0)}
    >>> params, opt_state = opt.update({"w": jnp.array(jnp.inf)}, opt.init(params), params)
    >>> float(params["w"]), float(opt.loss_scale(opt_state))
    (1.0, 512.0)
    """

    initial: float = 2.0**16
    growth: float = 2.0
    backoff: float = 0.5
    interval: int = 2000

    keys = ("loss_scale", "loss_scale_good")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 < self.initial < math.inf):
            raise ValueError(f"dynamic_loss_scale: initial must be above 0 and finite, got {self.initial!r}")
        if not self.growth >= 1:
            raise ValueError(f"dynamic_loss_scale: growth must be at least 1, got {self.growth!r}")
        if not 0 < self.backoff < 1:
            raise ValueError(f"dynamic_loss_scale: backoff must be between 0 and 1, got {self.backoff!r}")
        whole("dynamic_loss_scale", "interval", self.interval, 1)

    def init(self, params: PyTree) -> State:
        scale, good = jnp.asarray(self.initial, jnp.float32), jnp.asarray(0, jnp.int32)
        return self.beside(self.inner.init(params), loss_scale=scale, loss_scale_good=good)

    def loss_scale(self, opt_state: State) -> jax.Array:
        return self.apart(opt_state)[1]["loss_scale"]

    def update(self, grads: PyTree, opt_state: State, params: PyTree, **more: Any) -> tuple[PyTree, State]:
        inner, own = self.apart(opt_state)
        grads = align(grads, self.trainable(params), params)
        params, inner, finite = self.update_if_finite(grads, inner, params, **more)
        scale, good = own["loss_scale"], own["loss_scale_good"] + 1
        grown = jnp.minimum(scale * self.growth, jnp.finfo(scale.dtype).max)
        shrunk = jnp.maximum(scale * self.backoff, jnp.finfo(scale.dtype).tiny)  # 0 could never grow again
        full_turn = good == self.interval
        scale = jnp.where(finite, jnp.where(full_turn, grown, scale), shrunk)
        return params, self.beside(inner, loss_scale=scale, loss_scale_good=jnp.where(finite & ~full_turn, good, 0))
