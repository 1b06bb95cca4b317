"""A language model of characters with an LSTM, trained by truncated backpropagation through time.

The text, tiny Shakespeare, is looked for in the folder that the environment variable FNET_DATA names; ``--text`` takes
a file of your own. Rows of the batch read on through the text and the LSTM's state goes along from step to step: it is
the ``state`` of the run. The number at the end is of bits a character over the held-out tenth, read from beginning to
end. Killed and started again, it goes on where it was. Where there are several devices, each takes some of the rows; of
a CPU of up to 4 cores each is made one, which makes a step of many small operations faster.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from _made_for import checksum, made_for
from _text import first_characters, read

import fnet
import fnet.functional as F
from fnet import data, io, models, nn, optim, parallel, plot, train

CORES = os.cpu_count() or 1
DEVICES = CORES if CORES <= 4 else 1  # that a CPU is divided into


def in_rows(tokens: np.ndarray, rows: int, length: int) -> data.DataLoader:
    """Batches (rows, length) in which each row goes on where it stopped in the batch before."""
    windows = data.TokenWindows(tokens, length)
    steps = len(windows) // rows
    order = np.arange(rows * steps).reshape(rows, steps).T.ravel()  # row r reads the windows r·steps, r·steps + 1, …
    return data.DataLoader(data.Subset(windows, order), rows, last="drop")


def make_loss(model: nn.Model) -> train.step.Loss:
    """Cross-entropy whose state is the LSTM's: the gradient ends at a batch's beginning, the memory does not."""

    def loss(params: Any, state: Any, batch: Any, *, key: Any = None, train: bool = False) -> Any:
        x, y = batch
        (logits, memory), _ = model.apply(params, {}, x, state, key=key, train=train)
        return F.cross_entropy(logits, y), (jax.lax.stop_gradient(memory), {})

    return loss


def bits(loss: train.step.Loss, run: train.TrainState, memory: Any, loader: data.DataLoader) -> float:
    """Bits a character of a text read in order."""
    value = jax.jit(loss)
    losses = []
    for batch in loader.epoch(0):
        nats, (memory, _) = value(run.params, memory, batch)
        losses.append(nats)
    return float(np.mean(losses) / np.log(2))


def write(model: nn.Model, params: Any, prompt: np.ndarray, count: int, key: jax.Array) -> np.ndarray:
    """``count`` characters after the prompt (rows, length), drawn at temperature 0.8: ids (rows, count)."""

    @jax.jit
    def go(prompt: Any, key: jax.Array) -> jax.Array:
        logits, memory = model(params, prompt)

        def one(carry: Any, key: jax.Array) -> Any:
            logits, memory = carry
            token = jax.random.categorical(key, logits / 0.8)
            logits, memory = model(params, token[:, None], memory)
            return (logits[:, -1], memory), token

        return jax.lax.scan(one, (logits[:, -1], memory), jax.random.split(key, count))[1].T

    return np.asarray(go(prompt, key))


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--text", type=Path, help="a text file to learn from in place of Shakespeare")
    p.add_argument("--encoding", default="utf-8", help="of --text, such as latin-1")
    p.add_argument("--epochs", type=int, default=6)
    p.add_argument("--batch", type=int, default=32)
    p.add_argument("--length", type=int, default=64, help="characters through which gradients go back")
    p.add_argument("--width", type=int, default=256)
    p.add_argument("--layers", type=int, default=1)
    p.add_argument("--dropout", type=float, default=0.1)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--devices", type=int, default=DEVICES, help="a CPU is divided into so many")
    p.add_argument("--prompt", help="what the samples begin with; default: ROMEO, or how your own text begins")
    p.add_argument("--out", type=Path, help="checkpoints, sample and picture go here; default: runs/lstm_lm")
    p.add_argument("--short", action="store_true", help="a small model and little text, to see that it runs")
    return p


def make_optimizer(steps: int) -> Any:
    rate = optim.warmup(optim.cosine(4e-3, steps), min(100, steps))
    return optim.clip_by_global_norm(optim.adam(rate), 1.0)


def start(model: nn.Model, opt: Any, loader: data.DataLoader, seed: int) -> train.TrainState:
    """The run before its first step; its state is the LSTM's memory, blank."""
    ids = loader.batch(0)[0]
    run = train.start(model, opt, jax.random.key(seed), ids)
    memory = jax.eval_shape(model, run.params, ids)[1]
    return run._replace(state=jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), memory))


def main() -> None:
    args = parser().parse_args()
    args.out = args.out or Path("runs/lstm_lm-short" if args.short else "runs/lstm_lm")
    fnet.keep_memory()  # on CPU a step then finds the memory that the one before it freed
    text, held_out = read(args.text, args.encoding)
    if args.short:
        text, held_out, args.epochs, args.width = text[:40000], held_out[:4200], 1, 16
    if len(held_out) <= args.length or len(text) <= args.batch * args.length:
        raise SystemExit(
            f"the text is too short: one step takes {args.batch * args.length + 1} characters of the {len(text)} to "
            f"learn from, and evaluation {args.length + 1} of the {len(held_out)} held out; give a longer text, or a "
            f"lower --batch than {args.batch} or --length than {args.length}"
        )
    tokenizer = data.CharTokenizer.of(text, held_out)
    prompt = first_characters(args.prompt, args.text, text, tokenizer.chars)
    source = f"{args.text.name if args.text else 'Shakespeare'}, checksum {checksum(text, held_out)}"
    made = made_for(args.out, args, "epochs", "prompt", "text", "encoding", "devices", source=source)
    jax.config.update("jax_num_cpu_devices", args.devices)  # before JAX makes its first array
    loader = in_rows(tokenizer.encode(text), args.batch, args.length)
    test_loader = in_rows(tokenizer.encode(held_out), 1, args.length)
    steps = args.epochs * len(loader)

    model, opt = models.lstm_lm(tokenizer.vocab_size, args.width, args.layers, args.dropout), make_optimizer(steps)
    run = start(model, opt, loader, args.seed)
    alone = jax.tree.map(lambda a: jnp.zeros_like(a[..., :1, :]), run.state)  # the memory of a batch of one
    print(f"{fnet.count(run.params):,} parameters, {args.epochs} epochs of {len(loader)} steps")
    loss = make_loss(model)
    step = train.make_step(loss, opt)
    if args.batch % jax.device_count() == 0:
        step, run = parallel.data_parallel(step, run, parallel.mesh(data=-1))

    begin = time.perf_counter()
    with io.Checkpoints(args.out, keep=2, sigterm=True, metadata=made) as ckpt:
        if ckpt.steps():
            run = ckpt.restore(like=run)
            print(f"going on from step {int(run.step)}")
        history = train.History(train.JSONLines(args.out / "history.jsonl"))
        if int(run.step) < steps:
            run, history = train.fit(
                step, run, loader, epochs=args.epochs, callbacks=[ckpt], history=history,
                evaluate=lambda run: {"bits": bits(loss, run, alone, test_loader)},
            )  # fmt: skip
            ckpt.save(run)
            print(f"\n{args.epochs} epochs, {time.perf_counter() - begin:.1f} s of training")
    plot.history(history).savefig(args.out / "curves.png", dpi=120)
    print(f"{bits(loss, run, alone, test_loader):.3f} bits a character of the held-out text")

    ids = tokenizer.encode(prompt)[None]
    sample = prompt + tokenizer.decode(write(model, run.params, ids, 500, jax.random.key(args.seed))[0])
    (args.out / "sample.txt").write_text(sample, encoding="utf-8")
    print(f"\n{sample}\n\nsample and picture: {args.out}")


if __name__ == "__main__":
    main()
