"""Train so that nothing is lost when the process is killed: run this again and it goes on where it was.

Dropout, shuffling, augmentation, a schedule and an average of the weights (EMA) are all functions of the run's step
and key, and the run is one pytree. So a run that was killed, any number of times and at any moment, ends with the same
bits as one that was never interrupted. Try it: press Ctrl-C, or ``kill -9`` it, and start it again; then compare the
line it ends with to that of ``--out`` another folder.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path
from typing import Any

import jax
import numpy as np
from _made_for import made_for

import fnet
import fnet.functional as F
from fnet import data, io, metrics, nn, optim, train
from fnet.data import transforms


class Augmented:
    """A dataset of (image, label) whose images are changed at random; each sample has random numbers of its own."""

    def __init__(self, dataset: Any, transform: Any):
        self.dataset, self.transform = dataset, transform

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[index]

    def get_batch(self, indices: np.ndarray, rng: Any) -> Any:
        """The images changed, the labels as they are."""
        images, labels = self.dataset.get_batch(indices)
        return self.transform.batch(images, rng), labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--every", type=int, default=100, help="steps between checkpoints")
    parser.add_argument("--out", type=Path, help="the folder of the checkpoints; default: runs/resume")
    parser.add_argument("--short", action="store_true", help="two epochs, to see that it runs")
    args = parser.parse_args()
    args.out = args.out or Path("runs/resume-short" if args.short else "runs/resume")
    epochs = 2 if args.short else args.epochs
    made = made_for(args.out, args, "epochs", "every")

    train_set, test_set = data.digits()
    shifted = Augmented(train_set, transforms.RandomCrop(8, padding=1))
    loader = data.DataLoader(shifted, batch_size=64, shuffle=True, seed=0, last="drop")

    model = nn.Sequential(
        transforms.ToFloat(), nn.Flatten(), fc1=nn.Linear(128), act=F.relu, drop=nn.Dropout(0.2), head=nn.Linear(10)
    )
    rate = optim.warmup(optim.cosine(3e-3, epochs * len(loader)), len(loader))
    opt = optim.ema(optim.adamw(rate, weight_decay=0.01), decay=0.99)
    loss = train.supervised(model, F.cross_entropy, metrics={"accuracy": metrics.accuracy})
    step = train.make_step(loss, opt)
    run = train.start(model, opt, jax.random.key(0), loader.batch(0)[0])

    # All that resuming takes: a folder, a template, and the run that fit begins with.
    with io.Checkpoints(args.out, keep=2, every=args.every, sigterm=True, metadata=made) as ckpt:
        if ckpt.steps():
            run = ckpt.restore(like=run)
        print(f"from step {int(run.step)} of {epochs * len(loader)}", flush=True)
        if int(run.step) < epochs * len(loader):
            run, _ = train.fit(step, run, loader, epochs=epochs, callbacks=[ckpt], progress=False)
        ckpt.save(run)

    averaged = run._replace(params=opt.eval_params(run.opt_state, run.params))
    scores = train.evaluate(loss, averaged, data.DataLoader(test_set, batch_size=512, last="pad"))
    path = args.out / "final.safetensors"
    fnet.save(path, jax.tree.map(lambda leaf: leaf, run))  # its dicts in JAX's order: a restored one has the code's
    print(f"{scores['accuracy']:.2%} of the held-out digits right")
    print(f"the whole run, parameters, averages, moments, key: sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main()
