"""The jitted train step of a three-layer perceptron against the same step written by hand in jax.numpy.

Both run in one process, in turn, many steps a round; the ratio of each round's two times is taken, and the median of
these is quoted. The goal is at most 1.03.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import jax
import numpy as np
from _by_hand import cross_entropy, step_by_hand

from fnet import functional as F
from fnet import nn, optim, train

RULES = {"sgd": optim.sgd(0.1), "momentum": optim.sgd(0.1, momentum=0.9), "adamw": optim.adamw(1e-3, weight_decay=0.1)}


def seconds(step: Any, run: Any, batch: Any, steps: int) -> float:
    """The time of a step, over a run of them that does not wait in between."""
    jax.block_until_ready(run)
    begin = time.perf_counter()
    for _ in range(steps):
        run, _ = step(run, batch)
    jax.block_until_ready(run)
    return (time.perf_counter() - begin) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--steps", type=int, default=50, help="steps a round")
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    batch = jax.device_put((rng.normal(size=(128, 784)).astype("float32"), rng.integers(10, size=128).astype("int32")))
    model = nn.Sequential(nn.Linear(512), F.relu, nn.Linear(512), F.relu, nn.Linear(10))
    print(f"jax {jax.__version__}, {jax.devices()[0].device_kind}; 784-512-512-10, batch 128, {args.rounds} rounds")
    print(f"{'rule':10} {'fnet ms':>9} {'by hand ms':>11} {'ratio':>7} {'quartiles':>14}")
    for rule, opt in RULES.items():
        run = train.start(model, opt, jax.random.key(0), batch[0])
        steps = {"ours": train.make_step(train.supervised(model, cross_entropy), opt), "theirs": step_by_hand(rule)}
        for step in steps.values():
            seconds(step, run, batch, 5)
        times: dict[str, list[float]] = {"ours": [], "theirs": []}
        for round_number in range(args.rounds):
            order = ["ours", "theirs"] if round_number % 2 else ["theirs", "ours"]
            for name in order:
                times[name].append(seconds(steps[name], run, batch, args.steps))
        ratios = [a / b for a, b in zip(times["ours"], times["theirs"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        ours, theirs = (1e3 * statistics.median(times[name]) for name in ("ours", "theirs"))
        print(f"{rule:10} {ours:9.3f} {theirs:11.3f} {middle:7.3f} {low:6.3f} – {high:5.3f}")


if __name__ == "__main__":
    main()
