"""U-Nets: for segmentation (Ronneberger et al. 2015, arXiv:1505.04597), and with a time for diffusion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from fnet import functional as F
from fnet import nn


def block(
    x: Any, time: Any = None, *, norm1: Any, conv1: Any, shift: Any, norm2: Any, conv2: Any, shortcut: Any
) -> jax.Array:
    """Two convolutions in a residual sum; the time's features are added between them."""
    h = conv1(F.silu(norm1(x)))
    if time is not None:
        h = h + shift(F.silu(time))[:, None, None, :]
    return shortcut(x) + conv2(F.silu(norm2(h)))


def unet_forward(
    x: Any, time: Any = None, *, embed: Any, stem: Any, down: Any, pool: Any, middle: Any, up: Any, merge: Any,
    norm: Any, head: Any, width: int,
) -> jax.Array:  # fmt: skip
    """Down, keeping what each level has seen; then up, where each level sees it again."""
    time = _checked_time(x, time, embed is not None)
    if time is not None:
        time = embed(F.sinusoidal_embedding(time, width))
    h, seen = stem(x), []
    for level, shrink in zip(down, pool, strict=True):
        h = level(h, time)
        seen.append(h)
        h = shrink(h)
    h = middle(h, time)
    for grow, level in zip(up, merge, strict=True):
        h = jnp.concatenate([F.interpolate(grow(h), size=seen[-1].shape[1:3], mode="nearest"), seen[-1]], axis=-1)
        h = level(h, time)
        seen.pop()
    return head(F.silu(norm(h)))


def _checked_time(x: Any, time: Any, timed: bool) -> jax.Array | None:
    if time is None:
        if timed:
            raise TypeError("unet: a U-Net made with timed=True is called as model(params, x, time), got no time")
        return None
    if not timed:
        raise TypeError("unet: got a time, and this U-Net has no place for it; make it with models.unet(…, timed=True)")
    time = jnp.asarray(time)
    if time.shape not in (x.shape[:1], (1,)):
        raise ValueError(
            f"unet: time has shape {time.shape}, expected {x.shape[:1]}, a number for each image of {x.shape}; one "
            f"time for all is jnp.full({len(x)}, time)"
        )
    return time


def _block(width: int, timed: bool) -> nn.Model:
    shift = nn.Linear(width) if timed else None
    return nn.Model(
        block, norm1=nn.GroupNorm(_groups(width)), conv1=nn.Conv(width, 3, padding=1), shift=shift,
        norm2=nn.GroupNorm(_groups(width)), conv2=nn.Conv(width, 3, padding=1), shortcut=nn.Conv(width, 1),
    )  # fmt: skip


def _groups(width: int) -> int:
    return next(n for n in (8, 4, 2, 1) if width % n == 0)


def unet(out_channels: int, widths: Sequence[int] = (32, 64, 128), timed: bool = False) -> nn.Model:
    """A U-Net: images (batch, height, width, channels) -> (batch, height, width, out_channels).

    ``widths`` are the channels of each level, each of half the size. With ``timed`` it is called as ``model(x, time)``,
    time (batch,) a number for each image such as a diffusion's step, and predicts noise or the like; without, the
    outputs are logits of classes for each pixel. A time that is missing, or one too many, raises TypeError, one of
    another shape ValueError.

    >>> import jax, jax.numpy as jnp
    >>> from fnet import models
    >>> model, x, t = models.unet(1, (8, 16), timed=True), jnp.ones((2, 28, 28, 1)), jnp.arange(2.0)
    >>> params, _ = model.init(jax.random.key(0), x, t)
    >>> model(params, x, t).shape
    (2, 28, 28, 1)
    """
    embed = nn.Sequential(nn.Linear(4 * widths[0]), F.silu, nn.Linear(4 * widths[0])) if timed else None
    return nn.Model(
        unet_forward, embed=embed, stem=nn.Conv(widths[0], 3, padding=1), down=[_block(w, timed) for w in widths],
        pool=[nn.Conv(w, 3, stride=2, padding=1) for w in widths], middle=_block(2 * widths[-1], timed),
        up=[nn.Conv(w, 1) for w in reversed(widths)], merge=[_block(w, timed) for w in reversed(widths)],
        norm=nn.GroupNorm(_groups(widths[0])), head=nn.Conv(out_channels, 3, padding=1), width=widths[0],
    )  # fmt: skip
