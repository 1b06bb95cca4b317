"""Orders with a purpose: by weight, by class, from several sources, in blocks, by length.

Each is a pure function of (epoch, positions), as those in orders.py are, and is given to DataLoader as `order=`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .orders import Shuffle, check_length, check_positions, check_seed, hash64
from .structure import fix

_UNIT = 2.0**-53


@dataclass(frozen=True)
class BlockShuffle:
    """Blocks of neighbours in a random order, and each shuffled within: random enough, and kind to a slow disk.

    Takes no memory. The last block, if it is shorter than the others, always comes last.

    Args:
        n: number of samples, 1 to 2**63.
        block: samples in a block.
        seed: 0 to 2**64 - 1.

    >>> BlockShuffle(9, block=3)(0, np.arange(9)).tolist()
    [1, 0, 2, 4, 3, 5, 8, 7, 6]
    """

    n: int
    block: int
    seed: int = 0

    def __post_init__(self) -> None:
        check_length(self.n)
        check_seed(self.seed)
        if self.block < 1:
            raise ValueError(f"BlockShuffle: block must be at least 1, got {self.block}")

    def __call__(self, epoch: int, positions: np.ndarray) -> np.ndarray:
        positions = check_positions(positions, self.n)
        numbers, inside = np.divmod(positions, np.uint64(self.block))
        whole = self.n // self.block
        moved = numbers.astype(np.int64)
        full = numbers < whole
        if full.any():
            moved[full] = Shuffle(whole, self.seed)(epoch, numbers[full])
        return _within(self.seed, epoch, moved, inside, self.block, self.n)


@dataclass(frozen=True)
class WindowShuffle:
    """Nearly the order of the dataset: samples move inside of windows only, whose borders are others each epoch.

    Takes no memory.

    Args:
        n: number of samples, 1 to 2**63.
        window: samples in a window; none moves further.
        seed: 0 to 2**64 - 1.

    >>> WindowShuffle(9, window=3)(1, np.arange(9)).tolist()
    [0, 1, 2, 3, 5, 6, 4, 7, 8]
    """

    n: int
    window: int
    seed: int = 0

    def __post_init__(self) -> None:
        check_length(self.n)
        check_seed(self.seed)
        if self.window < 1:
            raise ValueError(f"WindowShuffle: window must be at least 1, got {self.window}")

    def __call__(self, epoch: int, positions: np.ndarray) -> np.ndarray:
        positions = check_positions(positions, self.n)
        first = min(1 + int(hash64(self.seed, epoch, self.n, 0)[0]) % self.window, self.n)  # length of the first window
        indices = np.empty(positions.shape, np.int64)
        early = positions < first
        indices[early] = Shuffle(first, self.seed)(epoch, positions[early])
        if not early.all():
            later = positions[~early] - np.uint64(first)
            numbers, inside = np.divmod(later, np.uint64(self.window))
            rest = _within(self.seed, epoch, numbers.astype(np.int64), inside, self.window, self.n - first)
            indices[~early] = rest + first
        return indices


def _within(seed: int, epoch: int, blocks: np.ndarray, inside: np.ndarray, size: int, n: int) -> np.ndarray:
    """Shuffle positions inside of their blocks of this size; the last block ends at n."""
    indices = np.empty(blocks.shape, np.int64)
    for number in np.unique(blocks):
        here = blocks == number
        start = int(number) * size
        own_seed = int(hash64(seed, 1, int(number))[0])
        indices[here] = start + Shuffle(min(size, n - start), own_seed)(epoch, inside[here])
    return indices


@dataclass(frozen=True, eq=False)
class Weighted:
    """Samples drawn at random in proportion to weights.

    Args:
        weights: one for each sample, of 0 or more; the sum need not be 1. A weight of 0 is never drawn.
        n: draws in an epoch; None for as many as there are weights (of more than 0, without replacement).
        replacement: whether a sample can come twice in an epoch. Without, samples are drawn one after another from
            those that are left, each in proportion to its weight (Efraimidis and Spirakis, 2006).
        seed: 0 to 2**64 - 1.

    Raises:
        ValueError: a weight is negative or not finite, all are 0, or more are to be drawn than there are.

    >>> Weighted([1, 0, 3], n=8)(0, np.arange(8)).tolist()
    [2, 2, 2, 2, 2, 0, 2, 2]
    >>> Weighted([1, 0, 3], replacement=False)(0, np.arange(2)).tolist()
    [2, 0]
    """

    weights: Any
    n: int = None  # type: ignore[assignment]  # set below
    replacement: bool = True
    seed: int = 0
    _cumulative: np.ndarray = field(init=False, repr=False)
    _table: _Table = field(init=False, repr=False)

    def __post_init__(self) -> None:
        weights = np.asarray(self.weights, np.float64)
        check_seed(self.seed)
        wrong = np.flatnonzero(~np.isfinite(weights) | (weights < 0))
        if weights.ndim != 1 or not weights.size or wrong.size:
            which = f"; weight {wrong[0]} is {weights.ravel()[wrong[0]]}" if wrong.size else f", got {weights.shape}"
            raise ValueError(f"Weighted: weights must be a 1-d array of numbers of 0 or more{which}")
        possible = int((weights > 0).sum())
        if possible == 0:
            raise ValueError("Weighted: all weights are 0, so there is nothing to draw")
        n = self.n if self.n is not None else weights.size if self.replacement else possible
        check_length(n)
        if not self.replacement and n > possible:
            raise ValueError(
                f"Weighted: cannot draw n={n} without replacement, since {possible} weights are more than 0"
            )
        fix(self, weights=weights, n=n, _cumulative=np.cumsum(weights), _table=_Table(self._without))

    @property
    def dataset_length(self) -> int:
        """Samples of the dataset that it is for; DataLoader compares."""
        return self.weights.size

    def __call__(self, epoch: int, positions: np.ndarray) -> np.ndarray:
        positions = check_positions(positions, self.n)
        if not self.replacement:
            return self._table(epoch)[positions.astype(np.int64)]
        uniform = (hash64(self.seed, epoch, self.n, positions) >> np.uint64(11)) * _UNIT
        found = np.searchsorted(self._cumulative, uniform * self._cumulative[-1], side="right")
        return np.minimum(found, self._last).astype(np.int64)

    @property
    def _last(self) -> int:
        """The last sample that can be drawn: rounding must not lead past it."""
        return int(np.searchsorted(self._cumulative, self._cumulative[-1], side="left"))

    def _without(self, epoch: int) -> np.ndarray:
        uniform = ((hash64(self.seed, epoch, np.arange(self.weights.size)) >> np.uint64(11)) + np.uint64(1)) * _UNIT
        with np.errstate(divide="ignore"):
            waits = -np.log(uniform) / self.weights  # exponential with rate weight: the first to arrive are drawn
        return np.argsort(waits, kind="stable")[: self.n].astype(np.int64)


@dataclass(frozen=True, eq=False)
class Mixture:
    """Sources mixed at fixed proportions; for `Concat` of datasets of these lengths.

    An epoch has round(n * share) samples of each source, evenly mixed (the exact counts are `counts`). Each source is
    gone through in a random order, and again in another one when all of it was read, over epochs: no sample is left
    out for ever, and none comes k + 1 times before all came k times. Takes no memory.

    Args:
        lengths: of the sources.
        weights: of the sources, 0 or more; None for their lengths.
        n: samples in an epoch; None for the sum of the lengths.
        seed: 0 to 2**64 - 1.

    >>> order = Mixture([1000, 10], weights=[3, 1], n=8)
    >>> order.counts
    (6, 2)
    >>> order(0, np.arange(8)).tolist()
    [895, 1000, 283, 114, 1002, 41, 157, 718]
    """

    lengths: Sequence[int]
    weights: Sequence[float] | None = None
    n: int = None  # type: ignore[assignment]  # set below
    seed: int = 0
    counts: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        lengths = tuple(int(length) for length in self.lengths)
        weights = np.asarray(lengths if self.weights is None else self.weights, np.float64)
        n = sum(lengths) if self.n is None else self.n
        check_seed(self.seed)
        if not lengths or min(lengths) < 1:
            raise ValueError(f"Mixture: lengths must be those of datasets that are not empty, got {list(lengths)}")
        proper = weights.shape == (len(lengths),) and np.isfinite(weights).all() and (weights >= 0).all()
        if not proper or not weights.any():
            raise ValueError(f"Mixture: {len(lengths)} sources need as many weights of 0 or more, got {self.weights}")
        check_length(n)
        ends = [round(n * share) for share in (np.cumsum(weights) / weights.sum()).tolist()]
        ends[-1] = n
        counts = tuple(int(end - start) for start, end in zip([0, *ends], ends, strict=False))
        fix(self, lengths=lengths, n=n, counts=counts)

    @property
    def dataset_length(self) -> int:
        """Samples of the dataset that it is for; DataLoader compares."""
        return sum(self.lengths)

    def __call__(self, epoch: int, positions: np.ndarray) -> np.ndarray:
        places = Shuffle(self.n, self.seed)(epoch, positions)
        ends = np.cumsum(np.array(self.counts, np.int64))
        sources = np.searchsorted(ends, places, side="right")
        indices = np.empty(places.shape, np.int64)
        for source in np.unique(sources):
            here = sources == source
            length, count = self.lengths[source], self.counts[source]
            numbers = (places[here] - (int(ends[source]) - count)).astype(object) + epoch * count  # exact, however long
            passes, inside = numbers // length, (numbers % length).astype(np.int64)
            own_seed = int(hash64(self.seed, 2, int(source))[0])
            found = np.empty(passes.shape, np.int64)
            for number in set(passes.tolist()):
                found[passes == number] = Shuffle(length, own_seed)(number, inside[passes == number])
            indices[here] = found + sum(self.lengths[:source])
        return indices


@dataclass(frozen=True, eq=False)
class ClassBalanced:
    """All classes equally often, whatever their sizes; small classes are read again and again.

    Args:
        labels: of the samples, integers.
        n: samples in an epoch; None for as many as there are labels.
        seed: 0 to 2**64 - 1.

    >>> labels = [0, 0, 0, 0, 0, 1]
    >>> order = ClassBalanced(labels)
    >>> sorted(np.array(labels)[order(0, np.arange(6))].tolist())
    [0, 0, 0, 1, 1, 1]
    """

    labels: Any
    n: int = None  # type: ignore[assignment]  # set below
    seed: int = 0
    _members: np.ndarray = field(init=False, repr=False)
    _mixture: Mixture = field(init=False, repr=False)

    def __post_init__(self) -> None:
        labels = np.asarray(self.labels)
        if labels.ndim != 1 or labels.dtype.kind not in "iu" or not labels.size:
            raise ValueError(f"ClassBalanced: labels must be a 1-d array of integers, got {labels.dtype}{labels.shape}")
        _, sizes = np.unique(labels, return_counts=True)
        n = labels.size if self.n is None else self.n
        values = {
            "labels": labels,
            "n": n,
            "_members": np.argsort(labels, kind="stable").astype(np.int64),
            "_mixture": Mixture(sizes.tolist(), np.ones(len(sizes)).tolist(), n, self.seed),
        }
        fix(self, **values)

    @property
    def dataset_length(self) -> int:
        """Samples of the dataset that it is for; DataLoader compares."""
        return self.labels.size

    def __call__(self, epoch: int, positions: np.ndarray) -> np.ndarray:
        return self._members[self._mixture(epoch, positions)]


@dataclass(frozen=True, eq=False)
class LengthBuckets:
    """Batches of samples of similar lengths, in a random order, so that little is padded.

    All samples come once in an epoch. Those that are left over in a bucket after its full batches are batched together,
    sorted by length, and the last incomplete batch of the epoch comes last.

    Args:
        lengths: of the samples.
        boundaries: increasing; a bucket has the lengths up to and including its boundary, and the last all longer ones.
        batch_size: that of the loader.
        seed: 0 to 2**64 - 1.

    Use it with `collate=PadTo(boundaries)`, which pads a batch to the boundary of its longest sample.

    >>> lengths = np.array([3, 9, 2, 8, 1, 7])
    >>> order = LengthBuckets(lengths, [4, 10], batch_size=3)
    >>> lengths[order(0, np.arange(6))].tolist()
    [8, 7, 9, 2, 3, 1]
    """

    lengths: Any
    boundaries: Sequence[int]
    batch_size: int
    seed: int = 0
    n: int = field(init=False)
    _table: _Table = field(init=False, repr=False)

    def __post_init__(self) -> None:
        lengths, boundaries = np.asarray(self.lengths), np.asarray(self.boundaries)
        check_seed(self.seed)
        if lengths.ndim != 1 or lengths.dtype.kind not in "iu" or not lengths.size:
            raise ValueError(f"LengthBuckets: lengths must be 1-d integers, got {lengths.dtype}{lengths.shape}")
        if boundaries.ndim != 1 or not boundaries.size or (np.diff(boundaries) <= 0).any():
            raise ValueError(f"LengthBuckets: boundaries must be increasing numbers, got {self.boundaries}")
        if self.batch_size < 1:
            raise ValueError(f"LengthBuckets: batch_size must be at least 1, got {self.batch_size}")
        fix(self, lengths=lengths, n=lengths.size, _table=_Table(self._epoch))

    @property
    def dataset_length(self) -> int:
        """Samples of the dataset that it is for; DataLoader compares."""
        return self.n

    def __call__(self, epoch: int, positions: np.ndarray) -> np.ndarray:
        return self._table(epoch)[check_positions(positions, self.n).astype(np.int64)]

    def _epoch(self, epoch: int) -> np.ndarray:
        size = self.batch_size
        shuffled = Shuffle(self.n, self.seed)(epoch, np.arange(self.n))
        buckets = np.searchsorted(np.asarray(self.boundaries), self.lengths[shuffled], side="left")
        batches, left = [], []
        for bucket in np.unique(buckets):
            members = shuffled[buckets == bucket]
            full = members.size // size * size
            batches.append(members[:full].reshape(-1, size))
            left.append(members[full:])
        rest = np.concatenate(left)
        rest = rest[np.argsort(self.lengths[rest], kind="stable")]
        full = rest.size // size * size
        whole = np.concatenate([*batches, rest[:full].reshape(-1, size)])
        if len(whole):
            whole = whole[Shuffle(len(whole), self.seed)(epoch, np.arange(len(whole)))]
        return np.concatenate([whole.ravel(), rest[full:]])


class _Table:
    """The orders of the last two epochs, for what has to be computed for an epoch as a whole."""

    def __init__(self, make: Any) -> None:
        self._make = make
        self._entries: list[tuple[int, np.ndarray] | None] = [None, None]

    def __call__(self, epoch: int) -> np.ndarray:
        entry = self._entries[epoch % 2]
        if entry is None or entry[0] != epoch:
            entry = self._entries[epoch % 2] = (epoch, self._make(epoch))
        return entry[1]

    def __reduce__(self) -> tuple:
        return _Table, (self._make,)  # what was computed need not travel
