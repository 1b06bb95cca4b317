"""The arguments that creation functions share, checked and resolved: shape, dtype, device, and "like another array"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

Shape: TypeAlias = int | Sequence[int]
Device: TypeAlias = str | jax.Device | jax.sharding.Sharding


def is_number(dtype: Any) -> bool:
    """Whether arrays of this dtype hold numbers or booleans (bfloat16 and the other small floats included)."""
    return jnp.issubdtype(dtype, np.number) or jnp.issubdtype(dtype, np.bool_)


def resolve_shape(shape: Shape) -> tuple[int, ...]:
    """A shape as a tuple; an int is a shape of one axis. JAX checks the sizes, some of which may be symbolic.

    >>> resolve_shape(3), resolve_shape([2, 3])
    ((3,), (2, 3))
    """
    return tuple(shape) if isinstance(shape, Sequence | np.ndarray) else (shape,)


def resolve_dtype(dtype: DTypeLike | None, default: DTypeLike = float) -> np.dtype:
    """The dtype that JAX gives when it is asked for this one: with 64-bit mode off it warns of one that it narrows.

    >>> resolve_dtype(float), resolve_dtype("bfloat16")
    (dtype('float32'), dtype(bfloat16))
    """
    dtype = default if dtype is None else dtype
    if isinstance(dtype, int | tuple | list):
        raise TypeError(f"dtype={dtype!r} looks like a size: a shape is one argument, (2, 3) and not 2, 3")
    try:
        asked = np.dtype(dtype)
    except TypeError:
        raise TypeError(f'{dtype!r} is no dtype that JAX knows; write jnp.float32 or "float32", for example') from None
    if not is_number(asked):
        raise TypeError(f"arrays hold numbers or booleans; got dtype={dtype!r}")
    given = jax.dtypes.canonicalize_dtype(asked)
    if given == asked or dtype in (bool, int, float, complex):
        return given
    return jnp.zeros((), asked).dtype  # JAX decides what an explicit 64-bit dtype means, and says so


def resolve_device(device: Device | None) -> jax.Device | jax.sharding.Sharding | None:
    """A device from its name, "cpu", "gpu", "tpu" or "cpu:1"; a device, a sharding or None is returned as it is.

    >>> resolve_device("cpu:0").platform
    'cpu'
    """
    if device is None or isinstance(device, jax.Device | jax.sharding.Sharding):
        return device
    if not isinstance(device, str):
        raise TypeError(f'a device is a name such as "cpu" or "gpu:1", a jax.Device or a Sharding; got {device!r}')
    platform, _, index = device.partition(":")
    try:
        return jax.local_devices(backend=platform)[int(index or 0)]
    except (RuntimeError, IndexError, ValueError):
        from fnet.creation.place import devices

        raise ValueError(f"there is no device {device!r} here. There is:\n{devices()}") from None


def like(x: Any, dtype: DTypeLike | None, device: Device | None) -> tuple[tuple[int, ...], np.dtype, Any]:
    """Shape, dtype and placement of `x`, less what is told.

    An array that was put somewhere on purpose keeps its device or sharding; one that is only where JAX puts arrays
    by default, or that is traced, leaves the choice to JAX.
    """
    if not hasattr(x, "shape") or not hasattr(x, "dtype"):
        raise TypeError(f"a *_like function takes an array; got {type(x).__name__}: write fnet.tensor(x) around it")
    if dtype is not None:
        dtype = resolve_dtype(dtype)
    elif isinstance(x.dtype, np.dtype) and is_number(x.dtype):
        dtype = jax.dtypes.canonicalize_dtype(x.dtype)
    else:
        raise TypeError(f"cannot make an array of dtype {x.dtype}; pass dtype=, or write fnet.tensor(x) around it")
    if device is None and isinstance(x, jax.Array) and not isinstance(x, jax.core.Tracer) and x.committed:
        device = x.sharding
    return tuple(x.shape), dtype, device


def place(x: jax.Array, device: Device | None) -> jax.Array:
    """`x` on a device; None leaves it where it is."""
    return x if device is None else jax.device_put(x, resolve_device(device))
