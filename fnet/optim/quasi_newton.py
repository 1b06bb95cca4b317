"""Rules that model the curvature from differences of gradients."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from fnet.optim.checks import not_negative, whole
from fnet.optim.core import State
from fnet.optim.hyper import Rate
from fnet.optim.leaves import PyTree, wide
from fnet.optim.line_search import Trial, strong_wolfe
from fnet.optim.rule import Now, Rule
from fnet.optim.vectors import dot, l1_norm, like, max_norm, needed, pick, plus, widened


@dataclass(frozen=True, repr=False)
class lbfgs(Rule):
    """L-BFGS (Liu & Nocedal 1989; Nocedal & Wright, Algorithms 7.4, 7.5) with a line search; for losses without noise.

    ``update`` needs ``value_and_grad``, which `train.make_step` passes, and makes one iteration: the iterates are those
    of torch.optim.LBFGS with ``max_iter=1, max_eval=max_ls + 1``. Other than PyTorch's are two defaults: the line
    search is on (``line_search_fn=None`` takes steps of ``lr`` and evaluates once more), and ``history_size`` is 10
    (as in SciPy and optax), since the history is allocated at the start. Both gradients of a difference are
    of the same batch. ``lr`` is the first step that the search tries. Nothing moves where no gradient is larger than
    ``tolerance_grad`` or the slope is smaller than ``tolerance_change``.

    Slots: "s" and "y", the last differences of parameters and of gradients, each leaf with a leading axis of
    ``history_size``; beside them "rho", 1 / <s, y>, and the number of "pairs". Raises ValueError for values out of
    range, and in ``update`` without ``value_and_grad``.

    >>> import jax, jax.numpy as jnp
    >>> def rosenbrock(p):
    ...     return (1 - p["x"]) ** 2 + 100 * (p["y"] - p["x"] ** 2) ** 2
    >>> opt, value_and_grad = lbfgs(), jax.value_and_grad(rosenbrock)
    >>> params = {"x": jnp.array(-1.2), "y": jnp.array(1.0)}
    >>> @jax.jit
    ... def step(params, opt_state):
    ...     loss, grads = value_and_grad(params)
    ...     return opt.update(grads, opt_state, params, loss=loss, value_and_grad=value_and_grad)
    >>> opt_state = opt.init(params)
    >>> for _ in range(40):
    ...     params, opt_state = step(params, opt_state)
    >>> {name: round(float(p), 2) for name, p in params.items()}
    {'x': 1.0, 'y': 1.0}
    """

    lr: Rate = 1.0
    history_size: int = 10
    line_search_fn: str | None = "strong_wolfe"
    max_ls: int = 25
    tolerance_grad: float = 1e-7
    tolerance_change: float = 1e-9

    extras = ("rho", "pairs")

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("lbfgs", "history_size", self.history_size, 1)
        whole("lbfgs", "max_ls", self.max_ls, 1)
        not_negative("lbfgs", "tolerance_grad", self.tolerance_grad)
        not_negative("lbfgs", "tolerance_change", self.tolerance_change)
        if self.line_search_fn not in ("strong_wolfe", None):
            raise ValueError(f'lbfgs: line_search_fn must be "strong_wolfe" or None, got {self.line_search_fn!r}')

    @property
    def slots(self) -> tuple[str, ...]:
        return ("s", "y")

    def hyper(self) -> dict[str, Rate | None]:
        return {"lr": self.lr}

    def memory(self, params: PyTree) -> State:
        m = self.history_size

        def history() -> PyTree:
            return jax.tree.map(lambda p: jnp.zeros((m, *jnp.shape(p)), wide(jnp.result_type(p))), params)

        return {"s": history(), "y": history(), "rho": jnp.zeros(m), "pairs": jnp.zeros((), jnp.int32)}

    def rule(self, now: Now, params: PyTree, grads: PyTree, memory: State) -> tuple[PyTree, State]:
        """Algorithm 7.5: a direction from the history, a step along it, a new pair (s, y) if it curves upwards."""
        value_and_grad = needed(now.value_and_grad, "lbfgs")
        x, g = widened(params), widened(grads)
        d = self.direction(g, memory)
        slope = dot(g, d)
        moves = (max_norm(g) > self.tolerance_grad) & (slope <= -self.tolerance_change)

        def at(t: jax.Array) -> Trial:
            value, there = value_and_grad(like(plus(x, t, d), params))
            there = widened(there)
            return Trial(t, jnp.asarray(value, float), dot(there, d), there)

        first = jnp.where(memory["pairs"] == 0, jnp.minimum(1, 1 / l1_norm(g)), 1) * now.hyper.lr
        if self.line_search_fn is None:
            end = at(jnp.where(moves, first, 0))
        else:
            value = value_and_grad(params)[0] if now.loss is None else now.loss
            start = Trial(jnp.zeros_like(first), jnp.asarray(value, float), slope, g)
            end = strong_wolfe(
                at, start, first, moves, max_ls=self.max_ls, smallest=self.tolerance_change / max_norm(d)
            )
        new = like(pick(moves, plus(x, end.t, d), x), params)
        return new, self.remember(memory, s=plus(widened(new), -1, x), y=plus(end.grad, -1, g))

    def direction(self, g: PyTree, memory: State) -> PyTree:
        """Algorithm 7.4, the two loops: ``-H g``, H the inverse Hessian that the pairs imply; -g without pairs."""
        m, pairs, rho = self.history_size, memory["pairs"], memory["rho"]
        known = jnp.minimum(pairs, m)

        def pair(k: jax.Array) -> tuple[PyTree, PyTree]:
            return jax.tree.map(lambda history: history[k], (memory["s"], memory["y"]))

        def newest_to_oldest(i: jax.Array, carry: tuple[PyTree, jax.Array]) -> tuple[PyTree, jax.Array]:
            q, alpha = carry
            k = (pairs - 1 - i) % m
            s, y = pair(k)
            a = rho[k] * dot(s, q)
            return plus(q, -a, y), alpha.at[k].set(a)

        def oldest_to_newest(i: jax.Array, r: PyTree) -> PyTree:
            k = (pairs - known + i) % m
            s, y = pair(k)
            return plus(r, alpha[k] - rho[k] * dot(y, r), s)

        q, alpha = jax.lax.fori_loop(0, known, newest_to_oldest, (jax.tree.map(jnp.negative, g), jnp.zeros_like(rho)))
        newest = (pairs - 1) % m
        _, y = pair(newest)
        curvature = rho[newest] * dot(y, y)  # <y, y> / <s, y>, eq. 7.20
        scale = jnp.where(pairs > 0, 1 / jnp.where(pairs > 0, curvature, 1), 1)
        r = jax.tree.map(lambda x: x * scale.astype(x.dtype), q)
        return jax.lax.fori_loop(0, known, oldest_to_newest, r)

    def remember(self, memory: State, s: PyTree, y: PyTree) -> State:
        """The history with this pair in the oldest one's place, unless the loss does not curve upwards along it."""
        pairs, sy = memory["pairs"], dot(s, y)
        k, keep = pairs % self.history_size, sy > 1e-10  # PyTorch's bound

        def write(history: jax.Array, new: jax.Array) -> jax.Array:
            return history.at[k].set(jnp.where(keep, new, history[k]))

        histories = {name: jax.tree.map(write, memory[name], new) for name, new in (("s", s), ("y", y))}
        return {**histories, "rho": write(memory["rho"], 1 / jnp.where(keep, sy, 1)), "pairs": pairs + keep}
