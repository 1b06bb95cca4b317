"""Work in a thread of its own, one piece at a time, whose errors are not lost."""

from __future__ import annotations

import sys
import threading
import traceback
import weakref
from collections.abc import Callable


class Background:
    """At most one piece of work in flight; its error is raised by the next `wait`.

    The thread is no daemon: the interpreter waits for it before it ends. An error that nobody waited for is printed
    then.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._errors: list[BaseException] = []
        weakref.finalize(self, _report, self._errors)

    def start(self, work: Callable[[], None], name: str) -> None:
        """Begin; `wait` must have returned since the last time."""

        def run() -> None:
            try:
                work()
            except BaseException as error:  # raised where somebody can see it
                self._errors.append(error)

        self._thread = threading.Thread(target=run, name=name, daemon=False)
        self._thread.start()

    def wait(self, timeout: float | None = None) -> None:
        """Return when nothing is in flight; raises the error of the work, or TimeoutError."""
        if self._thread is not None:
            self._thread.join(timeout)
            if self._thread.is_alive():
                raise TimeoutError(f"{self._thread.name} has not finished after {timeout:g} s")
            self._thread = None
        if self._errors:
            raise self._errors.pop()


def _report(errors: list[BaseException]) -> None:
    for error in errors:
        print("fnet: an error in the background that nobody waited for:", file=sys.stderr)
        traceback.print_exception(error)
