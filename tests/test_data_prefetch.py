"""Reading ahead: errors reach the reader, and no thread outlives its use."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from fnet.data import DataLoader

SOURCE = str(Path(__file__).parents[1])


class Squares:
    """A dataset read sample by sample, in the style of PyTorch."""

    def __init__(self, n=10, bad=(), error=None):
        self.n, self.bad, self.error = n, bad, error

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        if index in self.bad:
            raise self.error
        return np.full((2, 3), index, np.float32), index * index


def prefetch_threads():
    return [thread for thread in threading.enumerate() if thread.name == "fnet-prefetch"]


def no_threads_left(seconds=3.0):
    end = time.monotonic() + seconds
    while prefetch_threads() and time.monotonic() < end:
        gc.collect()
        time.sleep(0.01)
    return not prefetch_threads()


@pytest.mark.parametrize("prefetch", [0, 2])
def test_an_error_says_sample_epoch_and_step_and_the_next_step_follows(prefetch):
    loader = DataLoader(Squares(10, bad={7}, error=OSError("disk gone")), 2, prefetch=prefetch)
    stream = loader.stream(start=6)
    assert next(stream)[1].tolist() == [4, 9]
    next(stream)
    with pytest.raises(OSError, match="disk gone") as caught:
        next(stream)
    assert caught.value.__notes__[:2] == ["in sample 7 of Squares", "in the batch of epoch 1, step 8"]
    assert next(stream)[1].tolist() == [64, 81]  # step 9
    stream.close()
    with pytest.raises(StopIteration):
        next(stream)
    stopping = DataLoader(Squares(4, bad={3}, error=StopIteration()), 2, prefetch=prefetch)
    with pytest.raises(RuntimeError, match=r"raised StopIteration\(\) in epoch 0, step 1"):
        list(stopping.epoch(0))
    del stream, caught
    assert no_threads_left()


def test_abandoned_exhausted_and_closed_iterators_free_their_threads():
    loader = DataLoader(Squares(50), 5)
    streams = [loader.stream() for _ in range(5)]
    for stream in streams:
        next(stream)
    assert len(prefetch_threads()) == 5
    del stream, streams
    assert no_threads_left()
    for _ in loader:
        break
    list(loader.epoch(0))
    with contextlib.closing(loader.stream()) as stream:
        next(stream)
    assert no_threads_left()
    stream.close()  # again
    cycle = [loader.stream()]
    cycle.append(cycle)  # only the garbage collector finds it
    next(cycle[0])
    del cycle
    assert no_threads_left()


def test_a_stream_reads_ahead_as_far_as_it_was_told_and_keeps_no_batch():
    read = []

    class Noting(Squares):
        def __getitem__(self, index):
            read.append(index)
            return super().__getitem__(index)

    stream = DataLoader(Noting(1000), 1, prefetch=3).stream()
    next(stream)
    end = time.monotonic() + 3
    while len(read) < 4 and time.monotonic() < end:
        time.sleep(0.005)
    time.sleep(0.05)
    assert read == [0, 1, 2, 3]
    stream.close()


def run_python(code, **options):
    script = f"import sys; sys.path.insert(0, {SOURCE!r})\n" + textwrap.dedent(code)
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def test_the_interpreter_exits_in_the_middle_of_a_stream():
    process = run_python("""
        import time
        from fnet.data import DataLoader
        class Slow:
            def __len__(self): return 100
            def __getitem__(self, index):
                time.sleep(0.01 if index < 4 else 60)
                return index
        stream = DataLoader(Slow(), 2).stream()
        print(next(stream).tolist())
    """)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (0, "[0, 1]\n", "")


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT")
def test_ctrl_c_while_waiting_for_a_batch():
    process = run_python("""
        import time
        from fnet.data import DataLoader
        class Stuck:
            def __len__(self): return 10
            def __getitem__(self, index):
                print("reading", flush=True)
                time.sleep(60)
        for batch in DataLoader(Stuck(), 2):
            pass
    """)
    assert process.stdout.readline() == "reading\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode != 0 and err.rstrip().endswith("KeyboardInterrupt")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_an_iterator_carried_over_a_fork_says_so():
    process = run_python("""
        import os, warnings
        from fnet.data import DataLoader
        stream = DataLoader(list(range(100)), 2, prefetch=1).stream()
        next(stream)
        warnings.simplefilter("ignore")
        child = os.fork()
        if child == 0:
            try:
                for _ in range(5):
                    next(stream)
            except RuntimeError as error:
                print(error, flush=True)
            os._exit(0)
        os.waitpid(child, 0)
    """)
    out, err = process.communicate(timeout=20)
    assert "the thread that prepares batches is gone" in out and err == ""


def test_data_imports_without_jax():
    process = run_python("""
        sys.modules["jax"] = None
        import fnet.data
        train, test = fnet.data.digits()
        next(iter(fnet.data.DataLoader(train, 32, shuffle=True)))
        heavy = ("jax", "torch", "urllib.request", "tqdm")
        print([name for name in sys.modules if name.startswith(heavy) and sys.modules[name]])
    """)
    out, err = process.communicate(timeout=20)
    assert (out, err) == ("[]\n", "")
