"""Datasets made of datasets, without copying: a part, one after another, side by side, what passes a test."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from .orders import Shuffle
from .reading import Reader, check_dataset, check_index, check_indices
from .rng import Rng, Rngs
from .structure import entries, is_container, leaves, like


class View:
    """What datasets made of others share: they read a batch in one call, and at random, if all of their parts do."""

    def __init__(self, *parts: Any) -> None:
        for part in parts:
            check_dataset(part, type(self).__name__)
        self._parts = [Reader.of(part) for part in parts]
        self.vectorised = all(part.vectorised for part in self._parts)
        self.random = any(part.random for part in self._parts)
        self.instant = all(part.instant for part in self._parts)

    def __len__(self) -> int:
        return len(self._parts[0].dataset)  # unless a subclass selects or joins

    def __getitem__(self, index: int) -> Any:
        return self.get(index, None)

    @property
    def classes(self) -> Any:
        """The names of the classes by label, where all parts have the same ones; else None."""
        names, *others = [getattr(part.dataset, "classes", None) for part in self._parts]
        return names if all(other == names for other in others) else None

    def get(self, index: int, rng: Rng | None) -> Any:
        """Read sample `index`, at random where a part is."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} samples of {', '.join(_name(p.dataset) for p in self._parts)})"


class Subset(View):
    """The samples of a dataset that have these numbers, in their order; repeats are fine.

    Args:
        dataset: the dataset.
        indices: 1-d integers, each -n <= i < n.

    Raises:
        IndexError: an index is outside the dataset.

    >>> Subset(range(10), [7, 1])[0]
    7
    """

    def __init__(self, dataset: Any, indices: Sequence[int] | np.ndarray) -> None:
        super().__init__(dataset)
        self.dataset, self.indices = dataset, check_indices(indices, len(dataset))

    def __len__(self) -> int:
        return len(self.indices)

    def get(self, index: int, rng: Rng | None) -> Any:
        return self._parts[0].sample(int(self.indices[check_index(index, len(self))]), rng)

    def get_batch(self, indices: Any, rng: Rngs | None = None) -> Any:
        return self._parts[0].batch(self.indices[check_indices(indices, len(self))], rng)


class Concat(View):
    """Datasets one after another; their samples have one structure.

    >>> both = Concat(range(3), range(10, 12))
    >>> len(both), both[3]
    (5, 10)
    """

    def __init__(self, *datasets: Any) -> None:
        if not datasets:
            raise ValueError("Concat needs at least one dataset")
        super().__init__(*datasets)
        self.datasets = datasets
        self._ends = np.cumsum([len(dataset) for dataset in datasets])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def _locate(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        which = np.searchsorted(self._ends, rows, side="right")
        return which, rows - np.concatenate([[0], self._ends])[which]

    def get(self, index: int, rng: Rng | None) -> Any:
        which, row = self._locate(np.array([check_index(index, len(self))]))
        return self._parts[which[0]].sample(int(row[0]), rng)

    def get_batch(self, indices: Any, rng: Rngs | None = None) -> Any:
        which, rows = self._locate(check_indices(indices, len(self)))
        batches, places = [], []
        for number in np.unique(which):
            place = np.flatnonzero(which == number)
            streams = None if rng is None else rng.rows(place)
            batches.append(self._parts[number].batch(rows[place], streams))
            if rng is not None and streams is not None:
                rng.put(place, streams)
            places.append(place)
        return _interleave(batches, np.argsort(np.concatenate(places or [which])))


class Zip(View):
    """Datasets of equal length side by side: sample i is the tuple of their samples i.

    >>> Zip(range(3), ["a", "b", "c"])[1]
    (1, 'b')
    """

    classes = None  # a sample is a tuple of samples

    def __init__(self, *datasets: Any) -> None:
        if not datasets:
            raise ValueError("Zip needs at least one dataset")
        super().__init__(*datasets)
        lengths = [len(dataset) for dataset in datasets]
        if len(set(lengths)) > 1:
            raise ValueError(f"Zip needs datasets of equal length, got {lengths}; take a Subset of the longer ones")
        self.datasets = datasets

    def get(self, index: int, rng: Rng | None) -> Any:
        index = check_index(index, len(self))
        return tuple(part.sample(index, rng) for part in self._parts)

    def get_batch(self, indices: Any, rng: Rngs | None = None) -> Any:
        rows = check_indices(indices, len(self))
        return tuple(part.batch(rows, rng) for part in self._parts)


class Filter(Subset):
    """The samples for which a test is true; all are read once, here, and their numbers kept as `indices`.

    Args:
        dataset: the dataset; where it is random, samples are tested as `dataset[i]` gives them.
        test: sample -> bool.
        progress: show a bar meanwhile.

    Raises:
        ValueError: no sample passes.

    >>> Filter(range(10), lambda number: number % 3 == 0, progress=False).indices
    array([0, 3, 6, 9])
    """

    def __init__(self, dataset: Any, test: Callable[[Any], bool], *, progress: bool = True) -> None:
        length = check_dataset(dataset, "Filter")
        numbers: Any = range(length)
        if progress:
            from tqdm.auto import tqdm

            numbers = tqdm(numbers, desc="filter", unit="sample", delay=1.0)
        passed = []
        for i in numbers:
            try:
                if test(dataset[i]):
                    passed.append(i)
            except Exception as error:
                error.add_note(f"in sample {i} of {type(dataset).__name__}, while Filter tested it")
                raise
        if not passed:
            raise ValueError(f"Filter: none of the {length} samples of {_name(dataset)} passes the test")
        super().__init__(dataset, passed)


def random_split(dataset: Any, sizes: Sequence[int | float], seed: int = 0) -> list[Subset]:
    """Divide a dataset at random into parts without overlap.

    Args:
        dataset: the dataset.
        sizes: of the parts: integers whose sum is the length, or fractions whose sum is 1. Fractions are rounded down,
            and what is left goes to the parts one by one from the first, as in PyTorch.
        seed: equal seeds give equal parts on every machine.

    Raises:
        TypeError, ValueError: the sizes are no list of numbers or do not add up, or a part would be empty.

    >>> train, test = random_split(range(10), [0.8, 0.2], seed=1)
    >>> len(train), sorted([*train, *test]) == list(range(10))
    (8, True)
    """
    n = check_dataset(dataset, "random_split")
    if isinstance(sizes, (int, float)):
        raise TypeError(f"random_split takes the sizes of all parts, as [0.8, 0.2] or [{n - 1}, 1]; got {sizes!r}")
    counts: list[Any] = list(sizes)
    if all(isinstance(size, float) for size in counts) and math.isclose(sum(counts), 1.0):
        counts = [math.floor(n * size) for size in counts]
        for k in range(n - sum(counts)):
            counts[k % len(counts)] += 1
    elif not all(isinstance(size, (int, np.integer)) for size in counts) or sum(counts) != n:
        raise ValueError(f"random_split: sizes must add up to {n} samples, or be floats that add up to 1; got {sizes}")
    if min(counts) < 1:
        raise ValueError(f"random_split: a part is empty: {n} samples in parts of {counts}")
    order = Shuffle(n, seed)(0, np.arange(n))
    return [Subset(dataset, part) for part in np.split(order, np.cumsum(counts)[:-1])]


def k_fold(dataset: Any, k: int, seed: int = 0) -> Iterator[tuple[Subset, Subset]]:
    """Give k pairs (training part, held-out part): each sample is held out once, in parts as equal as can be.

    >>> for train, held_out in k_fold(range(5), 2):
    ...     print(list(train), list(held_out))
    [4, 2] [3, 1, 0]
    [3, 1, 0] [4, 2]
    """
    n = check_dataset(dataset, "k_fold")
    if not 2 <= k <= n:
        raise ValueError(f"k_fold: k must be between 2 and the number of samples, {n}; got {k}")
    parts = np.array_split(Shuffle(n, seed)(0, np.arange(n)), k)
    return (
        (Subset(dataset, np.concatenate([*parts[:i], *parts[i + 1 :]])), Subset(dataset, part))
        for i, part in enumerate(parts)
    )


def _interleave(batches: list[Any], order: np.ndarray) -> Any:
    """Concatenate batches leaf by leaf, and put their rows in order."""
    if not is_container(batches[0]):
        names = {(leaf.dtype, leaf.shape[1:]) for leaf in batches}
        if len(names) > 1:
            kinds = " and ".join(sorted(f"{dtype}{list(shape)}" for dtype, shape in names))
            raise ValueError(f"Concat: samples of different datasets are unlike, {kinds}; convert them in the datasets")
        return np.concatenate(batches)[order]
    if len({tuple(name for name, _ in leaves(batch)) for batch in batches}) > 1:
        raise ValueError(f"Concat: samples of different datasets differ in structure: {[leaves(b) for b in batches]}")
    columns = [[child for _, child in entries(batch)] for batch in batches]
    return like(batches[0], [_interleave(list(column), order) for column in zip(*columns, strict=True)])


def _name(dataset: Any) -> str:
    text = repr(dataset)
    return text if len(text) <= 60 else type(dataset).__name__
