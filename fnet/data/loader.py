"""DataLoader: batches as a pure function of the seed and the global step."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from .datasets import Dataset
from .orders import BlockCache, Sequential, Shuffle, check_seed
from .prefetch import Prefetch
from .structure import collate, describe, map_leaves, signature


@dataclass(frozen=True, eq=False)
class DataLoader:
    """Cut a dataset into batches, each a pure function of (seed, step): to resume, only the step is needed.

    Step s of a training run reads batch s % len(loader) of epoch s // len(loader). The same seed and step give the same
    bytes in any process and on any machine. All batches are newly allocated numpy arrays, in the structure of a sample.

        loader.batch(step)       the batch of any global step
        loader.epoch(e)          iterate over the batches of one epoch
        loader.stream(start)     iterate for ever, from any step
        for batch in loader      PyTorch's convenience: one epoch, and the next one when all batches were taken

    Only the last has a memory: it counts the epochs of which it handed out the last batch, so a loop that was left
    early begins the same epoch again.

    Args:
        dataset: anything with `__len__` and `__getitem__(i)`. One that has `get_batch(indices)`, as ArrayDataset has,
            is read with one call a batch. Its length is read once, here. With prefetch, it is read by another thread.
        batch_size: samples in a batch, at least 1.
        shuffle: read in a random order, another one each epoch, which takes no memory; else from first to last.
        seed: of the shuffle, 0 to 2**64 - 1.
        last: what becomes of the last, incomplete batch of an epoch. "keep" gives it as it is; "drop" leaves it out;
            "pad" fills it up with samples of the epoch's beginning and tells by a mask, so that all batches have one
            shape: every batch gets a bool array (batch_size,), True for what counts, at the end of a tuple or list
            (for a NamedTuple the batch is a plain tuple), under the key "mask" of a dict, or as (batch, mask) for a
            bare array.
        prefetch: batches that a background thread prepares ahead in epoch, stream and the for loop; 0 for no thread.

    Raises:
        TypeError, ValueError: a setting is wrong, the dataset is empty, or "drop" would leave no batch at all.

    Errors in a sample carry a note with its index, the epoch and the step.

    >>> from fnet.data import ArrayDataset
    >>> dataset = ArrayDataset(np.arange(10), np.arange(10) % 2 == 0)
    >>> loader = DataLoader(dataset, batch_size=4, shuffle=True, seed=0, last="pad")
    >>> len(loader)
    3
    >>> numbers, even, mask = loader.batch(2)
    >>> numbers, mask
    (array([5, 4, 7, 2]), array([ True,  True, False, False]))
    >>> [batch[0].shape for batch in loader]
    [(4,), (4,), (4,)]
    """

    dataset: Any
    batch_size: int = 1
    shuffle: bool = False
    seed: int = 0
    last: Literal["keep", "drop", "pad"] = "keep"
    prefetch: int = field(default=2, kw_only=True)
    _samples: int = field(init=False, repr=False)
    _order: BlockCache = field(init=False, repr=False)
    _finished: list[int] = field(init=False, repr=False)  # epochs that the for loop has handed out whole

    def __post_init__(self) -> None:
        samples = _check_dataset(self.dataset)
        batch_size = _check_integer("batch_size", self.batch_size, 1)
        if self.last not in ("keep", "drop", "pad"):
            raise ValueError(f'last must be "keep", "drop" or "pad", got {self.last!r}')
        if self.last == "drop" and samples < batch_size:
            raise ValueError(
                f'no batch is left: the dataset has {samples} samples, batch_size is {batch_size}, and last="drop" '
                'leaves the incomplete batch out; use a smaller batch_size, or last="keep" or "pad"'
            )
        seed = check_seed(self.seed)
        order = Shuffle(samples, seed) if self.shuffle else Sequential(samples)
        values = {
            "batch_size": batch_size,
            "seed": seed,
            "prefetch": _check_integer("prefetch", self.prefetch, 0),
            "_samples": samples,
            "_order": BlockCache(order, samples),
            "_finished": [0],
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)  # how a frozen dataclass sets its own fields

    def __len__(self) -> int:
        """Steps in an epoch."""
        if self.last == "drop":
            return self._samples // self.batch_size
        return -(-self._samples // self.batch_size)

    def batch(self, step: int) -> Any:
        """Give the batch of a global step: number step % len(self) of epoch step // len(self).

        Args:
            step: an integer of 0 or more (numpy's and JAX's are integers too).

        >>> DataLoader(range(10), batch_size=4).batch(1)
        array([4, 5, 6, 7], dtype=int32)
        """
        step = _check_integer("step", step, 0)
        epoch, number = divmod(step, len(self))
        positions = np.arange(number * self.batch_size, (number + 1) * self.batch_size)
        mask = positions < self._samples
        positions = positions % self._samples if self.last == "pad" else positions[mask]
        indices = self._order(epoch, positions)
        try:
            batch = self._read(indices)
        except StopIteration as error:  # as it is, it would end the caller's for loop in silence
            raise RuntimeError(f"the dataset raised StopIteration in epoch {epoch}, step {step}") from error
        except Exception as error:
            error.add_note(f"in the batch of epoch {epoch}, step {step}")
            raise
        return _with_mask(batch, mask) if self.last == "pad" else batch

    def epoch(self, epoch: int) -> Prefetch:
        """Iterate over the batches of one epoch, always the same ones for the same number.

        >>> [batch.tolist() for batch in DataLoader(range(5), batch_size=2).epoch(0)]
        [[0, 1], [2, 3], [4]]
        """
        first = _check_integer("epoch", epoch, 0) * len(self)
        return Prefetch(self.batch, range(first, first + len(self)), self.prefetch)

    def stream(self, start: int = 0) -> Prefetch:
        """Iterate over the batches of the steps start, start + 1, … without end; any start costs the same.

        The thread that prepares batches ends when the iterator is closed or no longer referenced. After an exception
        the iterator may be used further, and goes on with the next step.

        >>> stream = DataLoader(range(5), batch_size=2).stream(start=2)
        >>> [next(stream).tolist() for _ in range(3)]
        [[4], [0, 1], [2, 3]]
        """
        return Prefetch(self.batch, itertools.count(_check_integer("start", start, 0)), self.prefetch)

    def __iter__(self) -> Iterator[Any]:
        epoch = self._finished[0]
        for number, batch in enumerate(self.epoch(epoch), 1):
            if number == len(self):  # counted as it is handed out: zip(range(len(loader)), loader) asks for no more
                self._finished[0] = epoch + 1
            yield batch

    def __repr__(self) -> str:
        dataset = repr(self.dataset)
        if len(dataset) > 100:
            dataset = f"{type(self.dataset).__name__} of {self._samples} samples"
        return (
            f"DataLoader({dataset}, batch_size={self.batch_size}, shuffle={self.shuffle}, seed={self.seed}, "
            f"last={self.last!r}, prefetch={self.prefetch}: {len(self)} steps an epoch)"
        )

    def _read(self, indices: np.ndarray) -> Any:
        get_batch = getattr(self.dataset, "get_batch", None)
        if get_batch is not None:
            return map_leaves(lambda name, leaf: _fresh(name, leaf, len(indices)), get_batch(indices))
        samples = []
        for index in indices.tolist():
            try:
                samples.append(self.dataset[index])
            except Exception as error:
                error.add_note(f"in sample {index} of {type(self.dataset).__name__}")
                raise
        return collate(samples, indices)


def _fresh(name: str, leaf: Any, rows: int) -> np.ndarray:
    """Check a leaf from get_batch, and copy what shares memory: JAX on the CPU keeps using the memory it is given."""
    array = np.asarray(leaf)
    if array.ndim == 0 or len(array) != rows:
        raise ValueError(f"get_batch was asked for {rows} samples, but {describe(name)} it gave is {signature(array)}")
    return array if array.flags.owndata and array.flags.writeable else array.copy()


def _with_mask(batch: Any, mask: np.ndarray) -> Any:
    if isinstance(batch, dict):
        if "mask" in batch:
            raise ValueError('last="pad" adds the key "mask" to a batch, but the samples have one; rename theirs')
        return {**batch, "mask": mask}
    if isinstance(batch, list):
        return [*batch, mask]
    return (*batch, mask) if isinstance(batch, tuple) else (batch, mask)


def _check_dataset(dataset: Any) -> int:
    if isinstance(dataset, (tuple, dict)):
        raise TypeError(
            f"DataLoader got a {type(dataset).__name__}, which could be arrays or samples: wrap arrays in "
            "fnet.data.ArrayDataset(images, labels), or put samples in a list"
        )
    if not isinstance(dataset, Dataset):
        raise TypeError(
            "DataLoader needs a dataset with __len__ and __getitem__(i), but "
            f"{type(dataset).__name__} lacks one; samples from an iterator can be put in a list first"
        )
    if len(dataset) == 0:
        raise ValueError(f"the dataset is empty: {type(dataset).__name__} has no samples, so there is nothing to batch")
    return len(dataset)


def _check_integer(name: str, value: Any, least: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {type(value).__name__} {value!r}") from None
    if number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}")
    return number
