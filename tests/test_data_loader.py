"""ArrayDataset and DataLoader: what is read, in which order, and what remains when something goes wrong."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import gc
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import OrderedDict, namedtuple
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fnet.data import ArrayDataset, DataLoader, collate

Pair = namedtuple("Pair", ["image", "label"])
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


def tree_bytes(batch):
    parts = batch.items() if isinstance(batch, dict) else enumerate(batch)
    return [(name, part.dtype.str, part.shape, part.tobytes()) for name, part in parts]


def prefetch_threads():
    return [thread for thread in threading.enumerate() if thread.name == "fnet-prefetch"]


def no_threads_left(seconds=3.0):
    end = time.monotonic() + seconds
    while prefetch_threads() and time.monotonic() < end:
        gc.collect()
        time.sleep(0.01)
    return not prefetch_threads()


# --- ArrayDataset -----------------------------------------------------------------------------------------------------


def test_samples_have_the_structure_of_the_arrays():
    x, y = np.arange(12).reshape(4, 3), np.array([1, 0, 1, 0], np.int32)
    assert isinstance(ArrayDataset(x)[2], np.ndarray)
    assert isinstance(ArrayDataset(x, y)[2], tuple) and ArrayDataset(x, y)[2][1] == 1
    assert isinstance(ArrayDataset([x, y])[0], list)
    assert ArrayDataset(Pair(x, y))[1].label == 0 and ArrayDataset(Pair(x, y)).get_batch([1, 1]).image.shape == (2, 3)
    nested = ArrayDataset({"a": (x, [y]), "b": x})
    assert nested[3]["a"][1][0] == 0 and nested[-1]["b"].tolist() == [9, 10, 11]
    batch = nested.get_batch([3, -4, 3])
    assert batch["a"][0].tolist() == x[[3, 0, 3]].tolist() and batch["a"][1][0].dtype == np.int32
    assert type(ArrayDataset(OrderedDict(x=x))[0]) is dict


def test_plain_iteration_over_a_dataset_ends():
    assert [int(sample) for sample in ArrayDataset(np.arange(5))] == [0, 1, 2, 3, 4]
    with pytest.raises(IndexError, match="sample 5 of a dataset with 5 samples"):
        ArrayDataset(np.arange(5))[5]
    with pytest.raises(IndexError, match="sample -6"):
        ArrayDataset(np.arange(5))[-6]


def test_classes_and_repr():
    dataset = ArrayDataset(np.zeros((3, 2)), np.zeros(3, np.int32), classes=["cat", "dog"])
    assert dataset.classes == ("cat", "dog") and ArrayDataset(np.zeros(3)).classes is None
    assert repr(dataset) == "ArrayDataset(3 samples of (float64[2], int32[]))"


@pytest.mark.parametrize(
    "array",
    [
        np.asfortranarray(np.arange(40).reshape(10, 4)),
        np.arange(80).reshape(10, 8)[:, ::2],
        np.arange(20)[::-2],
        np.arange(10, dtype=">i4"),
        np.empty((10, 0)),
        np.array(["a", "bc"] * 5),
    ],
)
def test_any_layout_gives_the_rows_that_indexing_gives(array):
    rows = np.array([0, 9, 3, 3, -1])
    batch = ArrayDataset(array).get_batch(rows)
    assert np.array_equal(batch, array[rows]) and batch.dtype == array.dtype and batch.flags.owndata
    assert ArrayDataset(array).get_batch([]).shape == (0, *array.shape[1:])


def test_memory_maps_stay_on_disk_and_pickle_as_a_reference(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(100_000, dtype=np.float32).reshape(1000, 100))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    for array in (mapped, mapped[37:990], mapped[5:]):
        dataset = ArrayDataset(array, np.arange(len(array)))
        assert isinstance(dataset.arrays[0], np.memmap)
        assert type(dataset.get_batch([1])[0]) is np.ndarray and dataset.get_batch([1])[0].flags.owndata
        stored = pickle.dumps(dataset)
        assert len(stored) < array.nbytes / 10
        copied = pickle.loads(stored)
        assert isinstance(copied.arrays[0], np.memmap) and np.array_equal(copied.arrays[0], array)
    for array in (mapped[:, ::2], mapped[::-1], np.load(tmp_path / "x.npy", mmap_mode="c")):  # travel whole
        assert np.array_equal(pickle.loads(pickle.dumps(ArrayDataset(array))).arrays, array)
    del mapped, array, dataset, copied


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: ArrayDataset(), ValueError, "at least one array"),
        (lambda: ArrayDataset({}), ValueError, "at least one array"),
        (
            lambda: ArrayDataset({"x": {"image": np.zeros((9, 2))}, "y": np.zeros(8)}),
            ValueError,
            r"array 'y' has 8 \(it is float64\[8\]\) and array 'x.image' has 9 \(it is float64\[9, 2\]\)",
        ),
        (lambda: ArrayDataset(np.zeros(3), [0, 1, 0]), ValueError, "array '1.0' .* it is a int.*np.asarray"),
        (lambda: ArrayDataset(np.float32(3)), ValueError, "the array of an ArrayDataset has no first axis"),
        (lambda: ArrayDataset(np.zeros(3))[0:2], TypeError, r"one integer, got slice.*get_batch"),
        (lambda: ArrayDataset(np.zeros(3)).get_batch([0, 3]), IndexError, "sample 3 of a dataset with 3"),
        (lambda: ArrayDataset(np.zeros(3)).get_batch([-4]), IndexError, "sample -4"),
        (lambda: ArrayDataset(np.zeros(3)).get_batch(np.array([True, False, True])), TypeError, "np.flatnonzero"),
        (lambda: ArrayDataset(np.zeros(3)).get_batch([0.0]), TypeError, "1-d array of integers, got float64"),
        (lambda: ArrayDataset(np.zeros(3)).get_batch(1), TypeError, "1-d array of integers"),
    ],
)
def test_dataset_messages(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_torch_tensors_and_jax_arrays_are_read_through_numpy():
    torch = pytest.importorskip("torch", reason="parity tests need the oracle extra: pip install fnet[oracle]")
    jnp = pytest.importorskip("jax.numpy")
    dataset = ArrayDataset(torch.arange(6).reshape(3, 2), jnp.arange(3))
    x, y = DataLoader(dataset, batch_size=2).batch(1)
    assert x.tolist() == [[4, 5]] and y.tolist() == [2] and type(y) is np.ndarray
    tensors = torch.utils.data.TensorDataset(torch.arange(6).reshape(3, 2), torch.arange(3))
    x, y = DataLoader(tensors, batch_size=2).batch(0)
    assert x.tolist() == [[0, 1], [2, 3]] and y.dtype == np.int64 and type(x) is np.ndarray


def test_batches_have_the_values_of_torchs_collate():
    torch = pytest.importorskip("torch", reason="parity tests need the oracle extra: pip install fnet[oracle]")
    samples = [
        {"x": np.random.default_rng(i).random((2, 3)), "y": (i, float(i), i % 2 == 0), "p": Pair([i, -i], np.int8(i))}
        for i in range(5)
    ]
    theirs, ours = torch.utils.data.default_collate(samples), collate(samples, range(5))
    assert np.array_equal(ours["x"], theirs["x"].numpy()) and isinstance(ours["p"], Pair)
    pairs = [*zip(ours["y"], theirs["y"], strict=True), *zip(ours["p"].image, theirs["p"].image, strict=True)]
    for mine, other in [*pairs, (ours["p"].label, theirs["p"].label)]:
        assert np.array_equal(mine, other.numpy())


# --- batches ----------------------------------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(
    n=st.integers(1, 300),
    batch_size=st.integers(1, 80),
    shuffle=st.booleans(),
    seed=st.integers(0, 2**64 - 1),
    last=st.sampled_from(["keep", "drop", "pad"]),
    epoch=st.integers(0, 50),
)
def test_an_epoch_has_every_sample_once(n, batch_size, shuffle, seed, last, epoch):
    if last == "drop" and n < batch_size:
        return
    loader = DataLoader(ArrayDataset(np.arange(n)), batch_size, shuffle, seed, last, prefetch=0)
    batches = [loader.batch(epoch * len(loader) + number) for number in range(len(loader))]
    if last == "pad":
        assert all(x.shape == mask.shape == (batch_size,) and mask.dtype == bool for x, mask in batches)
        assert all(0 <= x.min() and x.max() < n for x, _ in batches)  # padding repeats real samples
        assert all(mask.all() for _, mask in batches[:-1])
        batches = [x[mask] for x, mask in batches]
    seen = np.concatenate(batches)
    assert len(np.unique(seen)) == len(seen) == (n // batch_size * batch_size if last == "drop" else n)
    assert len(loader) == (n // batch_size if last == "drop" else -(-n // batch_size))
    assert all(len(batch) == batch_size for batch in batches[:-1])
    if not shuffle:
        assert np.array_equal(seen, np.arange(len(seen)))
    again = DataLoader(Squares(n), batch_size, shuffle, seed, last, prefetch=0)
    for number, batch in enumerate(batches):  # one call a batch or one a sample, the numbers are the same
        squares = again.batch(epoch * len(again) + number)
        assert np.array_equal(squares[1][: len(batch)], batch.astype(np.int64) ** 2)


def test_stream_epoch_and_batch_agree_wherever_they_begin():
    for prefetch in (0, 1, 3):
        loader = DataLoader(Squares(23), 5, shuffle=True, seed=9, prefetch=prefetch)
        expected = [tree_bytes(loader.batch(step)) for step in range(14)]
        for start in (0, 1, 4, 5, 11):
            stream = loader.stream(start)
            assert [tree_bytes(next(stream)) for _ in range(start, 14)] == expected[start:]
            stream.close()
        assert [tree_bytes(batch) for batch in loader.epoch(1)] == expected[5:10]
        assert expected[:5] != expected[5:10]
    other_seed = DataLoader(Squares(23), 5, shuffle=True, seed=10)
    assert tree_bytes(other_seed.batch(0)) != expected[0]


def test_batches_are_the_same_on_every_machine():
    loader = DataLoader(ArrayDataset(np.arange(10_000)), 8, shuffle=True, seed=2)
    assert loader.batch(0).tolist() == [5753, 1518, 7596, 9691, 3407, 4358, 4391, 7697]
    assert loader.batch(10**9).tolist() == [3462, 1847, 2146, 4105, 4830, 8899, 275, 6652]


def test_structures_of_samples_become_structures_of_batches():
    samples = [{"x": np.ones(2), "meta": Pair([i, 0.5], (i > 1, f"n{i}"))} for i in range(3)]
    batch = DataLoader(samples, batch_size=3).batch(0)
    assert batch["x"].shape == (3, 2) and isinstance(batch["meta"], Pair)
    (number, half), (flag, text) = batch["meta"]
    assert isinstance(batch["meta"].image, list) and isinstance(batch["meta"].label, tuple)
    assert number.dtype == np.int32 and half.dtype == np.float32 and flag.dtype == bool and number.tolist() == [0, 1, 2]
    assert text.dtype == object and text.tolist() == ["n0", "n1", "n2"]
    assert collate([b"a\0", b"bcd"], [0, 1]).tolist() == [b"a\0", b"bcd"]  # numpy's bytes would lose the zero
    assert collate([{"a": 1, "b": 2}, {"b": 4, "a": 3}], [0, 1])["a"].tolist() == [1, 3]
    assert collate([np.float64(1), np.float64(2)], [0, 1]).dtype == np.float64
    assert collate([()], [0]) == ()


def test_masks_go_where_the_structure_lets_them():
    x, y = np.arange(5), np.arange(5) * 10

    def last_batch(*arrays):
        return DataLoader(ArrayDataset(*arrays), 4, last="pad").batch(1)

    real = [True, False, False, False]
    bare, mask = last_batch(x)
    assert bare.tolist() == [4, 0, 1, 2] and mask.tolist() == real
    assert isinstance(last_batch(x, y), tuple) and last_batch(x, y)[2].tolist() == real
    assert isinstance(last_batch([x, y]), list) and last_batch([x, y])[2].tolist() == real
    assert last_batch({"x": x})["mask"].tolist() == real
    assert type(last_batch(Pair(x, y))) is tuple and last_batch(Pair(x, y))[2].tolist() == real
    with pytest.raises(ValueError, match='the key "mask"'):
        last_batch({"x": x, "mask": y})
    tiny, mask = DataLoader(ArrayDataset(np.arange(2)), 5, last="pad").batch(3)  # more padding than samples
    assert tiny.tolist() == [0, 1, 0, 1, 0] and mask.tolist() == [True, True, False, False, False]


def test_batches_share_memory_with_nothing():
    x = np.arange(8.0)

    class Views(ArrayDataset):
        def get_batch(self, indices):
            return self.arrays[int(indices[0]) : int(indices[-1]) + 1]

    for dataset in (ArrayDataset(x), Views(x), list(x.reshape(8, 1))):
        loader = DataLoader(dataset, batch_size=8)
        first = loader.batch(0)
        assert not np.shares_memory(first, x) and not np.shares_memory(first, loader.batch(0))
        first[:] = -1
        assert x[1] == 1 and loader.batch(0).ravel()[1] == 1
    frozen = np.arange(8.0)
    frozen.flags.writeable = False
    DataLoader(ArrayDataset(frozen), batch_size=8).batch(0)[:] = 0  # may be written


def test_samples_that_do_not_fit_are_named():
    def read(samples):
        return DataLoader(samples, batch_size=len(samples)).batch(0)

    with pytest.raises(
        ValueError, match=r"sample 2 is float64\[4\] at '0', where sample 0 .* is float64\[3\]"
    ) as caught:
        read([(np.zeros(3), 0), (np.zeros(3), 1), (np.zeros(4), 2)])
    assert "in the batch of epoch 0, step 0" in caught.value.__notes__
    with pytest.raises(ValueError, match=r"sample 1 is float32\[\] at 'y', where sample 0 .* is int32\[\]"):
        read([{"y": 0}, {"y": 0.5}])
    with pytest.raises(ValueError, match=r"sample 1 has another structure than sample 0: a tuple of 3 .* a tuple of 2"):
        read([(1, 2), (1, 2, 3)])
    with pytest.raises(ValueError, match=r"keys \['a', 'c'\] where that is a dict with keys \['a', 'b'\]"):
        read([{"a": 1, "b": 1}, {"a": 1, "c": 1}])
    with pytest.raises(ValueError, match="sample 0 has a value of type NoneType at '1'"):
        read([(1, None)])
    with pytest.raises(ValueError, match="sample 1 has the integer 3000000000.*np.int64"):
        read([0, 3_000_000_000])

    class Short(Squares):
        def get_batch(self, indices):
            return {"x": np.zeros(len(indices)), "y": np.zeros(3)}

    with pytest.raises(ValueError, match=r"asked for 4 samples, but array 'y' it gave is float64\[3\]"):
        DataLoader(Short(), batch_size=4).batch(0)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: DataLoader([]), ValueError, "the dataset is empty: list has no samples"),
        (lambda: DataLoader(ArrayDataset(np.zeros((0, 3)))), ValueError, "the dataset is empty: ArrayDataset"),
        (lambda: DataLoader(iter([1, 2])), TypeError, "__len__ and __getitem__.*list_iterator lacks one"),
        (lambda: DataLoader((np.zeros(3), np.zeros(3))), TypeError, r"got a tuple.*ArrayDataset\(images, labels\)"),
        (lambda: DataLoader({"x": np.zeros(3)}), TypeError, "got a dict.*ArrayDataset"),
        (lambda: DataLoader([1], batch_size=0), ValueError, "batch_size must be at least 1, got 0"),
        (lambda: DataLoader([1], batch_size=2.0), TypeError, "batch_size must be an integer, got float 2.0"),
        (lambda: DataLoader([1], last="dorp"), ValueError, """last must be "keep", "drop" or "pad", got 'dorp'"""),
        (lambda: DataLoader([1] * 3, 4, last="drop"), ValueError, "no batch is left: the dataset has 3 samples"),
        (lambda: DataLoader([1], seed=-1), ValueError, "seed must be between 0"),
        (lambda: DataLoader([1], seed="a"), TypeError, "seed must be an integer, got str 'a'"),
        (lambda: DataLoader([1], prefetch=-1), ValueError, "prefetch must be at least 0"),
        (lambda: DataLoader([1]).batch(-1), ValueError, "step must be at least 0, got -1"),
        (lambda: DataLoader([1]).batch(0.5), TypeError, "step must be an integer"),
        (lambda: DataLoader([1]).stream(-1), ValueError, "start must be at least 0"),
        (lambda: DataLoader([1]).epoch(-1), ValueError, "epoch must be at least 0"),
    ],
)
def test_loader_messages(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_loader_is_a_value():
    loader = DataLoader(Squares(40), 8, shuffle=True, seed=4, last="pad")
    with pytest.raises(dataclasses.FrozenInstanceError):
        loader.batch_size = 4  # type: ignore[misc]
    loader.batch(3)
    for other in (pickle.loads(pickle.dumps(loader)), copy.deepcopy(loader), dataclasses.replace(loader)):
        assert tree_bytes(other.batch(17)) == tree_bytes(loader.batch(17))
    assert len(dataclasses.replace(loader, batch_size=40)) == 1
    assert loader.batch(np.int64(3))[1].tolist() == loader.batch(3)[1].tolist()
    assert repr(DataLoader([1, 2, 3], 2)) == (
        "DataLoader([1, 2, 3], batch_size=2, shuffle=False, seed=0, last='keep', prefetch=2: 2 steps an epoch)"
    )
    assert repr(DataLoader([0] * 1000, 2)).startswith("DataLoader(list of 1000 samples, ")


def test_the_for_loop_counts_the_epochs_that_it_handed_out():
    loader = DataLoader(ArrayDataset(np.arange(6)), 2, shuffle=True)

    def epoch(number):
        return [batch.tolist() for batch in loader.epoch(number)]

    assert [batch.tolist() for batch in loader] == epoch(0)
    for batch in loader:
        assert batch.tolist() == epoch(1)[0]
        break
    assert [batch.tolist() for batch in loader] == epoch(1)  # it was left early, so it begins again
    assert [batch.tolist() for _, batch in zip(range(3), loader, strict=False)] == epoch(
        2
    )  # asks for three, never four
    assert [batch.tolist() for batch in loader] == epoch(3)
    assert loader.batch(0).tolist() == epoch(0)[0]
    assert no_threads_left()


# --- errors, threads, exits -------------------------------------------------------------------------------------------


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
    with pytest.raises(RuntimeError, match="raised StopIteration in epoch 0, step 1"):
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
