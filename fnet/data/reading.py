"""How a dataset is read: one sample or one batch a call, with random numbers of its own or without."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from .rng import Rng, Rngs
from .structure import collate, describe, leaves, map_leaves, signature


@runtime_checkable
class Dataset(Protocol):
    """What DataLoader reads: PyTorch's map-style protocol. Nothing needs to inherit from it.

    Two methods may be there as well, and are used when they are:

    - `get_batch(indices)` takes an int64 array and returns the samples stacked in new arrays, so that a batch costs one
      call. With a second parameter named `rng` it is random, and gets the `Rngs` of the samples.
    - `get(i, rng)` returns a random sample; `rng` is an `Rng` that depends on (seed, epoch, i) and on nothing else.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


@dataclass(frozen=True)
class Reader:
    """A dataset with what was found out about it: ask once, read often.

    Attributes:
        vectorised: a batch is one call of get_batch; else it is collated from samples.
        random: samples take random numbers.
        instant: a batch is cheaper than handing it from one thread to another.

    >>> reader = Reader.of([10, 11, 12])
    >>> reader.vectorised, reader.random, reader.sample(2)
    (False, False, 12)
    """

    dataset: Any
    vectorised: bool
    random: bool
    instant: bool
    has_get: bool
    batch_takes_rng: bool

    @classmethod
    def of(cls, dataset: Any) -> Reader:
        get_batch = getattr(dataset, "get_batch", None)
        takes_rng = get_batch is not None and "rng" in _parameters(get_batch)
        has_get = _is_random_read(dataset)
        # A view of another dataset has both methods always, and says by attributes whether they would do anything.
        # Anything else may have attributes of these names too, which mean nothing where the methods are not there.
        vectorised = get_batch is not None and bool(getattr(dataset, "vectorised", takes_rng or not has_get))
        random = (has_get or takes_rng) and bool(getattr(dataset, "random", True))
        return cls(dataset, vectorised, random, vectorised and getattr(dataset, "instant", False), has_get, takes_rng)

    def sample(self, index: int, rng: Rng | None = None) -> Any:
        """Read one sample."""
        if not self.random or rng is None:
            return self.dataset[index]
        return self.dataset.get(index, rng) if self.has_get else self.of_one(index, rng, self.batch)

    @staticmethod
    def of_one(index: int, rng: Rng | None, get_batch: Callable[[np.ndarray, Rngs | None], Any]) -> Any:
        """Read one sample as a batch of one, with the same random numbers."""
        rngs = None
        if rng is not None:
            rngs = Rngs.__new__(Rngs)
            rngs.keys, rngs.counts = np.array([rng.key], np.uint64), np.array([rng.count], np.uint64)
        batch = get_batch(np.array([index]), rngs)
        if rng is not None and rngs is not None:
            rng.count = int(rngs.counts[0])
        return map_leaves(lambda _, leaf: leaf[0], batch)

    def batch(self, indices: np.ndarray, rngs: Rngs | None = None) -> Any:
        """Read a batch with get_batch; only for what is vectorised."""
        return self.dataset.get_batch(indices, rngs) if self.batch_takes_rng else self.dataset.get_batch(indices)

    def fresh_batch(self, indices: np.ndarray, rngs: Rngs | None = None) -> Any:
        """Read a batch that shares memory with nothing: JAX on the CPU goes on using the memory that it is given."""
        return map_leaves(lambda name, leaf: _fresh(name, leaf, len(indices)), self.batch(indices, rngs))


def collated(samples: list[Any], indices: np.ndarray | Sequence[int], custom: Any) -> Any:
    """Stack samples with the caller's function, or with `collate`."""
    if custom is None:
        return collate(samples, indices)
    batch = custom(samples)
    if not leaves(batch):
        raise ValueError(f"the collate function gave a batch without any array: {batch!r}")
    return batch


def check_index(index: Any, n: int) -> int:
    """Return a sample's number as 0 <= int < n, counting from the end if it is negative."""
    try:
        i = operator.index(index)
    except TypeError:
        raise TypeError(
            f"a sample's index is one integer, got {index!r}; for many samples use get_batch(indices)"
        ) from None
    if not -n <= i < n:
        raise IndexError(f"sample {i} of a dataset with {n} samples")
    return i % n


def check_indices(indices: Any, n: int) -> np.ndarray:
    """Return the numbers of samples as a 1-d int64 array of 0 <= i < n, counting from the end where negative."""
    rows = as_rows(indices)
    wrong = (rows < -n) | (rows >= n)
    if wrong.any():
        raise IndexError(f"sample {rows[wrong][0]} of a dataset with {n} samples")
    return np.where(rows < 0, rows + n, rows).astype(np.int64)


def as_rows(indices: Any) -> np.ndarray:
    """Read the numbers of samples as a 1-d array of integers, whatever their range."""
    rows = np.asarray(indices)
    if rows.size == 0:
        rows = rows.astype(np.intp)  # an empty list has the dtype float64
    if rows.ndim != 1 or rows.dtype.kind not in "iu":
        raise TypeError(
            f"get_batch takes a 1-d array of integers, got {signature(rows)}"
            + ("; use np.flatnonzero(mask)" if rows.dtype == bool else "")
        )
    return rows


def check_dataset(dataset: Any, who: str) -> int:
    """Return the length of a dataset, or say why the value is none."""
    if isinstance(dataset, (tuple, dict)):
        raise TypeError(
            f"{who} got a {type(dataset).__name__}, which could be arrays or samples: wrap arrays in "
            "fnet.data.ArrayDataset(images, labels), or put samples in a list"
        )
    if not isinstance(dataset, Dataset):
        raise TypeError(
            f"{who} needs a dataset with __len__ and __getitem__(i), but {type(dataset).__name__} lacks one; samples "
            "from an iterator can be put in a list first, or read in their order with fnet.data.StreamLoader"
        )
    return len(dataset)


def _fresh(name: str, leaf: Any, rows: int) -> np.ndarray:
    array = np.asarray(leaf)
    if array.shape[:1] != (rows,):
        raise ValueError(f"get_batch was asked for {rows} samples, but {describe(name)} it gave is {signature(array)}")
    flags = array.flags
    return array if flags.owndata and flags.writeable else array.copy()


def _is_random_read(dataset: Any) -> bool:
    """Whether there is a `get` of two arguments, and not one like a dict's, where the second has a default."""
    get = getattr(dataset, "get", None)
    if not callable(get) or isinstance(dataset, Mapping):
        return False
    required = [p for p in _parameters(get).values() if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
    return len(required) == 2


def _parameters(function: Any) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):  # written in C, without a word about its parameters
        return {}
