"""Make and describe arrays: from data, from another library, from another array, constant or random; on any device.

Everything here returns a plain `jax.Array`, strongly typed, so these functions and jax.numpy's mix freely.
"""

from fnet.creation.constants import arange, eye, full, full_like, linspace, ones, ones_like, zeros, zeros_like
from fnet.creation.draws import normal, permutation, rand, rand_like, randint, randn, randn_like, randperm, uniform
from fnet.creation.place import Devices, devices, to
from fnet.creation.values import from_numpy, from_torch, tensor, to_numpy, to_torch

__all__ = [
    "Devices", "arange", "devices", "eye", "from_numpy", "from_torch", "full", "full_like", "linspace", "normal",
    "ones", "ones_like", "permutation", "rand", "rand_like", "randint", "randn", "randn_like", "randperm", "tensor",
    "to", "to_numpy", "to_torch", "uniform", "zeros", "zeros_like",
]  # fmt: skip
