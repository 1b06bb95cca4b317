"""Datasets that compute: a function on each sample or on each batch, and a cache of what was computed."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .reading import check_index, check_indices
from .rng import Rng, Rngs
from .structure import as_leaf, collate, leaves, map_leaves, outline, signature
from .transforms.base import Transform
from .transforms.compose import OnSample
from .views import View


class Map(View):
    """A function of each sample, as `fn(sample)`; with a parameter named `rng`, as `fn(sample, rng=…)`.

    The random numbers depend on (seed, epoch, index) only: `rng.random()` draws a float of 0 <= u < 1, and
    `rng.random(n)` an array of them; `np.random.default_rng(rng.key)` has numpy's other distributions. Read as
    `dataset[i]`, outside of a loader, a random function gets `Rng(0, 0, i)`. An exception in the function carries its
    name.

    >>> Map(range(5), lambda number: number * 10)[2]
    20
    >>> noisy = Map(range(5), lambda number, rng: number + rng.random())
    >>> noisy[2] == noisy.get(2, Rng(0, 0, 2)), noisy[2] == noisy.get(2, Rng(0, 1, 2))
    (True, False)
    """

    def __init__(self, dataset: Any, fn: Callable[..., Any]) -> None:
        super().__init__(dataset)
        self.dataset, self.fn = dataset, fn
        _check_callable(fn, "Map takes a function of a sample")
        self._takes_rng = _takes_rng(fn)
        self.random, self.vectorised, self.instant = self.random or _draws(fn), False, False

    @property
    def classes(self) -> Any:
        return super().classes if _keeps_labels(self.fn) else None

    def __getitem__(self, index: int) -> Any:
        return self.get(index, Rng(0, 0, index) if self.random else None)

    def get(self, index: int, rng: Rng | None) -> Any:
        sample = self._parts[0].sample(index, rng)
        try:
            return self.fn(sample, rng=rng) if self._takes_rng else self.fn(sample)
        except Exception as error:
            error.add_note(f"in {_name_of(self.fn)}, which Map applied to sample {index}")
            raise


class MapBatch(View):
    """A vectorised function of a batch, as `fn(batch)`; with a parameter named `rng`, as `fn(batch, rng=…)`.

    `rng` is an `Rngs`: `rng.random(n)` draws an array (batch, n), in which each row depends on (seed, epoch, index) of
    its sample only. The function must treat each row alone for a batch to be independent of what else is in it.

    Args:
        dataset: the dataset; where it has no get_batch, its samples are collated.
        fn: gets arrays with a first axis of samples, in the structure of a sample, and returns such arrays.

    >>> from fnet.data import ArrayDataset
    >>> scaled = MapBatch(ArrayDataset(np.arange(4, dtype=np.uint8)), lambda x: x / np.float32(2))
    >>> scaled.get_batch([1, 3]), scaled[2]
    (array([0.5, 1.5], dtype=float32), np.float32(1.0))
    """

    def __init__(self, dataset: Any, fn: Callable[..., Any]) -> None:
        super().__init__(dataset)
        self.dataset, self.fn = dataset, fn
        _check_callable(fn, "MapBatch takes a function of a batch")
        self._takes_rng = _takes_rng(fn)
        self.random, self.vectorised, self.instant = self.random or _draws(fn), True, False

    @property
    def classes(self) -> Any:
        return super().classes if _keeps_labels(self.fn) else None

    def __getitem__(self, index: int) -> Any:
        return self.get(index, None)

    def get(self, index: int, rng: Rng | None) -> Any:
        index = check_index(index, len(self))
        return self._parts[0].of_one(index, rng, self.get_batch)

    def get_batch(self, indices: Any, rng: Rngs | None = None) -> Any:
        indices = check_indices(indices, len(self))
        if rng is None and self.random:  # read outside of a loader
            rng = Rngs(0, 0, indices)
        part = self._parts[0]
        if part.vectorised:
            batch = part.batch(indices, rng)
        else:
            samples = []
            for row, index in enumerate(indices.tolist()):
                stream = None if rng is None else rng[row]
                samples.append(part.sample(index, stream))
                if rng is not None and stream is not None:
                    rng.counts[row] = stream.count
            batch = collate(samples, indices)
        try:
            batch = self.fn(batch, rng=rng) if self._takes_rng else self.fn(batch)
        except Exception as error:
            error.add_note(f"in {_name_of(self.fn)}, which MapBatch applied to samples {indices[:20].tolist()}")
            raise
        for name, leaf in leaves(batch):
            if np.ndim(leaf) == 0 or len(leaf) != len(indices):
                raise ValueError(
                    f"MapBatch: {_name_of(self.fn)} got {len(indices)} samples, and gave {signature(np.asarray(leaf))}"
                    + (f" at {name!r}" if name else "")
                )
        return batch


class Cache(View):
    """Samples that are read once and kept, in memory or in a folder.

    Put it below what is random: `Map(Cache(dataset), augment)`. In memory, arrays are made read-only, so that nothing
    downstream can change what is kept. In a folder, samples of equal shapes are kept as memory maps, which later runs
    and other processes share; the caller says by the folder's name what is in it.

    Args:
        dataset: the dataset.
        folder: where to keep samples; None for memory.

    Raises:
        ValueError: the dataset is random; the folder holds samples of another length or look; a sample does not look
            like the first, or is no array of numbers (with a folder).

    >>> squares = Cache(Map(range(5), lambda number: number * number))
    >>> squares[3], len(squares)
    (9, 5)
    """

    def __init__(self, dataset: Any, folder: str | Path | None = None) -> None:
        super().__init__(dataset)
        if self.random:
            raise ValueError(
                "Cache would keep one draw of a random dataset for ever: cache what is below it, as in "
                "Map(Cache(dataset), augment)"
            )
        self.dataset, self.folder = dataset, None if folder is None else Path(folder).absolute()
        self.vectorised = self.instant = False
        self._memory: dict[int, Any] = {}
        self._disk: tuple[np.ndarray, Any] | None = None

    def get(self, index: int, rng: Rng | None) -> Any:
        index = check_index(index, len(self))
        if self.folder is not None:
            return self._from_disk(index)
        if index not in self._memory:
            self._memory[index] = map_leaves(_frozen, self.dataset[index])
        return self._memory[index]

    def _from_disk(self, index: int) -> Any:
        if self._disk is None:
            first = map_leaves(lambda name, leaf: as_leaf(leaf, index, name), self.dataset[index])
            self._disk = _open_cache(self.folder, len(self), first, index)  # type: ignore[arg-type]
        filled, kept = self._disk
        if not filled[index]:
            sample = self.dataset[index]
            look = outline(sample, index)
            expected = outline(map_leaves(lambda _, array: array[0], kept), 0)
            if look != expected:
                raise ValueError(f"Cache in {self.folder}: sample {index} is {look}, and what is kept there {expected}")
            for (_, array), (name, leaf) in zip(leaves(kept), leaves(sample), strict=True):
                array[index] = as_leaf(leaf, index, name)
            filled[index] = True  # last: a run that was interrupted in between reads it again
        return map_leaves(lambda _, array: array[index].copy(), kept)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_memory": {}, "_disk": None}  # it fills again where it goes


def _open_cache(folder: Path, n: int, first: Any, index: int) -> tuple[np.ndarray, Any]:
    """Open the memory maps in a folder, or make them for samples that look like the first."""
    for name, leaf in leaves(first):
        if leaf.dtype.kind not in "biufc":
            raise ValueError(f"Cache in {folder}: sample {index} has {signature(leaf)} at {name!r}; it keeps numbers")
    described = {"samples": n, "sample": outline(first, index)}
    folder.mkdir(parents=True, exist_ok=True)
    about = folder / "cache.json"
    if about.exists():
        found = json.loads(about.read_text())
        if found != described:
            raise ValueError(
                f"Cache: {folder} holds {found['samples']} samples of {found['sample']}, and this dataset has {n} of "
                f"{described['sample']}; use another folder, or delete it"
            )
    else:
        for number, (_, leaf) in enumerate([("", np.zeros((), bool)), *leaves(first)]):
            path = folder / f"{number}.npy"
            part = path.with_name(f"{number}.{os.getpid()}.part")
            np.lib.format.open_memmap(part, "w+", leaf.dtype, (n, *leaf.shape)).flush()
            if not path.exists():
                os.replace(part, path)
            else:  # another process was faster
                part.unlink()
        part = about.with_name(f"cache.{os.getpid()}.part")
        part.write_text(json.dumps(described))
        os.replace(part, about)
    arrays = iter([np.load(folder / f"{number}.npy", mmap_mode="r+") for number in range(len(leaves(first)) + 1)])
    return next(arrays), map_leaves(lambda _, leaf: next(arrays), first)


def _frozen(name: str, leaf: Any) -> Any:
    if isinstance(leaf, np.ndarray):
        leaf = leaf.view()
        leaf.flags.writeable = False
    return leaf


def _check_callable(fn: Any, takes: str) -> None:
    if not callable(fn):
        raise TypeError(f"{takes}, got {type(fn).__name__} {fn!r}")


def _takes_rng(fn: Callable[..., Any]) -> bool:
    try:
        return "rng" in inspect.signature(fn).parameters
    except (TypeError, ValueError):  # written in C, without a word about its parameters
        return False


def _keeps_labels(fn: Any) -> bool:
    """Whether labels are known to stay what they are: a function of a whole sample may change them."""
    transform = getattr(fn, "__self__", fn)
    return isinstance(transform, OnSample) and transform.target_transform is None


def _draws(fn: Any) -> bool:
    """Whether it may draw the random numbers that it takes: a transform says so, itself or for its `batch`."""
    transform = getattr(fn, "__self__", fn)
    return _takes_rng(fn) and (not isinstance(transform, Transform) or transform.random)


def _name_of(fn: Any) -> str:
    return getattr(fn, "__qualname__", None) or repr(fn)
