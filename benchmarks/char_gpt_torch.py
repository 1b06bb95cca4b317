"""The character GPT of examples/char_gpt.py in PyTorch: nanoGPT's architecture and its recipe for a CPU.

It trains for 2,000 steps and gives the loss on the whole validation set; with ``--compare`` it times PyTorch's step and
that of the example, batches included, in interleaved rounds.
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

LAYERS, HEADS, WIDTH, BLOCK, BATCH = 4, 4, 128, 64, 12
PEAK, END, WARMUP = 1e-3, 1e-4, 100


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH, bias=False), nn.LayerNorm(WIDTH, bias=False)
        self.c_attn, self.c_proj = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)
        self.fc, self.proj = nn.Linear(WIDTH, 4 * WIDTH, bias=False), nn.Linear(4 * WIDTH, WIDTH, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            part.view(*x.shape[:2], HEADS, -1).transpose(1, 2) for part in self.c_attn(self.ln_1(x)).split(WIDTH, 2)
        )
        heads = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.c_proj(heads.transpose(1, 2).reshape(x.shape))
        return x + self.proj(functional.gelu(self.fc(self.ln_2(x))))


class GPT(nn.Module):
    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocab_size, WIDTH), nn.Embedding(BLOCK, WIDTH)
        self.h = nn.ModuleList([Block() for _ in range(LAYERS)])
        self.ln_f = nn.LayerNorm(WIDTH, bias=False)
        for name, p in self.named_parameters():
            if p.ndim == 2:
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * LAYERS) if name.endswith("proj.weight") else 0.02)

    def forward(self, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        x = self.wte(ids) + self.wpe(torch.arange(ids.shape[1]))
        for block in self.h:
            x = block(x)
        logits = functional.linear(self.ln_f(x), self.wte.weight)
        return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def make_optimizer(model: GPT) -> torch.optim.Optimizer:
    """nanoGPT's groups: weight decay on matrices and embeddings, none on the norms."""
    groups = [
        {"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=PEAK, betas=(0.9, 0.99))


def rate(step: int, steps: int) -> float:
    if step < WARMUP:
        return PEAK * (step + 1) / (WARMUP + 1)
    return END + 0.5 * (1 + math.cos(math.pi * (step - WARMUP) / (steps - WARMUP))) * (PEAK - END)


def train_step(model: GPT, opt: torch.optim.Optimizer, tokens: torch.Tensor, step: int, steps: int) -> None:
    for group in opt.param_groups:
        group["lr"] = rate(step, steps)
    starts = torch.randint(len(tokens) - BLOCK, (BATCH,))
    windows = torch.stack([tokens[i : i + BLOCK + 1] for i in starts])
    loss = model(windows[:, :-1], windows[:, 1:])
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    opt.step()
    opt.zero_grad(set_to_none=True)


def evaluate(model: GPT, windows: data.TokenWindows) -> float:
    """The mean loss over all windows, which do not overlap: the evaluator of the example."""
    total = 0.0
    with torch.no_grad():
        for begin in range(0, len(windows), 256):
            batch = windows.get_batch(np.arange(begin, min(begin + 256, len(windows))))
            x, y = (torch.from_numpy(part).long() for part in batch)
            total += float(model(x, y)) * len(x)
    return total / len(windows)


def fnet_steps(vocab_size: int, tokens: np.ndarray) -> Any:
    """A function that takes that many steps of the example, the batches included."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
    import char_gpt
    import jax

    import fnet
    from fnet import train

    fnet.keep_memory()  # as in the example; it holds for PyTorch too
    args = char_gpt.parser().parse_args([])
    loader = char_gpt.make_loader(tokens, args)
    model, opt = char_gpt.make_model(vocab_size, args), char_gpt.make_optimizer(args)
    run = char_gpt.start(model, opt, loader, args)
    step = train.make_step(train.supervised(model, char_gpt.F.cross_entropy), opt)
    batches = iter(loader.stream())

    def take(count: int) -> None:
        nonlocal run
        for _ in range(count):
            run, _ = step(run, next(batches))
        jax.block_until_ready(run)

    return take


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compare", action="store_true", help="time 100 steps of each in rounds of 20")
    args = parser.parse_args()

    text, held_out = data.tiny_shakespeare()
    tokenizer = data.CharTokenizer.of(text, held_out)
    ids = tokenizer.encode(text)
    tokens = torch.from_numpy(ids).long()
    torch.manual_seed(args.seed)
    model = GPT(tokenizer.vocab_size)
    opt = make_optimizer(model)

    if args.compare:
        take = fnet_steps(tokenizer.vocab_size, ids)
        print_in_turns(
            lambda _: [train_step(model, opt, tokens, 0, args.steps) for _ in range(20)], lambda _: take(20), steps=20
        )
        return

    begin = time.perf_counter()
    for step in range(args.steps):
        train_step(model, opt, tokens, step, args.steps)
        if step % 200 == 199:
            print(f"step {step + 1}, {time.perf_counter() - begin:.1f} s", flush=True)
    seconds = time.perf_counter() - begin
    windows = data.TokenWindows(tokenizer.encode(held_out), BLOCK)
    print(f"loss {evaluate(model, windows):.4f} on the whole validation set, {seconds:.1f} s of training")


if __name__ == "__main__":
    main()
