"""A diffusion model of MNIST's digits: a U-Net that learns to take noise out of images, and so makes them from noise.

Denoising diffusion (Ho et al. 2020, arXiv:2006.11239) with the velocity as the target (Salimans & Ho 2022,
arXiv:2202.00512), sampled in 50 steps with new noise in each (Song et al. 2021, arXiv:2010.02502, eq. 16 with η = 1)
and with averaged weights. The U-Net is told the digit, and now and then not, so that samples can be led towards it
(guidance without a classifier: Ho & Salimans 2022, arXiv:2207.12598). MNIST's four files are looked for in the folder
that the environment variable FNET_DATA names, in ``mnist/``. The number at the end is how far the samples are from
real digits, as ``_distance.py`` measures it, beside held-out digits and noise. Killed and started again, it goes on
where it was.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from _distance import Distance
from _made_for import made_for

import fnet
import fnet.functional as F
from fnet import data, io, models, nn, optim, plot, train


def in_patches(x: jax.Array, time: jax.Array, digits: jax.Array, net: Any) -> jax.Array:
    """The U-Net sees 14 × 14 patches of 2 × 2 pixels, each with the digit beside it, one-hot; zeros where it is -1."""
    patches = F.pixel_unshuffle(x, 2)
    told = jnp.broadcast_to(jax.nn.one_hot(digits, 10)[:, None, None, :], (*patches.shape[:3], 10))
    return F.pixel_shuffle(net(jnp.concatenate([patches, told], axis=-1), 1000 * time), 2)


def make_model(widths: Sequence[int]) -> nn.Model:
    """(noisy images (n, 28, 28, 1), times (n,), digits (n,)) -> velocities (n, 28, 28, 1)."""
    return nn.Model(in_patches, net=models.unet(4, tuple(widths), timed=True))


def shares(time: jax.Array) -> tuple[jax.Array, jax.Array]:
    """How much of the image and how much of the noise there is at a time from 0 to 1; the squares sum to one."""
    return jnp.cos(jnp.pi / 2 * time), jnp.sin(jnp.pi / 2 * time)


def make_loss(model: nn.Model) -> train.step.Loss:
    """The squared error of the velocity, the derivative of the noisy image by the angle between image and noise."""

    def loss(params: Any, state: Any, batch: Any, *, key: Any, train: bool = False) -> Any:
        images, digits = batch
        time_key, noise_key, digit_key = jax.random.split(key, 3)
        x = images / 127.5 - 1
        time = jax.random.uniform(time_key, (len(x),))
        noise = jax.random.normal(noise_key, x.shape)
        told = jnp.where(jax.random.uniform(digit_key, (len(x),)) < 0.1, -1, digits)
        of_image, of_noise = shares(time[:, None, None, None])
        velocity = of_image * noise - of_noise * x
        return F.mse_loss(model(params, of_image * x + of_noise * noise, time, told), velocity), (state, {})

    return loss


@partial(jax.jit, static_argnums=(0, 4))
def sample(
    model: nn.Model, params: Any, key: jax.Array, digits: jax.Array, steps: int = 50, guidance: float = 1.5
) -> jax.Array:
    """Images (n, 28, 28, 1) of 0 to 255 of these digits, from noise, of which part is renewed at each step."""
    count = len(digits)
    told = jnp.concatenate([digits, jnp.full(count, -1)])

    def denoise(x: jax.Array, at: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        time, key = at
        of_image, of_noise = shares(time)
        of_digit, of_any = jnp.split(model(params, jnp.concatenate([x, x]), jnp.full(2 * count, time), told), 2)
        velocity = of_any + guidance * (of_digit - of_any)
        image = jnp.clip(of_image * x - of_noise * velocity, -1, 1)
        noise = (x - of_image * image) / of_noise
        next_image, next_noise = shares(time - 1 / steps)
        new = next_noise / of_noise * jnp.sqrt(1 - (of_image / next_image) ** 2)
        kept = jnp.sqrt(jnp.maximum(next_noise**2 - new**2, 0))  # rounding alone makes it negative
        return next_image * image + kept * noise + new * jax.random.normal(key, x.shape), None

    start_key, key = jax.random.split(key)
    start = jax.random.normal(start_key, (count, 28, 28, 1))
    x, _ = jax.lax.scan(denoise, start, (jnp.linspace(1, 1 / steps, steps), jax.random.split(key, steps)))
    return ((x + 1) * 127.5).clip(0, 255)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--widths", type=int, nargs="+", default=[32, 64], help="channels of the U-Net's levels")
    parser.add_argument("--samples", type=int, default=2000, help="to measure the distance with")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="checkpoints and picture go here; default: runs/diffusion")
    parser.add_argument("--short", action="store_true", help="a small model and few steps, to see that it runs")
    args = parser.parse_args()
    args.out = args.out or Path("runs/diffusion-short" if args.short else "runs/diffusion")
    fnet.keep_memory()  # on CPU a step then finds the memory that the one before it freed
    if args.short:
        args.steps, args.batch, args.widths, args.samples = 3, 8, [8], 100

    made = made_for(args.out, args, "steps", "samples")
    try:
        images, labels = data.mnist()[0].arrays
    except FileNotFoundError as error:
        raise SystemExit(error) from None
    dataset = data.ArrayDataset(images, labels)
    loader = data.DataLoader(dataset, args.batch, shuffle=True, seed=args.seed, last="drop")
    model = make_model(args.widths)
    rate = optim.warmup(optim.cosine(2e-3, args.steps), min(200, args.steps))
    opt = optim.ema(optim.clip_by_global_norm(optim.adamw(rate, weight_decay=0.0), 1.0), decay=0.999)
    example = jnp.zeros((1, 28, 28, 1)), jnp.zeros(1), jnp.zeros(1, int)
    run = train.start(model, opt, jax.random.key(args.seed), *example)
    print(f"{fnet.count(run.params):,} parameters, {args.steps} steps of {args.batch} images")

    begin = time.perf_counter()
    with io.Checkpoints(args.out, keep=2, every=500, sigterm=True, metadata=made) as ckpt:
        if ckpt.steps():
            run = ckpt.restore(like=run)
            print(f"going on from step {int(run.step)}")
        if int(run.step) < args.steps:
            step = train.make_step(make_loss(model), opt)
            run, _ = train.fit(step, run, loader, steps=args.steps, every=500, callbacks=[ckpt])
            print(f"\n{int(run.step)} steps, {time.perf_counter() - begin:.1f} s of training")
            ckpt.save(run)

    averaged = opt.eval_params(run.opt_state, run.params)
    digits = np.concatenate([np.arange(60) % 10, labels[: max(0, args.samples - 60)]])  # 60 for the picture
    parts = np.array_split(digits, max(1, args.samples // 100))
    keys = jax.random.split(jax.random.key(args.seed + 1), len(parts))
    steps = 3 if args.short else 50
    samples = np.concatenate([sample(model, averaged, *part, steps) for part in zip(keys, parts, strict=True)])
    picture = args.out / "samples.png"
    plot.images(samples[:60] / 255, rows=6, columns=10).savefig(picture, dpi=120)
    distance = Distance(args.out.parent, epochs=0 if args.short else 2)
    print(f"picture: {picture}; {distance.report(samples, digits)}")


if __name__ == "__main__":
    main()
