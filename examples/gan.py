"""A generative adversarial network of MNIST's digits: one network draws, another tells drawings from real digits.

The loss of Goodfellow et al. (2014, arXiv:1406.2661) that does not saturate, and networks after DCGAN (Radford et al.
2016, arXiv:1511.06434). Both networks learn in one step from one loss: where a part must not learn from a term, its
gradient is stopped. MNIST's four files are looked for in the folder that the environment variable FNET_DATA names, in
``mnist/``. The number at the end is how far drawings are from real digits, as ``_distance.py`` measures it, beside
held-out digits and noise. Killed and started again, it goes on where it was.
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
from jax.lax import stop_gradient

import fnet
import fnet.functional as F
from fnet import data, io, nn, optim, plot, train

LATENT = 64


def leaky(x: jax.Array) -> jax.Array:
    return F.leaky_relu(x, 0.2)


def make_generator(width: int) -> nn.Sequential:
    """Latents (n, 64) -> images (n, 28, 28, 1) in (-1, 1)."""
    return nn.Sequential(
        nn.Linear(7 * 7 * 2 * width, bias=False), nn.BatchNorm(), F.relu, nn.Reshape((7, 7, 2 * width)),
        nn.ConvTranspose(width, 4, stride=2, padding=1, bias=False), nn.BatchNorm(), F.relu,
        nn.ConvTranspose(1, 4, stride=2, padding=1), jnp.tanh,
    )  # fmt: skip


def make_critic(width: int) -> nn.Sequential:
    """Images -> a logit (n, 1), high for real ones."""
    return nn.Sequential(
        nn.Conv(width, 4, stride=2, padding=1), leaky, nn.Dropout(0.3),
        nn.Conv(2 * width, 4, stride=2, padding=1), leaky, nn.Dropout(0.3), nn.Flatten(), nn.Linear(1),
    )  # fmt: skip


def make_loss(generator: nn.Sequential, critic: nn.Sequential) -> train.step.Loss:
    """Both networks' losses in one sum: of each term, only the network that is to learn from it has a gradient."""

    def loss(params: Any, state: Any, images: Any, *, key: Any, train: bool = False) -> Any:
        latent_key, *keys = jax.random.split(key, 4)
        latents = jax.random.normal(latent_key, (len(images), LATENT))
        drawn, state = generator.apply(params["generator"], state, latents, train=train)
        frozen = stop_gradient(params["critic"])
        seen = [(params["critic"], images / 127.5 - 1), (params["critic"], stop_gradient(drawn)), (frozen, drawn)]
        real, fake, judged = (
            critic.apply(critic_params, {}, x, key=key, train=train)[0]
            for (critic_params, x), key in zip(seen, keys, strict=True)
        )
        of_critic = F.softplus(-real).mean() + F.softplus(fake).mean()  # -log D(x) - log(1 - D(G(z)))
        of_generator = F.softplus(-judged).mean()  # -log D(G(z))
        return of_critic + of_generator, (state, {"critic": of_critic, "generator": of_generator})

    return loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--width", type=int, default=32, help="channels of the networks' outer convolutions")
    parser.add_argument("--samples", type=int, default=2000, help="to measure the distance with")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/gan"), help="checkpoints and pictures go here")
    parser.add_argument("--short", action="store_true", help="small networks and few images, to see that it runs")
    args = parser.parse_args()

    try:
        images = data.mnist()[0].arrays[0]
    except FileNotFoundError as error:
        raise SystemExit(error) from None
    if args.short:
        args.epochs, args.batch, args.width, args.samples, images = 1, 16, 4, 100, images[:160]
    loader = data.DataLoader(data.ArrayDataset(images), args.batch, shuffle=True, seed=args.seed, last="drop")
    steps = args.epochs * len(loader)

    generator, critic = make_generator(args.width), make_critic(args.width)
    key, generator_key, critic_key = jax.random.split(jax.random.key(args.seed), 3)
    generator_params, state = generator.init(generator_key, jnp.zeros((1, LATENT)))
    critic_params, _ = critic.init(critic_key, jnp.zeros((1, 28, 28, 1)))
    params = {"generator": generator_params, "critic": critic_params}
    opt = optim.adam(optim.cosine(5e-4, steps), (0.5, 0.999))
    run = train.TrainState(params, state, opt.init(params), key, jnp.int32(0))
    print(f"{fnet.count(generator_params):,} parameters draw, {fnet.count(critic_params):,} judge; {steps} steps")

    begin = time.perf_counter()
    with io.Checkpoints(args.out, keep=2, sigterm=True) as ckpt:
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
    latents = jax.random.normal(jax.random.key(args.seed + 1), (args.samples, LATENT))
    drawer = run._replace(params=run.params["generator"])
    samples = (np.asarray(train.predict(generator, drawer, latents)) + 1) * 127.5
    picture = args.out / "samples.png"
    plot.images(samples[:60] / 255, rows=5, columns=12).savefig(picture, dpi=120)
    distance = Distance(args.out.parent / "digit_features.safetensors", epochs=0 if args.short else 2)
    print(f"picture: {picture}; the classifier is right about {distance.accuracy:.1%} of the test images")
    floor, ceiling = distance.floor(len(samples)), distance.ceiling(len(samples))
    print(f"distance {distance(samples):.2f}; held-out digits {floor:.2f}, noise {ceiling:.1f}")


if __name__ == "__main__":
    main()
