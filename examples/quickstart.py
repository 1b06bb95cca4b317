"""Train a small network on real images, look at it, save it, load it again.

The 8×8 handwritten digits ship with fnet; with ``--dataset mnist`` the same program trains on MNIST, whose four files
are looked for in the folder that the environment variable FNET_DATA names, in ``mnist/``.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import jax
import numpy as np

import fnet
import fnet.functional as F
from fnet import data, metrics, nn, optim, plot, train


def make_model(width: int) -> nn.Sequential:
    """A network of three linear layers."""
    return nn.Sequential(
        data.transforms.ToFloat(),
        nn.Flatten(),
        fc1=nn.Linear(width), act1=F.relu, drop1=nn.Dropout(0.2),
        fc2=nn.Linear(width), act2=F.relu, drop2=nn.Dropout(0.2),
        head=nn.Linear(10),
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", choices=["digits", "mnist"], default="digits")
    parser.add_argument("--epochs", type=int, help="default: 60 for digits, 10 for mnist")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="where the model and the picture go; default: runs/quickstart")
    parser.add_argument("--short", action="store_true", help="two epochs, to see that it runs")
    args = parser.parse_args()
    args.out = args.out or Path("runs/quickstart-short" if args.short else "runs/quickstart")
    small = args.dataset == "digits"
    epochs = 2 if args.short else args.epochs or (60 if small else 10)

    # Data: samples are (image of bytes, label); a batch is a pure function of the seed and the step.
    try:
        train_set, test_set = data.digits() if small else data.mnist()
    except FileNotFoundError as error:
        raise SystemExit(error) from None
    loader = data.DataLoader(train_set, batch_size=64 if small else 128, shuffle=True, seed=args.seed, last="drop")
    test_loader = data.DataLoader(test_set, batch_size=512, last="pad")
    images, labels = loader.batch(0)

    # Model: a value. Parameters, state, optimizer state, key and step of a run: one pytree.
    model = make_model(128 if small else 512)
    print(fnet.summary(model, images), end="\n\n")
    rate = optim.warmup(optim.cosine(2e-3, epochs * len(loader)), len(loader))
    opt = optim.adamw(rate, weight_decay=0.01)
    run = train.start(model, opt, jax.random.key(args.seed), images)

    # Training: one jitted step, a loop you could have written.
    loss = train.supervised(model, F.cross_entropy, metrics={"accuracy": metrics.accuracy})
    step = train.make_step(loss, opt)
    begin = time.perf_counter()
    run, history = train.fit(
        step, run, loader, epochs=epochs, evaluate=lambda run: train.evaluate(loss, run, test_loader)
    )
    seconds = time.perf_counter() - begin
    right = train.evaluate(loss, run, test_loader)["accuracy"]
    print(f"\n{args.dataset}: {right:.2%} of {len(test_set)} held-out images right, {seconds:.1f} s of training")

    # The gradient of every weight and bias, by name.
    grads = jax.grad(lambda params: loss(params, run.state, (images, labels))[0])(run.params)
    for name, g in fnet.named(grads, model):
        print(f"  gradient of {name:12} {str(g.shape):12} norm {float(np.linalg.norm(g)):.2e}")

    # A picture of predictions.
    args.out.mkdir(parents=True, exist_ok=True)
    shown, truth = data.DataLoader(test_set, batch_size=40, shuffle=True, seed=1).batch(0)
    predicted = np.argmax(train.predict(model, run, shown), axis=-1)
    picture = args.out / f"{args.dataset}.png"
    plot.images(shown, truth, predicted, classes=test_set.classes, rows=4, columns=10).savefig(picture, dpi=120)
    plot.history(history, ["loss", "accuracy"]).savefig(args.out / f"{args.dataset}-curves.png", dpi=120)
    print(f"\npicture: {picture}")

    # Save, load, compare.
    path = args.out / f"{args.dataset}.safetensors"
    fnet.save(path, run)
    again = fnet.load(path)
    same = np.array_equal(train.predict(model, again, shown), train.predict(model, run, shown))
    print(f"saved:   {path}; reloaded, its outputs are {'identical' if same else 'DIFFERENT'}")
    if not same or fnet.diff(again, run):
        raise SystemExit("the reloaded run differs from the one saved")


if __name__ == "__main__":
    main()
