"""The process that makes batches for `ProcessWorker`: reads tasks from its input, answers on its output."""

from __future__ import annotations

import mmap
import os
import pickle
import signal
import struct
import traceback
from collections.abc import Callable
from multiprocessing import spawn
from typing import Any, BinaryIO

import numpy as np

from .processes import BATCH, ERROR, HEAD, TASK, aligned


def main(shared: int | None, slots: int) -> None:
    """Answer tasks until the input ends, which it does when the parent closes it or is no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group of processes; the parent decides
    tasks, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)  # what the dataset prints must not get between the answers
    make = _loader(tasks)
    memory: mmap.mmap | None = None
    while len(task := tasks.read(TASK.size)) == TASK.size:
        step, slot, capacity = TASK.unpack(task)
        if capacity and memory is None:
            memory = mmap.mmap(shared, slots * capacity)  # type: ignore[arg-type]
        try:
            answer = _answer(make, step, memory, slot * capacity, capacity)
        except BaseException as error:  # a SystemExit too belongs to whoever waits for the batch
            answer = [_error(error)]
        try:
            for part in answer:
                view = memoryview(part).cast("B")
                while view:
                    view = view[answers.write(view) :]
        except BrokenPipeError:
            return


def _loader(tasks: BinaryIO) -> Callable[[int], Any]:
    """Unpack the loader; what goes wrong there is the answer to every task."""
    try:
        preparation, pickled = pickle.loads(tasks.read(struct.unpack("<q", tasks.read(8))[0]))
        spawn.prepare(preparation)  # imports the main module, under another name, if the dataset is from there
        return pickle.loads(pickled).batch
    except BaseException as error:
        error.add_note("while the dataset was unpacked in a process that prepares batches")
        if isinstance(error, AttributeError) and "__mp_main__" in str(error):
            error.add_note('it runs the script only to what is guarded: move it above `if __name__ == "__main__":`')
        failed = error

    def fail(step: int) -> Any:
        raise failed

    return fail


def _answer(make: Callable[[int], Any], step: int, memory: Any, offset: int, capacity: int) -> list[Any]:
    """Make a batch and put its arrays where the parent reads them: in the slot if they fit, else into the answer."""
    arrays: list[pickle.PickleBuffer] = []
    content = pickle.dumps(make(step), protocol=5, buffer_callback=arrays.append)
    buffers = [array.raw() for array in arrays]
    sizes = [buffer.nbytes for buffer in buffers]
    placed = memory is not None and sum(map(aligned, sizes)) <= capacity
    head = HEAD.pack(BATCH, len(content), len(sizes), placed) + content + struct.pack(f"<{len(sizes)}q", *sizes)
    if not placed:
        return [head, *(buffer for buffer in buffers if buffer.nbytes)]
    for buffer in buffers:
        np.frombuffer(memory, np.uint8, buffer.nbytes, offset)[:] = np.frombuffer(buffer, np.uint8)
        offset += aligned(buffer.nbytes)
    return [head]


def _error(error: BaseException) -> bytes:
    where = "".join(traceback.format_exception(error))
    try:
        content = pickle.dumps((error, where))
        pickle.loads(content)  # some exceptions can be packed and not unpacked
    except Exception:
        stand_in = RuntimeError(f"{type(error).__name__}: {error}")
        for note in getattr(error, "__notes__", ()):
            stand_in.add_note(note)
        content = pickle.dumps((stand_in, where))
    return HEAD.pack(ERROR, len(content), 0, False) + content
