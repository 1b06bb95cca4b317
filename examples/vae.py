"""A variational autoencoder of MNIST's digits: images of digits from points of a small space.

MNIST's four files are looked for in the folder that the environment variable FNET_DATA names, in ``mnist/``. The number
at the end is the evidence lower bound of the 10,000 test images in nats, grey pixels in [0, 1] taken as Bernoulli
variables, as PyTorch's basic VAE example has it: its test loss is 106.7 after 7 epochs (pytorch/examples#1416), with
20 latents and layers fully connected. One picture has test images, what the model makes of them, and images from random
latents; the other a plane through the latents, the whole of it with ``--latent 2``. Killed and started again, it goes
on where it was.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from _made_for import made_for
from jax.scipy.special import ndtri

import fnet
from fnet import data, io, models, nn, optim, plot, train


def make_loss(model: nn.Model) -> train.step.Loss:
    def loss(params: Any, state: Any, images: Any, *, key: Any = None, train: bool = False) -> Any:
        x = images / 255
        outputs, state = model.apply(params, state, x, key=key, train=train)
        return -models.elbo(x, *outputs).mean(), (state, {})

    return loss


def test_elbo(loss: train.step.Loss, run: train.TrainState, batches: Any) -> float:
    """The bound with one latent drawn for each image: with the mean in its place it would be no bound."""
    value = jax.jit(lambda params, x, key: loss(params, {}, x, key=key)[0])
    losses = [(float(value(run.params, x, jax.random.key(n))), len(x)) for n, x in enumerate(batches.epoch(0))]
    return -sum(mean * count for mean, count in losses) / sum(count for _, count in losses)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--latent", type=int, default=20, help="latents")
    parser.add_argument("--width", type=int, default=16, help="channels of the first convolution")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="checkpoints and pictures go here; default: runs/vae")
    parser.add_argument("--short", action="store_true", help="a small model and few images, to see that it runs")
    args = parser.parse_args()
    args.out = args.out or Path("runs/vae-short" if args.short else "runs/vae")

    folder = args.out / f"latent{args.latent}"
    made = made_for(folder, args, "epochs")
    try:
        train_images, test_images = (dataset.arrays[0] for dataset in data.mnist())
    except FileNotFoundError as error:
        raise SystemExit(error) from None
    if args.short:
        args.epochs, args.width, train_images, test_images = 1, 4, train_images[:1280], test_images[:256]
    loader = data.DataLoader(data.ArrayDataset(train_images), args.batch, shuffle=True, seed=args.seed, last="drop")
    test_loader = data.DataLoader(data.ArrayDataset(test_images), batch_size=256)
    steps = args.epochs * len(loader)

    model = models.vae(args.latent, args.width)
    opt = optim.adam(optim.warmup(optim.cosine(2e-3, steps), min(100, steps)))
    run = train.start(model, opt, jax.random.key(args.seed), jnp.zeros((1, 28, 28, 1)))
    print(f"{fnet.count(run.params):,} parameters, {args.epochs} epochs of {len(loader)} steps")
    loss = make_loss(model)

    begin = time.perf_counter()
    with io.Checkpoints(folder, keep=2, sigterm=True, metadata=made) as ckpt:
        if ckpt.steps():
            run = ckpt.restore(like=run)
            print(f"going on from step {int(run.step)}")
        if int(run.step) < steps:
            run, _ = train.fit(
                train.make_step(loss, opt), run, loader, epochs=args.epochs, callbacks=[ckpt],
                evaluate=lambda run: {"elbo": test_elbo(loss, run, test_loader)},
            )  # fmt: skip
            print(f"\n{args.epochs} epochs, {time.perf_counter() - begin:.1f} s of training")
            ckpt.save(run)
    print(f"evidence lower bound of the test images: {test_elbo(loss, run, test_loader):.2f} nats")

    def decode(latents: Any) -> np.ndarray:
        return np.asarray(jax.nn.sigmoid(model["decoder"](run.params["decoder"], latents)))

    # Test images, the same through the bottleneck, and images that nobody wrote.
    shown = test_images[:24]
    rebuilt = jax.nn.sigmoid(model(run.params, shown / 255)[0])
    drawn = decode(jax.random.normal(jax.random.key(args.seed), (24, args.latent)))
    rows = [shown[:12] / 255, rebuilt[:12], shown[12:] / 255, rebuilt[12:], drawn[:12], drawn[12:]]
    picture = args.out / "digits.png"
    plot.images(np.concatenate(rows), rows=6, columns=12).savefig(picture, dpi=120)
    print(f"rows of test images and what became of them, two of random latents: {picture}")

    # A plane through the space of latents: all of it where there are two, else the one between four test images.
    side = 12
    if args.latent == 2:
        at = ndtri(jnp.linspace(0.04, 0.96, side))  # equal steps of probability under the prior, not of distance
        latents = jnp.stack(jnp.meshgrid(at, -at), -1)
    else:
        corners = model(run.params, test_images[:4] / 255)[1].reshape(2, 2, -1)
        share = jnp.linspace(0, 1, side)
        weight = jnp.stack([1 - share, share])
        latents = jnp.einsum("ir,jc,ijl->rcl", weight, weight, corners)
    plane = decode(latents.reshape(side * side, args.latent))
    plot.images(plane, rows=side, columns=side).savefig(args.out / "plane.png", dpi=60)
    print(f"a plane through the latents: {args.out / 'plane.png'}")


if __name__ == "__main__":
    main()
