"""Named sets and the IDX reader, against files made here."""

from __future__ import annotations

import gzip
import hashlib
import os
import struct
from pathlib import Path

import numpy as np
import pytest

from fnet import data
from fnet.data.sets import places

TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def idx_bytes(array):
    code = next(code for code, name in TYPES.items() if np.dtype(name) == array.dtype.newbyteorder(">"))
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape)
    return header + array.astype(TYPES[code]).tobytes()


def tiny_files(seed=0, counts=(12, 5)):
    """The four files of an MNIST-like set, as {name: uncompressed bytes}."""
    rng = np.random.default_rng(seed)
    files = {}
    for part, count in zip(("train", "t10k"), counts, strict=True):
        files[f"{part}-images-idx3-ubyte"] = idx_bytes(rng.integers(0, 256, (count, 28, 28)).astype(np.uint8))
        files[f"{part}-labels-idx1-ubyte"] = idx_bytes(rng.integers(0, 10, count).astype(np.uint8))
    return files


def write_files(folder, files, compress=False):
    folder.mkdir(parents=True, exist_ok=True)
    for name, contents in files.items():
        (folder / (name + ".gz" * compress)).write_bytes(gzip.compress(contents) if compress else contents)
    return folder


# --- digits -----------------------------------------------------------------------------------------------------------


def test_digits():
    train, test = data.digits()
    assert (len(train), len(test)) == (1438, 359)
    assert train.classes == tuple("0123456789") == test.classes
    for part in (train, test):
        images, labels = part.arrays
        assert images.dtype == np.uint8 and images.shape[1:] == (8, 8, 1) and (images.min(), images.max()) == (0, 255)
        assert labels.dtype == np.int32 and set(labels.tolist()) == set(range(10))
    per_class = np.bincount(train.arrays[1]) + np.bincount(test.arrays[1])
    assert np.array_equal(np.bincount(test.arrays[1]), np.round(0.2 * per_class))  # stratified
    image, label = train[0]
    assert image.shape == (8, 8, 1) and label.dtype == np.int32


def test_digits_never_change():
    """Accuracies are compared between versions, so the split and the pixels are fixed."""
    digests = []
    for part in data.digits():
        images, labels = part.arrays
        digests.append(hashlib.sha256(images.tobytes() + labels.astype("<i4").tobytes()).hexdigest()[:16])
    assert digests == ["85b164bba8f7ffcd", "b99b277058b22236"]


def test_digits_are_those_of_scikit_learn():
    datasets = pytest.importorskip(
        "sklearn.datasets", reason="parity tests need the oracle extra: pip install fnet[oracle]"
    )
    bunch = datasets.load_digits()
    theirs = {
        (np.round(image * 255 / 16 + 1e-9).astype(np.uint8).tobytes(), label)
        for image, label in zip(bunch.images, bunch.target, strict=True)
    }
    ours = {(image.tobytes(), int(label)) for part in data.digits() for image, label in part}
    assert ours == theirs


def test_digits_come_with_their_licence():
    text = Path(data.__file__).with_name("assets").joinpath("digits.txt").read_text()
    for words in ("CC BY 4.0", "E. Alpaydin", "C. Kaynak", "10.24432/C50P49", "Changes", "0-16 to 0-255"):
        assert words in text


# --- IDX --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", TYPES)
@pytest.mark.parametrize("compress", [False, True])
def test_read_idx_of_every_type(tmp_path, code, compress):
    dtype = np.dtype(TYPES[code]).newbyteorder("=")
    array = (np.arange(24).reshape(2, 3, 4) * 5 - 7).astype(dtype)
    path = tmp_path / "any-name"  # gzip is recognised by its contents
    path.write_bytes(gzip.compress(idx_bytes(array)) if compress else idx_bytes(array))
    read = data.read_idx(str(path))
    assert read.dtype == dtype and np.array_equal(read, array)
    read[0] = 1  # a new array, not a view of the file's bytes


GOOD = idx_bytes(np.arange(6, dtype=np.uint8).reshape(2, 3))


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"", "not an IDX file. It begins with nothing"),
        (b"\x89PNG1234", "begins with 89 50 4e 47"),
        (b"\0\0\x0a\x01\0\0\0\0", "not an IDX file"),
        (GOOD[:7], "header is cut short"),
        (b"\0\0\x08\0", "header is cut short, or has no dimensions"),
        (GOOD[:-1], r"promises uint8\[2, 3\], which is 18 bytes.*there are 17: it is cut short"),
        (GOOD + b"!", "there are 19: it is damaged"),
        (b"\0\0\x08\x03" + b"\xff" * 12, "cut short"),  # 8e28 bytes are promised, and not allocated
        # Without mtime=0 the second would stand in the test's name, and differ from one test process to the next.
        (gzip.compress(GOOD, mtime=0)[:-9], "damaged or incomplete gzip"),
        (gzip.compress(GOOD, mtime=0)[:-5] + b"12345", "damaged or incomplete gzip"),
        (b"\x1f\x8b" + b"\x07" * 30, "damaged or incomplete gzip"),
    ],
)
def test_damaged_idx_files_are_named(tmp_path, contents, message):
    path = tmp_path / "broken-idx1-ubyte"
    path.write_bytes(contents)
    with pytest.raises(ValueError, match=f"broken-idx1-ubyte: .*{message}"):
        data.read_idx(path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        data.read_idx(tmp_path / "nowhere")


# --- where MNIST is found ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compress", [False, True])
def test_mnist_is_found_in_each_place(no_shared_data, tmp_path, monkeypatch, compress):
    files = tiny_files()

    def check(found):
        train, test = found
        assert (len(train), len(test)) == (12, 5) and train[0][0].shape == (28, 28, 1)
        images, labels = train.arrays
        assert images.dtype == np.uint8 and labels.dtype == np.int32
        assert images.tobytes() == files["train-images-idx3-ubyte"][16:]
        assert labels.astype(np.uint8).tobytes() == files["train-labels-idx1-ubyte"][8:]

    for place in ("", "mnist", "MNIST/raw"):
        root = tmp_path / f"root{place.replace('/', '')}"
        write_files(root / place, files, compress)
        check(data.mnist(root))
    write_files(no_shared_data / "mnist", files, compress)
    check(data.mnist())
    write_files(no_shared_data / "fashion_mnist", files, compress)
    check(data.fashion_mnist())
    check(data.kmnist(write_files(tmp_path / "k", files, compress)))
    assert data.fashion_mnist()[0].classes[9] == "Ankle boot" and data.mnist()[1].classes[9] == "9"
    assert data.kmnist(tmp_path / "k")[0].classes == ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
    write_files(tmp_path / "shared" / "mnist", tiny_files(1, (3, 2)), compress)  # FNET_DATA comes before the cache
    monkeypatch.setenv("FNET_DATA", str(tmp_path / "shared"))
    assert len(data.mnist()[0]) == 3
    dotted = {name.replace("-idx", ".idx"): contents for name, contents in files.items()}
    check(data.mnist(write_files(tmp_path / "dotted", dotted, compress)))


def test_missing_files_say_where_and_what(no_shared_data, tmp_path, monkeypatch):
    monkeypatch.setenv("FNET_DATA", str(tmp_path / "shared"))
    with pytest.raises(FileNotFoundError) as caught:
        data.mnist()
    for words in (str(tmp_path / "shared" / "mnist"), str(no_shared_data / "mnist"), "t10k-labels-idx1-ubyte.gz"):
        assert words in str(caught.value)
    assert "mnist(download=True)" in str(caught.value) and "FNET_DATA" in str(caught.value)
    with pytest.raises(FileNotFoundError, match="fashion_mnist.*elsewhere"):
        data.fashion_mnist(tmp_path / "elsewhere")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # must be ignored, says the XDG specification
    monkeypatch.setenv("HOME", str(tmp_path))
    if os.name == "posix":
        assert places.cache_folder("mnist") == tmp_path / ".cache" / "fnet" / "mnist"


@pytest.mark.parametrize(
    ("name", "contents", "message"),
    [
        ("train-labels-idx1-ubyte", idx_bytes(np.zeros(11, np.uint8)), "has 11 labels, but .*train-images.* 12 images"),
        ("t10k-labels-idx1-ubyte", idx_bytes(np.full(5, 10, np.uint8)), "t10k-labels.*has the label 10, .* 10 classes"),
        ("t10k-labels-idx1-ubyte", idx_bytes(np.zeros((5, 1), np.uint8)), r"expected labels as uint8\[n\]"),
        ("train-images-idx3-ubyte", idx_bytes(np.zeros((12, 8, 8), np.uint8)), r"has uint8\[12, 8, 8\]"),
        ("train-images-idx3-ubyte", idx_bytes(np.zeros((12, 28, 28), np.int16)), r"has int16\[12, 28, 28\]"),
    ],
)
def test_files_that_are_not_mnist_are_refused(tmp_path, name, contents, message):
    with pytest.raises(ValueError, match=message):
        data.mnist(write_files(tmp_path / "bad", {**tiny_files(), name: contents}))


@pytest.mark.skipif(not os.environ.get("FNET_DATA"), reason="needs FNET_DATA, a folder that contains mnist/")
def test_the_real_mnist():
    if not (Path(os.environ["FNET_DATA"]) / "mnist").is_dir():
        pytest.skip("FNET_DATA has no mnist/")
    train, test = data.mnist()
    assert (len(train), len(test)) == (60_000, 10_000)
    assert np.bincount(test.arrays[1]).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    mean, deviation = train.arrays[0].mean() / 255, train.arrays[0].std() / 255
    assert (round(mean, 4), round(deviation, 4)) == (0.1307, 0.3081)  # what every MNIST tutorial normalises with
