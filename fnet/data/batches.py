"""The iterator that a loader gives: batches in the order of their steps, whoever prepares them, and what it waited."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any, Protocol


class Worker(Protocol):
    """Gives the batches of its own steps in their order; `next` may be called again after an exception."""

    def __next__(self) -> Any: ...

    def ready(self) -> bool: ...

    def close(self) -> None: ...


class Batches(Iterator[Any]):
    """Batches from workers that take turns; step k comes from worker k % len(workers).

    An exception in a batch is raised by the `next` that would have returned it, and the following `next` goes on with
    the following step. Threads and processes end when the iterator is exhausted, closed, or no longer referenced.

    It measures how long its user waited for data. While batches are computed in `next` itself, with no worker, all of
    their time counts as waiting.

    >>> from fnet.data import DataLoader
    >>> batches = DataLoader(range(6), batch_size=2).epoch(0)
    >>> len(list(batches)), batches.count
    (3, 3)
    >>> 0 <= batches.waiting <= 1, str(batches).split("%")[0][:12]
    (True, 'input-bound ')
    """

    def __init__(self, workers: Sequence[Worker], length: int | None = None, hosts: int = 1) -> None:
        self.count = 0  #: batches asked for so far, those that raised included
        self.hosts = hosts  #: of which each reads its part of a batch; `to_device` compares
        self._workers, self._length = workers, length
        self._began = self._last = self._waited = self._first = 0.0
        self._closed = False

    def __next__(self) -> Any:
        if self._closed:
            raise StopIteration
        worker = self._workers[self.count % len(self._workers)]
        start = time.perf_counter()
        try:
            batch = next(worker)  # type: ignore[call-overload]
        except StopIteration:
            self.close()
            raise
        except Exception:  # and not Ctrl-C, which takes no batch from the worker
            self._account(start)
            raise
        self._account(start)
        return batch

    def _account(self, start: float) -> None:
        self.count += 1
        self._last = time.perf_counter()
        if self.count == 1:  # starting workers is not what a long run waits for
            self._first, self._began = self._last - start, self._last
        else:
            self._waited += self._last - start

    @property
    def waiting(self) -> float:
        """The share of the time since the first batch that was spent waiting for batches, 0 to 1."""
        elapsed = self._last - self._began
        return self._waited / elapsed if elapsed > 0 else 0.0

    def __str__(self) -> str:
        return (
            f"input-bound {100 * self.waiting:.0f} %: waited {self._waited:.1f} s of {self._last - self._began:.1f} s "
            f"for {self.count} batches, and {self._first:.2f} s for the first"
        )

    def progress(self, description: str | None = None) -> Iterator[Any]:
        """Iterate with a bar that shows the share of waiting.

        >>> from fnet.data import DataLoader
        >>> for batch in DataLoader(range(6), batch_size=2).epoch(0).progress("validation"):  # doctest: +SKIP
        ...     pass
        validation: 100%|██████████| 3/3 [00:00<00:00, 951.32batch/s, input-bound 41 %]
        """
        from tqdm.auto import tqdm

        with tqdm(total=self._length, desc=description, unit="batch") as bar:
            for batch in self:
                bar.set_postfix_str(f"input-bound {100 * self.waiting:.0f} %", refresh=False)
                bar.update()
                yield batch

    def ready(self) -> bool:
        """Whether the next batch is there, so that `next` does not wait."""
        return self._closed or self._workers[self.count % len(self._workers)].ready()

    def __length_hint__(self) -> int:
        return NotImplemented if self._length is None else max(0, self._length - self.count)

    def close(self) -> None:
        """End the iteration and free its threads and processes; a second call does nothing."""
        self._closed = True
        for worker in self._workers:
            worker.close()
