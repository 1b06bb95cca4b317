"""cuDNN's flash attention through `jax.nn.dot_product_attention`, and the static check of what it admits."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fnet.functional.attention.masks import Visibility


def cudnn_refusal(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    visible: Visibility,
    bias: jax.Array | None,
    dropout_p: float,
    return_weights: bool,
) -> str:
    """Why cuDNN's form cannot serve this call, in a few words; empty where it can. Reads shapes and dtypes only."""
    if jax.default_backend() != "gpu" or not _is_ampere():
        return "it takes an NVIDIA GPU of compute capability 8.0 or more"
    if query.dtype not in (jnp.bfloat16, jnp.float16):
        return f"it takes bfloat16 or float16, not {query.dtype}"
    if query.shape[-1] != value.shape[-1] or query.shape[-1] % 8 or not 0 < query.shape[-1] <= 128:
        return f"it takes one head_dim for all, a multiple of 8 up to 128, not {query.shape[-1]}, {value.shape[-1]}"
    if query.ndim != 4:
        return f"it takes one batch axis, not {query.ndim - 3}"
    if return_weights or isinstance(dropout_p, jax.core.Tracer) or dropout_p > 0:
        return "it neither drops weights nor returns them"
    length, keys = query.shape[1], key.shape[1]
    if 0 in query.shape or keys == 0:
        return "there is nothing to compute"
    if bias is not None or not _is_native(visible, length, keys):
        if length % 2 or keys % 2:
            return f"with a mask or bias it takes even lengths, not {length} and {keys}"
    if bias is not None and (bias.shape[:2] != (1, query.shape[2]) or _has_batch(visible)):
        return "a bias gets its gradient only where it is (heads, queries, keys) and no mask differs by row"
    return ""


def attend_cudnn(
    query: jax.Array, key: jax.Array, value: jax.Array, visible: Visibility, bias: jax.Array | None, scale: float
) -> jax.Array:
    """The output (batch, L, H, D); to be called where `cudnn_refusal` is empty."""
    batch, length, heads, _ = query.shape
    keys = key.shape[1]
    if bias is not None:
        bias = jnp.broadcast_to(bias, (1, heads, length, keys)).astype(query.dtype)
    if _is_native(visible, length, keys):
        lengths = None
        if visible.key_lengths is not None:
            lengths = jnp.broadcast_to(jnp.asarray(visible.key_lengths, jnp.int32), (batch,))
        out = jax.nn.dot_product_attention(
            query, key, value, bias, scale=scale, is_causal=visible.is_causal, local_window_size=visible.window,
            key_value_seq_lengths=None if lengths is None else lengths.clip(1, keys), implementation="cudnn",
        )  # fmt: skip
        return out if lengths is None else jnp.where(lengths[:, None, None, None] > 0, out, 0)
    mask = visible.mask((batch, heads, length, keys))
    assert mask is not None, "what is not native is a mask"
    mask = jnp.broadcast_to(mask, (*mask.shape[:2], length, keys))
    out = jax.nn.dot_product_attention(query, key, value, bias, mask, scale=scale, implementation="cudnn")
    # A masked score is a large negative number there: a row of nothing else would get the mean of the values.
    return jnp.where(mask.any(-1).swapaxes(1, 2)[..., None], out, 0)


def _is_native(visible: Visibility, length: int, keys: int) -> bool:
    """Whether cuDNN knows this visibility by name, without an array of queries x keys."""
    if visible.keep is not None:
        return False
    if visible.window is not None and not (visible.is_causal and visible.key_lengths is None):
        return False
    return not visible.is_causal or (visible.aligned and length == keys)


def _has_batch(visible: Visibility) -> bool:
    rows = (visible.key_lengths, visible.query_offset)
    return (visible.keep is not None and visible.keep.shape[0] > 1) or any(x is not None and jnp.ndim(x) for x in rows)


def _is_ampere() -> bool:
    capability = getattr(jax.local_devices()[0], "compute_capability", "")
    return capability.split(".")[0].isdigit() and int(capability.split(".")[0]) >= 8
