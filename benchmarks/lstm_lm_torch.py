"""The LSTM language model of examples/lstm_lm.py in PyTorch: the same network, batches, schedule and evaluator.

It trains for 6 epochs and gives the bits a character of the held-out text; with ``--compare`` it times PyTorch's step
and that of the example, batches included, in interleaved rounds.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _turns import print_in_turns
from torch import nn
from torch.nn import functional

from fnet import data

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
import lstm_lm

WIDTH, BATCH, LENGTH, DROPOUT = 256, 32, 64, 0.1
PEAK, WARMUP = 4e-3, 100


class LSTM(nn.Module):
    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.embed, self.drop = nn.Embedding(vocab_size, WIDTH), nn.Dropout(DROPOUT)
        self.lstm, self.head = nn.LSTM(WIDTH, WIDTH, batch_first=True), nn.Linear(WIDTH, vocab_size)

    def forward(self, ids: torch.Tensor, targets: torch.Tensor, memory: Any) -> tuple[torch.Tensor, Any]:
        h, memory = self.lstm(self.drop(self.embed(ids)), memory)
        logits = self.head(self.drop(h))
        return functional.cross_entropy(logits.flatten(0, 1), targets.flatten()), memory


def rate(step: int, steps: int) -> float:
    if step < WARMUP:
        return PEAK * (step + 1) / (WARMUP + 1)
    return 0.5 * PEAK * (1 + math.cos(math.pi * (step - WARMUP) / steps))


class Training:
    """The model and how far it is; the memory goes along from step to step, as in the example."""

    def __init__(self, vocab_size: int, steps: int) -> None:
        self.model, self.steps, self.step, self.memory = LSTM(vocab_size), steps, 0, None
        self.opt = torch.optim.Adam(self.model.parameters())

    def take(self, batch: tuple[np.ndarray, np.ndarray]) -> None:
        for group in self.opt.param_groups:
            group["lr"] = rate(self.step, self.steps)
        x, y = (torch.from_numpy(part).long() for part in batch)
        loss, memory = self.model(x, y, self.memory)
        self.memory = tuple(part.detach() for part in memory)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.opt.step()
        self.opt.zero_grad(set_to_none=True)
        self.step += 1


def bits(model: LSTM, loader: data.DataLoader) -> float:
    """Bits a character of a text read in order: the evaluator of the example."""
    model.eval()
    memory, losses = None, []
    with torch.no_grad():
        for batch in loader.epoch(0):
            x, y = (torch.from_numpy(part).long() for part in batch)
            loss, memory = model(x, y, memory)
            losses.append(float(loss))
    model.train()
    return float(np.mean(losses) / np.log(2))


def fnet_steps(vocab_size: int, loader: data.DataLoader, steps: int) -> Any:
    """A function that takes one step of the example for each batch."""
    import jax

    import fnet

    fnet.keep_memory()  # as in the example; it holds for PyTorch too
    jax.config.update("jax_num_cpu_devices", lstm_lm.DEVICES)
    model, opt = lstm_lm.models.lstm_lm(vocab_size, WIDTH, 1, DROPOUT), lstm_lm.make_optimizer(steps)
    run = lstm_lm.start(model, opt, loader, 0)
    step = lstm_lm.train.make_step(lstm_lm.make_loss(model), opt)
    step, run = lstm_lm.parallel.data_parallel(step, run, lstm_lm.parallel.mesh(data=-1))

    def take(batches: Any) -> None:
        nonlocal run
        for batch in batches:
            run, _ = step(run, batch)
        jax.block_until_ready(run)

    return take


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compare", action="store_true", help="time 50 steps of each in rounds of 10")
    args = parser.parse_args()

    text, held_out = data.tiny_shakespeare()
    tokenizer = data.CharTokenizer.of(text, held_out)
    loader = lstm_lm.in_rows(tokenizer.encode(text), BATCH, LENGTH)
    torch.manual_seed(args.seed)
    training = Training(tokenizer.vocab_size, args.epochs * len(loader))

    if args.compare:
        ours = fnet_steps(tokenizer.vocab_size, loader, training.steps)

        def batches(number: int) -> Any:
            return (loader.batch(10 * number + n) for n in range(10))

        print_in_turns(
            lambda number: [training.take(batch) for batch in batches(number)],
            lambda number: ours(batches(number)),
            steps=10,
        )
        return

    test_loader = lstm_lm.in_rows(tokenizer.encode(held_out), 1, LENGTH)
    begin = time.perf_counter()
    for epoch in range(args.epochs):
        for batch in loader.epoch(0):
            training.take(batch)
        print(f"epoch {epoch + 1}, {time.perf_counter() - begin:.1f} s, {bits(training.model, test_loader):.3f} bits",
              flush=True)  # fmt: skip
    print(f"{bits(training.model, test_loader):.3f} bits a character of the held-out text")


if __name__ == "__main__":
    main()
