"""Arrays of constants and of regular steps."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from fnet.creation.arguments import Device, Shape, like, place, resolve_device, resolve_dtype, resolve_shape
from fnet.creation.values import tensor


def zeros(shape: Shape, dtype: DTypeLike | None = None, device: Device | None = None) -> jax.Array:
    """An array of zeros, float32 unless told.

    >>> zeros((2, 3), dtype="int32").shape
    (2, 3)
    """
    return jnp.zeros(resolve_shape(shape), resolve_dtype(dtype), device=resolve_device(device))


def ones(shape: Shape, dtype: DTypeLike | None = None, device: Device | None = None) -> jax.Array:
    """An array of ones, float32 unless told.

    >>> ones(2)
    Array([1., 1.], dtype=float32)
    """
    return jnp.ones(resolve_shape(shape), resolve_dtype(dtype), device=resolve_device(device))


def full(
    shape: Shape, fill_value: ArrayLike, dtype: DTypeLike | None = None, device: Device | None = None
) -> jax.Array:
    """An array filled with one value (or with an array that broadcasts to `shape`), of the value's dtype unless told.

    >>> full((2,), 7)
    Array([7, 7], dtype=int32)
    """
    value = tensor(fill_value, dtype)
    return jnp.full(resolve_shape(shape), value, value.dtype, device=resolve_device(device))


def eye(n: int, m: int | None = None, dtype: DTypeLike | None = None, device: Device | None = None) -> jax.Array:
    """Ones on the diagonal of an (n, m) matrix, m being n unless told; float32 unless told.

    >>> eye(2)
    Array([[1., 0.],
           [0., 1.]], dtype=float32)
    """
    return place(jnp.eye(n, m, dtype=resolve_dtype(dtype)), device)


def arange(
    start: float, end: float | None = None, step: float = 1, dtype: DTypeLike | None = None,
    device: Device | None = None,
) -> jax.Array:  # fmt: skip
    """The numbers start, start + step, … before `end`, from 0 if given one; int32 when all are ints, else float32.

    >>> arange(3), arange(1, 2, 0.5)
    (Array([0, 1, 2], dtype=int32), Array([1. , 1.5], dtype=float32))
    """
    start, end = (0, start) if end is None else (start, end)
    if step == 0:
        raise ValueError("arange needs a step other than 0")
    if isinstance(start, int) and isinstance(end, int) and isinstance(step, int):
        numbers = range(start, end, step)
        tensor([numbers[0], numbers[-1]] if numbers else [], dtype)  # raises where JAX would wrap them
    return place(jnp.arange(start, end, step, dtype=resolve_dtype(dtype, jnp.result_type(start, end, step))), device)


def linspace(
    start: ArrayLike, end: ArrayLike, steps: int, dtype: DTypeLike | None = None, device: Device | None = None
) -> jax.Array:
    """`steps` numbers evenly spaced from `start` to `end`, both included; float32 unless told.

    >>> linspace(0, 1, 3)
    Array([0. , 0.5, 1. ], dtype=float32)
    """
    return place(jnp.linspace(start, end, steps, dtype=resolve_dtype(dtype)), device)


def zeros_like(x: Any, dtype: DTypeLike | None = None, device: Device | None = None) -> jax.Array:
    """Zeros of the shape, dtype and device of `x` (an array or a ShapeDtypeStruct), unless told otherwise.

    >>> zeros_like(tensor([1, 2]))
    Array([0, 0], dtype=int32)
    """
    return zeros(*like(x, dtype, device))


def ones_like(x: Any, dtype: DTypeLike | None = None, device: Device | None = None) -> jax.Array:
    """Ones of the shape, dtype and device of `x` (an array or a ShapeDtypeStruct), unless told otherwise.

    >>> ones_like(tensor([1, 2]), dtype=float)
    Array([1., 1.], dtype=float32)
    """
    return ones(*like(x, dtype, device))


def full_like(
    x: Any, fill_value: ArrayLike, dtype: DTypeLike | None = None, device: Device | None = None
) -> jax.Array:
    """One value in the shape, dtype and device of `x` (an array or a ShapeDtypeStruct), unless told otherwise.

    >>> full_like(tensor([1.0, 2.0]), 7)
    Array([7., 7.], dtype=float32)
    """
    shape, dtype, device = like(x, dtype, device)
    return full(shape, fill_value, dtype, device)
