"""Memory maps that pickle as a reference to their file: numpy alone would pickle the whole contents."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np

from .structure import map_leaves


def by_reference(tree: Any) -> Any:
    """Replace the memory maps in nested arrays by references to their files.

    >>> by_reference({"x": np.arange(2)})
    {'x': array([0, 1])}
    """
    return map_leaves(lambda _, array: _Reference.of(array), tree)


def opened(tree: Any) -> Any:
    """Undo `by_reference`, read-only.

    >>> opened({"x": np.arange(2)})
    {'x': array([0, 1])}
    """
    return map_leaves(lambda _, leaf: leaf.open() if isinstance(leaf, _Reference) else leaf, tree)


class _Reference:
    """Where a memory map lies in its file: numpy alone would pickle the whole contents."""

    def __init__(self, path: str, dtype: np.dtype, offset: int, shape: tuple[int, ...]) -> None:
        self.path, self.dtype, self.offset, self.shape = path, dtype, offset, shape

    @classmethod
    def of(cls, array: np.ndarray) -> np.ndarray | _Reference:
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
