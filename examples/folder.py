"""Train a classifier on your own pictures, one folder for each class, and ask it about others.

    python examples/folder.py photos                       # photos/cat/1.jpg, photos/dog/garden/2.png, …
    python examples/folder.py photos --predict a.jpg b.jpg   # with the network of the best epoch

A fifth of the pictures is held out to measure by. Without a folder, the digits that ship with fnet are written as
pictures, to see how it is meant. A run that was killed goes on from its last checkpoint when it is started again.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import jax
import numpy as np
from _made_for import made_for, of_files

import fnet
import fnet.functional as F
from fnet import data, io, metrics, nn, optim, plot, train
from fnet.data import transforms


def conv_block(x: Any, conv: Any, norm: Any) -> jax.Array:
    return F.relu(norm(conv(x)))


def ConvBlock(width: int, stride: int) -> nn.Model:
    return nn.Model(conv_block, conv=nn.Conv(width, 3, stride, padding=1, bias=False), norm=nn.BatchNorm())


def make_model(classes: int, size: int) -> nn.Sequential:
    """Convolutions that halve the picture until 4 to 8 pixels are left, for bytes (batch, size, size, 3)."""
    stages, width = {"stem": ConvBlock(32, 1)}, 32
    while size > 8:
        size, width = size // 2, min(2 * width, 256)
        stages[f"stage{len(stages)}"] = ConvBlock(width, 2)
    return nn.Sequential(
        to_float=transforms.ToFloat(), **stages, pool=nn.GlobalAvgPool(), drop=nn.Dropout(0.2), head=nn.Linear(classes)
    )


def write_digits(folder: Path) -> Path:
    """The digits that ship with fnet as picture files, one folder for each."""
    from PIL import Image

    if not folder.is_dir():
        for number, (image, label) in enumerate(data.digits()[0]):
            path = folder.with_suffix(".part") / str(label) / f"{number:04}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[..., 0]).save(path)
        folder.with_suffix(".part").rename(folder)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="the folder of the class folders")
    parser.add_argument("--size", type=int, help="pictures are cut to size × size pixels; default: 64, for digits 16")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--predict", type=Path, nargs="+", metavar="FILE", help="do not train: name these pictures")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder of checkpoints and pictures; default: runs/folder")
    parser.add_argument("--short", action="store_true", help="one epoch, to see that it runs")
    args = parser.parse_args()
    args.out = args.out or Path("runs/folder-short" if args.short else "runs/folder")
    epochs = 1 if args.short else args.epochs
    size = args.size = args.size or (64 if args.folder else 16)

    # Data. What is cut out of a picture, and its colours, are random in training and fixed otherwise.
    enlarge, cut = transforms.Resize(size + size // 8), transforms.CenterCrop(size)
    fixed = transforms.Compose([enlarge, cut])
    changing = transforms.Compose([
        transforms.RandomResizedCrop(size, scale=(0.5, 1.0)),
        *([transforms.RandomHorizontalFlip()] if args.folder else []),  # a mirrored 2 is none
        transforms.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2),
    ])  # fmt: skip
    folder = args.folder or write_digits(args.out / "digits")
    try:
        pictures, same_pictures = data.ImageFolder(folder, changing), data.ImageFolder(folder, fixed)
    except FileNotFoundError as error:
        raise SystemExit(error) from None
    free = ["epochs", "predict", "folder", *(["seed", "short", "files"] if args.predict else [])]
    files = of_files(folder, pictures.paths)
    made = made_for(args.out, args, *free, classes=pictures.classes, files=files)
    if len(pictures.classes) < 2:
        raise SystemExit(f"{folder} has one class only, {pictures.classes[0]}; it needs a folder for each class")
    if len(pictures) < 10:
        raise SystemExit(f"{folder} has {len(pictures)} pictures; at least 10 are needed, of which a fifth is held out")
    order = np.random.default_rng(0).permutation(len(pictures))
    held_out = data.Subset(same_pictures, order[: len(order) // 5])
    if args.short:
        order = order[-200:]
    train_set = data.Subset(pictures, order[len(order) // 5 :])
    batch_size = min(32, len(train_set))
    loader = data.DataLoader(train_set, batch_size, shuffle=True, seed=args.seed, last="drop", threads=2)
    test_loader = data.DataLoader(held_out, batch_size=64, last="pad")

    model = make_model(len(pictures.classes), size)
    opt = optim.adamw(optim.one_cycle(3e-3, steps=epochs * len(loader)), weight_decay=0.05)
    run = train.start(model, opt, jax.random.key(args.seed), loader.batch(0)[0])
    log = train.JSONLines(args.out / "history.jsonl")
    best = io.Checkpoints(args.out / "checkpoints", keep=1, best="eval_accuracy", sigterm=True, metadata=made)

    if args.predict:
        if not best.steps():
            raise SystemExit(f"there is no trained network in {args.out} yet: run this without --predict first")
        try:
            images = np.stack([fixed(data.read_image(path)) for path in args.predict])
        except (OSError, ValueError) as error:
            raise SystemExit(error) from None
        chances = F.softmax(train.predict(model, best.restore(like=run, step="best"), images))
        for path, chance in zip(args.predict, np.asarray(chances), strict=True):
            three = np.argsort(-chance)[:3]
            print(f"{path}: " + ", ".join(f"{pictures.classes[k]} {chance[k]:.1%}" for k in three))
        return

    print(f"{len(train_set)} pictures of {len(pictures.classes)} classes, {len(held_out)} held out; "
          f"{fnet.count(run.params):,} parameters")  # fmt: skip
    loss = train.supervised(model, F.cross_entropy, metrics={"accuracy": metrics.accuracy})
    step = train.make_step(loss, opt)
    with best, train.History(log) as history:
        if best.steps():
            run = best.restore(like=run)
            print(f"goes on from step {int(run.step)} of {epochs * len(loader)}", flush=True)
        if int(run.step) < epochs * len(loader):
            run, _ = train.fit(
                step, run, loader, epochs=epochs, callbacks=[best], history=history,
                evaluate=lambda run: train.evaluate(loss, run, test_loader),
            )  # fmt: skip
        best.wait()
        run = best.restore(like=run, step="best")

    scores = train.evaluate(loss, run, test_loader)
    shown, truth = data.DataLoader(held_out, batch_size=min(24, len(held_out)), shuffle=True, seed=1).batch(0)
    predicted = np.argmax(train.predict(model, run, shown), axis=-1)
    figure = plot.images(shown, truth, predicted, classes=pictures.classes, rows=3, columns=8)
    figure.savefig(args.out / "predictions.png", dpi=120)
    plot.history(history, ["loss", "accuracy"]).savefig(args.out / "curves.png", dpi=120)
    print(f"{scores['accuracy']:.1%} of {len(held_out)} held-out pictures right, at the best epoch")
    print(f"pictures and checkpoints: {args.out}")


if __name__ == "__main__":
    main()
