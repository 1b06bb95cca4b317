"""StreamLoader: batches of what can only be read from its beginning, with a weaker contract than DataLoader's."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from .batches import Batches
from .loader import check_choice, check_integer, check_shard, with_mask
from .orders import check_seed, hash64
from .prefetch import Prefetch
from .structure import collate


@dataclass(frozen=True, eq=False)
class StreamLoader:
    """Cut streams of samples into batches: lines from a socket, a generator, files that only go forward.

    What holds: if `read(epoch)` gives the same samples each time, batches are the same each time, `stream(start)`
    resumes exactly, and hosts see parts of one global batch.

    What does not, and does for DataLoader: there is no `batch(step)` and no length. Resuming reads and throws away all
    that came before, from the beginning of the first epoch; every host reads everything; samples are shuffled within a
    buffer only, so they stay near their place; one thread reads, and there are no processes.

    Args:
        read: a function epoch -> iterable of samples, a new one at each call.
        batch_size: samples in a batch over all hosts.
        shuffle: samples in the shuffle buffer, which stay in memory; 0 for none.
        seed: of the shuffle.
        last: "keep", "drop" or "pad" the last, incomplete batch of an epoch, as in DataLoader. Padding repeats the
            samples of the same batch.
        prefetch: batches that a thread prepares ahead; 0 for no thread.
        shard: (index, count) of this host; needs "drop" or "pad" where there is more than one.

    Raises:
        TypeError: `read` is no function, or `shard` no pair of integers.
        ValueError: an epoch has no batch at all, as when read(epoch) gives one iterator twice.

    >>> loader = StreamLoader(lambda epoch: range(10 * epoch, 10 * epoch + 5), batch_size=2)
    >>> [batch.tolist() for batch in loader.epoch(1)]
    [[10, 11], [12, 13], [14]]
    >>> next(loader.stream(start=4)).tolist()
    [12, 13]
    """

    read: Callable[[int], Iterable[Any]]
    batch_size: int = 1
    shuffle: int = 0
    seed: int = 0
    last: Literal["keep", "drop", "pad"] = "keep"
    prefetch: int = 2
    shard: tuple[int, int] = (0, 1)

    def __post_init__(self) -> None:
        if not callable(self.read):
            raise TypeError(
                f"StreamLoader needs a function epoch -> iterable, got {type(self.read).__name__}; an iterator alone "
                "could be read once only: give lambda epoch: open_it_again()"
            )
        check_integer("batch_size", self.batch_size, 1)
        check_integer("shuffle", self.shuffle, 0)
        check_integer("prefetch", self.prefetch, 0)
        check_seed(self.seed)
        check_choice("last", self.last, ("keep", "drop", "pad"))
        _, count = check_shard(self.shard, self.batch_size)
        if count > 1 and self.last == "keep":
            raise ValueError('hosts would get different last batches; use last="pad" or "drop"')

    def epoch(self, epoch: int) -> Batches:
        """Iterate over the batches of one epoch."""
        return self._batches(self._epoch(check_integer("epoch", epoch, 0)))

    def stream(self, start: int = 0) -> Batches:
        """Iterate for ever; with a start, the steps before it are read and thrown away first."""
        steps = itertools.chain.from_iterable(map(self._epoch, itertools.count()))
        return self._batches(itertools.islice(steps, check_integer("start", start, 0), None))

    def __iter__(self) -> Iterator[Any]:
        return self.epoch(0)

    def _batches(self, groups: Iterator[Any]) -> Batches:
        return Batches([Prefetch(self._collate, groups, self.prefetch)], hosts=self.shard[1])

    def _epoch(self, epoch: int) -> Iterator[tuple[int, int, list[Any]]]:
        """Give (epoch, number of the batch, its list of (number of the sample, sample)) for each global batch."""
        samples = _noted(self.read(epoch), epoch)
        if self.shuffle:
            samples = _shuffled(samples, self.shuffle, self.seed, epoch)
        number = 0
        while group := list(itertools.islice(samples, self.batch_size)):
            if len(group) < self.batch_size and self.last == "drop":
                break
            yield epoch, number, group
            number += 1
        if number == 0:
            raise ValueError(
                f'StreamLoader: epoch {epoch} has no batch of {self.batch_size} (last="{self.last}"); does '
                "read(epoch) give a new iterable at each call?"
            )

    def _collate(self, planned: tuple[int, int, list[Any]]) -> Any:
        epoch, number, group = planned
        index, count = self.shard
        rows = self.batch_size // count
        mask = np.arange(self.batch_size) < len(group)
        if self.last == "pad":
            group = [group[k % len(group)] for k in range(self.batch_size)]
        mine = group[index * rows : (index + 1) * rows]
        numbers, samples = zip(*mine, strict=True)
        try:
            batch = collate(samples, np.array(numbers))
        except Exception as error:
            error.add_note(f"in batch {number} of epoch {epoch}")
            raise
        return with_mask(batch, mask[index * rows : (index + 1) * rows]) if self.last == "pad" else batch


def _noted(samples: Iterable[Any], epoch: int) -> Iterator[tuple[int, Any]]:
    """Number the samples, and say in an error how far they could be read."""
    number = 0
    try:
        for sample in samples:
            yield number, sample
            number += 1
    except Exception as error:
        error.add_note(f"while sample {number} of epoch {epoch} was read")
        raise


def _shuffled(samples: Iterator[Any], size: int, seed: int, epoch: int) -> Iterator[Any]:
    """Give a random sample of those in the buffer, and put the next one in its place."""
    buffer = list(itertools.islice(samples, size))
    count = 0
    for sample in samples:
        place = int(hash64(seed, epoch, count)[0]) % size
        yield buffer[place]
        buffer[place] = sample
        count += 1
    for place in np.argsort(hash64(seed, epoch, count, np.arange(len(buffer))), kind="stable").tolist():
        yield buffer[place]
