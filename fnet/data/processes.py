"""Batches made by other processes, which are started and never forked, and share memory that cannot be left behind.

Each process is a fresh interpreter that imports numpy and fnet.data, gets the loader by pickle, and answers with the
batches of its own steps, in their order, over a pipe of its own. There are no locks and no queues that a killed process
could hold on to: a pipe that ends is noticed at once, at either end. Arrays travel through a ring of slots in anonymous
shared memory (Linux: memfd, which /dev/shm does not limit), and through the pipe where there is none.
"""

from __future__ import annotations

import mmap
import os
import pickle
import pickletools
import select
import signal
import struct
import subprocess
import sys
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from multiprocessing import spawn
from typing import Any

import numpy as np

TASK = struct.Struct("<qqq")  # step, slot, bytes a slot (0: there are none yet)
HEAD = struct.Struct("<qqqq")  # kind, bytes of pickle, number of buffers, whether these are in the slot
BATCH, ERROR = 0, 1
ALIGN = 64
IN_WORKER = "FNET_DATA_WORKER"  # set in the environment of workers


class ProcessWorker:
    """Iterate over the batches of some steps, made by one other process up to `ahead` of them early.

    It behaves as `Prefetch` does: an exception in a batch is raised by the `next` that would have returned it, and the
    following one goes on with the following step. If the process dies, that is such an exception, and another one is
    started for the steps that follow.

    Args:
        payload: what `pack` made of the loader.
        steps: the steps.
        ahead: batches to have in the making, at least 1.
        describe: says what a step reads, for messages.
    """

    def __init__(self, payload: bytes, steps: Iterable[int], ahead: int, describe: Callable[[int], str]) -> None:
        self._payload, self._steps, self._ahead, self._describe = payload, iter(steps), ahead, describe
        self._pending: deque[tuple[int, int]] = deque()  # (step, slot) of the batches in the making
        self._slots = ahead
        self._capacity = 0  # bytes a slot, known when the first batch has arrived
        self._memory: mmap.mmap | None = None
        self._closed = self._torn = False
        self._start()
        for slot in range(ahead):
            self._submit_next(slot)

    def _start(self) -> None:
        self._process, self._shared = _launch(self._payload, self._slots)
        self._finalizer = weakref.finalize(self, _stop, self._process, self._shared)
        self._memory, self._capacity = None, 0

    def _submit_next(self, slot: int) -> None:
        step = next(self._steps, None)
        if step is not None:
            self._pending.append((step, slot))
            self._send(step, slot)

    def _send(self, step: int, slot: int) -> None:
        try:
            self._process.stdin.write(TASK.pack(step, slot, self._capacity))  # type: ignore[union-attr]
        except BrokenPipeError:
            pass  # it is dead, and waiting for the answer will say so

    def __next__(self) -> Any:
        if self._closed or not self._pending:
            self.close()
            raise StopIteration
        if self._torn:  # an interrupt came while an answer was read, and the rest of it is still in the pipe
            self._restart()
        step, slot = self._pending[0]
        self._torn = True
        try:
            batch, error, size = self._receive(slot)
        except EOFError:
            batch, error, size = None, self._explain_death(step), 0
        self._pending.popleft()
        self._torn = False
        if isinstance(error, _Death):
            self._restart()
        elif size:
            self._make_ring(size)
        self._submit_next(slot)
        if error is None:
            return batch
        try:
            raise error
        finally:
            del error  # its traceback holds this frame: do not let them keep each other alive

    def _receive(self, slot: int) -> tuple[Any, BaseException | None, int]:
        """Read an answer: (the batch, None, bytes of its arrays) or (None, the exception, 0)."""
        pipe = self._process.stdout
        kind, length, count, placed = HEAD.unpack(_read(pipe, HEAD.size))
        content = _read(pipe, length)
        if kind == ERROR:
            return None, _load_error(content), 0
        sizes = struct.unpack(f"<{count}q", _read(pipe, 8 * count))
        buffers = []
        offset = slot * self._capacity
        for size in sizes:
            buffer = np.empty(size, np.uint8)  # the slot is used again at once, and JAX keeps the memory it is given
            if placed:
                buffer[:] = np.frombuffer(self._memory, np.uint8, size, offset)  # type: ignore[arg-type]
                offset += aligned(size)
            else:
                _read_into(pipe, memoryview(buffer))  # type: ignore[arg-type]
            buffers.append(buffer)
        return pickle.loads(content, buffers=buffers), None, sum(map(aligned, sizes))

    def _make_ring(self, size: int) -> None:
        """Reserve memory for all slots, or go on with the pipe: half-reserved memory would kill who writes to it."""
        if self._shared is None or self._memory is not None:
            return
        total = self._slots * aligned(size, mmap.PAGESIZE)
        try:
            os.posix_fallocate(self._shared, 0, total)
            self._memory = mmap.mmap(self._shared, total)
            self._capacity = total // self._slots
        except OSError as error:
            os.close(self._shared)
            self._shared = None
            self._finalizer.detach()
            self._finalizer = weakref.finalize(self, _stop, self._process, None)
            warnings.warn(
                f"no shared memory for {total:,} bytes of batches ({error}): they go through a pipe, which is slower; "
                "use a smaller batch_size or prefetch, or fewer processes",
                RuntimeWarning,
                stacklevel=4,
            )

    def _explain_death(self, step: int) -> _Death:
        code = self._process.wait()
        reason = f"ended with exit code {code}"
        if code < 0:
            names = {number.value: number.name for number in signal.Signals}
            reason = f"was killed by {names.get(-code, f'signal {-code}')}"
            reason += " (as when memory runs out)" if -code == signal.SIGKILL else ""
        return _Death(
            f"the process that made the batch of {self._describe(step)} {reason}; a new one goes on with the next step"
        )

    def _restart(self) -> None:
        self._finalizer()
        self._start()
        for step, slot in self._pending:
            self._send(step, slot)

    def ready(self) -> bool:
        """Whether the answer to the next step is there, so that `next` hardly waits."""
        if self._closed or not self._pending:
            return True
        pipe: Any = self._process.stdout
        return bool(select.select([pipe], [], [], 0)[0])

    def close(self) -> None:
        """End the process; a second call does nothing."""
        self._closed = True
        self._finalizer()


class _Death(RuntimeError):
    """A process ended before it answered."""


def pack(loader: Any) -> bytes:
    """Pickle a loader for other processes, or say why it cannot be and what would help."""
    if os.name == "nt":
        raise NotImplementedError(f"processes={loader.processes} needs Linux or macOS; use threads=")
    if os.environ.get(IN_WORKER):
        raise RuntimeError(
            "a process that prepares batches has started to run the main script again, because the dataset's class is "
            'defined there. Put what the script does under `if __name__ == "__main__":`, or the class into a module'
        )
    try:
        pickled = pickle.dumps(loader, protocol=5)
    except Exception as error:
        raise TypeError(
            f"processes={loader.processes} sends the dataset to other Python processes, and pickle cannot "
            f"({type(error).__name__}: {error}). A lambda, or a function or class inside of a function, has no name by "
            "which another process could find it: define it with def or class at the top of a module. Open files and "
            "connections cannot travel: open them in the first __getitem__. Or use threads=, which send nothing"
        ) from error
    preparation = spawn.get_preparation_data("fnet-data")
    preparation.pop("authkey", None)  # refuses to be pickled, and is for queues, of which there are none
    needed = _names_in_main(pickled) if b"__main__" in pickled else []
    found = {key: preparation.pop(key) for key in ("init_main_from_name", "init_main_from_path") if key in preparation}
    if needed and not os.path.exists(found.get("init_main_from_path", sys.executable)):
        found = {}  # the program came through a pipe
    if needed and not found:
        raise TypeError(
            f"processes={loader.processes} sends the dataset to other Python processes, which cannot import "
            f"{needed[0]} from a notebook, an interactive session or a pipe: write it to a .py file and import it "
            "from there, or use threads="
        )
    return pickle.dumps((preparation | (found if needed else {}), pickled))


def aligned(size: int, to: int = ALIGN) -> int:
    """Round up to a multiple."""
    return -(-size // to) * to


def _names_in_main(pickled: bytes) -> list[str]:
    """List what a pickle takes from the main module."""
    names, strings = [], deque[str](maxlen=2)
    for opcode, argument, _ in pickletools.genops(pickled):
        if opcode.name == "STACK_GLOBAL" and len(strings) == 2 and strings[0] == "__main__":
            names.append(strings[1])
        elif isinstance(argument, str):
            strings.append(argument)
    return names


def _launch(payload: bytes, slots: int) -> tuple[subprocess.Popen, int | None]:
    shared = os.memfd_create("fnet-data") if hasattr(os, "memfd_create") else None
    try:
        code = f"import sys; sys.path[:] = {sys.path!r}\nfrom fnet.data.worker import main\nmain({shared}, {slots})"
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            pass_fds=() if shared is None else (shared,),
            env={**os.environ, IN_WORKER: "1"},
        )
    except BaseException:
        if shared is not None:
            os.close(shared)
        raise
    try:
        _write(process.stdin, struct.pack("<q", len(payload)) + payload)
    except BrokenPipeError:
        pass  # it died at once; the first answer will say so
    return process, shared


def _stop(process: subprocess.Popen, shared: int | None) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    process.terminate()  # it holds nothing that would have to be put in order
    try:
        process.wait(2)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if shared is not None:
        os.close(shared)


def _write(pipe: Any, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[pipe.write(view) :]


def _read(pipe: Any, size: int) -> bytearray:
    content = bytearray(size)
    _read_into(pipe, memoryview(content))
    return content


def _read_into(pipe: Any, view: memoryview) -> None:
    while view:
        count = pipe.readinto(view)
        if not count:
            raise EOFError
        view = view[count:]


def _load_error(content: bytes | bytearray) -> BaseException:
    error, where = pickle.loads(content)
    error.add_note(f"in another process:\n{where.rstrip()}")
    return error
