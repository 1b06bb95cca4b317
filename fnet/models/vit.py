"""The vision transformer (Dosovitskiy et al. 2021, arXiv:2010.11929)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from fnet import functional as F
from fnet import init, nn

# From the names of Hugging Face's ViTForImageClassification to those here, for ``io.from_torch(…, rename=…)``.
VIT_NAMES = {
    r"^vit\.": "",
    r"^embeddings\.cls_token": "cls",
    r"^embeddings\.position_embeddings": "positions",
    r"^embeddings\.patch_embeddings\.projection\.": "patch.",
    r"^(?:encoder\.layer|layers)\.": "blocks.",
    r"\.layernorm_before\.": ".norm1.",
    r"\.layernorm_after\.": ".norm2.",
    r"\.attention\.attention\.(query|key|value)\.": lambda m: f".attn.{m[1][0]}_proj.",
    r"\.attention\.output\.dense\.": ".attn.out_proj.",
    r"\.attention\.(q|k|v)_proj\.": r".attn.\1_proj.",
    r"\.attention\.o_proj\.": ".attn.out_proj.",
    r"\.intermediate\.dense\.": ".fc1.",
    r"\.output\.dense\.": ".fc2.",
    r"\.mlp\.(fc1|fc2)\.": r".\1.",
    r"^layernorm\.": "norm.",
    r"^classifier\.": "head.",
}


def block(x: Any, norm1: Any, attn: Any, norm2: Any, fc1: Any, fc2: Any, drop: Any) -> jax.Array:
    x = x + drop(attn(norm1(x)))
    return x + drop(fc2(F.gelu(fc1(norm2(x)))))


def vit_forward(
    x: Any, patch: Any, cls: Any, positions: Any, drop: Any, blocks: Any, norm: Any, head: Any, image_size: int
) -> jax.Array:
    """Patches as tokens, a token of its own for the class, blocks, and a linear head on that token."""
    if x.ndim != 4 or x.shape[1:3] != (image_size, image_size):
        raise ValueError(
            f"vit: images have shape {x.shape}, expected (batch, {image_size}, {image_size}, channels): there is a "
            f"position for each patch of an image of image_size={image_size}; resize the images, as with "
            "F.interpolate, or make the model with their size, models.vit(image_size=…)"
        )
    h = patch(x)
    h = h.reshape(h.shape[0], -1, h.shape[-1])
    h = jnp.concatenate([jnp.broadcast_to(cls, (h.shape[0], 1, h.shape[-1])), h], axis=1)
    h = blocks(drop(h + positions))
    return head(norm(h)[:, 0])


def vit(
    num_classes: int = 1000,
    image_size: int = 224,
    patch_size: int = 16,
    num_layers: int = 12,
    num_heads: int = 12,
    width: int = 768,
    hidden: int = 3072,
    dropout: float = 0.0,
    eps: float = 1e-12,
) -> nn.Model:
    """A ViT, by default ViT-B/16: images (batch, image_size, image_size, channels) -> (batch, num_classes).

    Images of another size raise ValueError. ``io.from_torch(models.vit(), "model.safetensors", x,
    rename=models.VIT_NAMES)`` loads the weights of Hugging Face's ViTForImageClassification.

    >>> import jax
    >>> import fnet
    >>> from fnet import models
    >>> x = jax.ShapeDtypeStruct((1, 224, 224, 3), "float32")
    >>> fnet.count(jax.eval_shape(models.vit().init, jax.random.key(0), x)[0])
    86567656
    """
    if image_size % patch_size:
        raise ValueError(f"vit: patches of {patch_size} do not divide an image of {image_size}")
    layer = nn.Model(
        block, norm1=nn.LayerNorm(eps), attn=nn.MultiheadAttention(num_heads), norm2=nn.LayerNorm(eps),
        fc1=nn.Linear(hidden), fc2=nn.Linear(width), drop=nn.Dropout(dropout),
    )  # fmt: skip
    tokens = (image_size // patch_size) ** 2 + 1
    return nn.Model(
        vit_forward, patch=nn.Conv(width, patch_size, stride=patch_size),
        cls=nn.Param((1, 1, width), init.normal(0.02)),
        positions=nn.Param((1, tokens, width), init.normal(0.02)), drop=nn.Dropout(dropout),
        blocks=nn.Stack(layer, num_layers), norm=nn.LayerNorm(eps), head=nn.Linear(num_classes),
        image_size=image_size,
    )  # fmt: skip
