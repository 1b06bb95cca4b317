"""Worker processes: what can go wrong with them says so, hangs nothing, and leaves nothing behind."""

from __future__ import annotations

import errno
import gc
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import time
import warnings
from multiprocessing import spawn
from pathlib import Path

import numpy as np
import pytest
from _datasets import KILLED, Dying, Jpegs, Squares, Talking, TwoArguments

from fnet.data import ArrayDataset, DataLoader, Map, processes

SOURCE = str(Path(__file__).parents[1])
pytestmark = pytest.mark.skipif(os.name == "nt", reason="worker processes need Linux or macOS")


def children():
    """Worker processes of this one that are alive or not waited for."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
            command = stat.with_name("cmdline").read_bytes()
        except OSError:  # it ended in between
            continue
        if int(parent) == os.getpid() and (state == "Z" or b"fnet.data.worker" in command):
            found.append(command)
    return found


def descriptors():
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0


@pytest.fixture(autouse=True)
def nothing_is_left():
    shared = set(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else set()
    before = descriptors()
    yield
    gc.collect()
    assert not children()
    assert descriptors() <= before
    assert not os.path.isdir("/dev/shm") or set(os.listdir("/dev/shm")) <= shared


def same(one, other):
    return all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(one, other, strict=True))


def test_batches_are_those_of_one_process_and_own_their_memory():
    loader = DataLoader(Squares(23), 5, shuffle=True, seed=3, processes=2, prefetch=2, last="pad")
    stream = loader.stream(start=2)
    batches = [next(stream) for _ in range(12)]
    assert all(same(batch, loader.batch(step)) for step, batch in enumerate(batches, 2))
    assert stream._workers[0]._memory is not None or not hasattr(os, "memfd_create")
    batches[4][0][:] = -1  # may be written, and nobody else's batch changes
    assert same(batches[5], loader.batch(7)) and same(batches[3], loader.batch(5))
    stream.close()
    stream.close()
    with pytest.raises(StopIteration):
        next(stream)


def test_what_fits_no_slot_goes_through_the_pipe():
    samples = [np.full(4, k) for k in range(4)] + [np.full(50_000, k) for k in range(4)] + ["text"] * 4
    batches = list(DataLoader(samples, 4, processes=1).epoch(0))
    assert [batch.shape for batch in batches] == [(4, 4), (4, 50_000), (4,)] and batches[2].tolist() == ["text"] * 4
    assert np.array_equal(batches[1][:, 0], range(4))


def test_a_process_imports_no_jax_and_may_print(capfd):
    jax_there, parents, pids = next(DataLoader(Talking(4), 4, processes=1).stream())
    assert not jax_there.any() and set(parents) == {os.getpid()} and os.getpid() not in pids
    out, err = capfd.readouterr()
    assert out == "" and "to standard output" in err


def test_errors_carry_sample_epoch_and_step_and_the_next_step_follows():
    bad = {7: OSError("disk gone"), 2: TwoArguments, 4: SystemExit(3)}
    stream = DataLoader(Squares(10, bad), 2, processes=1).stream(start=6)
    with pytest.raises(RuntimeError, match="TwoArguments: this and that") as caught:
        next(stream)
    assert caught.value.__notes__[:2] == ["in sample 2 of Squares", "in the batch of epoch 1, step 6"]
    with pytest.raises(RuntimeError, match=r"SystemExit\(3\) in epoch 1, step 7"):
        next(stream)
    with pytest.raises(OSError, match="disk gone") as caught:
        next(stream)
    assert caught.value.__notes__[:2] == ["in sample 7 of Squares", "in the batch of epoch 1, step 8"]
    assert "in another process:\nTraceback" in caught.value.__notes__[2]
    assert next(stream)[1].tolist() == [64, 81]  # step 9
    del stream, caught


@pytest.mark.parametrize("end", [KILLED, -7])
def test_a_process_that_dies_is_named_and_replaced(end):
    loader = DataLoader(Dying(12, {6: end}), 2, processes=2)
    stream = loader.epoch(0)
    assert [next(stream).tolist() for _ in range(3)] == [[0, 1], [2, 3], [4, 5]]
    reason = "killed by SIGKILL" if end == KILLED else "ended with exit code 7"
    with pytest.raises(RuntimeError, match=rf"epoch 0, step 3 \(samples 6, 7\) (was )?{reason}"):
        next(stream)
    assert [batch.tolist() for batch in stream] == [[8, 9], [10, 11]]


def test_killed_from_outside_in_the_middle():
    stream = DataLoader(Squares(100), 2, processes=1).stream()
    next(stream)
    os.kill(stream._workers[0]._process.pid, signal.SIGKILL)
    seen, failed = [], 0
    for _ in range(8):
        try:
            seen.append(next(stream)[1][0])
        except RuntimeError as error:
            failed += 1
            assert "was killed by SIGKILL" in str(error)
    assert failed == 1 and len(seen) == 7 and seen == sorted(seen)


def test_a_corrupt_jpeg_and_a_sample_of_another_shape():
    pytest.importorskip("PIL", reason="decodes JPEGs: pip install fnet[image]")
    stream = DataLoader(Jpegs(6, {2: "cut"}), 2, processes=1).epoch(0)
    assert next(stream).shape == (2, 16, 16, 3)
    with pytest.raises(OSError, match="Truncated") as caught:
        next(stream)
    assert caught.value.__notes__[:2] == ["in sample 2 of Jpegs", "in the batch of epoch 0, step 1"]
    assert next(stream)[1, 0, 0, 0] == 5
    stream = DataLoader(Squares(4, {3: (np.zeros(7), 9)}), 2, processes=1).epoch(0)
    next(stream)
    with pytest.raises(ValueError, match=r"sample 3 is float64\[7\] at '0', .*sample 2 .*float32\[2, 3\]") as caught:
        next(stream)
    assert "in the batch of epoch 0, step 1" in caught.value.__notes__


def test_full_shared_memory_is_said_and_the_pipe_takes_over(monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    loader = DataLoader(Squares(20), 4, processes=1)
    with pytest.warns(RuntimeWarning, match=r"no shared memory for .* \(.*No space left.*smaller batch_size"):
        batches = list(loader.epoch(0))
    assert all(same(batch, loader.batch(step)) for step, batch in enumerate(batches)) and len(batches) == 5


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="counts processes in /proc, which only Linux has")
def test_abandoned_iterators_end_their_processes():
    loader = DataLoader(Squares(100), 2, processes=2)
    for _ in loader:
        break
    cycle = [loader.stream()]
    cycle.append(cycle)  # only the garbage collector finds it
    next(cycle[0])
    assert len(children()) == 2
    del cycle
    gc.collect()
    assert not children()


def test_what_cannot_be_pickled_says_why_and_what_helps(monkeypatch):
    with pytest.raises(TypeError, match=r"processes=1 sends the dataset.*lambda.*top of a module.*threads="):
        DataLoader(Map(Squares(4), lambda sample: sample), 2, processes=1).stream()

    class Local(Squares):
        pass

    with pytest.raises(TypeError, match="processes=2 .*Local"):
        DataLoader(Local(4), 2, processes=2).epoch(0)
    monkeypatch.setattr(Squares, "__module__", "__main__")
    monkeypatch.setattr(sys.modules["__main__"], "Squares", Squares, raising=False)
    monkeypatch.setattr(spawn, "get_preparation_data", lambda name: {"name": name})  # as a notebook has it
    with pytest.raises(TypeError, match=r"cannot import Squares from a notebook, .*\.py file"):
        DataLoader(Squares(4), 2, processes=1).stream()
    piped = {"name": "", "init_main_from_path": "/tmp/<stdin>"}  # as a program from standard input has it
    monkeypatch.setattr(spawn, "get_preparation_data", lambda name: dict(piped))
    with pytest.raises(TypeError, match=r"cannot import Squares from a notebook, .*\.py file"):
        DataLoader(Squares(4), 2, processes=1).stream()


def test_a_dataset_that_the_process_cannot_unpack_is_an_error_in_its_batches(tmp_path, monkeypatch):
    (tmp_path / "passing_module.py").write_text("class Here(list): pass")
    monkeypatch.syspath_prepend(tmp_path)
    import passing_module

    loader = DataLoader(passing_module.Here(range(4)), 2, processes=1)
    (tmp_path / "passing_module.py").unlink()
    stream = loader.epoch(0)
    with pytest.raises(ModuleNotFoundError, match="passing_module") as caught:
        next(stream)
    assert "while the dataset was unpacked in a process that prepares batches" in caught.value.__notes__
    stream.close()


def run_script(tmp_path, code, **options):
    path = tmp_path / "script.py"
    path.write_text(f"import sys; sys.path.insert(0, {SOURCE!r})\n" + textwrap.dedent(code))
    return subprocess.Popen(
        [sys.executable, "-W", "error", str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def test_classes_of_a_script_need_its_guard(tmp_path):
    code = """
from fnet.data import DataLoader
class Mine:
    def __len__(self): return 4
    def __getitem__(self, i): return i
"""
    read = "print(next(DataLoader(Mine(), 2, processes=1).stream()).tolist())\n"
    unguarded = run_script(tmp_path, code + read)
    out, err = unguarded.communicate(timeout=30)
    assert unguarded.returncode and 'if __name__ == "__main__":' in err
    guarded = run_script(tmp_path, code + 'if __name__ == "__main__":\n    ' + read)
    out, err = guarded.communicate(timeout=30)
    assert (guarded.returncode, out, err) == (0, "[0, 1]\n", "")
    inside = run_script(tmp_path, 'if __name__ == "__main__":\n' + textwrap.indent(code + read, "    "))
    out, err = inside.communicate(timeout=30)
    assert inside.returncode and 'move it above `if __name__ == "__main__":`' in err


def test_ctrl_c_in_the_middle_ends_everything(tmp_path):
    process = run_script(
        tmp_path,
        f"""
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import time
        from fnet.data import DataLoader
        from _datasets import Squares
        stream = DataLoader(Squares(10), 2, processes=2).stream()
        next(stream)
        print(*(worker._process.pid for worker in stream._workers), flush=True)
        while True:
            next(stream)
        """,
        start_new_session=True,
    )
    pids = [int(pid) for pid in process.stdout.readline().split()]
    assert len(pids) == 2
    time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the whole group
    _, err = process.communicate(timeout=30)
    assert process.returncode != 0 and err.rstrip().endswith("KeyboardInterrupt") and err.count("Traceback") == 1
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_an_interrupt_while_an_answer_is_read_loses_no_batch(monkeypatch):
    stream = DataLoader(Squares(20), 2, processes=1).stream()
    next(stream)
    read = processes._read
    calls = []

    def interrupted(pipe, size):
        calls.append(size)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return read(pipe, size)

    monkeypatch.setattr(processes, "_read", interrupted)
    with pytest.raises(KeyboardInterrupt):
        next(stream)
    assert next(stream)[1].tolist() == [4, 9]
    assert next(stream)[1].tolist() == [16, 25]
    stream.close()


def test_arrays_in_memory_maps_travel_as_references(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(400_000).reshape(1000, 400))
    dataset = ArrayDataset(np.load(tmp_path / "x.npy", mmap_mode="r"))
    loader = DataLoader(dataset, 10, shuffle=True, processes=1)
    assert len(processes.pack(loader)) < 20_000 and len(pickle.dumps(loader)) < 10_000
    assert np.array_equal(next(loader.stream()), loader.batch(0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        del dataset, loader
