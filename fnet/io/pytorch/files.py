"""PyTorch's files as numpy arrays, without PyTorch, and without running what is in them.

A ``.pth`` file is a zip archive of raw storages and one pickle that says how tensors lie in them. A pickle may name
any function for the reader to call. Here the names that rebuild tensors are answered by stand-ins of this file; any
other name ends the reading. Format: torch/csrc/jit/serialization and torch/serialization.py of PyTorch 1.6 to 2.13.
"""

from __future__ import annotations

import os
import pickle
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

from fnet.io.safetensors import FileError

# The dtype of a typed storage, and of torch.<name>.
STORAGES = {
    "FloatStorage": "float32", "DoubleStorage": "float64", "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8",
    "ByteStorage": "uint8", "BoolStorage": "bool", "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128", "UntypedStorage": "uint8",
}  # fmt: skip
DTYPES = {*STORAGES.values(), "uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2"}


def read_torch(path: str | os.PathLike[str]) -> Any:
    """What ``torch.save`` wrote, with each tensor as a numpy array; no PyTorch is needed and no code is run.

    Tensors, dicts, lists, tuples, numbers and strings are read: a ``state_dict``, or a checkpoint that holds one among
    other things. 16-bit and 8-bit floats have the dtypes of ml_dtypes. Raises FileError for a file that is damaged or
    of PyTorch before 1.6, and for one that asks for anything else, such as a whole model: save ``model.state_dict()``.

    >>> read_torch("weights.pth")  # doctest: +SKIP
    OrderedDict([('fc.weight', array([[...]], dtype=float32)), ('fc.bias', array([...], dtype=float32))])
    """
    path = os.fspath(path)
    with open(path, "rb") as file:
        start = file.read(4)
        if start != b"PK\x03\x04":
            old = "it is of PyTorch before 1.6; load it with torch and save it again"
            why = old if start[:1] == b"\x80" else "it is no zip archive"
            if path.endswith(".index.json"):
                why = "it is the index of files, which io.from_torch(model, path, x) reads; each of them is one"
            raise FileError(f"{path}: not a file of torch.save: {why}")
        try:
            with zipfile.ZipFile(file) as archive:
                return _read(archive, path)
        except FileError:
            raise
        except Exception as error:  # whatever a damaged archive or pickle makes of itself
            raise FileError(f"{path}: damaged, or not a file of torch.save: {type(error).__name__}: {error}") from error


def _read(archive: zipfile.ZipFile, path: str) -> Any:
    members = {info.filename: info for info in archive.infolist()}
    pickles = [name for name in members if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1:
        raise FileError(f"{path}: not a file of torch.save: it has {len(pickles)} members data.pkl, expected one")
    root = pickles[0].removesuffix("data.pkl")
    if any(info.compress_type != zipfile.ZIP_STORED for info in members.values()):
        raise FileError(f"{path}: not a file of torch.save: members are compressed, which torch.save never does")
    order = archive.read(f"{root}byteorder").decode() if f"{root}byteorder" in members else "little"
    swap = order != sys.byteorder
    kept: dict[tuple[str, str], np.ndarray] = {}

    def storage(key: str, dtype: str) -> np.ndarray:
        if (key, dtype) not in kept:
            raw = np.frombuffer(archive.read(f"{root}data/{key}"), np.uint8)
            kept[key, dtype] = (_swapped(raw, numpy_dtype(dtype)) if swap else raw).view(numpy_dtype(dtype))
        return kept[key, dtype]

    with archive.open(pickles[0]) as file:
        return _Unpickler(file, storage, path).load()


def _swapped(raw: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The bytes of the numbers of a machine with the other byte order, in this one's."""
    size = dtype.itemsize // (2 if dtype.kind == "c" else 1)
    return np.ascontiguousarray(raw.reshape(-1, size)[:, ::-1]).ravel()


class _Unpickler(pickle.Unpickler):
    """A pickle reader to whom a file can name nothing but what rebuilds tensors."""

    def __init__(self, file: Any, storage: Callable[[str, str], np.ndarray], path: str):
        super().__init__(file, encoding="utf-8")
        self._storage, self._path = storage, path

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch._utils" and name in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3"):
            return _rebuild_tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return _rebuild_parameter
        if (module, name) == ("torch", "Size"):
            return _size
        if module in ("torch", "torch.storage") and name in STORAGES:
            return STORAGES[name]
        if module == "torch" and name in DTYPES:
            return name
        raise FileError(
            f"{self._path}: the file asks for {module}.{name}, which does not rebuild tensors, and fnet runs no code "
            "out of files. Save the weights alone: torch.save(model.state_dict(), path)"
        )

    def persistent_load(self, pid: Any) -> np.ndarray:
        kind, dtype, key, _, count = pid
        if kind != "storage" or not isinstance(key, str) or not isinstance(dtype, str):
            raise FileError(f"{self._path}: the file refers to {kind!r}, expected a storage")
        values = self._storage(key, dtype)
        if len(values) < count:
            raise FileError(f"{self._path}: storage {key!r} has {len(values)} elements, the file says {count}")
        return values


def _rebuild_tensor(storage: np.ndarray, offset: int, size: Any, stride: Any, *rest: Any) -> np.ndarray:
    if len(rest) >= 3 and isinstance(rest[2], str):  # _rebuild_tensor_v3: bytes and a dtype of their own
        storage = storage.view(np.uint8).view(numpy_dtype(rest[2]))
    size, stride = tuple(map(int, size)), tuple(map(int, stride))
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if 0 not in size else offset - 1
    if min((offset, *size, *stride)) < 0 or last >= len(storage) or len(size) > 64:
        raise ValueError(f"a tensor of size {size} and stride {stride} at {offset} leaves its {len(storage)} elements")
    if 0 in size:
        return np.zeros(size, storage.dtype)
    step = storage.dtype.itemsize
    strides = tuple(s * step for s in stride)
    view: np.ndarray = np.ndarray(size, storage.dtype, storage.view(np.uint8), offset * step, strides)
    return view.copy() if view.size <= len(storage) else view  # expanded: a copy would be larger than the file


def _rebuild_parameter(data: np.ndarray, *rest: Any) -> np.ndarray:
    return data


def _size(sizes: Any = ()) -> tuple[int, ...]:
    return tuple(sizes)


def numpy_dtype(name: str) -> np.dtype:
    """The dtype of torch's name for it."""
    return np.dtype(getattr(ml_dtypes, name, name))
