"""One leaf of a tree on its way to a file and back: arrays of JAX and numpy, typed keys, Python's own scalars."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from fnet.io.safetensors import CODES, FileError, Tensor, dtype_name

ACCEPTED = "a JAX or numpy array, a typed PRNG key, None, bool, int, float, complex or str"
SCALARS = (bool, int, float, complex, str)


def _extra_dtypes() -> dict[str, np.dtype]:
    """The dtypes that JAX or numpy have and the format has not; they are stored as bytes, one more axis."""
    known = {name for name in dir(ml_dtypes) if name.startswith(("float", "int", "uint"))} - {"finfo", "iinfo"}
    dtypes = {np.dtype(np.complex128), *(np.dtype(getattr(ml_dtypes, name)) for name in known)}
    return {dtype.name: dtype for dtype in dtypes if dtype.name not in CODES}


EXTRA = _extra_dtypes()


@dataclass(frozen=True)
class Leaf:
    """What a file says about one leaf besides its bytes.

    ``kind`` is "jax", "numpy", "scalar" (a numpy scalar), "key" or "python". ``detail`` is the implementation of a
    key, or the name of a dtype that the format lacks. ``value`` is the Python value.
    """

    kind: str
    detail: str = ""
    value: Any = None


def is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray | np.generic)


def is_key(leaf: Any) -> bool:
    """Whether this is a typed PRNG key, concrete or abstract."""
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def classify(name: str, leaf: Any) -> Leaf:
    """What the file will say about an array; raises TypeError or ValueError, naming it, if it cannot be saved."""
    where = f"cannot save {name!r}"
    if isinstance(leaf, jax.core.Tracer):
        raise TypeError(f"{where}: it is a tracer; call save outside of jax.jit, grad and vmap")
    if isinstance(leaf, jax.Array):
        if leaf.is_deleted():
            raise ValueError(f"{where}: its buffer was donated or deleted; save the value that replaced it")
        if not (leaf.is_fully_addressable or leaf.is_fully_replicated):
            raise ValueError(f"{where}: parts of it are on other hosts; gather it (jax.experimental.multihost_utils)")
        if is_key(leaf):
            impl = jax.random.key_impl(leaf)
            if not isinstance(impl, str):
                raise TypeError(f"{where}: its PRNG implementation {impl!r} has no name")
            return Leaf("key", impl)
        kind = "jax"
    elif isinstance(leaf, np.generic):
        kind = "scalar"
    elif type(leaf) in (np.ndarray, np.memmap):
        kind = "numpy"
    else:
        raise TypeError(f"{where}: it is a {type(leaf).__name__}, which would lose what it adds to an array")
    if dtype_name(leaf.dtype) in CODES:
        return Leaf(kind)
    if dtype_name(leaf.dtype) in EXTRA:
        return Leaf(kind, dtype_name(leaf.dtype))
    raise TypeError(f"{where}: the dtype {leaf.dtype} has no place in a file of tensors; expected numbers or booleans")


def stored(leaf: Any) -> tuple[np.dtype, tuple[int, ...]]:
    """The dtype and the shape of an array's tensor in the file."""
    if is_key(leaf):
        data = jax.eval_shape(jax.random.key_data, leaf)
        return np.dtype(data.dtype), data.shape
    if dtype_name(leaf.dtype) in EXTRA:
        return np.dtype(np.uint8), (*leaf.shape, leaf.dtype.itemsize)
    return np.dtype(leaf.dtype), tuple(leaf.shape)


def start_transfer(leaf: Any) -> Any:
    """The array, on its way to the host if it is on another device.

    A second handle of the same buffers: JAX keeps the host's copy as long as the handle that it was asked through,
    and the caller's own must not hold a copy of the whole tree.
    """
    if not isinstance(leaf, jax.Array):
        return leaf
    data = jax.random.key_data(leaf) if is_key(leaf) else leaf
    shards = [shard.data for shard in data.addressable_shards]
    handle = jax.make_array_from_single_device_arrays(data.shape, data.sharding, shards)
    handle.copy_to_host_async()
    return handle


def to_host(leaf: Any) -> np.ndarray:
    """The array's tensor, on the host; a view where there can be one."""
    array = np.asarray(leaf)
    if dtype_name(array.dtype) not in EXTRA:
        return array
    little = np.require(array, array.dtype.newbyteorder("<"), "C")
    return little.reshape(-1).view(np.uint8).reshape(*array.shape, array.dtype.itemsize)


def abstract(leaf: Leaf, tensor: Tensor, where: str) -> jax.ShapeDtypeStruct:
    """What the leaf will be; raises FileError if what the file says about it cannot be."""
    shape, dtype = tensor.shape, tensor.dtype
    if leaf.kind == "key":
        wrap = partial(jax.random.wrap_key_data, impl=leaf.detail)
        try:
            return jax.eval_shape(wrap, jax.ShapeDtypeStruct(shape, dtype))
        except Exception as error:  # what JAX raises here depends on its version
            raise FileError(f"{where} cannot be a PRNG key of {leaf.detail!r}: {error}") from None
    if leaf.detail:
        extra = EXTRA[leaf.detail]
        if dtype != np.uint8 or not shape or shape[-1] != extra.itemsize:
            raise FileError(f"{where} cannot be {leaf.detail}: it is {dtype.name}{list(shape)}")
        return jax.ShapeDtypeStruct(shape[:-1], extra)
    if leaf.kind == "scalar" and shape:
        raise FileError(f"{where} cannot be a scalar: it is {dtype.name}{list(shape)}")
    return jax.ShapeDtypeStruct(shape, dtype)


def restore(leaf: Leaf, array: np.ndarray, sharding: Any = None) -> Any:
    """The leaf that was saved, from its tensor."""
    if leaf.kind == "key":
        data = jax.device_put(array.copy())  # never the file's own pages
        return jax.device_put(jax.random.wrap_key_data(data, impl=leaf.detail), sharding)
    if leaf.detail:
        array = array.reshape(-1).view(EXTRA[leaf.detail]).reshape(array.shape[:-1])
    if leaf.kind == "jax":
        return to_jax(array, sharding)
    return array[()] if leaf.kind == "scalar" else array


def to_jax(array: np.ndarray, sharding: Any = None) -> Any:
    """A JAX array of the same values, or the numpy array itself where JAX without x64 would change them."""
    dtype = jax.dtypes.canonicalize_dtype(array.dtype)
    if dtype == array.dtype:
        if sharding is None or sharding.is_fully_replicated:
            return jax.device_put(array, sharding)
        part = lambda index: np.array(array[index])  # noqa: E731  a copy: never the file's own pages
        return jax.make_array_from_callback(array.shape, sharding, part)
    if array.dtype.kind in "iu" and fits(array, dtype):
        return jax.device_put(array.astype(dtype), sharding)
    return array


def fits(array: np.ndarray, dtype: np.dtype) -> bool:
    """Whether an integer array has no value outside of an integer dtype."""
    limits = np.iinfo(dtype)
    return not array.size or bool(limits.min <= array.min() and array.max() <= limits.max)
