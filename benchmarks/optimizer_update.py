"""AdamW's update beside optax and PyTorch (single, foreach, fused): kept, donated, and as the time it adds to a step.

Three trees: 400 leaves of 0.13 M parameters in all, 120 leaves of 7 M, one leaf of 100 M. All contenders take turns in
one process, in another order each round. A turn is one call that is not timed and the fastest of three (one for the
leaf of 100 M); medians of the turns and their ratio to fnet's are printed.

    kept     jax.jit(lambda params, state, grads: update(grads, state, params)): new memory for all that is new
    donated  the same with donate_argnums=(0, 1), as in train.make_step(..., donate=True): in place, as PyTorch does it
    added    a donated step with the gradients of a layer a leaf and the update, less the gradients alone

"slots first" donates (state, params) to jax.jit(update), an order that costs copies (docs/optimizers.md says why).
"packed" joins all leaves into one vector inside the step and cuts it up again.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from jax.flatten_util import ravel_pytree

from fnet import optim

RATES = {"lr": 1e-3, "weight_decay": 0.1}
COLUMNS = ("kept", "donated", "added")
Update = Callable[[Any, Any, Any], Any]


def tree_of(kind: str) -> dict[str, np.ndarray]:
    """A flat dict of float32 arrays."""
    shapes = {"400 small": [(18, 18)] * 400, "120 of 7 M": [(245, 245)] * 120, "one of 100 M": [(10_000, 10_000)]}[kind]
    rng = np.random.default_rng(0)
    return {f"{i}": rng.standard_normal(shape, dtype="float32") for i, shape in enumerate(shapes)}


def gradients(params: Any) -> Any:
    """Of one linear layer a leaf on four rows: as cheap as gradients can be that lie in memory before the update."""

    def loss(leaf: jax.Array) -> jax.Array:
        return jnp.mean(jnp.square(jnp.linspace(0, 1, 4 * len(leaf)).reshape(4, -1) @ leaf))

    return jax.grad(lambda p: sum(map(loss, jax.tree.leaves(p))))(params)


def jax_contender(update: Update, init: Callable[[Any], Any], arrays: Any, grads: Any) -> dict[str, Callable[[], Any]]:
    """Calls by column; each goes on from where the one before stopped, so that donated memory is never asked for."""
    now = [jax.tree.map(jnp.asarray, arrays), init(arrays)]
    kept = jax.jit(lambda params, state, grads: update(grads, state, params))
    donated = jax.jit(lambda params, state, grads: update(grads, state, params), donate_argnums=(0, 1))
    whole = jax.jit(lambda params, state: update(gradients(params), state, params), donate_argnums=(0, 1))

    def go(step: Callable[..., Any], *more: Any) -> Any:
        now[:] = step(*now, *more)
        return now

    return {
        "kept": lambda: kept(*now, grads),
        "donated": lambda: go(donated, grads),
        "added": lambda: go(whole),
    }


def slots_first(update: Update, init: Callable[[Any], Any], arrays: Any, grads: Any) -> dict[str, Callable[[], Any]]:
    now = [jax.tree.map(jnp.asarray, arrays), init(arrays)]
    step = jax.jit(update, donate_argnums=(1, 2))

    def go() -> Any:
        now[:] = step(grads, now[1], now[0])
        return now

    return {"donated": go}


def packed(update: Update) -> Update:
    """The update of one vector; the trees outside stay what they are."""

    def whole(grads: Any, state: Any, params: Any) -> Any:
        flat, unravel = ravel_pytree(params)
        slots = {name: ravel_pytree(state[name])[0] for name in ("mu", "nu")}
        flat, new = update(ravel_pytree(grads)[0], state | slots, flat)
        return unravel(flat), new | {name: unravel(new[name]) for name in ("mu", "nu")}

    return whole


def jax_contenders(arrays: Any, few: bool) -> dict[str, dict[str, Callable[[], Any]]]:
    grads = jax.jit(gradients)(arrays)
    ours, theirs = optim.adamw(**RATES), optax.adamw(RATES["lr"], weight_decay=RATES["weight_decay"])

    def optax_update(grads: Any, state: Any, params: Any) -> Any:
        updates, state = theirs.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params, without = jax.tree.map(jnp.asarray, arrays), jax.jit(gradients)
    found = {
        "fnet": jax_contender(ours.update, ours.init, arrays, grads),
        "optax": jax_contender(optax_update, theirs.init, arrays, grads),
        "no update": {"added": lambda: without(params)},
    }
    if not few:
        found["fnet, packed"] = jax_contender(packed(ours.update), ours.init, arrays, grads)
        found["fnet, slots first"] = slots_first(ours.update, ours.init, arrays, grads)
    return found


def torch_contenders(arrays: dict[str, np.ndarray]) -> dict[str, dict[str, Callable[[], Any]]]:
    """PyTorch's three implementations, which work in place; in eager PyTorch a step adds what the update takes."""
    params = [torch.nn.Parameter(torch.from_numpy(leaf.copy())) for leaf in arrays.values()]
    for p in params:
        p.grad = 2e-3 * p.detach()
    hows = {"single": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}
    return {f"torch {name}": {"donated": torch.optim.AdamW(params, **RATES, **how).step} for name, how in hows.items()}


def milliseconds(call: Callable[[], Any], calls: int) -> float:
    """The fastest of some calls, to their end, after one not timed: PyTorch's threads spin on and get in the way."""
    jax.block_until_ready(call())
    taken = []
    for _ in range(calls):
        begin = time.perf_counter()
        jax.block_until_ready(call())
        taken.append(time.perf_counter() - begin)
    return 1e3 * min(taken)


def race(arrays: dict[str, np.ndarray], rounds: int, few: bool) -> dict[str, dict[str, float]]:
    """Medians by contender and column."""
    contenders = {**jax_contenders(arrays, few), **torch_contenders(arrays)}
    times: dict[str, dict[str, list[float]]] = {name: {part: [] for part in c} for name, c in contenders.items()}
    for number in range(rounds + 1):
        for name in random.sample(list(contenders), len(contenders)):
            for part, call in contenders[name].items():
                taken = milliseconds(call, 1 if few else 3)
                if number:
                    times[name][part].append(taken)
    medians = {name: {part: statistics.median(times[name][part]) for part in times[name]} for name in times}
    idle = medians.pop("no update")["added"]
    for name, found in medians.items():
        if name.startswith("torch"):
            found["added"] = found["donated"]
        elif "added" in found:
            found["added"] -= idle
    return medians


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--trees", nargs="*", default=["400 small", "120 of 7 M", "one of 100 M"])
    args = parser.parse_args()
    print(f"jax {jax.__version__}, optax {optax.__version__}, torch {torch.__version__}")
    for kind in args.trees:
        few = kind.startswith("one")
        rounds = max(5, args.rounds // 10) if few else args.rounds
        medians = race(tree_of(kind), rounds, few)
        print(f"\n{kind}: medians of {rounds} rounds, ms (in brackets: as a multiple of fnet's)")
        print(f"{'':18}" + "".join(f"{column:>18}" for column in COLUMNS))
        for name, found in medians.items():
            cells = (
                f"{found[part]:9.2f} ({found[part] / medians['fnet'][part]:5.2f})" if part in found else "–"
                for part in COLUMNS
            )
            print(f"{name:18}" + "".join(f"{cell:>18}" for cell in cells))


if __name__ == "__main__":
    main()
