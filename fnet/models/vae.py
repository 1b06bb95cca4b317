"""The variational autoencoder (Kingma & Welling 2014, arXiv:1312.6114)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from fnet import functional as F
from fnet import nn


def vae_forward(x: Any, encoder: Any, decoder: Any, key: Any = None, train: bool = False) -> tuple[Any, Any, Any]:
    """(logits of the pixels, mean, log variance); with a key the latent is drawn, without it is the mean."""
    mean, log_var = jnp.split(encoder(x), 2, axis=-1)
    noise = 0.0 if key is None else jax.random.normal(key, mean.shape, mean.dtype)
    return decoder(mean + jnp.exp(0.5 * log_var) * noise), mean, log_var


def elbo(x: Any, logits: Any, mean: Any, log_var: Any) -> jax.Array:
    """The evidence lower bound of each image in nats, (batch,): log p(x|z) less KL(q(z|x) ‖ N(0, 1)).

    Pixels are Bernoulli variables: equation 10 and appendix B of the paper. ``x`` has values in [0, 1] and the shape of
    ``logits``.

    >>> elbo(jnp.ones((1, 2)), jnp.zeros((1, 2)), jnp.zeros((1, 3)), jnp.zeros((1, 3)))
    Array([-1.3862944], dtype=float32)
    """
    pixels = F.binary_cross_entropy_with_logits(logits, x, reduction="none")
    divergence = 0.5 * (jnp.square(mean) + jnp.exp(log_var) - 1 - log_var)
    return -pixels.reshape(len(x), -1).sum(-1) - divergence.reshape(len(x), -1).sum(-1)


def vae(latent: int = 20, width: int = 32, size: int = 28, channels: int = 1) -> nn.Model:
    """A convolutional VAE: images (batch, size, size, channels) in [0, 1] -> (logits, mean, log variance).

    ``size`` is a multiple of 4. ``model["decoder"]`` with ``params["decoder"]`` turns latents (batch, latent) into
    logits of images.

    >>> import jax, jax.numpy as jnp
    >>> from fnet import models
    >>> model, x = models.vae(2), jnp.ones((3, 28, 28, 1))
    >>> params, _ = model.init(jax.random.key(0), x)
    >>> logits, mean, log_var = model(params, x)
    >>> logits.shape, mean.shape, model["decoder"](params["decoder"], mean).shape
    ((3, 28, 28, 1), (3, 2), (3, 28, 28, 1))
    """
    if size % 4:
        raise ValueError(f"vae: size={size}, expected a multiple of 4")
    encoder = nn.Sequential(
        nn.Conv(width, 3, stride=2, padding=1), F.relu, nn.Conv(2 * width, 3, stride=2, padding=1), F.relu,
        nn.Flatten(), nn.Linear(8 * width), F.relu, nn.Linear(2 * latent),
    )  # fmt: skip
    small = size // 4
    decoder = nn.Sequential(
        nn.Linear(8 * width), F.relu, nn.Linear(small * small * 2 * width), F.relu,
        nn.Reshape((small, small, 2 * width)), nn.ConvTranspose(width, 4, stride=2, padding=1), F.relu,
        nn.ConvTranspose(channels, 4, stride=2, padding=1),
    )  # fmt: skip
    return nn.Model(vae_forward, encoder=encoder, decoder=decoder)
