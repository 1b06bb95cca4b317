"""A generative adversarial network of MNIST's digits: one network draws, another tells drawings from real digits.

The loss of Goodfellow et al. (2014, arXiv:1406.2661) that does not saturate, and networks after DCGAN (Radford et al.
2016, arXiv:1511.06434), which are both told the digit (Mirza & Osindero 2014, arXiv:1411.1784). They learn in one step
from one loss: where a part must not learn from a term, its gradient is stopped. At the end digits are drawn with the
generator's averaged weights (Yazıcı et al. 2019, arXiv:1806.04498).
MNIST's four files are looked for in the folder that the environment variable FNET_DATA names, in ``mnist/``. The number
at the end is how far drawings are from real digits, as ``_distance.py`` measures it, beside held-out digits and noise.
Killed and started again, it goes on where it was.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from _distance import Distance
from _made_for import made_for
from jax.lax import stop_gradient

import fnet
import fnet.functional as F
from fnet import data, io, nn, optim, plot, train

LATENT = 64

Batch = tuple[jax.Array, jax.Array]  # images and their digits


def leaky(x: jax.Array) -> jax.Array:
    return F.leaky_relu(x, 0.2)


def norm() -> nn.BatchNorm:
    """By the batch at hand, in drawing too: averages over the training would not be those of averaged weights."""
    return nn.BatchNorm(track_running_stats=False)


def make_generator(width: int) -> nn.Sequential:
    """Latents (n, 74) -> images (n, 28, 28, 1) in (-1, 1)."""
    return nn.Sequential(
        nn.Linear(4 * 4 * 4 * width, bias=False), nn.Reshape((4, 4, 4 * width)), norm(), F.relu,
        nn.ConvTranspose(2 * width, 3, stride=2, padding=1, bias=False), norm(), F.relu,
        nn.ConvTranspose(width, 4, stride=2, padding=1, bias=False), norm(), F.relu,
        nn.ConvTranspose(1, 4, stride=2, padding=1), jnp.tanh,
    )  # fmt: skip


def make_critic(width: int) -> nn.Sequential:
    """Images -> logits (n, 10), each high for real images of its digit."""
    return nn.Sequential(
        nn.Conv(width, 4, stride=2, padding=1), leaky,
        nn.Conv(2 * width, 4, stride=2, padding=1, bias=False), norm(), leaky,
        nn.Conv(4 * width, 3, stride=2, padding=1, bias=False), norm(), leaky, nn.Flatten(), nn.Linear(10),
    )  # fmt: skip


def make_latents(key: jax.Array, digits: jax.Array) -> jax.Array:
    """Chance and the digit to draw, one-hot, and large enough to be heard beside 64 random numbers: (n, 74)."""
    return jnp.concatenate([jax.random.normal(key, (len(digits), LATENT)), 3 * jax.nn.one_hot(digits, 10)], axis=1)


def make_loss(generator: nn.Sequential, critic: nn.Sequential) -> train.step.Loss:
    """Both networks' losses in one sum: of each term, only the network that is to learn from it has a gradient."""

    def loss(params: Any, state: Any, batch: Batch, *, key: Any, train: bool = False) -> Any:
        images, digits = batch

        def judge(critic_params: Any, x: jax.Array) -> jax.Array:
            return jnp.take_along_axis(critic(critic_params, x), digits[:, None], axis=1)

        drawn = generator(params["generator"], make_latents(key, digits))
        real = judge(params["critic"], images / 127.5 - 1)  # not in one batch with drawings: see `norm`
        fake = judge(params["critic"], stop_gradient(drawn))
        judged = judge(stop_gradient(params["critic"]), drawn)  # the same numbers, computed once
        of_critic = F.softplus(-real).mean() + F.softplus(fake).mean()  # -log D(x) - log(1 - D(G(z)))
        of_generator = F.softplus(-judged).mean()  # -log D(G(z))
        return of_critic + of_generator, (state, {"critic": of_critic, "generator": of_generator})

    return loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=4e-4, help="of both networks; falls to 0 along a cosine")
    parser.add_argument("--width", type=int, default=32, help="channels of the networks' outer convolutions")
    parser.add_argument("--samples", type=int, default=2000, help="to measure the distance with")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="checkpoints and pictures go here; default: runs/gan")
    parser.add_argument("--short", action="store_true", help="small networks and few images, to see that it runs")
    args = parser.parse_args()
    args.out = args.out or Path("runs/gan-short" if args.short else "runs/gan")

    made = made_for(args.out, args, "epochs", "samples")
    try:
        images, labels = data.mnist()[0].arrays
    except FileNotFoundError as error:
        raise SystemExit(error) from None
    if args.short:
        args.epochs, args.batch, args.width, args.samples, images, labels = 1, 16, 4, 100, images[:160], labels[:160]
    loader = data.DataLoader(data.ArrayDataset(images, labels), args.batch, shuffle=True, seed=args.seed, last="drop")
    steps = args.epochs * len(loader)

    generator, critic = make_generator(args.width), make_critic(args.width)
    key, generator_key, critic_key = jax.random.split(jax.random.key(args.seed), 3)
    generator_params, _ = generator.init(generator_key, jnp.zeros((1, LATENT + 10)))
    critic_params, _ = critic.init(critic_key, jnp.zeros((1, 28, 28, 1)))
    params = {"generator": generator_params, "critic": critic_params}
    opt = optim.ema(optim.adam(optim.cosine(args.lr, steps), (0.5, 0.999)), decay=0.998)
    run = train.TrainState(params, {}, opt.init(params), key, jnp.int32(0))
    print(f"{fnet.count(generator_params):,} parameters draw, {fnet.count(critic_params):,} judge; {steps} steps")

    begin = time.perf_counter()
    with io.Checkpoints(args.out, keep=2, sigterm=True, metadata=made) as ckpt:
        if ckpt.steps():
            run = ckpt.restore(like=run)
            print(f"going on from step {int(run.step)}")
        history = train.History(train.JSONLines(args.out / "history.jsonl"))
        if int(run.step) < steps:
            step = train.make_step(make_loss(generator, critic), opt)
            run, history = train.fit(step, run, loader, epochs=args.epochs, callbacks=[ckpt], history=history)
            ckpt.save(run)
            print(f"\n{int(run.step)} steps, {time.perf_counter() - begin:.1f} s of training")

    plot.history(history, ["critic", "generator"]).savefig(args.out / "losses.png", dpi=120)
    digits = np.concatenate([np.arange(60) % 10, labels[: max(0, args.samples - 60)]])  # 60 for the picture
    averaged = opt.eval_params(run.opt_state, run.params)["generator"]
    drawn = generator(averaged, make_latents(jax.random.key(args.seed + 1), digits))
    samples = (np.asarray(drawn) + 1) * 127.5
    picture = args.out / "samples.png"
    plot.images(samples[:60] / 255, rows=6, columns=10).savefig(picture, dpi=120)
    distance = Distance(args.out.parent, epochs=0 if args.short else 2)
    print(f"picture: {picture}; {distance.report(samples, digits)}")


if __name__ == "__main__":
    main()
