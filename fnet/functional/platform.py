"""Where an array is computed, on which the choice of a faster form rests."""

from __future__ import annotations

import os

import jax


def on_one_cpu(x: jax.Array) -> bool:
    """Whether `x` has values and is computed on one CPU. Arrays on a mesh are left to XLA, which knows how they lie."""
    return x.size > 0 and jax.default_backend() == "cpu" and jax.typeof(x).sharding.mesh.empty


def on_cores(x: jax.Array) -> bool:
    """Whether `x` has values and lies on a mesh of CPU devices that are as many as cores, so that each has one."""
    mesh = jax.typeof(x).sharding.mesh
    return x.size > 0 and jax.default_backend() == "cpu" and not mesh.empty and mesh.size >= (os.cpu_count() or 1)
