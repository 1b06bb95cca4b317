"""Nested samples: name the arrays inside dicts, lists and tuples, and stack samples into a batch of that structure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any

import numpy as np

_PADDING = "; for sequences of different lengths give the loader collate=fnet.data.PadTo([64, 128])"
_SHAPE, _DTYPE = attrgetter("shape"), attrgetter("dtype")


def map_leaves(fn: Callable[[str, Any], Any], tree: Any, name: str = "") -> Any:
    """Apply fn(dotted name, leaf) to every leaf of nested dicts, lists, tuples and NamedTuples, keeping the structure.

    >>> map_leaves(lambda name, leaf: f"{name}={leaf}", {"image": 1, "boxes": (2, 3)})
    {'image': 'image=1', 'boxes': ('boxes.0=2', 'boxes.1=3')}
    """
    if not is_container(tree):
        return fn(name, tree)
    if type(tree) is tuple:  # the most frequent, and this runs for each batch
        return tuple([map_leaves(fn, child, f"{name}.{key}" if name else str(key)) for key, child in enumerate(tree)])
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


def collate(samples: Sequence[Any], indices: Sequence[int] | np.ndarray | None = None) -> Any:
    """Stack samples into one batch of newly allocated arrays with the structure of a sample.

    Arrays (and whatever numpy can read: PyTorch and JAX tensors, PIL images) keep their dtype and gain a first axis.
    Python numbers become what JAX computes with: bool, int32, float32. Text and bytes become object arrays. Dicts,
    lists, tuples and NamedTuples are structure, as in PyTorch, so variable-length data belongs in arrays.

    Args:
        samples: at least one sample; all have one structure, and equal shapes and dtypes leaf by leaf.
        indices: the number of each sample, for messages; None counts from 0.

    Raises:
        ValueError: a sample differs in structure, shape or dtype from the first, or holds what no array can; the
            message says which sample.

    >>> collate([(np.zeros(2, np.uint8), 3), (np.ones(2, np.uint8), 4)])
    (array([[0, 0],
           [1, 1]], dtype=uint8), array([3, 4], dtype=int32))
    """
    return _stack(list(samples), range(len(samples)) if indices is None else indices, "")


def _stack(values: list[Any], indices: Sequence[int] | np.ndarray, name: str) -> Any:
    first = values[0]
    if not is_container(first):
        return _stack_leaf(values, indices, name)
    keys = [key for key, _ in entries(first)]
    mapping = isinstance(first, Mapping)
    if mapping or set(map(type, values)) != {type(first)} or set(map(len, values)) != {len(keys)}:
        for value, index in zip(values, indices, strict=True):
            if type(value) is not type(first) or (value.keys() != first.keys() if mapping else len(value) != len(keys)):
                raise ValueError(
                    f"sample {index} has another structure than sample {indices[0]}{_at(name)}: {_outline(value)} "
                    f"where that is {_outline(first)}. Lists, tuples and dicts are structure; return np.asarray(...) "
                    f"for an array{'' if mapping else _PADDING}"
                )
    columns = ([value[key] for value in values] for key in keys) if mapping else map(list, zip(*values, strict=True))
    return like(first, [_stack(column, indices, join(name, key)) for key, column in zip(keys, columns, strict=True)])


def _stack_leaf(values: list[Any], indices: Sequence[int] | np.ndarray, name: str) -> np.ndarray:
    if isinstance(values[0], (str, bytes)):
        for value, index in zip(values, indices, strict=True):
            if type(value) is not type(values[0]):
                raise ValueError(
                    f"sample {index} is {_outline(value)}{_at(name)}, where sample {indices[0]} of the same batch is "
                    f"{_outline(values[0])}"
                )
        texts = np.empty(len(values), object)  # numpy's own text types have a width, and its bytes lose final zeros
        texts[:] = values
        return texts
    first = as_leaf(values[0], indices[0], name)
    alike = _stack_alike(values, first)
    if alike is not None:
        return alike
    batch = np.empty((len(values), *first.shape), first.dtype)
    for row, value in enumerate(values):  # np.stack takes ten times as long over scalars
        array = value if type(value) is np.ndarray else as_leaf(value, indices[row], name)
        if array.shape != first.shape or array.dtype != first.dtype:
            raise ValueError(
                f"sample {indices[row]} is {signature(array)}{_at(name)}, where sample {indices[0]} of the same batch "
                f"is {signature(first)}. All samples of a dataset need the same shape and dtype: crop, pad or convert "
                f"them in the dataset{_PADDING if array.shape[1:] == first.shape[1:] and first.ndim else ''}"
            )
        batch[row] = array
    return batch


def _stack_alike(values: list[Any], first: np.ndarray) -> np.ndarray | None:
    """Stack what is alike in every way with one call of numpy a batch and not one a sample; None if it is not."""
    kinds = set(map(type, values))
    if kinds == {np.ndarray} and first.ndim > 0:
        if set(map(_SHAPE, values)) == {first.shape} and set(map(_DTYPE, values)) == {first.dtype}:
            batch = np.empty((len(values), *first.shape), first.dtype)
            np.concatenate(values, out=batch.reshape(len(values) * first.shape[0], *first.shape[1:]))
            return batch
    elif kinds == {int}:
        numbers = np.array(values)
        if numbers.dtype == np.int64 and -(2**31) <= numbers.min() and numbers.max() < 2**31:
            return numbers.astype(np.int32)
    elif kinds in ({float}, {bool}) or (len(kinds) == 1 and issubclass(kinds.pop(), (np.number, np.bool_))):
        return np.array(values, first.dtype)
    return None


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


def outline(sample: Any, index: int) -> str:
    """Write structure, shapes and dtypes of a sample in one line; two samples can be batched if theirs are equal.

    >>> outline((np.zeros((2, 3), np.uint8), {"label": 5}), 0)
    '(uint8[2, 3], {label: int32[]})'
    """

    def write(tree: Any, name: str) -> str:
        if isinstance(tree, Mapping):
            return "{" + ", ".join(f"{key}: {write(tree[key], join(name, key))}" for key in sorted(tree, key=str)) + "}"
        if is_container(tree):
            inside = ", ".join(write(child, join(name, key)) for key, child in entries(tree))
            return f"[{inside}]" if isinstance(tree, list) else f"({inside})"
        return type(tree).__name__ if isinstance(tree, (str, bytes)) else signature(as_leaf(tree, index, name))

    return write(sample, "")


def is_container(tree: Any) -> bool:
    if type(tree) is np.ndarray:  # most leaves are, and asking whether something is a Mapping takes long
        return False
    return isinstance(tree, (list, tuple, Mapping))


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


def fix(frozen: Any, /, **values: Any) -> None:
    """Set fields of a frozen dataclass while it is being made."""
    for name, value in values.items():
        object.__setattr__(frozen, name, value)
