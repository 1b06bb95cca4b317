"""A GPT that writes Shakespeare, one character after another, in nanoGPT's configuration for a CPU.

The text is looked for in the folder that the environment variable FNET_DATA names (tinyshakespeare.txt); ``--text``
takes a file of your own. The number at the end is the loss, in nats a character, over the whole of the held-out tenth.
Killed and started again, it goes on where it was.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from _made_for import checksum, made_for
from _text import first_characters, read

import fnet
import fnet.functional as F
from fnet import data, io, models, nn, optim, plot, train


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--text", type=Path, help="a text file to learn from in place of Shakespeare")
    p.add_argument("--encoding", default="utf-8", help="of --text, such as latin-1")
    p.add_argument("--steps", type=int, default=2000)
    p.add_argument("--batch", type=int, default=12)
    p.add_argument("--block", type=int, default=64, help="characters that the model sees")
    p.add_argument("--layers", type=int, default=4)
    p.add_argument("--heads", type=int, default=4)
    p.add_argument("--width", type=int, default=128)
    p.add_argument("--dropout", type=float, default=0.0)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--prompt", help="what the samples begin with; default: ROMEO, or how your own text begins")
    p.add_argument("--out", type=Path, help="checkpoints, samples and picture go here; default: runs/char_gpt")
    p.add_argument("--short", action="store_true", help="a small model and few steps, to see that it runs")
    return p


def make_loader(tokens: np.ndarray, args: argparse.Namespace) -> data.DataLoader:
    """Windows that begin anywhere in the text, in random order."""
    windows = data.TokenWindows(tokens, args.block, stride=1)
    return data.DataLoader(windows, min(args.batch, len(windows)), shuffle=True, seed=args.seed, last="drop")


def make_model(vocab_size: int, args: argparse.Namespace, cache: int | None = None) -> nn.Model:
    return models.gpt(
        vocab_size, args.block, args.layers, args.heads, args.width, args.dropout, False, cache, stacked=False
    )


def make_optimizer(args: argparse.Namespace) -> Any:
    """AdamW after a warm-up, with weight decay on matrices and embeddings and none on the norms."""
    warm = min(100, args.steps // 4)
    rate = optim.warmup(optim.cosine(1e-3, args.steps - warm, end=1e-4), warm)
    plain = optim.adamw(rate, (0.9, 0.99), weight_decay=0.0)
    decayed = optim.adamw(rate, (0.9, 0.99), weight_decay=0.1)
    return optim.clip_by_global_norm(optim.groups({"*ln_*": plain, "*": decayed}), 1.0)


def start(model: nn.Model, opt: Any, loader: data.DataLoader, args: argparse.Namespace) -> train.TrainState:
    init = models.gpt_init(args.layers)
    return train.start(model, opt, jax.random.key(args.seed), loader.batch(0)[0], init=init)


def main() -> None:
    args = parser().parse_args()
    args.out = args.out or Path("runs/char_gpt-short" if args.short else "runs/char_gpt")
    fnet.keep_memory()  # on CPU a step then finds the memory that the one before it freed
    if args.short:
        args.steps, args.layers, args.width, args.block = 20, 1, 32, min(args.block, 32)
    if args.block < 2:
        raise SystemExit(f"--block {args.block}: samples grow by half a block at a time, so it is 2 or more")
    text, held_out = read(args.text, args.encoding)
    if len(held_out) <= args.block:
        raise SystemExit(
            f"the text is too short: its held-out tenth has {len(held_out)} characters, of which one window takes "
            f"{args.block + 1}; give a longer text, or a lower --block than {args.block}"
        )
    tokenizer = data.CharTokenizer.of(text, held_out)
    prompt = first_characters(args.prompt, args.text, text, tokenizer.chars)
    source = f"{args.text.name if args.text else 'Shakespeare'}, checksum {checksum(text, held_out)}"
    made = made_for(args.out, args, "steps", "prompt", "text", "encoding", source=source)
    loader = make_loader(tokenizer.encode(text), args)
    windows = data.TokenWindows(tokenizer.encode(held_out), args.block)  # one after another: each character counts once
    if args.short:
        windows = data.Subset(windows, range(min(64, len(windows))))
    test_loader = data.DataLoader(windows, batch_size=256)

    model, opt = make_model(tokenizer.vocab_size, args), make_optimizer(args)
    run = start(model, opt, loader, args)
    print(fnet.summary(model, loader.batch(0)[0]), end="\n\n")
    loss = train.supervised(model, F.cross_entropy)
    step = train.make_step(loss, opt)

    begin = time.perf_counter()
    with io.Checkpoints(args.out, keep=2, every=500, sigterm=True, metadata=made) as ckpt:
        if ckpt.steps():
            run = ckpt.restore(like=run)
            print(f"going on from step {int(run.step)}")
        history = train.History(train.JSONLines(args.out / "history.jsonl"))
        if int(run.step) < args.steps:
            run, history = train.fit(step, run, loader, steps=args.steps, every=500, callbacks=[ckpt], history=history,
                                     evaluate=lambda run: train.evaluate(loss, run, test_loader))  # fmt: skip
            print(f"\n{int(run.step)} steps, {time.perf_counter() - begin:.1f} s of training")
            ckpt.save(run)
    plot.history(history).savefig(args.out / "loss.png", dpi=120)
    nats = train.evaluate(loss, run, test_loader)["loss"]
    print(f"loss {nats:.4f} on the whole held-out text, {nats / np.log(2):.3f} bits a character")

    # Samples: the same parameters in a model that keeps the keys and values of what it has written. It sees one block
    # at most, so the text grows by half a block at a time, each half from the one before.
    writer, half = make_model(tokenizer.vocab_size, args, cache=args.block), args.block // 2
    written = np.stack([tokenizer.encode(prompt)] * 3)
    for key in jax.random.split(jax.random.key(args.seed), 2 if args.short else 12):
        more = models.generate(writer, run.params, written[:, -half:], half, key=key, temperature=0.8)
        written = np.concatenate([written, more], axis=1)
    samples = "\n\n---\n\n".join(tokenizer.decode(row) for row in written)
    (args.out / "samples.txt").write_text(samples, encoding="utf-8")
    print(f"\n{samples}\n\nsamples and picture: {args.out}")


if __name__ == "__main__":
    main()
