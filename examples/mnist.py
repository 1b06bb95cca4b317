"""Train an MLP or a small CNN on MNIST, or on a set of the same format: Fashion-MNIST, Kuzushiji-MNIST.

The four files are looked for in the folder that the environment variable FNET_DATA names, in mnist/, fashion_mnist/ or
kmnist/; --download fetches them. A run that was killed goes on from its last checkpoint when it is started again.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from _made_for import made_for

import fnet
import fnet.functional as F
from fnet import data, io, metrics, models, nn, optim, plot, train


def conv_block(x: Any, conv: Any, norm: Any) -> jax.Array:
    return F.max_pool2d(F.relu(norm(conv(x))), 2)


def ConvBlock(width: int, size: int) -> nn.Model:
    """Convolution, BatchNorm, ReLU, and half the height and width."""
    return nn.Model(conv_block, conv=nn.Conv(width, size, padding=size // 2, bias=False), norm=nn.BatchNorm())


def make_model(name: str) -> nn.Sequential:
    """The network, for bytes: (batch, 28, 28, 1) -> (batch, 10)."""
    if name == "mlp":
        return nn.Sequential(to_float=data.transforms.ToFloat(), mlp=models.mlp(10, (512, 512), dropout=0.2))
    return nn.Sequential(
        to_float=data.transforms.ToFloat(), block1=ConvBlock(16, 5), block2=ConvBlock(32, 3), block3=ConvBlock(64, 3),
        flatten=nn.Flatten(), drop=nn.Dropout(0.3), head=nn.Linear(10),
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["mlp", "cnn"], default="cnn")
    parser.add_argument("--dataset", choices=["mnist", "fashion_mnist", "kmnist"], default="mnist")
    parser.add_argument("--download", action="store_true", help="fetch the data set if it is not there (11 to 31 MB)")
    parser.add_argument("--epochs", type=int, help="default: 10 for the MLP, 5 for the CNN")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder of checkpoints and pictures; default: runs/<dataset>-<model>")
    parser.add_argument("--short", action="store_true", help="one epoch of 500 images, to see that it runs")
    args = parser.parse_args()
    out = args.out or Path("runs") / f"{args.dataset}-{args.model}{'-short' if args.short else ''}"
    made = made_for(out, args, "epochs", "download")
    epochs = 1 if args.short else args.epochs or {"mlp": 10, "cnn": 5}[args.model]

    # Data: samples are (image of bytes, label).
    try:
        train_set, test_set = getattr(data, args.dataset)(download=args.download)
    except FileNotFoundError as error:
        raise SystemExit(f"{error} (here: --download)") from None
    classes = test_set.classes
    if args.short:
        train_set, test_set = data.Subset(train_set, range(500)), data.Subset(test_set, range(500))
    loader = data.DataLoader(train_set, batch_size=128, shuffle=True, seed=args.seed, last="drop")
    test_loader = data.DataLoader(test_set, batch_size=500, last="pad")

    # Model, optimizer, and the whole run as one value.
    model = make_model(args.model)
    opt = optim.adamw(optim.one_cycle(4e-3, steps=epochs * len(loader)), weight_decay=0.01)
    run = train.start(model, opt, jax.random.key(args.seed), loader.batch(0)[0])
    loss = train.supervised(model, F.cross_entropy, metrics={"accuracy": metrics.accuracy})
    step = train.make_step(loss, opt)
    print(f"{args.dataset}: {len(train_set):,} images; {args.model} of {fnet.count(run.params):,} parameters")

    # Training, from the last checkpoint if there is one.
    total, begin = epochs * len(loader), time.perf_counter()
    log = train.JSONLines(out / "history.jsonl")
    ckpt = io.Checkpoints(out / "checkpoints", keep=2, sigterm=True, metadata=made)
    with ckpt, train.History(log) as history:
        if ckpt.steps():
            run = ckpt.restore(like=run)
            print(f"goes on from step {int(run.step)} of {total}", flush=True)
        if int(run.step) < total:
            run, _ = train.fit(
                step, run, loader, epochs=epochs, callbacks=[ckpt], history=history,
                evaluate=lambda run: train.evaluate(loss, run, test_loader),
            )  # fmt: skip
    seconds = time.perf_counter() - begin
    plot.history(history, ["loss", "accuracy"]).savefig(out / "curves.png", dpi=120)

    # Every held-out image, and a picture of those it got wrong.
    images, truth = test_set.get_batch(np.arange(len(test_set)))
    predicted = np.argmax(train.predict(model, run, images), axis=-1)
    wrong = np.flatnonzero(predicted != truth)
    figure = plot.images(images[wrong], truth[wrong], predicted[wrong], classes=classes, rows=5, columns=10)
    figure.savefig(out / "mistakes.png", dpi=120)
    print(f"{1 - len(wrong) / len(truth):.2%} of {len(truth):,} held-out images right, {seconds:.0f} s of training")
    print(f"pictures and checkpoints: {out}")


if __name__ == "__main__":
    main()
