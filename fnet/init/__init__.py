"""Initialisers: frozen values that are called as `(key, shape, dtype) -> array`.

Each is made by calling its name, `init.normal(0.02)`; equal arguments make equal values, which hash, pickle and
print as they were written. `init.zeros` and `init.ones` work with or without the call. Any function of `(key,
shape, dtype)` is an initialiser too.

Fans follow JAX's layouts: the last axis of a shape is out, the one before it in, and the axes before those are the
receptive field of a convolution, which multiplies both. So an embedding table (num_embeddings, dim) reads as
num_embeddings inputs: give it `normal`.

The numbers depend on the key, the position in the array and whether the dtype is float64, and on nothing else: they are
the same called alone, in a model, under jit and under vmap (with a mean other than 0, up to the last bit). Floats of 16
bits are drawn in 32 and rounded.
"""

from fnet.init.initializers import (
    Initializer,
    calculate_gain,
    constant,
    fans,
    glorot_normal,
    glorot_uniform,
    he_normal,
    he_uniform,
    kaiming_normal,
    kaiming_uniform,
    lecun_normal,
    lecun_uniform,
    normal,
    ones,
    orthogonal,
    torch_uniform,
    truncated_normal,
    uniform,
    variance_scaling,
    xavier_normal,
    xavier_uniform,
    zeros,
)

__all__ = [
    "Initializer",
    "calculate_gain",
    "constant",
    "fans",
    "glorot_normal",
    "glorot_uniform",
    "he_normal",
    "he_uniform",
    "kaiming_normal",
    "kaiming_uniform",
    "lecun_normal",
    "lecun_uniform",
    "normal",
    "ones",
    "orthogonal",
    "torch_uniform",
    "truncated_normal",
    "uniform",
    "variance_scaling",
    "xavier_normal",
    "xavier_uniform",
    "zeros",
]
