"""Fine-tune a network on a new task with few examples, in four ways: from scratch, head alone, all of it, LoRA.

A LeNet learns to tell the MNIST digits 0 to 4 from 30,000 images; then it has 20 images each of 5 to 9, which it has
never seen. Frozen parameters are chosen by name (optim.groups), and get no gradient and no optimizer state; LoRA trains
small matrices beside frozen weights. The files of MNIST are looked for in the folder that the environment variable
FNET_DATA names, in mnist/. What was finished before a kill is not done again.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

import fnet
import fnet.functional as F
from fnet import data, io, lora, metrics, models, nn, optim, train


def of_classes(dataset: Any, first: int, limit: int | None = None) -> data.ArrayDataset:
    """The images of five classes from ``first`` on, labelled 0 to 4, at most ``limit`` of each."""
    images, labels = dataset.arrays
    rows = [np.flatnonzero(labels == c)[:limit] for c in range(first, first + 5)]
    return data.ArrayDataset(images[np.concatenate(rows)], labels[np.concatenate(rows)] - first)


def fit(loss: Any, opt: Any, run: Any, loader: Any, epochs: int, folder: Path, evaluate: Any = None) -> Any:
    """Train to the end, from the last checkpoint in the folder if there is one; the run and its history."""
    step = train.make_step(loss, opt)
    log = train.JSONLines(folder / "history.jsonl")
    with io.Checkpoints(folder, keep=1, sigterm=True) as ckpt, train.History(log) as history:
        if ckpt.steps():
            run = ckpt.restore(like=run)
            print(f"{folder.name} goes on from step {int(run.step)} of {epochs * len(loader)}", flush=True)
        if int(run.step) < epochs * len(loader):
            every = len(loader) * max(1, epochs // 10)
            run, _ = train.fit(
                step, run, loader, epochs=epochs, every=every, evaluate=evaluate, callbacks=[ckpt], history=history
            )
    return run, history


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--per-class", type=int, default=20, help="images of each new class")
    parser.add_argument("--epochs", type=int, default=60, help="of fine-tuning")
    parser.add_argument("--rank", type=int, default=4, help="of the LoRA matrices")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/finetune"), help="folder of checkpoints and picture")
    parser.add_argument("--short", action="store_true", help="few images and epochs, to see that it runs")
    args = parser.parse_args()
    epochs = 2 if args.short else args.epochs

    try:
        train_set, test_set = data.mnist()
    except FileNotFoundError as error:
        raise SystemExit(error) from None
    old = data.DataLoader(of_classes(train_set, 0, 100 if args.short else None), 128, shuffle=True, last="drop")
    few = of_classes(train_set, 5, args.per_class)
    new = data.DataLoader(few, min(25, len(few)), shuffle=True, seed=args.seed, last="drop")
    held_out = data.DataLoader(of_classes(test_set, 5), batch_size=500, last="pad")

    # The network that others would have trained for you, and download: here it learns 0 to 4.
    model = nn.Sequential(to_float=data.transforms.ToFloat(), net=models.lenet(5))
    loss = train.supervised(model, F.cross_entropy, metrics={"accuracy": metrics.accuracy})
    opt = optim.adamw(1e-3)
    run = train.start(model, opt, jax.random.key(args.seed), old.batch(0)[0])
    pretrained, _ = fit(loss, opt, run, old, 1 if args.short else 3, args.out / "pretrained")

    # A new head: the values of the old network wherever names match, but for the last layer.
    scratch, state = model.init(jax.random.key(args.seed + 1), new.batch(0)[0])
    _, body = fnet.split(pretrained.params, "net.fc3.*")
    params = fnet.overlay(scratch, body, report=None)

    def score(run: Any) -> dict[str, float]:
        return train.evaluate(loss, run, held_out)

    adam = optim.adamw(3e-3)
    ways = {
        "from scratch": (scratch, adam),
        "head alone": (params, optim.groups({"net.fc3.*": adam, "*": None})),
        "everything": (params, adam),
    }
    results = {}
    for name, (start, opt) in ways.items():
        run = train.start(model, opt, jax.random.key(args.seed), new.batch(0)[0])
        run = run._replace(params=start, opt_state=opt.init(start))
        run, history = fit(loss, opt, run, new, epochs, args.out / name.replace(" ", "-"), score)
        results[name] = (fnet.count(opt.trainable(start)), score(run)["accuracy"], history)

    # LoRA: what is trained is a tree of its own, adapters and the new head; the loss puts it into the frozen params.
    adapted = ("*.conv2.weight", "*.fc1.weight", "*.fc2.weight")
    adapters = lora.init(jax.random.key(args.seed), params, adapted, args.rank)
    tuned = {"adapters": adapters, "head": params["net"]["fc3"]}

    def whole(tuned: Any) -> Any:
        with_head = {**params, "net": {**params["net"], "fc3": tuned["head"]}}
        return lora.merge(with_head, tuned["adapters"])

    def lora_loss(tuned: Any, state: Any, batch: Any, *, key: Any = None, train: bool = False) -> Any:
        return loss(whole(tuned), state, batch, key=key, train=train)

    run = train.TrainState(tuned, state, adam.init(tuned), jax.random.key(args.seed), np.int32(0))
    run, history = fit(
        lora_loss, adam, run, new, epochs, args.out / "lora", lambda run: train.evaluate(lora_loss, run, held_out)
    )
    merged = run._replace(params=whole(run.params))  # as fast as the network was, and saved like any other
    fnet.save(args.out / "lora-merged.safetensors", merged.params)
    results[f"LoRA, rank {args.rank}"] = (fnet.count(tuned), score(merged)["accuracy"], history)

    print(f"\n{len(few)} images of the digits 5 to 9, {len(held_out.dataset):,} held out")
    figure = Figure(figsize=(6.5, 4), layout="constrained")
    axes = figure.subplots()
    for name, (count, right, history) in results.items():
        print(f"  {name:14} {count:6,} trained numbers: {right:.1%} right")
        axes.plot(history.steps("eval_accuracy"), 100 * history["eval_accuracy"], "o-", markersize=3, label=name)
    axes.set(xlabel="step", ylabel="% of held-out images right", title=f"{args.per_class} images of each new digit")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(args.out / "finetune.png", dpi=120)
    print(f"picture and checkpoints: {args.out}")


if __name__ == "__main__":
    main()
