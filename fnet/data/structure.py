"""Nested samples: name the arrays inside dicts, lists and tuples, and stack samples into a batch of that structure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np


def map_leaves(fn: Callable[[str, Any], Any], tree: Any, name: str = "") -> Any:
    """Apply fn(dotted name, leaf) to every leaf of nested dicts, lists, tuples and NamedTuples, keeping the structure.

    >>> map_leaves(lambda name, leaf: f"{name}={leaf}", {"image": 1, "boxes": (2, 3)})
    {'image': 'image=1', 'boxes': ('boxes.0=2', 'boxes.1=3')}
    """
    if not is_container(tree):
        return fn(name, tree)
    return like(tree, [map_leaves(fn, child, join(name, key)) for key, child in entries(tree)])


def leaves(tree: Any) -> list[tuple[str, Any]]:
    """List (dotted name, leaf) of every leaf; a bare array has the name "".

    >>> leaves((1, {"a": 2}))
    [('0', 1), ('1.a', 2)]
    """
    found: list[tuple[str, Any]] = []
    map_leaves(lambda name, leaf: found.append((name, leaf)), tree)
    return found


def describe(name: str) -> str:
    """Name a leaf in an error message."""
    return f"array {name!r}" if name else "the array"


def collate(samples: Sequence[Any], indices: Sequence[int] | np.ndarray) -> Any:
    """Stack samples into one batch of newly allocated arrays with the structure of a sample.

    Arrays (and whatever numpy can read: PyTorch and JAX tensors, PIL images) keep their dtype and gain a first axis.
    Python numbers become what JAX computes with: bool, int32, float32. Text and bytes become object arrays. Dicts,
    lists, tuples and NamedTuples are structure, as in PyTorch, so variable-length data belongs in arrays.

    Args:
        samples: at least one sample; all have one structure, and equal shapes and dtypes leaf by leaf.
        indices: the number of each sample, for messages.

    Raises:
        ValueError: a sample differs in structure, shape or dtype from the first, or holds what no array can; the
            message says which sample.

    >>> collate([(np.zeros(2, np.uint8), 3), (np.ones(2, np.uint8), 4)], [7, 9])
    (array([[0, 0],
           [1, 1]], dtype=uint8), array([3, 4], dtype=int32))
    """
    return _stack(list(samples), indices, "")


def _stack(values: list[Any], indices: Sequence[int] | np.ndarray, name: str) -> Any:
    first = values[0]
    if not is_container(first):
        return _stack_leaf(values, indices, name)
    keys = [key for key, _ in entries(first)]
    mapping = isinstance(first, Mapping)
    for value, index in zip(values, indices, strict=True):
        if type(value) is not type(first) or (value.keys() != first.keys() if mapping else len(value) != len(keys)):
            raise ValueError(
                f"sample {index} has another structure than sample {indices[0]}{_at(name)}: {_outline(value)} where "
                f"that is {_outline(first)}. Lists, tuples and dicts are structure; return np.asarray(...) for an array"
            )
    columns = ([value[key] for value in values] for key in keys) if mapping else map(list, zip(*values, strict=True))
    return like(first, [_stack(column, indices, join(name, key)) for key, column in zip(keys, columns, strict=True)])


def _stack_leaf(values: list[Any], indices: Sequence[int] | np.ndarray, name: str) -> np.ndarray:
    if isinstance(values[0], (str, bytes)):
        texts = np.empty(len(values), object)  # numpy's own text types have a width, and its bytes lose final zeros
        texts[:] = values
        return texts
    first = as_leaf(values[0], indices[0], name)
    batch = np.empty((len(values), *first.shape), first.dtype)
    for row, value in enumerate(values):  # np.stack takes ten times as long over scalars
        array = value if type(value) is np.ndarray else as_leaf(value, indices[row], name)
        if array.shape != first.shape or array.dtype != first.dtype:
            raise ValueError(
                f"sample {indices[row]} is {signature(array)}{_at(name)}, where sample {indices[0]} of the same batch "
                f"is {signature(first)}. All samples of a dataset need the same shape and dtype: crop, pad or convert "
                "them in the dataset"
            )
        batch[row] = array
    return batch


def as_leaf(value: Any, index: int, name: str) -> np.ndarray:
    """Turn one leaf of a sample into an array; Python numbers become bool, int32 and float32."""
    if type(value) is float:
        return np.asarray(value, np.float32)
    if type(value) is int:
        if not -(2**31) <= value < 2**31:
            raise ValueError(
                f"sample {index} has the integer {value}{_at(name)}, which int32 cannot hold (Python integers become "
                "int32, JAX's default); return np.int64(value) to keep 64 bits"
            )
        return np.asarray(value, np.int32)
    try:
        array = np.asarray(value)
    except Exception as error:
        error.add_note(f"while sample {index}{_at(name)} was read as an array")
        raise
    if array.dtype == object and not isinstance(value, (np.ndarray, np.generic)):
        raise ValueError(
            f"sample {index} has a value of type {type(value).__name__}{_at(name)}, which cannot be batched; a sample "
            "is made of arrays, numbers and text in dicts, lists and tuples"
        )
    return array


def signature(array: np.ndarray) -> str:
    """Write dtype and shape as 'uint8[28, 28, 1]'."""
    return f"{array.dtype}{list(array.shape)}"


def is_container(tree: Any) -> bool:
    return isinstance(tree, (Mapping, list, tuple))


def is_namedtuple(tree: Any) -> bool:
    return isinstance(tree, tuple) and hasattr(tree, "_fields")


def entries(tree: Any) -> list[tuple[Any, Any]]:
    """List (key, child) of one container."""
    if isinstance(tree, Mapping):
        return list(tree.items())
    return list(zip(tree._fields, tree, strict=True)) if is_namedtuple(tree) else list(enumerate(tree))


def like(tree: Any, children: list[Any]) -> Any:
    """Rebuild a container of the same kind around new children: any mapping becomes a dict."""
    if isinstance(tree, Mapping):
        return dict(zip(tree, children, strict=True))
    if is_namedtuple(tree):
        return type(tree)(*children)
    return children if isinstance(tree, list) else tuple(children)


def join(name: str, key: Any) -> str:
    return f"{name}.{key}" if name else str(key)


def _outline(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"a dict with keys {sorted(map(str, value))}"
    if is_container(value):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"


def _at(name: str) -> str:
    return f" at {name!r}" if name else ""
