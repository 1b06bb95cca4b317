"""What an optimizer is: a frozen value with pure functions from gradients and state to new parameters and state.

The state is a plain dict that mirrors the parameters slot first::

    {"step": int32, "hyper": {"lr": float32, …}, "mu": tree like params, "nu": tree like params}

``step`` counts the updates applied. A hyperparameter given as a float lives under ``hyper``, where it can be read
and changed while the compiled step stays valid. One given as a schedule has there the value last used, and the key
``scheduled`` names it, ``{"lr": None}``: a dict without leaves, which files and transforms keep. Parameters that
are not trained are holes in every slot.

An update rule is a subclass of `Rule`; what works on another optimizer is a subclass of `Wrapper`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import jax

from fnet.optim.leaves import PyTree, inexact

State = dict[str, Any]

# What PyTorch's optimizers have and these do not, with what stands for it.
PYTORCH = {
    "step": "params, opt_state = opt.update(grads, opt_state, params)",
    "zero_grad": "nothing, since jax.grad gives new gradients each time",
    "param_groups": "optim.get_hyper(opt_state, 'lr') and optim.set_hyper(opt_state, lr=…); by name: optim.groups({…})",
    "add_param_group": "optim.groups({selector: optimizer, …})",
    "state_dict": "opt_state itself, a dict: fnet.save(path, opt_state)",
    "load_state_dict": "opt_state = fnet.load(path)",
}


class ValueAndGrad(Protocol):
    """The loss and its gradients at other parameters, on the batch of this step."""

    def __call__(self, params: PyTree, /) -> tuple[Any, PyTree]: ...


class Optimizer:
    """The contract that every rule, group and wrapper keeps; all methods are pure."""

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if name in PYTORCH:
                raise AttributeError(f"an optimizer has no {name!r} in fnet; in its place is {PYTORCH[name]}")
            return object.__getattribute__(self, name)  # raises once more what it raised before

    @property
    def slots(self) -> tuple[str, ...]:
        """The keys of the state whose values are trees like the parameters."""
        return ()

    @property
    def skips(self) -> bool:
        """Whether an update may apply nothing and leave ``step`` where it is; what does so must wrap whole groups."""
        return False

    def init(self, params: PyTree) -> State:
        """The state before the first update."""
        raise NotImplementedError(f"{type(self).__name__} must define init(params)")

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
        """One step: ``(new params, new state)``. Leaves that are not trained come back as the same objects.

        ``grads`` has a leaf for each trainable parameter; those of other parameters are dropped. ``loss``, the
        function ``value_and_grad`` (params -> (loss, grads)) and a random ``key`` are for the rules that need them.

        To donate in a jit of your own, take the arguments in the order of the results, as `train.make_step` does:
        ``jax.jit(lambda params, state, grads: opt.update(grads, state, params), donate_argnums=(0, 1))``. JAX gives
        each result the first donated buffer of its shape; with ``jax.jit(opt.update, donate_argnums=(1, 2))`` new
        parameters would take the slots' memory, and XLA copies.
        """
        raise NotImplementedError(f"{type(self).__name__} must define update(grads, opt_state, params)")

    def trainable(self, params: PyTree) -> PyTree:
        """The parameters that this optimizer changes, with holes at all others: differentiate only these."""
        return inexact(params)

    def eval_params(self, opt_state: State, params: PyTree) -> PyTree:
        """The parameters to evaluate and to ship; other than ``params`` for rules that train at another point."""
        return params

    def loss_scale(self, opt_state: State) -> Any:
        """What to multiply the loss by before it is differentiated, so that small gradients survive 16 bits.

        `train.make_step` divides the gradients by it again: ``update`` always takes those of the loss itself.
        """
        return 1.0


def contains(opt: Optimizer, kind: type[Optimizer]) -> bool:
    """Whether an optimizer is, wraps or, in one of its groups, has one of this kind."""
    parts = [opt.inner] if isinstance(opt, Wrapper) else [part for _, part in getattr(opt, "rules", ())]
    return isinstance(opt, kind) or any(part is not None and contains(part, kind) for part in parts)


@dataclass(frozen=True)
class Wrapper(Optimizer):
    """An optimizer around another. What it remembers lies beside the inner state's keys, never around them."""

    inner: Optimizer

    keys: ClassVar[tuple[str, ...]] = ()  # what this wrapper adds to the state

    def __post_init__(self) -> None:
        if not isinstance(self.inner, Optimizer):
            raise TypeError(f"{type(self).__name__} wraps an optimizer such as optim.adamw(3e-4), got {self.inner!r}")

    @property
    def slots(self) -> tuple[str, ...]:
        return self.inner.slots

    @property
    def skips(self) -> bool:
        return self.inner.skips

    def beside(self, inner_state: State, **own: Any) -> State:
        """The state with this wrapper's keys added; raises ValueError when the inner state has such a key."""
        taken = sorted(set(own) & set(inner_state))
        if taken:
            raise ValueError(
                f"{type(self).__name__} keeps {taken[0]!r} in the optimizer's state, and so does what it wraps "
                f"({self.inner!r}); is it applied twice?"
            )
        return {**inner_state, **own}

    def apart(self, opt_state: State) -> tuple[State, State]:
        """``(inner state, this wrapper's keys)``, the inverse of `beside`."""
        missing = [key for key in self.keys if key not in opt_state]
        if missing:
            raise ValueError(
                f"{type(self).__name__}: the optimizer's state lacks {missing[0]!r}; it was made without this wrapper. "
                f"Start from opt.init(params)."
            )
        own = {key: opt_state[key] for key in self.keys}
        return {key: value for key, value in opt_state.items() if key not in own}, own

    def init(self, params: PyTree) -> State:
        return self.inner.init(params)

    def trainable(self, params: PyTree) -> PyTree:
        return self.inner.trainable(params)

    def eval_params(self, opt_state: State, params: PyTree) -> PyTree:
        return self.inner.eval_params(self.apart(opt_state)[0], params)

    def loss_scale(self, opt_state: State) -> Any:
        return self.inner.loss_scale(self.apart(opt_state)[0])
