"""Teach a small network with the soft answers of a larger one (Hinton et al. 2015, arXiv:1503.02531).

The teacher is a LeNet, the student one hidden layer of 32 units; the student learns MNIST twice from the same initial
weights, once from the labels alone and once from the teacher's probabilities too: "a 7 that looks a little like a 1"
says more than "7". The files of MNIST are looked for in the folder that the environment variable FNET_DATA names, in
mnist/. What was finished before a kill is not done again.
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
from fnet import data, io, metrics, models, nn, optim, train


def distilled(student: Any, teacher: Any, teacher_params: Any, temperature: float, alpha: float) -> Any:
    """The loss of `make_step`: alpha of the teacher's softened answers, 1 - alpha of the labels."""

    def loss(params: Any, state: Any, batch: Any, *, key: Any = None, train: bool = False) -> Any:
        images, labels, *mask = batch
        weighed = {"mask": mask[0]} if mask else {}
        logits, state = student.apply(params, state, images, key=key, train=train)
        hard = F.cross_entropy(logits, labels, **weighed)
        # The teacher is a constant: only `params` are differentiated. T² keeps the two gradients in proportion.
        soft_teacher = F.log_softmax(teacher(teacher_params, images) / temperature)
        soft_student = F.log_softmax(logits / temperature)
        soft = F.kl_div(soft_student, soft_teacher, log_target=True, reduction="batchmean", **weighed)
        value = alpha * temperature**2 * soft + (1 - alpha) * hard
        return value, (state, {"accuracy": metrics.accuracy(logits, labels, **weighed)})

    return loss


def fit(loss: Any, opt: Any, run: Any, loader: Any, held_out: Any, epochs: int, folder: Path) -> Any:
    """Train to the end, from the last checkpoint in the folder if there is one; the run and its history."""
    step = train.make_step(loss, opt)
    log = train.JSONLines(folder / "history.jsonl")
    with io.Checkpoints(folder, keep=1, sigterm=True) as ckpt, train.History(log) as history:
        if ckpt.steps():
            run = ckpt.restore(like=run)
            print(f"{folder.name} goes on from step {int(run.step)} of {epochs * len(loader)}", flush=True)
        if int(run.step) < epochs * len(loader):
            run, _ = train.fit(
                step, run, loader, epochs=epochs, callbacks=[ckpt], history=history,
                evaluate=lambda run: train.evaluate(loss, run, held_out),
            )  # fmt: skip
    return run, history


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=10, help="of the student; the teacher has 3")
    parser.add_argument("--width", type=int, default=32, help="hidden units of the student")
    parser.add_argument("--temperature", type=float, default=4.0)
    parser.add_argument("--alpha", type=float, default=0.9, help="weight of the teacher's answers, 0 to 1")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/distillation"), help="folder of checkpoints and picture")
    parser.add_argument("--short", action="store_true", help="one epoch of 1,000 images, to see that it runs")
    args = parser.parse_args()
    epochs = 1 if args.short else args.epochs

    try:
        train_set, test_set = data.mnist()
    except FileNotFoundError as error:
        raise SystemExit(error) from None
    if args.short:
        train_set, test_set = data.Subset(train_set, range(1000)), data.Subset(test_set, range(500))
    loader = data.DataLoader(train_set, batch_size=128, shuffle=True, seed=args.seed, last="drop")
    held_out = data.DataLoader(test_set, batch_size=500, last="pad")
    images, _ = loader.batch(0)

    teacher = nn.Sequential(to_float=data.transforms.ToFloat(), net=models.lenet())
    student = nn.Sequential(to_float=data.transforms.ToFloat(), net=models.mlp(10, (args.width,)))
    accuracy = {"accuracy": metrics.accuracy}

    teacher_epochs = 1 if args.short else 3
    opt = optim.adamw(optim.cosine(2e-3, teacher_epochs * len(loader)))
    teacher_loss = train.supervised(teacher, F.cross_entropy, accuracy)
    run = train.start(teacher, opt, jax.random.key(args.seed), images)
    taught, _ = fit(teacher_loss, opt, run, loader, held_out, teacher_epochs, args.out / "teacher")
    right = train.evaluate(teacher_loss, taught, held_out)["accuracy"]
    print(f"teacher, {fnet.count(taught.params):,} parameters: {1 - right:.2%} wrong")

    # Both students begin with the same weights and see the same batches.
    opt = optim.adamw(optim.cosine(2e-3, epochs * len(loader)))
    start = train.start(student, opt, jax.random.key(args.seed + 1), images)
    alone = train.supervised(student, F.cross_entropy, accuracy)
    losses = {
        "labels alone": alone,
        "with teacher": distilled(student, teacher, taught.params, args.temperature, args.alpha),
    }
    figure = Figure(figsize=(6.5, 4), layout="constrained")
    axes = figure.subplots()
    for name, loss in losses.items():
        run, history = fit(loss, opt, start, loader, held_out, epochs, args.out / name.replace(" ", "-"))
        wrong = 1 - train.evaluate(alone, run, held_out)["accuracy"]
        print(f"student, {fnet.count(run.params):,} parameters, {name}: {wrong:.2%} wrong")
        errors = 100 * (1 - history["eval_accuracy"])
        axes.plot(np.arange(1, len(errors) + 1), errors, "o-", markersize=4, label=f"student, {name}: {wrong:.2%}")
    axes.axhline(100 * (1 - right), color="black", linewidth=0.8, linestyle="--", label=f"teacher: {1 - right:.2%}")
    axes.set(xlabel="epoch", ylabel="% of held-out images wrong", title="the same small network, taught in two ways")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(args.out / "distillation.png", dpi=120)
    print(f"picture and checkpoints: {args.out}")


if __name__ == "__main__":
    main()
