"""AdamW's update beside optax and PyTorch (single, foreach, fused): alone, and as the time it adds to a jitted step.

Three trees: 400 leaves of 0.13 M parameters in all, 120 leaves of 7 M, one leaf of 100 M. All contenders take turns in
one process; medians and their ratio to fnet's are printed. "Added" is a step with gradients of a cheap loss and the
update, less the same step without the update.
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

from fnet import optim

RATES = {"lr": 1e-3, "weight_decay": 0.1}


def tree_of(kind: str) -> dict[str, np.ndarray]:
    """A flat dict of float32 arrays."""
    shapes = {"400 small": [(18, 18)] * 400, "120 of 7 M": [(245, 245)] * 120, "one of 100 M": [(10_000, 10_000)]}[kind]
    rng = np.random.default_rng(0)
    return {f"{i}": rng.standard_normal(shape, dtype="float32") for i, shape in enumerate(shapes)}


def gradients(params: Any) -> Any:
    """Of a loss that reads every parameter and costs next to nothing."""
    return jax.grad(lambda p: sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(p)) * 1e-3)(params)


def jax_contenders(arrays: dict[str, np.ndarray]) -> dict[str, tuple[Callable[[], Any], Callable[[], Any]]]:
    """name: (the update alone, gradients and update)."""
    params = jax.tree.map(jnp.asarray, arrays)
    grads = jax.jit(gradients)(params)
    ours, theirs = optim.adamw(**RATES), optax.adamw(RATES["lr"], weight_decay=RATES["weight_decay"])

    def optax_update(grads: Any, state: Any, params: Any) -> Any:
        updates, state = theirs.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    found = {}
    for name, update, init in (("fnet", ours.update, ours.init), ("optax", optax_update, theirs.init)):
        alone = jax.jit(update)
        whole = jax.jit(lambda state, params, update=update: update(gradients(params), state, params))
        state = init(params)
        found[name] = (
            lambda alone=alone, state=state: alone(grads, state, params),
            lambda whole=whole, state=state: whole(state, params),
        )
    without = jax.jit(gradients)
    found["no update"] = (lambda: grads, lambda: without(params))
    return found


def torch_contenders(arrays: dict[str, np.ndarray]) -> dict[str, tuple[Callable[[], Any], Callable[[], Any]]]:
    """The same for PyTorch's three implementations; in eager PyTorch a step adds what the update takes alone."""
    found = {}
    for name, how in (("single", {"foreach": False}), ("foreach", {"foreach": True}), ("fused", {"fused": True})):
        params = [torch.nn.Parameter(torch.from_numpy(leaf.copy())) for leaf in arrays.values()]
        for p in params:
            p.grad = 2e-3 * p.detach()
        opt = torch.optim.AdamW(params, **RATES, **how)
        found[f"torch {name}"] = (opt.step, opt.step)
    return found


def milliseconds(call: Callable[[], Any]) -> float:
    """One call, to its end, after one that is not timed: PyTorch's threads spin on for a while and get in the way."""
    jax.block_until_ready(call())
    begin = time.perf_counter()
    jax.block_until_ready(call())
    return 1e3 * (time.perf_counter() - begin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--trees", nargs="*", default=["400 small", "120 of 7 M", "one of 100 M"])
    args = parser.parse_args()
    print(f"jax {jax.__version__}, optax {optax.__version__}, torch {torch.__version__}")
    for kind in args.trees:
        arrays = tree_of(kind)
        contenders = {**jax_contenders(arrays), **torch_contenders(arrays)}
        rounds = max(5, args.rounds // (10 if kind.startswith("one") else 1))
        times: dict[tuple[str, int], list[float]] = {(name, part): [] for name in contenders for part in (0, 1)}
        for number in range(rounds + 2):
            for name in random.sample(list(contenders), len(contenders)):
                for part, call in enumerate(contenders[name]):
                    taken = milliseconds(call)
                    if number >= 2:
                        times[name, part].append(taken)
        print(f"\n{kind}: medians of {rounds} rounds, ms")
        print(f"{'':14} {'alone':>9} {'/ fnet':>7} {'added':>9} {'/ fnet':>7}")
        alone = {name: statistics.median(times[name, 0]) for name in contenders}
        idle = statistics.median(times["no update", 1])
        added = {
            name: alone[name] if name.startswith("torch") else statistics.median(times[name, 1]) - idle
            for name in contenders
        }
        for name in contenders:
            if name != "no update":
                ratios = alone[name] / alone["fnet"], added[name] / added["fnet"]
                print(f"{name:14} {alone[name]:9.2f} {ratios[0]:7.2f} {added[name]:9.2f} {ratios[1]:7.2f}")


if __name__ == "__main__":
    main()
