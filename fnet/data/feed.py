"""Batches on devices: the one file of fnet.data that needs JAX, which it imports when it is used."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from .structure import describe, leaves, signature


def to_device(batches: Iterable[Any], sharding: Any = None, ahead: int = 1) -> Iterator[Any]:
    """Iterate over batches as jax arrays, with the transfer of the next one under way while one is in use.

    A batch that the loader has not prepared yet is not waited for ahead of time, so reading ahead delays nothing. An
    exception in a batch is raised in its place, and the iteration goes on with the batch after it.

    Args:
        batches: nested arrays, as `loader.stream()` and `loader.epoch(e)` give them. On CPU devices JAX keeps using
            the memory that it is given, so arrays must not be written to afterwards; a DataLoader's never are.
        sharding: where arrays go: None for JAX's default device, a device, a sharding, or one of those for each array
            in the structure of a batch (the mask included). With several hosts, each gives its part (DataLoader's
            `shard`) and gets the global array.
        ahead: batches to transfer before they are asked for.

    Raises:
        TypeError: an array is of text or objects; it is named.
        OverflowError: an array has 64-bit integers that JAX's 32 bits cannot hold; it is named.
        ValueError: the sharding does not fit the batch, or divides it among other hosts than the loader does.

    >>> from fnet import data
    >>> loader = data.DataLoader(data.ArrayDataset(np.arange(6.0), np.arange(6)), batch_size=3)
    >>> for x, y in data.to_device(loader.epoch(0)):
    ...     print(type(x).__name__, x.dtype, y.tolist())
    ArrayImpl float32 [0, 1, 2]
    ArrayImpl float32 [3, 4, 5]
    """
    if ahead < 0:
        raise ValueError(f"to_device: ahead must be 0 or more, got {ahead}")
    return _Feed(batches, sharding, ahead)


class _Feed(Iterator[Any]):
    def __init__(self, batches: Iterable[Any], sharding: Any, ahead: int) -> None:
        self._batches, self._sharding, self._ahead = iter(batches), sharding, ahead
        self._ready = getattr(self._batches, "ready", lambda: True)
        self._hosts = getattr(self._batches, "hosts", None)
        self._queue: deque[tuple[Any, BaseException | None]] = deque()

    def __next__(self) -> Any:
        if not self._queue:
            self._fetch()
        item, error = self._queue.popleft()
        while error is None and len(self._queue) < self._ahead and self._ready():
            self._fetch()
        if error is None:
            return item
        try:
            raise error
        finally:
            del error  # its traceback holds this frame: do not let them keep each other alive

    def _fetch(self) -> None:
        try:
            self._queue.append((put(next(self._batches), self._sharding, self._hosts), None))
        except Exception as error:  # StopIteration too comes in its turn
            self._queue.append((None, error))

    def close(self) -> None:
        """Close the iterator of batches, if it can be."""
        getattr(self._batches, "close", lambda: None)()


def put(batch: Any, sharding: Any = None, hosts: int | None = None) -> Any:
    """Transfer one batch, as `to_device` does each; `hosts` is in how many parts it was read, if known.

    >>> put({"x": np.zeros((2, 3), np.uint8)})["x"].shape
    (2, 3)
    """
    import jax

    wide = jax.dtypes.canonicalize_dtype(np.int64) == np.int64
    for name, leaf in leaves(batch):
        _check(name, leaf, wide)
    if sharding is None or isinstance(sharding, jax.Device):
        return jax.device_put(batch, sharding)

    def place(where: Any, part: Any) -> Any:
        if not isinstance(where, jax.sharding.Sharding) or where.is_fully_addressable:
            return jax.device_put(part, where)
        return jax.tree.map(lambda leaf: _global(where, leaf, hosts), part)

    try:
        if isinstance(sharding, jax.sharding.Sharding):
            return place(sharding, batch)
        return jax.tree.map(place, sharding, batch, is_leaf=lambda where: where is None)
    except ValueError as error:
        outlined = ", ".join(f"{name or 'the array'}: {signature(np.asarray(leaf))}" for name, leaf in leaves(batch))
        error.add_note(
            f"to_device: sharding={sharding!r}, for a batch of {outlined}. Where devices divide the rows, the last "
            'batch of an epoch needs last="drop" or "pad"'
        )
        raise


def _global(where: Any, part: Any, hosts: int | None) -> Any:
    """Make the global array of which every host has its part."""
    import jax

    array = jax.make_array_from_process_local_data(where, part)
    if hosts is not None and array.ndim and array.shape[0] != hosts * part.shape[0]:
        raise ValueError(
            f"to_device: {where} makes arrays of {array.shape[0]} rows of this host's {part.shape[0]}, but the loader "
            f"reads a batch in {hosts} parts: samples would be doubled or differ between hosts. Give DataLoader "
            "shard=(index, count) of the hosts among which the sharding divides the first axis"
        )
    return array


def _check(name: str, leaf: Any, wide: bool) -> None:
    if not isinstance(leaf, np.ndarray):
        return
    if leaf.dtype.kind not in "biufcV":  # V: bfloat16 and its kind
        raise TypeError(
            f"{describe(name)} of the batch is {signature(leaf)}, which no device can hold; leave it out of what "
            "goes to the device, or make numbers of it in the dataset"
        )
    if not wide and leaf.dtype in (np.int64, np.uint64) and leaf.size:
        bounds = np.iinfo(np.int32 if leaf.dtype == np.int64 else np.uint32)
        if leaf.max() > bounds.max or leaf.min() < bounds.min:
            raise OverflowError(
                f"{describe(name)} of the batch is {signature(leaf)} with values from {leaf.min()} to {leaf.max()}, "
                f"and JAX would cut it to {bounds.dtype}; use jax.enable_x64, or smaller numbers"
            )
