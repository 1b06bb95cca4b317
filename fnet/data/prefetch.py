"""Compute items ahead of their use in one background thread, and leave no thread behind."""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

_DONE = object()


class Prefetch(Iterator[Any]):
    """Iterate over make(step) for each of steps, computed up to `ahead` items early by a daemon thread.

    An exception in make is raised by the `next` that would have returned its item; the following `next` goes on with
    the following step. The thread ends with the iterator: when it is exhausted, closed, or no longer referenced. With
    ahead=0 there is no thread, and each item is computed when it is asked for.

    >>> list(Prefetch(lambda step: step * step, range(4), ahead=2))
    [0, 1, 4, 9]
    """

    def __init__(self, make: Callable[[Any], Any], steps: Iterable[Any], ahead: int) -> None:
        self._closed = False
        self._direct = map(make, steps) if ahead == 0 else None
        if ahead == 0:
            return
        # Only SimpleQueue.put may be called from a finaliser, which the garbage collector can run between any two
        # instructions of either thread; so it carries the permissions to compute as well as the results.
        self._permits: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._ready: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
        stopped: list[bool] = []
        for _ in range(ahead):
            self._permits.put(None)
        # The thread gets the queues and never the iterator, which could not be collected otherwise.
        self._thread = threading.Thread(
            target=_work,
            args=(make, iter(steps), self._permits, self._ready, stopped),
            name="fnet-prefetch",
            daemon=True,
        )
        self._finalizer = weakref.finalize(self, _stop, stopped, self._permits)
        self._thread.start()

    def __next__(self) -> Any:
        if self._closed:
            raise StopIteration
        if self._direct is not None:
            return next(self._direct)
        item, error = self._take()
        self._permits.put(None)
        if item is _DONE:
            self.close()
            raise StopIteration
        if error is None:
            return item
        try:
            raise error
        finally:
            del error  # its traceback holds this frame: do not let them keep each other alive

    def ready(self) -> bool:
        """Whether the next item is there, so that `next` does not wait."""
        return self._closed or (self._direct is None and not self._ready.empty())

    def _take(self) -> tuple[Any, BaseException | None]:
        while True:
            alive = self._thread.is_alive()  # asked before looking, or its last item could arrive in between
            try:
                return self._ready.get(timeout=1.0)  # waking now and then lets Ctrl-C through on every platform
            except queue.Empty:
                if self._closed:
                    return _DONE, None
                if not alive:
                    raise RuntimeError(
                        "the thread that prepares batches is gone, as after os.fork(); make a new iterator here"
                    ) from None

    def close(self) -> None:
        """End the iteration and free the thread; a second call does nothing."""
        self._closed = True
        self._direct = None
        if hasattr(self, "_finalizer"):
            self._finalizer()


def _stop(stopped: list[bool], permits: queue.SimpleQueue[None]) -> None:
    stopped.append(True)
    permits.put(None)


def _work(
    make: Callable[[Any], Any],
    steps: Iterator[Any],
    permits: queue.SimpleQueue[None],
    ready: queue.SimpleQueue[tuple[Any, BaseException | None]],
    stopped: list[bool],
) -> None:
    while True:
        permits.get()
        if stopped:
            return
        try:
            step = next(steps, _DONE)
            ready.put((_DONE if step is _DONE else make(step), None))
        except BaseException as error:  # a SystemExit too belongs to whoever waits for the item
            ready.put((None, error))
        else:
            if step is _DONE:
                return
