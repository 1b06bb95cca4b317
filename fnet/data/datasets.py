"""Datasets: anything with a length and samples by number, and the one made of arrays."""

from __future__ import annotations

import mmap
import operator
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from .structure import describe, leaves, map_leaves, signature


@runtime_checkable
class Dataset(Protocol):
    """What DataLoader reads: PyTorch's map-style protocol. Nothing needs to inherit from it.

    A dataset that also has `get_batch(indices)`, which takes an int64 array and returns the samples stacked in new
    arrays, is read with one call a batch, and not with one a sample.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


class ArrayDataset:
    """Samples taken along the first axis of arrays: one array, several, or any nesting of dicts, lists and tuples.

    Sample i has the structure that was given, with each array's row i: `ArrayDataset(images, labels)[0]` is the tuple
    (image, label), `ArrayDataset({"image": images, "label": labels})[0]` a dict, `ArrayDataset(images)[0]` an array.

    Arrays keep their dtypes and are not copied. Memory maps stay on disk, and pickle as a reference to their file.
    PyTorch and JAX arrays on the CPU are read through numpy. A sample is a view: copy it before changing it.

    Args:
        arrays: arrays of shape (n, ...), all with the same n, or nested structures of them.
        classes: names of the classes, by label; kept as the attribute `classes`.

    Attributes:
        arrays: the arrays, in the structure of a sample.
        classes: tuple of names, or None.

    Raises:
        ValueError: there are no arrays, one has no first axis, or the first axes differ; the message names the array.

    >>> dataset = ArrayDataset({"x": np.arange(6).reshape(3, 2), "y": np.array([0, 1, 0], np.int32)})
    >>> dataset
    ArrayDataset(3 samples of {x: int64[2], y: int32[]})
    >>> dataset[1]
    {'x': array([2, 3]), 'y': np.int32(1)}
    >>> dataset.get_batch([0, -1])
    {'x': array([[0, 1],
           [4, 5]]), 'y': array([0, 0], dtype=int32)}
    """

    def __init__(self, *arrays: Any, classes: Sequence[str] | None = None) -> None:
        self.arrays = map_leaves(_as_rows, arrays[0] if len(arrays) == 1 else arrays)
        self.classes = None if classes is None else tuple(classes)
        named = leaves(self.arrays)
        if not named:
            raise ValueError("ArrayDataset needs at least one array, as in ArrayDataset(images, labels)")
        first_name, first = named[0]
        for name, array in named:
            if len(array) != len(first):
                raise ValueError(
                    f"arrays of an ArrayDataset need the same number of rows, but {describe(name)} has {len(array)} "
                    f"(it is {signature(array)}) and {describe(first_name)} has {len(first)} (it is {signature(first)})"
                )
        self._length = len(first)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Any:
        try:
            i = operator.index(index)
        except TypeError:
            raise TypeError(
                f"a sample's index is one integer, got {index!r}; for many samples use get_batch(indices)"
            ) from None
        if not -self._length <= i < self._length:
            raise IndexError(f"sample {i} of a dataset with {self._length} samples")
        return map_leaves(lambda _, array: array[i], self.arrays)

    def get_batch(self, indices: Sequence[int] | np.ndarray) -> Any:
        """Stack the samples at these indices, with one read an array.

        Args:
            indices: 1-d integers, each -n <= i < n; repeats are fine.

        Returns:
            newly allocated arrays of shape (len(indices), ...), in the structure of a sample.

        Raises:
            IndexError: an index is outside the dataset.
            TypeError: the indices are not a list of integers (a boolean mask is not: use np.flatnonzero(mask)).
        """
        rows = np.asarray(indices)
        if rows.size == 0:
            rows = rows.astype(np.intp)  # an empty list has the dtype float64
        if rows.ndim != 1 or rows.dtype.kind not in "iu":
            raise TypeError(
                f"get_batch takes a 1-d array of integers, got {signature(rows)}"
                + ("; use np.flatnonzero(mask)" if rows.dtype == bool else "")
            )
        if rows.size and (rows.min() < -self._length or rows.max() >= self._length):
            wrong = rows[(rows < -self._length) | (rows >= self._length)][0]
            raise IndexError(f"sample {wrong} of a dataset with {self._length} samples")
        return map_leaves(lambda _, array: _take(array, rows), self.arrays)

    def __repr__(self) -> str:
        sample = _outline(map_leaves(lambda _, array: f"{array.dtype}{list(array.shape[1:])}", self.arrays))
        return f"ArrayDataset({self._length} samples of {sample})"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "arrays": map_leaves(lambda _, array: _MemmapReference.of(array), self.arrays)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.arrays = map_leaves(lambda _, a: a.open() if isinstance(a, _MemmapReference) else a, self.arrays)


def _as_rows(name: str, leaf: Any) -> np.ndarray:
    array = leaf if isinstance(leaf, np.memmap) else np.asarray(leaf)
    if array.ndim == 0:
        raise ValueError(
            f"{describe(name)} of an ArrayDataset has no first axis to sample from: it is a {type(leaf).__name__}. "
            "Lists and tuples are structure; pass np.asarray(...) for an array"
        )
    return array


def _take(array: np.ndarray, rows: np.ndarray) -> np.ndarray:
    array = np.asarray(array)  # a memory map is read as what it is
    # take() is the faster of the two, but copies the whole array first when it is not laid out row by row.
    return array.take(rows, axis=0) if array.flags.c_contiguous and array.flags.aligned else array[rows]


def _outline(tree: Any) -> str:
    if isinstance(tree, dict):
        return "{" + ", ".join(f"{key}: {_outline(child)}" for key, child in tree.items()) + "}"
    if isinstance(tree, (list, tuple)):
        opening, closing = "[]" if isinstance(tree, list) else "()"
        return opening + ", ".join(map(_outline, tree)) + closing
    return str(tree)


class _MemmapReference:
    """Where a memory map lies in its file: numpy alone would pickle the whole contents."""

    def __init__(self, path: str, dtype: np.dtype, offset: int, shape: tuple[int, ...]) -> None:
        self.path, self.dtype, self.offset, self.shape = path, dtype, offset, shape

    @classmethod
    def of(cls, array: np.ndarray) -> np.ndarray | _MemmapReference:
        """Refer to a row-by-row memory map of a named file; any other array is returned as it is."""
        if not isinstance(array, np.memmap) or not array.filename or array.mode == "c" or not array.flags.c_contiguous:
            return array
        buffer: Any = array
        while isinstance(buffer, np.ndarray):
            buffer = buffer.base
        if not isinstance(buffer, mmap.mmap):
            return array
        # A slice of a map keeps its parent's `offset`, so the distance comes from the addresses. A map begins at a
        # multiple of the allocation granularity, at or before the offset.
        start = np.frombuffer(buffer, np.uint8).ctypes.data
        begins = array.offset - array.offset % mmap.ALLOCATIONGRANULARITY
        return cls(str(array.filename), array.dtype, begins + array.ctypes.data - start, array.shape)

    def open(self) -> np.memmap:
        return np.memmap(self.path, self.dtype, "r", self.offset, self.shape)
