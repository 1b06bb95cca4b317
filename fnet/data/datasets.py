"""ArrayDataset: samples taken along the first axis of arrays, in memory or in files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .memmaps import by_reference, opened
from .reading import as_rows, check_index, check_indices
from .structure import describe, leaves, map_leaves, signature


class ArrayDataset:
    """Samples taken along the first axis of arrays: one array, several, or any nesting of dicts, lists and tuples.

    Sample i has the structure that was given, with each array's row i: `ArrayDataset(images, labels)[0]` is the tuple
    (image, label), `ArrayDataset({"image": images, "label": labels})[0]` a dict, `ArrayDataset(images)[0]` an array.

    Arrays keep their dtypes and are not copied. Memory maps stay on disk, and pickle as a reference to their file.
    PyTorch and JAX arrays on the CPU are read through numpy. A sample is a view: copy it before changing it.

    Args:
        arrays: arrays of shape (n, ...), all with the same n, or nested structures of them.
        classes: names of the classes, by label; kept as the attribute `classes`. With it, labels are checked: the last
            array of a tuple or list, or a dict's "label", where it is one of integers with one axis.

    Attributes:
        arrays: the arrays, in the structure of a sample.
        classes: tuple of names, or None.

    Raises:
        ValueError: there are no arrays, one has no first axis, or the first axes differ; the message names the array. A
            label is none of the classes; it names the sample.

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
        if self.classes is not None:
            _check_labels(self.arrays, len(self.classes))

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Any:
        i = check_index(index, self._length)
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
        rows = as_rows(indices)
        try:
            return map_leaves(lambda _, array: _take(array, rows), self.arrays)
        except IndexError:
            check_indices(rows, self._length)  # says which one
            raise

    @property
    def instant(self) -> bool:
        """Whether a batch is a copy in memory, not worth a thread; DataLoader asks."""
        return not any(isinstance(array, np.memmap) for _, array in leaves(self.arrays))

    def __repr__(self) -> str:
        sample = _outline(map_leaves(lambda _, array: f"{array.dtype}{list(array.shape[1:])}", self.arrays))
        return f"ArrayDataset({self._length} samples of {sample})"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "arrays": by_reference(self.arrays)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({**state, "arrays": opened(state["arrays"])})


def _as_rows(name: str, leaf: Any) -> np.ndarray:
    array = leaf if isinstance(leaf, np.memmap) else np.asarray(leaf)
    if array.ndim == 0:
        raise ValueError(
            f"{describe(name)} of an ArrayDataset has no first axis to sample from: it is a {type(leaf).__name__}. "
            "Lists and tuples are structure; pass np.asarray(...) for an array"
        )
    return array


def _check_labels(arrays: Any, classes: int) -> None:
    ordered = isinstance(arrays, (tuple, list))
    labels = arrays[-1] if ordered else arrays.get("label") if isinstance(arrays, dict) else None
    if not isinstance(labels, np.ndarray) or labels.ndim != 1 or labels.dtype.kind not in "iu":
        return
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if wrong.size:
        raise ValueError(
            f"sample {wrong[0]} has the label {labels[wrong[0]]}, but there are {classes} classes, 0 to {classes - 1} "
            f"({wrong.size} of {labels.size} labels are out of range)"
        )


def _take(array: np.ndarray, rows: np.ndarray) -> np.ndarray:
    if type(array) is not np.ndarray:
        array = np.asarray(array)  # a memory map is read as what it is
    # take() is the faster of the two, but copies the whole array first when it is not laid out row by row.
    flags = array.flags
    return array.take(rows, axis=0) if flags.c_contiguous and flags.aligned else array[rows]


def _outline(tree: Any) -> str:
    if isinstance(tree, dict):
        return "{" + ", ".join(f"{key}: {_outline(child)}" for key, child in tree.items()) + "}"
    if isinstance(tree, (list, tuple)):
        opening, closing = "[]" if isinstance(tree, list) else "()"
        return opening + ", ".join(map(_outline, tree)) + closing
    return str(tree)
