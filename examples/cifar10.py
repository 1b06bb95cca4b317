"""Train a ResNet-20 on small photographs in class folders, with random crops and mirroring that run on the device.

The images are JPEG files: FOLDER/train/cat/1.jpg, …, FOLDER/test/dog/7.jpg. By default they are 12,000 of CIFAR-10's,
from cifar10-jpeg-subset.tar in the folder that the environment variable FNET_DATA names. A run that was killed goes on
from its last checkpoint when it is started again. Where there are several devices, each takes a part of every batch; of
a CPU of up to 4 cores each core is made one. benchmarks/cifar10_torch.py is the same recipe in PyTorch.
"""

from __future__ import annotations

import argparse
import os
import tarfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from _made_for import made_for, of_files
from jax.sharding import NamedSharding, PartitionSpec

import fnet
import fnet.functional as F
from fnet import data, io, metrics, models, nn, optim, parallel, plot, train

MEAN, STD = np.float32([0.4914, 0.4822, 0.4465]), np.float32([0.2470, 0.2435, 0.2616])  # of CIFAR-10, by channel
CORES = os.cpu_count() or 1
DEVICES = CORES if CORES <= 4 else 1  # that a CPU is divided into


def forward(images: Any, net: Any, key: Any, train: bool) -> jax.Array:
    """Bytes to logits; in training each image is first moved by up to 4 pixels and mirrored, or not, at random."""
    if train:
        crop, flip = jax.random.split(key)
        images = F.random_flip(flip, F.random_crop(crop, images, padding=4))
    return net((images / 255 - MEAN) / STD)


def find_images(folder: Path | None, out: Path) -> Path:
    """The folder with train/ and test/: the one given, or what is in the archive, unpacked once."""
    if folder is not None:
        return folder
    archive = Path(os.environ.get("FNET_DATA", "")) / "cifar10-jpeg-subset.tar"
    if not archive.is_file():
        raise SystemExit(
            f"no photographs here: there is no {archive}. Set FNET_DATA to the folder that has it, or use your own: "
            "--data FOLDER with FOLDER/train/<class>/*.jpg and FOLDER/test/<class>/*.jpg"
        )
    target = out / "images"
    if not target.is_dir():
        part = out / "images.part"  # renamed when it is complete, so that a run killed while unpacking leaves no half
        with tarfile.open(archive) as tar:
            tar.extractall(part, filter="data")
        part.rename(target)
    return target / "cifar10"


def check_sizes(paths: list[Path]) -> None:
    """Stop where photographs are not all of one size; files are opened, not decoded."""
    from PIL import Image

    first: dict[tuple[int, int], Path] = {}
    for path in paths:
        try:
            with Image.open(path) as image:
                first.setdefault(image.size, path)
        except OSError as error:
            raise SystemExit(f"{path} is no photograph: {error}") from None
    if len(first) > 1:
        some = ", ".join(f"{path} {width} × {height}" for (width, height), path in [*first.items()][:2])
        raise SystemExit(f"photographs must be of one size, and are of {len(first)}: {some}; folder.py cuts them")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a folder with train/ and test/; default: the archive in FNET_DATA")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=0.2, help="the highest learning rate of the cycle")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--devices", type=int, default=DEVICES, help="a CPU is divided into so many")
    parser.add_argument("--out", type=Path, help="folder of checkpoints and pictures; default: runs/cifar10")
    parser.add_argument("--short", action="store_true", help="few images, one epoch of a LeNet: does it run?")
    args = parser.parse_args()
    args.out = args.out or Path("runs/cifar10-short" if args.short else "runs/cifar10")
    fnet.keep_memory()  # on CPU a step then finds the memory that the one before it freed
    epochs = 1 if args.short else args.epochs

    # Data: files are decoded once, in the first epoch, and kept; what is random is done to them on the device.
    folder = find_images(args.data, args.out)
    try:
        train_set, test_set = (data.ImageFolder(folder / part) for part in ("train", "test"))
    except FileNotFoundError as error:
        raise SystemExit(f"{error}; the images are expected as {folder}/train/<class>/*.jpg and test/ alike") from None
    if train_set.classes != test_set.classes:
        differ = ", ".join(sorted({*train_set.classes} ^ {*test_set.classes}))
        raise SystemExit(f"{folder}: train/ and test/ must have the same classes; only one of them has {differ}")
    paths = [*train_set.paths, *test_set.paths]
    if args.data:
        check_sizes(paths)
    photographs = of_files(folder, paths)
    made = made_for(args.out, args, "epochs", "devices", "data", photographs=photographs)
    jax.config.update("jax_num_cpu_devices", args.devices)  # before JAX makes its first array
    classes = train_set.classes
    if args.short:
        train_set, test_set = (data.Subset(part, range(0, len(part), 40)) for part in (train_set, test_set))
    batch_size = min(args.batch_size, len(train_set))
    loader = data.DataLoader(data.Cache(train_set), batch_size, shuffle=True, seed=args.seed, last="drop")
    test_loader = data.DataLoader(data.Cache(test_set), batch_size=2 * batch_size, last="pad")
    images, _ = loader.batch(0)

    # Model and optimizer: He et al. 2016 with the 1cycle schedule, which gets far in few epochs.
    model = nn.Model(forward, net=(models.lenet if args.short else models.resnet20)(len(classes)))
    rate = optim.one_cycle(args.lr, steps=epochs * len(loader))
    opt = optim.sgd(rate, momentum=0.9, weight_decay=5e-4, nesterov=True)
    run = train.start(model, opt, jax.random.key(args.seed), images)
    loss = train.supervised(model, F.cross_entropy, metrics={"accuracy": metrics.accuracy})
    step = train.make_step(loss, opt)
    place = None  # for batches: one device
    if batch_size % jax.device_count() == 0:
        mesh = parallel.mesh(data=-1)
        step, run = parallel.data_parallel(step, run, mesh)
        place = NamedSharding(mesh, PartitionSpec("data"))

    def score(run: train.TrainState) -> dict[str, Any]:
        return train.evaluate(loss, run, data.to_device(test_loader.epoch(0), place))

    print(f"{len(train_set)} images of {len(classes)} classes, {fnet.count(run.params):,} parameters")

    # Training, from the last checkpoint if there is one.
    total, begin = epochs * len(loader), time.perf_counter()
    log = train.JSONLines(args.out / "history.jsonl")
    ckpt = io.Checkpoints(args.out / "checkpoints", keep=2, sigterm=True, metadata=made)
    with ckpt, train.History(log) as history:
        if ckpt.steps():
            run = ckpt.restore(like=run)
            print(f"goes on from step {int(run.step)} of {total}", flush=True)
        if int(run.step) < total:
            run, _ = train.fit(step, run, loader, epochs=epochs, callbacks=[ckpt], history=history, evaluate=score)
    seconds = time.perf_counter() - begin
    plot.history(history, ["loss", "accuracy"]).savefig(args.out / "curves.png", dpi=120)

    # What it got right, and what it did not.
    scores = score(run)
    shown, truth = data.DataLoader(test_set, batch_size=40, shuffle=True, seed=1).batch(0)
    predicted = np.argmax(train.predict(model, run, shown), axis=-1)
    figure = plot.images(shown, truth, predicted, classes=classes, rows=4, columns=10)
    figure.savefig(args.out / "predictions.png", dpi=120)
    print(f"{scores['accuracy']:.2%} of {len(test_set)} held-out images right, {seconds:.0f} s of training")
    print(f"pictures and checkpoints: {args.out}")


if __name__ == "__main__":
    main()
