"""DataLoader: batches as a pure function of the seed and the global step."""

from __future__ import annotations

import itertools
import operator
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import numpy as np

from .batches import Batches, Worker
from .orders import BlockCache, Order, Sequential, Shuffle, check_seed
from .prefetch import Prefetch
from .pytorch import LOADER, refuses
from .reading import Reader, check_dataset, collated
from .rng import Rng, Rngs
from .structure import fix, outline


@refuses(LOADER)
@dataclass(frozen=True, eq=False)
class DataLoader:
    """Cut a dataset into batches, each a pure function of (seed, step): to resume, only the step is needed.

    Step s of a training run reads batch s % len(loader) of epoch s // len(loader). The same seed and step give the same
    bytes in any process and on any machine, whatever the number of threads, processes and hosts. All batches are newly
    allocated numpy arrays, in the structure of a sample.

        loader.batch(step)       the batch of any global step
        loader.epoch(e)          iterate over the batches of one epoch
        loader.stream(start)     iterate for ever, from any step
        for batch in loader      PyTorch's convenience: one epoch, and the next one when all batches were taken

    Only the last has a memory: it counts the epochs of which it handed out the last batch, so a loop that was left
    early begins the same epoch again.

    PyTorch's `drop_last=True` is `last="drop"`, `num_workers` is `processes` (or `threads`), `collate_fn` is `collate`,
    `sampler` is `order`, `generator` and `worker_init_fn` are `seed` alone, and nothing stands for `set_epoch`.

    Args:
        dataset: anything with `__len__` and `__getitem__(i)`; see `Dataset` for what else it may have. Its length is
            read once, here.
        batch_size: samples in a batch over all hosts, at least 1.
        shuffle: read in a random order, another one each epoch, which takes no memory; else from first to last.
        seed: of the shuffle, and of the random numbers that samples get; 0 to 2**64 - 1.
        last: what becomes of the last, incomplete batch of an epoch. "keep" gives it as it is; "drop" leaves it out;
            "pad" fills it up with samples of the epoch's beginning and tells by a mask, so that all batches have one
            shape: every batch gets a bool array (batch_size,), True for what counts, at the end of a tuple or list
            (for a NamedTuple the batch is a plain tuple), under the key "mask" of a dict, or as (batch, mask) for a
            bare array.
        order: another order of reading than those two, as `Weighted`, `ClassBalanced` or `Mixture`; it has a seed and
            a length of its own.
        collate: makes a batch from a list of samples, as `PadTo` does for sequences of different lengths; None stacks
            samples of equal shapes.
        threads: that prepare batches ahead in epoch, stream and the for loop. None: none where a batch is a copy in
            memory, else one; more help only where most of the time is spent outside of Python, as with large images.
        processes: the same by processes, for datasets that compute in Python. They are started anew for each iterator
            and never forked; the dataset travels to them by pickle. Start them under `if __name__ == "__main__":`.
        prefetch: batches that each thread or process prepares ahead; 0 for none, without threads.
        shard: (index, count) of this host, as (jax.process_index(), jax.process_count()): each batch is its part of the
            global one, batch_size / count samples. The parts of all hosts in their order are the batch of one host.
        on_error: "raise" raises an error in a sample with its index, epoch and step. "mask" warns, puts another sample
            of the batch in its place, and says so in the mask, which every batch then has.

    Raises:
        TypeError, ValueError: a setting is wrong, the dataset is empty, or "drop" would leave no batch at all.

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
    order: Order | None = field(default=None, kw_only=True)
    collate: Callable[[list[Any]], Any] | None = field(default=None, kw_only=True)
    threads: int | None = field(default=None, kw_only=True)
    processes: int = field(default=0, kw_only=True)
    prefetch: int = field(default=2, kw_only=True)
    shard: tuple[int, int] = field(default=(0, 1), kw_only=True)
    on_error: Literal["raise", "mask"] = field(default="raise", kw_only=True)
    _samples: int = field(init=False, repr=False)  # positions in an epoch
    _order: BlockCache = field(init=False, repr=False)
    _reader: Reader = field(init=False, repr=False)
    _finished: list[int] = field(init=False, repr=False)  # epochs that the for loop has handed out whole

    def __post_init__(self) -> None:
        length = check_dataset(self.dataset, "DataLoader")
        if length == 0:
            raise ValueError(
                f"the dataset is empty: {type(self.dataset).__name__} has no samples, so there is nothing to batch"
            )
        batch_size = check_integer("batch_size", self.batch_size, 1)
        if not isinstance(self.shuffle, bool | np.bool_):
            raise TypeError(f"shuffle must be True or False, got {self.shuffle!r}")
        check_choice("last", self.last, ("keep", "drop", "pad"))
        check_choice("on_error", self.on_error, ("raise", "mask"))
        seed = check_seed(self.seed)
        if self.order is not None:
            if self.shuffle:
                raise ValueError("shuffle=True and order= are two orders: give one of them")
            order, samples = self.order, check_order(self.order, length, batch_size)
        else:
            order, samples = Shuffle(length, seed) if self.shuffle else Sequential(length), length
        if self.last == "drop" and samples < batch_size:
            raise ValueError(
                f'no batch is left: the dataset has {samples} samples, batch_size is {batch_size}, and last="drop" '
                'leaves the incomplete batch out; use a smaller batch_size, or last="keep" or "pad"'
            )
        reader = Reader.of(self.dataset)
        if self.collate is not None:
            if not callable(self.collate):
                raise TypeError(f"collate must be a function of a list of samples, got {self.collate!r}")
            reader = replace(reader, vectorised=False, instant=False)
        shard = check_shard(self.shard, batch_size)
        if shard[1] > 1 and self.last == "keep" and (rest := samples % batch_size):
            raise ValueError(
                f"the last batch of an epoch would have {rest} of {batch_size} samples, and hosts would "
                'get different numbers of them; use last="pad" or "drop"'
            )
        values = {
            "batch_size": batch_size,
            "seed": seed,
            "shard": shard,
            **_check_workers(self.threads, self.processes, self.prefetch),
            "_samples": samples,
            "_order": BlockCache(order, samples, length),
            "_reader": reader,
            "_finished": [0],
        }
        fix(self, **values)

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
        step = check_integer("step", step, 0)
        indices, mask = self._plan(step)
        epoch = step // len(self)
        try:
            batch, bad = self._read(epoch, indices)
        except (StopIteration, SystemExit) as error:  # as they are, they would end the caller's loop in silence
            raise RuntimeError(f"the dataset raised {error!r} in epoch {epoch}, step {step}") from error
        except Exception as error:
            error.add_note(f"in the batch of epoch {epoch}, step {step}")
            raise
        if self.last != "pad" and self.on_error != "mask":
            return batch
        mask = np.ones(len(indices), bool) if mask is None else mask
        for row, problem in bad.items():
            mask[row] = False
            warnings.warn(
                f"sample {indices[row]} is masked, epoch {epoch}, step {step}: {problem}", RuntimeWarning, stacklevel=2
            )
        return with_mask(batch, mask)

    def indices(self, step: int) -> np.ndarray:
        """Give the numbers (int64) of the samples that make up the batch of a step, padding included.

        >>> DataLoader(range(10), batch_size=4, last="pad").indices(2)
        array([8, 9, 0, 1])
        """
        return self._plan(check_integer("step", step, 0))[0]

    def epoch(self, epoch: int) -> Batches:
        """Iterate over the batches of one epoch, always the same ones for the same number.

        >>> [batch.tolist() for batch in DataLoader(range(5), batch_size=2).epoch(0)]
        [[0, 1], [2, 3], [4]]
        """
        first = check_integer("epoch", epoch, 0) * len(self)
        steps = range(first, first + len(self))
        return Batches(self._workers(lambda worker, workers: steps[worker::workers]), len(self), self.shard[1])

    def stream(self, start: int = 0) -> Batches:
        """Iterate over the batches of the steps start, start + 1, … without end; any start costs the same.

        Threads and processes end when the iterator is closed or no longer referenced. After an exception the iterator
        may be used further, and goes on with the next step.

        >>> stream = DataLoader(range(5), batch_size=2).stream(start=2)
        >>> [next(stream).tolist() for _ in range(3)]
        [[4], [0, 1], [2, 3]]
        """
        start = check_integer("start", start, 0)
        workers = self._workers(lambda worker, workers: itertools.count(start + worker, workers))
        return Batches(workers, hosts=self.shard[1])

    def __iter__(self) -> Iterator[Any]:
        epoch = self._finished[0]
        for number, batch in enumerate(self.epoch(epoch), 1):
            if number == len(self):  # counted as it is handed out: zip(range(len(loader)), loader) asks for no more
                self._finished[0] = epoch + 1
            yield batch

    def __repr__(self) -> str:
        dataset = repr(self.dataset)
        if len(dataset) > 100:
            dataset = f"{type(self.dataset).__name__} of {len(self.dataset)} samples"
        shown = {name: getattr(self, name) for name in ("batch_size", "shuffle", "seed", "last")}
        others = {f.name: f.default for f in fields(self) if f.kw_only and f.init}
        shown |= {name: getattr(self, name) for name, usual in others.items() if getattr(self, name) != usual}
        settings = ", ".join(f"{name}={value!r}" for name, value in shown.items())
        return f"DataLoader({dataset}, {settings}: {len(self)} steps an epoch)"

    def _describe(self, step: int) -> str:
        indices = self.indices(step).tolist()
        more = ", …" if len(indices) > 20 else ""
        return f"epoch {step // len(self)}, step {step} (samples {', '.join(map(str, indices[:20]))}{more})"

    def _plan(self, step: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Give the indices that this host reads in a step, and which of them count (None: all)."""
        epoch, number = divmod(step, len(self))
        host, hosts = self.shard
        rows = self.batch_size // hosts
        start = number * self.batch_size + host * rows
        stop = start + rows if self.last == "pad" else min(start + rows, self._samples)
        if stop <= self._samples:
            return self._order.run(epoch, start, stop), None
        positions = np.arange(start, stop)
        return self._order(epoch, positions % self._samples), positions < self._samples

    def _read(self, epoch: int, indices: np.ndarray) -> tuple[Any, dict[int, str]]:
        """Read a batch; with on_error="mask", also give the rows that could not be read, and why."""
        reader = self._reader
        if self.on_error == "mask":
            return self._read_what_can_be(epoch, indices)
        if reader.vectorised:
            return reader.fresh_batch(indices, Rngs(self.seed, epoch, indices) if reader.random else None), {}
        samples: list[Any] = []
        try:  # the loop that Python runs fastest: what is not needed for each sample happens after it
            if reader.random:
                keys = Rngs(self.seed, epoch, indices).keys.tolist()
                for index, key in zip(indices.tolist(), keys, strict=True):
                    samples.append(reader.sample(index, Rng.from_key(key)))
            else:
                for index in indices.tolist():
                    samples.append(self.dataset[index])
        except Exception as error:
            error.add_note(f"in sample {indices[len(samples)]} of {type(self.dataset).__name__}")
            raise
        return collated(samples, indices, self.collate), {}

    def _read_what_can_be(self, epoch: int, indices: np.ndarray) -> tuple[Any, dict[int, str]]:
        samples: dict[int, Any] = {}
        bad: dict[int, str] = {}
        for row, index in enumerate(indices.tolist()):
            try:
                samples[row] = self._reader.sample(index, Rng(self.seed, epoch, index))
            except Exception as error:
                bad[row] = f"{type(error).__name__}: {error}"
                last_error = error
        if not samples:
            last_error.add_note('no sample of the batch could be read, so on_error="mask" had none to put there')
            raise last_error
        if self.collate is None:  # what most samples look like is right
            looks = {row: outline(sample, indices[row]) for row, sample in samples.items()}
            usual = Counter(looks.values()).most_common(1)[0][0]
            for row, look in looks.items():
                if look != usual:
                    bad[row] = f"it is {look}, where most samples of the batch are {usual}"
                    del samples[row]
        stand_in = next(iter(samples.values()))
        rows = [samples.get(row, stand_in) for row in range(len(indices))]
        return collated(rows, indices, self.collate), bad

    def _workers(self, steps: Callable[[int, int], Any]) -> Sequence[Worker]:
        """Make what prepares batches; steps(worker, workers) are those of one of them."""
        if self.processes:
            from .processes import ProcessWorker, pack

            payload = pack(self)
            return [
                ProcessWorker(payload, steps(k, self.processes), self.prefetch, self._describe)
                for k in range(self.processes)
            ]
        threads = self.threads
        if threads is None:
            threads = 0 if self.prefetch == 0 or self._reader.instant else 1
        if threads == 0:
            return [Prefetch(self.batch, steps(0, 1), 0)]
        return [Prefetch(self.batch, steps(k, threads), self.prefetch) for k in range(threads)]


def with_mask(batch: Any, mask: np.ndarray) -> Any:
    """Put a mask into a batch, where its structure lets it."""
    if isinstance(batch, dict):
        if "mask" in batch:
            raise ValueError(
                'a batch with a mask (of last="pad" or on_error="mask") gets the key "mask", but the samples have one; '
                "rename theirs"
            )
        return {**batch, "mask": mask}
    if isinstance(batch, list):
        return [*batch, mask]
    return (*batch, mask) if isinstance(batch, tuple) else (batch, mask)


def check_order(order: Any, length: int, batch_size: int) -> int:
    """Return the number of positions in an epoch of an order, or say why it is none for this dataset and batch."""
    if not callable(order) or not hasattr(order, "n"):
        raise TypeError(
            f"order must be a function (epoch, positions) -> indices with an attribute n, its length, got {order!r}; "
            "for a list of indices use fnet.data.Subset(dataset, indices)"
        )
    made_for = getattr(order, "dataset_length", length)  # of orders that know something about each sample
    if made_for != length:
        raise ValueError(
            f"{type(order).__name__} was made for {made_for} samples, and the dataset has {length}: some would never "
            "be read, or others than meant. For a Subset give what belongs to its samples, as labels[subset.indices]"
        )
    if getattr(order, "batch_size", batch_size) != batch_size:
        raise ValueError(
            f"{type(order).__name__} makes batches of {order.batch_size}, and the loader cuts batches of {batch_size}: "
            "give both the same batch_size"
        )
    return check_integer("order.n", order.n, 1)


def check_integer(name: str, value: Any, least: int) -> int:
    """Return the value as a Python int, or raise: it must be an integer of at least `least`."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {type(value).__name__} {value!r}") from None
    if number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}")
    return number


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        listed = " or ".join([", ".join(f'"{choice}"' for choice in choices[:-1]), f'"{choices[-1]}"'])
        raise ValueError(f"{name} must be {listed}, got {value!r}")


def _check_workers(threads: Any, processes: Any, prefetch: Any) -> dict[str, Any]:
    threads = None if threads is None else check_integer("threads", threads, 0)
    processes, prefetch = check_integer("processes", processes, 0), check_integer("prefetch", prefetch, 0)
    if threads and processes:
        raise ValueError(f"threads={threads} and processes={processes}: batches are prepared by one or the other")
    if (threads or processes) and prefetch == 0:
        raise ValueError("prefetch=0 prepares nothing ahead, so threads and processes have nothing to do; use 1 or 2")
    return {"threads": threads, "processes": processes, "prefetch": prefetch}


def check_shard(shard: Any, batch_size: int) -> tuple[int, int]:
    try:
        index, count = (operator.index(number) for number in shard)
    except (TypeError, ValueError):
        raise TypeError(f"shard must be (index, count) of this host, got {shard!r}") from None
    if not 0 <= index < count:
        raise ValueError(f"shard must be (index, count) with 0 <= index < count, got {(index, count)}")
    if batch_size % count:
        raise ValueError(f"batch_size={batch_size} is that of all hosts together, and {count} hosts do not divide it")
    return index, count
