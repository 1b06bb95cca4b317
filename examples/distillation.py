"""Teach a small network with the soft answers of a larger one (Hinton et al. 2015, arXiv:1503.02531).

The teacher is a LeNet that has seen all of MNIST. The student, one hidden layer of 64 units, has 5,000 images of it,
and learns them twice from the same initial weights and in the same order, once from the labels alone and once from the
teacher's probabilities too: "a 7 that looks a little like a 1" says more than "7". Three students are taught so, each
with its own 5,000 images. The files of MNIST are looked for in the folder that the environment variable FNET_DATA
names, in mnist/. What was finished before a kill is not done again.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import jax
import numpy as np
from _made_for import made_for
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


def fit(step: Any, run: Any, loader: Any, epochs: int, folder: Path, made: dict[str, Any], evaluate: Any) -> Any:
    """Train to the end, from the last checkpoint in the folder if there is one; the run and its history."""
    log = train.JSONLines(folder / "history.jsonl")
    with io.Checkpoints(folder, keep=1, sigterm=True, metadata=made) as ckpt, train.History(log) as history:
        if ckpt.steps():
            run = ckpt.restore(like=run)
            print(f"{folder} goes on from step {int(run.step)} of {epochs * len(loader)}", flush=True)
        if int(run.step) < epochs * len(loader):
            run, _ = train.fit(step, run, loader, epochs=epochs, callbacks=[ckpt], history=history, evaluate=evaluate)
    return run, history


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000, help="that the student has")
    parser.add_argument("--epochs", type=int, default=40, help="of the student; the teacher has 3")
    parser.add_argument("--width", type=int, default=64, help="hidden units of the student")
    parser.add_argument("--temperature", type=float, default=4.0)
    parser.add_argument("--alpha", type=float, default=0.9, help="weight of the teacher's answers, 0 to 1")
    parser.add_argument("--seeds", type=int, default=3, help="how many students are taught in both ways")
    parser.add_argument("--out", type=Path, help="folder of checkpoints and picture; default: runs/distillation")
    parser.add_argument("--short", action="store_true", help="one epoch of 1,000 images, to see that it runs")
    args = parser.parse_args()
    args.out = args.out or Path("runs/distillation-short" if args.short else "runs/distillation")

    made = made_for(args.out, args, "epochs", "seeds")
    try:
        train_set, test_set = data.mnist()
    except FileNotFoundError as error:
        raise SystemExit(error) from None
    if args.short:
        train_set, test_set = data.Subset(train_set, range(1000)), data.Subset(test_set, range(500))
        args.images, args.epochs, args.seeds = 500, 1, 1
    args.images = min(args.images, len(train_set))
    batch_size = min(128, args.images)
    loader = data.DataLoader(train_set, batch_size=128, shuffle=True, last="drop")
    held_out = data.DataLoader(test_set, batch_size=500, last="pad")
    images, _ = loader.batch(0)

    teacher = nn.Sequential(to_float=data.transforms.ToFloat(), net=models.lenet())
    student = nn.Sequential(to_float=data.transforms.ToFloat(), net=models.mlp(10, (args.width,)))
    accuracy = {"accuracy": metrics.accuracy}

    def score(loss: Any) -> Any:
        return lambda run: train.evaluate(loss, run, held_out)

    teacher_epochs = 1 if args.short else 3
    opt = optim.adamw(optim.cosine(2e-3, teacher_epochs * len(loader)))
    loss = train.supervised(teacher, F.cross_entropy, accuracy)
    run = train.start(teacher, opt, jax.random.key(0), images)
    step = train.make_step(loss, opt)
    taught, history = fit(step, run, loader, teacher_epochs, args.out / "teacher", made, score(loss))
    teacher_wrong = 1 - history["eval_accuracy"][-1]
    print(f"teacher, {fnet.count(taught.params):,} parameters: {teacher_wrong:.2%} wrong")

    # Both students begin with the same weights and see the same batches.
    opt = optim.adamw(optim.cosine(2e-3, args.epochs * (args.images // batch_size)))
    alone = train.supervised(student, F.cross_entropy, accuracy)
    by_teacher = distilled(student, teacher, taught.params, args.temperature, args.alpha)
    steps = {"labels alone": train.make_step(alone, opt), "with teacher": train.make_step(by_teacher, opt)}
    wrong: dict[str, list[Any]] = {name: [] for name in steps}
    for seed in range(args.seeds):
        few = data.Subset(train_set, np.random.default_rng(seed).permutation(len(train_set))[: args.images])
        loader = data.DataLoader(few, batch_size, shuffle=True, seed=seed, last="drop")
        start = train.start(student, opt, jax.random.key(seed + 1), images)
        for name, step in steps.items():
            folder = args.out / f"{name.replace(' ', '-')}-{seed}"
            run, history = fit(step, start, loader, args.epochs, folder, made, score(alone))
            wrong[name].append(100 * (1 - history["eval_accuracy"]))

    print(f"student, {fnet.count(run.params):,} parameters and {args.images:,} images, wrong of the held-out images:")
    figure = Figure(figsize=(6.5, 4), layout="constrained")
    axes = figure.subplots()
    for name, curves in wrong.items():
        mean, last = np.mean(curves, axis=0), [curve[-1] for curve in curves]
        print(f"  {name}: {mean[-1]:.2f} % ({', '.join(f'{value:.2f}' for value in last)})")
        epochs = np.arange(1, len(mean) + 1)
        axes.plot(epochs, mean, "o-", markersize=4, label=f"student, {name}: {mean[-1]:.2f} %")
        axes.fill_between(epochs, np.min(curves, axis=0), np.max(curves, axis=0), alpha=0.2)
    axes.axhline(100 * teacher_wrong, color="black", linewidth=0.8, linestyle="--", label="teacher")
    axes.set(xlabel="epoch", ylabel="% of held-out images wrong", title="the same small network, taught in two ways")
    axes.set_ylim(0, 3 * max(np.mean(curves, axis=0)[-1] for curves in wrong.values()))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(args.out / "distillation.png", dpi=120)
    print(f"picture and checkpoints: {args.out}")


if __name__ == "__main__":
    main()
