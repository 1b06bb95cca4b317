"""Datasets of datasets: what they contain, and that a mistake in them is said where it is."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from _datasets import Noisy, Squares

from fnet.data import (
    ArrayDataset,
    Cache,
    Concat,
    DataLoader,
    Filter,
    Map,
    MapBatch,
    Packed,
    PadTo,
    Rng,
    StreamLoader,
    Subset,
    TokenWindows,
    Zip,
    k_fold,
    random_split,
    to_device,
)
from fnet.data.transforms import OnSample, RandomInvert


def test_views_contain_what_they_say():
    x = ArrayDataset(np.arange(10))
    subset = Subset(x, [3, -1, 3])
    assert [int(s) for s in subset] == [3, 9, 3] and subset.get_batch([2, 1]).tolist() == [3, 9]
    both = Concat(x, subset, ArrayDataset(np.arange(100, 103)))
    assert [int(s) for s in both] == [*range(10), 3, 9, 3, 100, 101, 102]
    assert both.get_batch([15, 0, 11, 1]).tolist() == [102, 0, 9, 1]
    pair = Zip(x, Squares(10))
    assert pair[4][0] == 4 and pair[4][1][1] == 16 and len(pair) == 10
    kept = Filter(x, lambda number: number % 3 == 1, progress=False)
    assert kept.indices.tolist() == [1, 4, 7] and kept.get_batch([0, 2]).tolist() == [1, 7]
    nested = Concat(Zip(x, x), Zip(x, x))
    assert [column.tolist() for column in nested.get_batch([19, 0])] == [[9, 0], [9, 0]]
    for view in (subset, both, pair, kept):
        assert DataLoader(pickle.loads(pickle.dumps(view)), 2).batch(0) is not None and repr(view)
        with pytest.raises(IndexError):
            view[len(view)]


def test_splits_and_folds_cover_everything_once():
    parts = random_split(range(103), [0.7, 0.2, 0.1], seed=4)
    assert [len(part) for part in parts] == [73, 20, 10]
    assert sorted(sample for part in parts for sample in part) == list(range(103))
    again = random_split(range(103), [73, 20, 10], seed=4)
    assert all(np.array_equal(a.indices, b.indices) for a, b in zip(parts, again, strict=True))
    assert not np.array_equal(parts[0].indices, random_split(range(103), [73, 20, 10], seed=5)[0].indices)
    held = []
    for train, test in k_fold(range(10), 3, seed=1):
        assert sorted([*train, *test]) == list(range(10)) and len(test) in (3, 4)
        held += list(test)
    assert sorted(held) == list(range(10))


def test_class_names_go_along_with_the_samples():
    named = ArrayDataset(np.zeros((6, 4, 4, 1), np.uint8), np.arange(6) % 2, classes=("cat", "dog"))
    other = ArrayDataset(np.zeros((6, 4, 4, 1), np.uint8), np.arange(6) % 2, classes=("dog", "cat"))
    ink = OnSample(RandomInvert())
    same = [Subset(named, [1]), *random_split(named, [0.5, 0.5]), Cache(named), Concat(named, named), Map(named, ink)]
    for view in [*same, MapBatch(named, ink.batch), Filter(named, lambda sample: sample[1] == 1, progress=False)]:
        assert view.classes == ("cat", "dog"), view
    relabelled = Map(named, OnSample(None, lambda label: 1 - label))
    for view in (Concat(named, other), Zip(named, named), relabelled, Map(named, lambda s: s), Subset(range(3), [1])):
        assert view.classes is None, view


def test_maps_name_the_function_and_the_sample():
    def broken(sample):
        return sample[0] / 0 if sample[1] == 9 else sample

    loader = DataLoader(Map(Squares(10), broken), 4)
    with np.errstate(divide="raise", invalid="raise"), pytest.raises(FloatingPointError) as caught:
        loader.batch(0)
    notes = "\n".join(caught.value.__notes__)
    assert "broken, which Map applied to sample 3" in notes and "in sample 3 of Map" in notes
    assert "epoch 0, step 0" in notes
    with pytest.raises(ValueError, match=r"got 4 samples, and gave int64\[1\]"):
        DataLoader(MapBatch(ArrayDataset(np.arange(8)), lambda batch: batch[:1]), 4).batch(0)
    random = Map(Noisy(5), lambda sample, rng: (sample[0] * 0 + np.float32(rng.random()), sample[1]))
    assert random.get(1, Rng(1, 2, 3))[0][0, 0] == np.float32(Rng(1, 2, 3).random(7)[6])  # behind the six of Noisy
    assert np.array_equal(random[1][0], random[1][0])


def test_a_cache_reads_once_and_keeps_what_it_read(tmp_path):
    reads = []

    class Counted(Squares):
        def __getitem__(self, index):
            reads.append(index)
            return super().__getitem__(index)

    memory = Cache(Counted(6))
    for _ in range(2):
        assert DataLoader(memory, 6).batch(0)[1].tolist() == [0, 1, 4, 9, 16, 25]
    assert reads == list(range(6))
    with pytest.raises(ValueError, match="read-only"):
        memory[0][0][:] = 1
    reads.clear()
    for _ in range(2):
        disk = Cache(Counted(6), tmp_path / "squares")
        for dataset in (disk, pickle.loads(pickle.dumps(disk.folder)) and disk):
            assert DataLoader(dataset, 6).batch(0)[1].tolist() == [0, 1, 4, 9, 16, 25]
        assert disk[3][0].dtype == np.float32
    assert sorted(set(reads)) == list(range(6)) and len(reads) <= 8  # the second opens with one look at a sample
    with pytest.raises(ValueError, match="holds 6 samples of .* and this dataset has 5"):
        Cache(Squares(5), tmp_path / "squares")[0]
    with pytest.raises(ValueError, match=r"sample 2 is float64\[7\], and what is kept there"):
        odd = Cache(Squares(4, {2: np.zeros(7)}), tmp_path / "odd")
        [odd[i] for i in range(3)]
    with pytest.raises(ValueError, match="one draw of a random dataset"):
        Cache(Noisy(4))


def test_token_windows(tmp_path):
    tokens = np.arange(1000, dtype=np.uint16)
    tokens.tofile(tmp_path / "train.bin")
    windows = TokenWindows(np.memmap(tmp_path / "train.bin", np.uint16, "r"), 64)
    assert len(windows) == 15 and len(pickle.dumps(windows)) < 1000
    x, y = DataLoader(pickle.loads(pickle.dumps(windows)), 5, shuffle=True).batch(0)
    assert x.dtype == np.int32 and x.shape == (5, 64) and np.array_equal(y, x + 1) and (x[:, 0] % 64 == 0).all()
    assert len(TokenWindows(tokens, 64, stride=1)) == 936 and TokenWindows(tokens, 64, 1)[935][1][-1] == 999
    assert len(TokenWindows(tokens[:65], 64)) == 1


def test_packing_loses_no_token():
    sequences = [np.arange(1, 1 + (7 * k) % 30 + 1) for k in range(50)]
    packed = Packed(sequences, 32)
    assert sorted(number for row in packed.rows for number in row) == list(range(50))
    batch = DataLoader(packed, len(packed)).batch(0)
    assert batch["tokens"].shape == (len(packed), 32)
    for row, numbers in enumerate(packed.rows):
        for segment, number in enumerate(numbers, 1):
            here = batch["segment_ids"][row] == segment
            assert np.array_equal(batch["tokens"][row][here], sequences[number])
            assert np.array_equal(batch["positions"][row][here], np.arange(len(sequences[number])))
    total = sum(map(len, sequences))
    assert (batch["segment_ids"] > 0).sum() == total and len(packed) <= -(-total // 32) + 1


def test_streams_keep_their_weaker_promise():
    def read(epoch):
        return (epoch * 100 + k for k in range(23))

    loader = StreamLoader(read, 5, shuffle=8, seed=3, last="pad")
    epoch = list(loader.epoch(1))
    seen = np.concatenate([x[mask] for x, mask in epoch])
    assert sorted(seen.tolist()) == list(range(100, 123)) and seen.tolist() != sorted(seen.tolist())
    stream = loader.stream(start=7)  # epoch 1, batch 2
    assert np.array_equal(next(stream)[0], epoch[2][0])
    stream.close()
    halves = [StreamLoader(read, 6, shuffle=8, seed=3, last="drop", shard=(host, 2)).epoch(0) for host in (0, 1)]
    both = StreamLoader(read, 6, shuffle=8, seed=3, last="drop").epoch(0)
    for one, other, batch in zip(*halves, both, strict=True):
        assert np.array_equal(np.concatenate([one, other]), batch)

    def failing(epoch):
        yield 1
        raise OSError("line cut")

    batches = StreamLoader(failing, 1).epoch(0)
    assert next(batches).tolist() == [1]
    with pytest.raises(OSError, match="line cut") as caught:
        next(batches)
    assert "while sample 1 of epoch 0 was read" in caught.value.__notes__
    once = iter([1, 2])
    with pytest.raises(ValueError, match="a new iterable at each call"):
        list(zip(range(9), StreamLoader(lambda epoch: once, 2).stream(), strict=False))


def test_errors_are_masked_when_asked_for():
    bad = {2: OSError("gone"), 5: (np.zeros(7), 1)}
    loader = DataLoader(Squares(8, bad), 4, on_error="mask", threads=1)
    with pytest.warns(RuntimeWarning) as caught:
        batches = list(loader.epoch(0))
    texts = [str(warning.message) for warning in caught]
    assert texts[0] == "sample 2 is masked, epoch 0, step 0: OSError: gone"
    assert "sample 5 is masked, epoch 0, step 1: it is (float64[7], int32[]), where most samples" in texts[1]
    assert [mask.tolist() for _, _, mask in batches] == [[True, True, False, True], [True, False, True, True]]
    assert batches[0][0].shape == (4, 2, 3) and batches[0][1].tolist() == [0, 1, 0, 9]
    with pytest.raises(OSError, match="gone") as error:
        DataLoader(Squares(3, {k: OSError("gone") for k in range(3)}), 3, on_error="mask").batch(0)
    assert "no sample of the batch could be read" in "\n".join(error.value.__notes__)


def test_labels_out_of_range_are_found_when_classes_are_named():
    with pytest.raises(ValueError, match=r"sample 1 has the label 2, but there are 2 classes, 0 to 1 \(1 of 3"):
        ArrayDataset(np.zeros((3, 2)), np.array([0, 2, 1]), classes=["a", "b"])
    with pytest.raises(ValueError, match="sample 0 has the label -1"):
        ArrayDataset({"image": np.zeros((1, 2)), "label": np.array([-1])}, classes=["a", "b"])


def test_waiting_is_measured():
    import time

    class Slow(Squares):
        def __getitem__(self, index):
            time.sleep(0.004)
            return index

    slow = DataLoader(Slow(20), 2, threads=1).epoch(0)
    list(slow)
    assert slow.waiting > 0.8 and slow.count == 10 and str(slow).startswith(f"input-bound {100 * slow.waiting:.0f} %")
    fast = DataLoader(Squares(20), 2, threads=1).epoch(0)
    for _ in fast:
        time.sleep(0.004)
    assert fast.waiting < 0.5
    assert len(list(DataLoader(Squares(6), 2).epoch(0).progress("test"))) == 3


def test_to_device_gives_each_batch_its_own_memory_and_says_what_cannot_go():
    import jax

    loader = DataLoader(Squares(12, {5: OSError("gone")}), 2, threads=1)
    feed = to_device(loader.epoch(0), jax.devices()[0])
    seen = [next(feed) for _ in range(2)]
    with pytest.raises(OSError, match="gone"):
        next(feed)
    seen += list(feed)
    assert [y.tolist() for _, y in seen] == [[0, 1], [4, 9], [36, 49], [64, 81], [100, 121]]
    assert all(isinstance(x, jax.Array) and (np.asarray(x)[1] == np.sqrt(y[1])).all() for x, y in seen)
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    x, y = next(to_device(loader.epoch(0), (sharding, sharding)))
    assert x.sharding == sharding
    with pytest.raises(TypeError, match=r"array '1' of the batch is object\[2\], which no device can hold"):
        next(to_device(DataLoader([(0, "a"), (1, "b")], 2).epoch(0)))
    with pytest.raises(OverflowError, match=r"values from 0 to 4294967296, and JAX would cut it to int32"):
        next(to_device(DataLoader(ArrayDataset(np.array([0, 2**32])), 2).epoch(0)))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Subset([1, 2], [2]), IndexError, "sample 2 of a dataset with 2"),
        (lambda: Concat(), ValueError, "at least one dataset"),
        (lambda: Concat(ArrayDataset(np.zeros((2, 3))), ArrayDataset(np.zeros((2, 4)))).get_batch([0, 3]), ValueError,
         r"Concat: .* float64\[3\] and float64\[4\]"),
        (lambda: Zip([1], [1, 2]), ValueError, r"equal length, got \[1, 2\]"),
        (lambda: Filter([1, 2], lambda x: x > 2, progress=False), ValueError, "none of the 2 samples"),
        (lambda: random_split(range(4), [0.5, 0.4]), ValueError, "add up"),
        (lambda: random_split(range(4), [4, 0]), ValueError, "a part is empty"),
        (lambda: random_split(range(4), 0.5), TypeError, r"sizes of all parts, as \[0.8, 0.2\].*; got 0.5"),
        (lambda: k_fold(range(4), 5), ValueError, "between 2 and .* 4; got 5"),
        (lambda: Map([1], 3), TypeError, "Map takes a function of a sample, got int 3"),
        (lambda: MapBatch([1], 3), TypeError, "MapBatch takes a function of a batch, got int 3"),
        (lambda: TokenWindows([1, 2, 3], 3), ValueError, "need 4 tokens, and there are 3"),
        (lambda: TokenWindows([0.5], 1), TypeError, "row of integers, got float64"),
        (lambda: Packed([[1, 2, 3], []], 4), ValueError, "sequence 1 has 0 tokens"),
        (lambda: Packed([[1, 2, 3]], 2), ValueError, "sequence 0 has 3 tokens, and a row holds 1 to 2"),
        (lambda: Packed([[1, 2]], 4, lengths=[3])[0], ValueError, "expected 3 integers"),
        (lambda: PadTo([4, 2]), ValueError, "increasing"),
        (lambda: PadTo([2])([np.arange(3)]), ValueError, "has length 3, and the last of the lengths is 2"),
        (lambda: PadTo([2])([([1, 2], 0)]), ValueError, r"no array with an axis; .*: a list needs np.asarray"),
        (lambda: Map([1], lambda x, rng: x + rng.normal())[0], AttributeError, r"default_rng\(rng.key\).normal"),
        (lambda: PadTo(8), TypeError, r"a list of lengths: PadTo\(\[8\]\)"),
        (lambda: TokenWindows("train.bin", 8), TypeError, r"got 'train.bin': np.memmap\(path, np.uint16, \"r\"\)"),
        (lambda: PadTo([9])([(np.arange(3), np.arange(2))]), ValueError, r"arrays of lengths \[2, 3\]"),
        (lambda: StreamLoader([1, 2]), TypeError, "a function epoch -> iterable, got list"),
        (lambda: StreamLoader(range, 3, shard=(0, 2)), ValueError, "2 hosts do not divide it"),
        (lambda: StreamLoader(range, shard=3), TypeError, r"\(index, count\) of this host, got 3"),
        (lambda: DataLoader([1, 2], on_error="skip"), ValueError, """on_error must be "raise" or "mask", got 'skip'"""),
        (lambda: DataLoader([1, 2], threads=1, processes=1), ValueError, "one or the other"),
        (lambda: DataLoader([1, 2], threads=1, prefetch=0), ValueError, "prefetch=0 prepares nothing"),
        (lambda: DataLoader([1, 2], 2, shard=(2, 2)), ValueError, "0 <= index < count"),
        (lambda: DataLoader([1, 2], 3, shard=(0, 2)), ValueError, "2 hosts do not divide it"),
        (lambda: DataLoader([1, 2, 3], 2, shard=(0, 2)), ValueError, "1 of 2 samples, .*different numbers"),
        (lambda: DataLoader([1, 2], shard=3), TypeError, r"\(index, count\) of this host, got 3"),
        (lambda: to_device([], ahead=-1), ValueError, "ahead must be 0 or more"),
    ],
)  # fmt: skip
def test_messages(make, error, message):
    with pytest.raises(error, match=message):
        make()
