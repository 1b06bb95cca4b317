"""What settings of the process do to a training step on CPU: memory kept, large pages (both glibc's), two devices.

Each step runs in a process of its own, in turns: the medians over steps are those of the rounds, lowest first.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp

import fnet
from fnet import functional as F
from fnet import models, nn, optim, parallel, train

KEPT = {"FNET_BENCHMARK_KEEP": "1"}  # of this script: calls fnet.keep_memory
PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
TWO = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
SETTINGS = {
    "as it comes": {},
    "kept": KEPT,
    "large pages": PAGES,
    "kept, large pages": KEPT | PAGES,
    "two devices": TWO,
    "kept, two devices": KEPT | TWO,
}


def image_batch(rows: int, size: int, channels: int) -> tuple[Any, Any]:
    return jax.random.normal(jax.random.key(1), (rows, size, size, channels)), jnp.arange(rows) % 10


def token_batch(rows: int, length: int) -> tuple[Any, Any]:
    ids = jax.random.randint(jax.random.key(1), (rows, length + 1), 0, 65)
    return ids[:, :-1], ids[:, 1:]


def language_model(ids: Any, net: Any) -> Any:
    return net(ids)[0]


CASES = {  # of each the model, a batch, and how many steps a round has
    "ResNet-20, 128 x 32x32x3": lambda: (models.resnet20(10), image_batch(128, 32, 3), 10),
    "LeNet, 128 x 28x28x1": lambda: (models.lenet(10), image_batch(128, 28, 1), 100),
    "GPT of 4 blocks of 128, 12 x 64": lambda: (
        models.gpt(65, 64, 4, 4, 128, stacked=False), token_batch(12, 64), 40
    ),
    "LSTM of 256, 32 x 64": lambda: (
        nn.Model(language_model, net=models.lstm_lm(65, 256, 1)), token_batch(32, 64), 20
    ),
}  # fmt: skip


def measure(case: str) -> float:
    """Milliseconds a step, the median; every device that there is takes a part of the batch."""
    model, batch, steps = CASES[case]()
    opt = optim.adamw(1e-3)
    run = train.start(model, opt, jax.random.key(0), batch[0])
    step = train.make_step(train.supervised(model, F.cross_entropy), opt)
    step, run = parallel.data_parallel(step, run, parallel.mesh(data=-1))
    times = []
    for number in range(steps + 2):
        begin = time.perf_counter()
        run, _ = step(run, batch)
        jax.block_until_ready(run)
        if number >= 2:
            times.append(1e3 * (time.perf_counter() - begin))
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)  # one measurement, in a process of its own
    args = parser.parse_args()
    if args.case:
        if "FNET_BENCHMARK_KEEP" in os.environ:
            fnet.keep_memory()
        print(measure(args.case))
        return
    for case in CASES:
        if args.only not in case:
            continue
        times: dict[str, list[float]] = {name: [] for name in SETTINGS}
        for _ in range(args.rounds):
            for name, setting in SETTINGS.items():
                command = [sys.executable, __file__, "--case", case]
                done = subprocess.run(
                    command, env={**os.environ, **setting}, check=True, stdout=subprocess.PIPE, text=True
                )
                times[name].append(float(done.stdout))
        for name, values in times.items():
            print(f"{case:32} {name:18} {' '.join(f'{value:7.1f}' for value in sorted(values))} ms", flush=True)


if __name__ == "__main__":
    main()
