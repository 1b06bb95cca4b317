"""Named sets, the IDX reader and the download, against files and a server made here: nothing leaves the machine."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import os
import re
import struct
import threading
from pathlib import Path

import numpy as np
import pytest

from fnet import data
from fnet.data import download
from fnet.data.download import DownloadError, fetch
from fnet.data.sets import idx_sets, places

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


@pytest.fixture
def no_shared_data(monkeypatch, tmp_path):
    monkeypatch.delenv("FNET_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "fnet"


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
        (gzip.compress(GOOD)[:-9], "damaged or incomplete gzip"),
        (gzip.compress(GOOD)[:-5] + b"12345", "damaged or incomplete gzip"),
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
    assert data.fashion_mnist()[0].classes[9] == "Ankle boot" and data.mnist()[1].classes[9] == "9"
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


# --- download ---------------------------------------------------------------------------------------------------------


class Server:
    """A web server for files, with the faults that servers have."""

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.ranges = True  # honours Range
        self.cut: int | None = None  # closes the connection after so many bytes of a body, once
        self.requests: list[tuple[str, str | None]] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                asked = self.headers.get("Range")
                outer.requests.append((self.path, asked))
                body = outer.files.get(self.path)
                if body is None:
                    return self.send_error(404)
                begin = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and outer.ranges else 0
                if begin and begin >= len(body):
                    return self.send_error(416)
                self.send_response(206 if begin else 200)
                if begin:
                    self.send_header("Content-Range", f"bytes {begin}-{len(body) - 1}/{len(body)}")
                self.send_header("Content-Length", str(len(body) - begin))
                self.end_headers()
                rest, outer.cut = body[begin:][: outer.cut], None
                self.wfile.write(rest)

            def log_message(self, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = Server()
    yield server
    server.close()


BODY = np.random.default_rng(0).bytes(300_000)
DIGEST = hashlib.sha256(BODY).hexdigest()


def test_fetch_downloads_once_and_shows_a_bar(server, tmp_path, capsys):
    server.files["/file.gz"] = BODY
    path = fetch([server.url + "file.gz"], tmp_path / "new" / "file.gz", DIGEST)
    assert path.read_bytes() == BODY and [p.name for p in path.parent.iterdir()] == ["file.gz"]
    assert "file.gz" in capsys.readouterr().err
    fetch([server.url + "file.gz"], path, DIGEST)
    assert len(server.requests) == 1
    path.write_bytes(b"damaged since")
    fetch([server.url + "file.gz"], path, DIGEST, progress=False)
    assert path.read_bytes() == BODY and capsys.readouterr().err == ""


def test_fetch_resumes_after_the_connection_broke(server, tmp_path):
    server.files["/f"], server.cut = BODY, 100_000
    with pytest.raises(DownloadError, match=r"broke after 100000 of 300000 bytes[\s\S]*another attempt goes on"):
        fetch([server.url + "f"], tmp_path / "f", DIGEST, progress=False)
    assert (tmp_path / "f.part").stat().st_size == 100_000 and not (tmp_path / "f").exists()
    fetch([server.url + "f"], tmp_path / "f", DIGEST, progress=False)
    assert (tmp_path / "f").read_bytes() == BODY and server.requests[-1] == ("/f", "bytes=100000-")
    server.cut = 1000  # the second mirror goes on where the first one broke off
    fetch([server.url + "f", server.url + "f"], tmp_path / "g", DIGEST, progress=False)
    assert (tmp_path / "g").read_bytes() == BODY and server.requests[-1] == ("/f", "bytes=1000-")


@pytest.mark.parametrize("part", [BODY[:5000], BODY, BODY + b"more", b"of another file", b""])
@pytest.mark.parametrize("ranges", [True, False])
def test_fetch_copes_with_any_partial_file(server, tmp_path, part, ranges):
    server.files["/f"], server.ranges = BODY, ranges
    (tmp_path / "f.part").write_bytes(part)
    fetch([server.url + "f"], tmp_path / "f", DIGEST, progress=False)
    assert (tmp_path / "f").read_bytes() == BODY and not (tmp_path / "f.part").exists()


def test_fetch_refuses_what_has_another_checksum_and_tries_the_next_mirror(server, tmp_path):
    server.files.update({"/bad": b"an error page", "/good": BODY})
    with pytest.raises(DownloadError) as caught:
        fetch([server.url + "bad", server.url + "none"], tmp_path / "f", DIGEST, progress=False)
    wrong = hashlib.sha256(b"an error page").hexdigest()
    for words in (
        f"bad: the checksum is wrong: sha256 {wrong}, expected {DIGEST}",
        "none: HTTP 404",
        str(tmp_path / "f"),
    ):
        assert words in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    urls = [server.url + name for name in ("none", "bad", "good")]
    assert fetch(urls, tmp_path / "f", DIGEST, progress=False).read_bytes() == BODY


def test_fetch_without_a_network_says_what_to_do(server, tmp_path):
    server.close()
    with pytest.raises(DownloadError, match=r"(?i)refused[\s\S]*Without a network, put the file at .*f yourself"):
        fetch([server.url + "f"], tmp_path / "f", DIGEST, progress=False)
    assert issubclass(DownloadError, OSError)


def test_mnist_downloads_what_is_missing(server, tmp_path, monkeypatch, no_shared_data):
    files = {name + ".gz": gzip.compress(contents) for name, contents in tiny_files().items()}
    server.files = {"/mnist/" + name: contents for name, contents in files.items()}
    fake = idx_sets._IdxSet(
        name="mnist",
        torchvision="MNIST",
        mirrors=(server.url + "gone/", server.url + "mnist/"),
        checksums={name: hashlib.sha256(contents).hexdigest() for name, contents in files.items()},
        classes=tuple("0123456789"),
    )
    monkeypatch.setattr(idx_sets, "_MNIST", fake)
    train, _ = data.mnist(download=True)
    assert len(train) == 12 and len(list((no_shared_data / "mnist").iterdir())) == 4
    asked = len(server.requests)
    data.mnist(download=True)
    data.mnist()
    assert len(server.requests) == asked
    own = write_files(tmp_path / "own", {"train-images-idx3-ubyte": tiny_files()["train-images-idx3-ubyte"]})
    data.mnist(own, download=True)
    assert len(list(own.iterdir())) == 4  # the file that was there is used, three are fetched beside it
    server.files["/mnist/t10k-labels-idx1-ubyte.gz"] = b"captive portal"
    with pytest.raises(DownloadError, match="t10k-labels.*checksum"):
        data.mnist(tmp_path / "other", download=True)


def test_the_published_sets_have_all_four_files():
    for which in (idx_sets._MNIST, idx_sets._FASHION_MNIST, idx_sets._KMNIST):
        assert set(which.checksums) == {name + ".gz" for name in tiny_files()} and len(which.mirrors) == 2
        assert all(re.fullmatch("[0-9a-f]{64}|[0-9a-f]{32}", digest) for digest in which.checksums.values())
        assert all(mirror.endswith("/") for mirror in which.mirrors) and len(which.classes) == 10
    assert download.file_digest(Path(data.__file__)) == hashlib.sha256(Path(data.__file__).read_bytes()).hexdigest()
