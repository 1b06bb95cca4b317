"""What `fit` costs beside the jitted step, with everything off and with callbacks and a progress bar.

The step of a small model is called in a bare loop over the loader's batches and by `fit`, in turn, many rounds in one
process; medians are quoted. The goals: 50 µs a step with everything off, 2 % of a step of 2 ms with everything on.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnet import data, nn, optim, train
from fnet import functional as F


def by_hand(step: Any, run: Any, loader: Any, steps: int) -> Any:
    for _, batch in zip(range(steps), loader.stream(start=0), strict=False):
        run, metrics = step(run, batch)
    jax.block_until_ready(run)


def off(step: Any, run: Any, loader: Any, steps: int, **settings: Any) -> Any:
    run, _ = train.fit(step, run, loader, steps=steps, every=steps, progress=False, **settings)
    jax.block_until_ready(run)


def on(step: Any, run: Any, loader: Any, steps: int) -> Any:
    history = train.History()
    callbacks = [train.early_stopping(history, "loss", 10**9), train.stop_on_nan(history), train.time_limit(hours=1),
                 train.every(100, lambda run, latest: None)]  # fmt: skip
    with contextlib.redirect_stderr(io.StringIO()):
        run, _ = train.fit(step, run, loader, steps=steps, every=100, history=history, callbacks=callbacks)
    jax.block_until_ready(run)


def compare(step: Any, run: Any, loader: Any, steps: int, rounds: int, ways: dict[str, Any]) -> dict[str, float]:
    """Microseconds a step of each way: medians over rounds that take turns."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            begin = time.perf_counter()
            way(step, run, loader, steps)
            if number:  # the first round compiles
                times[name].append(1e6 * (time.perf_counter() - begin) / steps)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    print(f"jax {jax.__version__}, {jax.devices()[0].device_kind}; µs a step, medians of {args.rounds} rounds")
    for title, width, size, steps in (("tiny", 8, 16, 400), ("about 2 ms", 512, 128, 100)):
        points = rng.normal(size=(10 * size, 784)).astype("float32"), rng.integers(10, size=10 * size).astype("int32")
        loader = data.DataLoader(data.ArrayDataset(*points), batch_size=size, last="drop")
        model = nn.Sequential(nn.Linear(width), F.relu, nn.Linear(width), jnp.tanh, nn.Linear(10))
        opt = optim.sgd(0.01)
        step = train.make_step(train.supervised(model, F.cross_entropy), opt)
        run = train.start(model, opt, jax.random.key(0), points[0][:size])
        ways = {"by hand": by_hand, "fit": off, "fit, callbacks and bar": on}
        if title == "tiny":
            ways["fit, 20 steps a call"] = lambda *args: off(*args, steps_per_call=20)
        found = compare(step, run, loader, steps, args.rounds, ways)
        for name, value in found.items():
            print(f"{title:11} {name:24} {value:9.1f}   {value - found['by hand']:+8.1f}")
        print(f"{title:11} callbacks and bar: {100 * (found['fit, callbacks and bar'] / found['fit'] - 1):+.2f} %")


if __name__ == "__main__":
    main()
