"""Fine-tune a network with few examples of your own, in four ways: from scratch, head alone, all of it, LoRA.

A LeNet learns MNIST's 60,000 digits; then it has to read digits of other people, scanned at 8 × 8 pixels, and has five
images of each. Frozen parameters are chosen by name (optim.groups), and get no gradient and no optimizer state; LoRA
trains small matrices beside frozen weights. Each way is tried with the same three draws of images. The files of MNIST
are looked for in the folder that the environment variable FNET_DATA names, in mnist/; the other digits ship with fnet.
What was finished before a kill is not done again.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from _made_for import made_for
from matplotlib.figure import Figure

import fnet
import fnet.functional as F
from fnet import data, io, lora, metrics, models, nn, optim, train


def like_mnist(dataset: Any) -> data.ArrayDataset:
    """Images of 8 × 8 as MNIST has them: 20 × 20 with a margin of 4."""
    images, labels = dataset.arrays
    large = np.asarray(F.interpolate(images.astype("float32"), size=(20, 20), mode="bilinear")).round().astype("uint8")
    return data.ArrayDataset(np.pad(large, ((0, 0), (4, 4), (4, 4), (0, 0))), labels)


def draw(dataset: data.ArrayDataset, per_class: int, seed: int) -> data.ArrayDataset:
    """As many images of each class, at random."""
    images, labels = dataset.arrays
    rng = np.random.default_rng(seed)
    rows = np.concatenate([rng.permutation(np.flatnonzero(labels == c))[:per_class] for c in range(10)])
    return data.ArrayDataset(images[rows], labels[rows])


def fit(step: Any, run: Any, loader: Any, epochs: int, folder: Path, made: dict[str, Any], evaluate: Any = None) -> Any:
    """Train to the end, from the last checkpoint in the folder if there is one; the run and its history."""
    log = train.JSONLines(folder / "history.jsonl")
    with io.Checkpoints(folder, keep=1, sigterm=True, metadata=made) as ckpt, train.History(log) as history:
        if ckpt.steps():
            run = ckpt.restore(like=run)
            print(f"{folder} goes on from step {int(run.step)} of {epochs * len(loader)}", flush=True)
        if int(run.step) < epochs * len(loader):
            every = len(loader) * max(1, epochs // 10)
            run, _ = train.fit(
                step, run, loader, epochs=epochs, every=every, evaluate=evaluate, callbacks=[ckpt], history=history
            )
    return run, history


def pictured(results: dict[str, list[Any]], title: str, path: Path) -> None:
    """The mean over the seeds of the share of held-out images right, by step, for each way."""
    figure = Figure(figsize=(6.5, 4), layout="constrained")
    axes = figure.subplots()
    for name, runs in results.items():
        right = 100 * np.mean([history["eval_accuracy"] for _, history in runs], axis=0)
        axes.plot(runs[0][1].steps("eval_accuracy"), right, "o-", markersize=3, label=name)
    axes.set(xlabel="step", ylabel="% of held-out images right", title=title)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--per-class", type=int, default=5, help="images of each digit to fine-tune with")
    parser.add_argument("--epochs", type=int, default=150, help="of fine-tuning")
    parser.add_argument("--rank", type=int, default=4, help="of the LoRA matrices")
    parser.add_argument("--seeds", type=int, default=3, help="how often to draw the images and try each way")
    parser.add_argument("--out", type=Path, help="folder of checkpoints and picture; default: runs/finetune")
    parser.add_argument("--short", action="store_true", help="few images and epochs, to see that it runs")
    args = parser.parse_args()
    args.out = args.out or Path("runs/finetune-short" if args.short else "runs/finetune")

    made = made_for(args.out, args, "epochs", "seeds")
    try:
        mnist, _ = data.mnist()
    except FileNotFoundError as error:
        raise SystemExit(error) from None
    if args.short:
        mnist, args.epochs, args.seeds = data.Subset(mnist, range(250)), 2, 1
    mnist_loader = data.DataLoader(mnist, 50, shuffle=True, last="drop")
    train_set, test_set = (like_mnist(dataset) for dataset in data.digits())
    held_out = data.DataLoader(test_set, batch_size=len(test_set))
    images, _ = mnist_loader.batch(0)

    # The network that others would have trained for you, and you would download.
    model = nn.Sequential(to_float=data.transforms.ToFloat(), net=models.lenet())
    loss = train.supervised(model, F.cross_entropy, metrics={"accuracy": metrics.accuracy})
    adam = optim.adamw(1e-3)
    step = train.make_step(loss, adam)
    run = train.start(model, adam, jax.random.key(0), images)
    pretrained, _ = fit(step, run, mnist_loader, 1 if args.short else 2, args.out / "pretrained", made)
    as_it_is = train.evaluate(loss, pretrained, held_out)["accuracy"]
    # For other classes it would need a new head: fnet.overlay(new, old) takes the old values wherever names match,
    # where fnet.split(params, "net.fc3.*")[1] are those without the head.

    # LoRA: what is trained is a tree of its own, adapters and the head; the loss puts it into the frozen params.
    def whole(tuned: Any) -> Any:
        with_head = {"net": {**pretrained.params["net"], "fc3": tuned["head"]}}
        return lora.merge(with_head, tuned["adapters"])

    def lora_loss(tuned: Any, state: Any, batch: Any, *, key: Any = None, train: bool = False) -> Any:
        return loss(whole(tuned), state, batch, key=key, train=train)

    head_alone, low_rank = optim.groups({"net.fc3.*": adam, "*": None}), f"LoRA, rank {args.rank}"
    ways = {  # optimizer and step
        "from scratch": (adam, step),
        "head alone": (head_alone, train.make_step(loss, head_alone)),
        "everything": (adam, step),
        low_rank: (adam, train.make_step(lora_loss, adam)),
    }
    results: dict[str, list[Any]] = {name: [] for name in ways}
    for seed in range(args.seeds):
        few = draw(train_set, args.per_class, seed)
        loader = data.DataLoader(few, min(50, len(few)), shuffle=True, seed=seed, last="drop")
        scratch, state = model.init(jax.random.key(seed + 1), images)
        adapted = ("*.conv2.weight", "*.fc1.weight", "*.fc2.weight")
        adapters = lora.init(jax.random.key(seed), pretrained.params, adapted, args.rank)
        begins = {"from scratch": scratch, low_rank: {"adapters": adapters, "head": pretrained.params["net"]["fc3"]}}
        for name, (opt, way) in ways.items():

            def merged(run: Any, name: str = name) -> Any:  # as fast as the network was, and saved like any other
                return run._replace(params=whole(run.params)) if name == low_rank else run

            begin = begins.get(name, pretrained.params)
            run = train.TrainState(begin, state, opt.init(begin), jax.random.key(seed), jnp.int32(0))
            folder = args.out / f"{name.replace(',', '').replace(' ', '-')}-{seed}"
            run, history = fit(
                way, run, loader, args.epochs, folder, made, lambda run: train.evaluate(loss, merged(run), held_out)
            )
            fnet.save(folder / "params.safetensors", merged(run).params)
            results[name].append((fnet.count(opt.trainable(begin)), history))

    print(f"\n{args.per_class} images of each digit to learn from; right of the {len(test_set)} held out:")
    print(f"  {'as it is':14}      0 trained numbers: {as_it_is:.1%}")
    for name, runs in results.items():
        right = np.array([history["eval_accuracy"][-1] for _, history in runs])
        each = ", ".join(f"{share:.1%}" for share in right)
        print(f"  {name:14} {runs[0][0]:6,} trained numbers: {right.mean():.1%} ({each})")
    pictured(results, f"fine-tuning with {args.per_class} images of each digit", args.out / "finetune.png")
    print(f"picture and checkpoints: {args.out}")


if __name__ == "__main__":
    main()
