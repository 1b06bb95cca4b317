"""ArrayDataset: samples and batches along the first axis of any nesting of arrays, and stacking samples."""

from __future__ import annotations

import pickle
from collections import OrderedDict, namedtuple

import numpy as np
import pytest

from fnet.data import ArrayDataset, DataLoader, collate

Pair = namedtuple("Pair", ["image", "label"])


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
