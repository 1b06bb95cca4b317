"""DataLoader: which samples are read, in which order and structure, and what the messages say."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections import namedtuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fnet import data
from fnet.data import ArrayDataset, Cache, DataLoader, Map, collate

Pair = namedtuple("Pair", ["image", "label"])


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
    assert loader.batch(0).tolist() == [3386, 2523, 6080, 411, 2697, 7429, 8789, 3013]
    assert loader.batch(10**9).tolist() == [5149, 8342, 6262, 2313, 453, 8497, 5802, 7988]


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
        (lambda: DataLoader([1], num_workers=4), TypeError, "no num_workers; in its place is processes=4 .* threads=4"),
        (lambda: DataLoader([1], pin_memory=True), TypeError, "no pin_memory; in its place is nothing.*to_device"),
        (lambda: DataLoader([1], batchsize=4), TypeError, "unexpected keyword argument 'batchsize'"),
        (lambda: data.TensorDataset, AttributeError, "TensorDataset is data.ArrayDataset"),
        (lambda: data.Nothing, AttributeError, "module 'fnet.data' has no 'Nothing'"),
        (lambda: DataLoader([1], batch_size=0), ValueError, "batch_size must be at least 1, got 0"),
        (lambda: DataLoader([1], batch_size=2.0), TypeError, "batch_size must be an integer, got float 2.0"),
        (lambda: DataLoader([1], 4, "drop"), TypeError, "shuffle must be True or False, got 'drop'"),
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


def test_lengths_that_differ_are_said_to_need_padding():
    rows = [np.arange(3), np.arange(4)]
    with pytest.raises(ValueError, match=r"sample 1 is int64\[4\].*collate=fnet.data.PadTo"):
        DataLoader(rows, 2).batch(0)
    with pytest.raises(ValueError, match=r"a list of 4 .*collate=fnet.data.PadTo"):
        DataLoader([row.tolist() for row in rows], 2).batch(0)
    with pytest.raises(ValueError, match=r"convert them in the dataset\n"):
        DataLoader([np.zeros((3, 2)), np.zeros((3, 4))], 2).batch(0)


def test_attributes_of_one_s_own_mean_nothing_to_the_loader():
    class Mine:
        random, vectorised, instant = np.random.default_rng(0), True, True

        def __len__(self):
            return 4

        def __getitem__(self, index):
            return index

    assert DataLoader(Mine(), 2).batch(1).tolist() == [2, 3]
    assert DataLoader(Map(Mine(), lambda x: -x), 2, threads=1).batch(1).tolist() == [-2, -3]
    assert Cache(Mine())[3] == 3


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
        "DataLoader([1, 2, 3], batch_size=2, shuffle=False, seed=0, last='keep': 2 steps an epoch)"
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
