"""Gated activations of two projections."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fnet.functional.activation import gelu, silu


def swiglu(gate: ArrayLike, up: ArrayLike) -> jax.Array:
    """`silu(gate) * up`, elementwise, in the dtype of the inputs. Source: Shazeer 2020, "GLU Variants".

    >>> swiglu(jnp.zeros(2), jnp.ones(2))
    Array([0., 0.], dtype=float32)
    """
    return silu(gate) * jnp.asarray(up)


def geglu(gate: ArrayLike, up: ArrayLike, approximate: str = "none") -> jax.Array:
    """`gelu(gate) * up`, elementwise; `approximate` is gelu's, "none" or "tanh". Source: Shazeer 2020.

    >>> geglu(jnp.zeros(2), jnp.ones(2))
    Array([0., 0.], dtype=float32)
    """
    return gelu(gate, approximate) * jnp.asarray(up)
