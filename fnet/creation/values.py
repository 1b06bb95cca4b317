"""Arrays from values: `tensor` for any data, and the bridges to numpy and to torch. Every one of them copies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from fnet.creation.arguments import Device, is_number, place, resolve_device, resolve_dtype

if TYPE_CHECKING:
    import torch


def tensor(data: Any, dtype: DTypeLike | None = None, device: Device | None = None) -> jax.Array:
    """An array holding a copy of `data`: numbers, nested lists, or an array of numpy, jax, torch or another library.

    The result is strongly typed. With JAX's 64-bit mode off (its default) integers become int32 and floats float32,
    float64 being rounded; integers that do not fit raise OverflowError where JAX would wrap them. Ragged lists raise
    ValueError; text, None and objects raise TypeError; both say where. Works under jit, on traced values too; a
    jax.Array changes dtype as by `astype`.

    >>> tensor([[1, 2], [3, 4]])
    Array([[1, 2],
           [3, 4]], dtype=int32)
    >>> tensor(0.5).weak_type, tensor([1, 0], dtype=bool).dtype
    (False, dtype('bool'))
    >>> tensor([[1, 2], [3]])
    Traceback (most recent call last):
    ValueError: tensor: the data is ragged: data[1] has shape (1,) where data[0] has shape (2,); pad it, or keep a list
    """
    values = data if isinstance(data, jax.Array) else _read(data)
    if dtype is not None:
        dtype = resolve_dtype(dtype)
    elif jnp.issubdtype(values.dtype, jax.dtypes.extended):  # typed random keys
        dtype = values.dtype
    else:
        dtype = jax.dtypes.canonicalize_dtype(values.dtype.newbyteorder("="))
    if isinstance(values, jax.Array):
        return place(jnp.array(values, dtype=dtype), device)
    check_fit(values, dtype)
    with np.errstate(all="ignore"):  # a float too large for the dtype becomes inf, as everywhere
        private = np.array(values, dtype=dtype, order="C")
    # JAX on the CPU aliases a numpy buffer, or reads it later (jnp.array too): it is given one that nobody else holds.
    return jax.device_put(private, resolve_device(device))


def _read(data: Any) -> np.ndarray | jax.Array:
    """`data` as an array of numbers, unconverted; a jax.Array only where numpy cannot hold it (traced, on a GPU)."""
    if hasattr(data, "__dlpack__") and not isinstance(data, np.ndarray | np.generic):
        return _foreign(data)
    try:
        try:
            values = np.asarray(data)
        except jax.errors.JAXTypeError:  # a traced value among the data
            return jnp.array(data)
    except Exception as error:
        raise _fault(data) or TypeError(f"tensor cannot read the data: {error}") from error
    if not is_number(values.dtype):
        raise _fault(data) or TypeError(f"tensor takes numbers; got an array of dtype {values.dtype}")
    return values


def _foreign(x: Any) -> np.ndarray | jax.Array:
    """Another library's array through dlpack, not copied yet; torch's gradients stay behind."""
    x = x.detach() if hasattr(x, "detach") else x
    try:
        return np.from_dlpack(x)
    except Exception:  # a dtype that numpy lacks (bfloat16), or not on the CPU
        pass
    try:
        with jax.enable_x64(True):  # else JAX wraps 64-bit integers on the way in
            values = jnp.from_dlpack(x.contiguous() if hasattr(x, "contiguous") else x)
    except Exception as error:
        where = getattr(x, "device", "its device")
        raise TypeError(
            f"cannot read a {type(x).__module__}.{type(x).__name__} on {where} through dlpack: {error}\n"
            "Fix: pass a dense tensor on the CPU: x.cpu(), x.to_dense() or x.resolve_conj() in torch."
        ) from error
    on_cpu = all(device.platform == "cpu" for device in values.devices())
    return np.asarray(values) if on_cpu or values.dtype.itemsize == 8 else values


def _fault(data: Any, path: str = "data") -> Exception | None:
    """What is wrong with nested data, as an error that says where."""
    if not isinstance(data, list | tuple):
        return _leaf_fault(data, path)
    for i, item in enumerate(data):
        if fault := _fault(item, f"{path}[{i}]"):
            return fault
    shapes = [np.shape(item) for item in data]
    for i, shape in enumerate(shapes):
        if shape != shapes[0]:
            return ValueError(
                f"tensor: the data is ragged: {path}[{i}] has shape {shape} where {path}[0] has shape {shapes[0]}; "
                "pad it, or keep a list"
            )
    return None


def _leaf_fault(leaf: Any, path: str) -> Exception | None:
    try:
        dtype = leaf.dtype if isinstance(leaf, jax.Array) else np.asarray(leaf).dtype
    except Exception as error:  # a torch tensor that requires a gradient, for example
        return TypeError(f"tensor cannot read {path}, a {type(leaf).__name__}: {error}")
    if is_number(dtype):
        return None
    if isinstance(leaf, int):
        return OverflowError(f"tensor: {path} is {leaf}, which fits no integer dtype; write it as a float")
    if hasattr(leaf, "dtype"):
        return TypeError(f"tensor takes numbers; {path} is an array of dtype {dtype}")
    fix = ""
    if isinstance(leaf, dict):
        fix = "; for a tensor of each leaf: jax.tree.map(fnet.tensor, tree)"
    elif hasattr(leaf, "__iter__") and not isinstance(leaf, str | bytes):
        fix = "; write list(...) around it"
    return TypeError(f"tensor takes numbers; {path} is {type(leaf).__name__} {leaf!r:.60}{fix}")


def check_fit(values: np.ndarray, dtype: np.dtype) -> None:
    """Raise unless the values can become this dtype without being wrapped."""
    if jnp.issubdtype(values.dtype, np.complexfloating) and not jnp.issubdtype(dtype, np.complexfloating):
        raise TypeError(f"tensor: complex data does not fit {dtype}; pass data.real or abs(data)")
    if not jnp.issubdtype(dtype, np.integer) or np.can_cast(values.dtype, dtype) or not values.size:
        return
    if jnp.issubdtype(values.dtype, np.floating):
        values = np.trunc(values.astype(np.float64))  # bounds are compared exactly, NaN fits nowhere
    low, high = int(jnp.iinfo(dtype).min), int(jnp.iinfo(dtype).max)
    if values.min() >= low and values.max() <= high:
        return
    where = tuple(int(i) for i in np.argwhere(~((values >= low) & (values <= high)))[0])
    fix = "pass a wider dtype"
    if np.dtype(dtype).itemsize == 4:
        fix = 'turn on 64 bits (jax.config.update("jax_enable_x64", True)) or pass dtype=float'
    raise OverflowError(
        f"tensor: {values[where]}{f' at {list(where)}' if where else ''} does not fit {dtype}, {low} to {high}; {fix}"
    )


def from_numpy(x: np.ndarray, device: Device | None = None) -> jax.Array:
    """A copy of a numpy array; later changes to `x` do not reach it (PyTorch's shares memory). Dtypes as in `tensor`.

    >>> import numpy as np
    >>> from_numpy(np.arange(3.0)).dtype
    dtype('float32')
    """
    if not isinstance(x, np.ndarray | np.generic):
        raise TypeError(f"from_numpy takes a numpy array; got {type(x).__name__}: fnet.tensor takes other data")
    return tensor(x, device=device)


def to_numpy(x: Any) -> np.ndarray:
    """A writable copy in numpy, of the same shape and dtype (`np.asarray(x)` is a read-only view).

    >>> import jax.numpy as jnp
    >>> a = to_numpy(jnp.zeros(2)); a[0] = 7.0; a
    array([7., 0.], dtype=float32)
    """
    return np.array(x)


def from_torch(x: torch.Tensor, device: Device | None = None) -> jax.Array:
    """A copy of a torch tensor, bfloat16 included; gradients stay behind, as after `x.detach()`. Dtypes as in `tensor`.

    Never imports torch. For the weights of a whole torch model see `fnet.io.from_torch`.

    >>> import torch
    >>> from_torch(torch.ones(2, 3, dtype=torch.bfloat16)).dtype
    dtype(bfloat16)
    """
    if not hasattr(x, "__dlpack__"):
        hint = "fnet.io.from_torch reads a model's" if hasattr(x, "state_dict") else "fnet.tensor takes other data"
        raise TypeError(f"from_torch takes a torch tensor; got {type(x).__name__}: {hint}")
    # Off the CPU the copy runs later: wait, so that the caller may write into x at once.
    return jax.block_until_ready(tensor(x, device=device))


def to_torch(x: jax.Array) -> torch.Tensor:
    """A copy as a torch tensor of the same dtype, on the same device. Raises ImportError where torch is missing.

    >>> import jax.numpy as jnp
    >>> to_torch(jnp.ones((2, 3))).dtype
    torch.float32
    """
    try:
        import torch
    except ImportError as error:
        raise ImportError("to_torch needs PyTorch: pip install torch") from error
    if not isinstance(x, jax.Array):
        raise TypeError(f"to_torch takes a jax.Array; got {type(x).__name__}: write fnet.to_torch(fnet.tensor(x))")
    if not is_number(x.dtype):
        raise TypeError(f"torch has no {x.dtype}; for a random key pass jax.random.key_data(x)")
    if isinstance(x, jax.core.Tracer):
        raise TypeError("to_torch runs outside jit, grad and vmap: return the array from them first")
    if len(x.devices()) > 1:
        x = tensor(np.asarray(x))
    try:
        return torch.from_dlpack(jnp.array(x))  # torch becomes the only owner of this copy
    except (RuntimeError, BufferError, TypeError) as error:
        raise TypeError(f"torch cannot take an array of dtype {x.dtype} and shape {x.shape}: {error}") from error
