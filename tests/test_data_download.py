"""The download of named sets, against a server made here: nothing leaves the machine."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import http.server
import io
import re
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest
from test_data_sets import tiny_files, write_files

from fnet import data
from fnet.data import download
from fnet.data.download import DownloadError, fetch
from fnet.data.sets import cifar_sets, idx_sets


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


# --- CIFAR, checksums by MD5 ------------------------------------------------------------------------------------------


def cifar_archive(names, label_bytes, inner, seed=0, count=3):
    """A tar.gz as the dataset's page has it, and its files as {name: bytes}."""
    rng = np.random.default_rng(seed)
    files = {name: rng.integers(0, 10, (count, label_bytes + 3072)).astype(np.uint8).tobytes() for name in names}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, contents in {"readme.html": b"read me", **files}.items():
            info = tarfile.TarInfo(f"{inner}/{name}")
            info.size = len(contents)
            tar.addfile(info, io.BytesIO(contents))
    return buffer.getvalue(), files


def test_cifar10_is_downloaded_unpacked_and_found_again(server, monkeypatch, no_shared_data, tmp_path):
    which = cifar_sets._CIFAR10
    archive, files = cifar_archive((*which.train, which.test), 1, which.inner)
    server.files["/cifar-10-binary.tar.gz"] = archive
    fake = dataclasses.replace(
        which, urls=(server.url + "cifar-10-binary.tar.gz",), checksum=hashlib.md5(archive).hexdigest()
    )
    monkeypatch.setattr(cifar_sets, "_CIFAR10", fake)
    with pytest.raises(FileNotFoundError, match=r"no cifar10 here.*data_batch_1.bin.*10-binary.tar.gz.*cifar10\(dow"):
        data.cifar10()
    for train, test in (data.cifar10(download=True), data.cifar10(), data.cifar10(no_shared_data / "cifar10")):
        assert (len(train), len(test)) == (15, 3) and train.classes[0] == "airplane" and len(test.classes) == 10
        images, labels = train.arrays
        record = np.frombuffer(files["data_batch_2.bin"], np.uint8).reshape(3, -1)[1]
        assert images.dtype == np.uint8 and labels.dtype == np.int32 and labels[4] == record[0]
        assert np.array_equal(images[4], record[1:].reshape(3, 32, 32).transpose(1, 2, 0))  # planes to HWC
    assert len(server.requests) == 1
    own = tmp_path / "own"  # an archive that was put there by hand is unpacked beside itself
    own.mkdir()
    (own / "cifar-10-binary.tar.gz").write_bytes(archive)
    assert len(data.cifar10(own)[0]) == 15 and (own / which.inner / "test_batch.bin").is_file()
    for contents, message in ((archive[:2000], "damaged or incomplete archive"), (b"html", "damaged or incomplete")):
        (tmp_path / "cut").mkdir(exist_ok=True)
        (tmp_path / "cut" / "cifar-10-binary.tar.gz").write_bytes(contents)
        with pytest.raises(ValueError, match=f"cifar-10-binary.tar.gz: {message}"):
            data.cifar10(tmp_path / "cut")
    monkeypatch.setattr(cifar_sets, "_CIFAR10", dataclasses.replace(fake, checksum="0" * 32))
    with pytest.raises(DownloadError, match="the checksum is wrong: md5 .*, expected 000"):
        data.cifar10(tmp_path / "new", download=True)


def test_cifar100_has_fine_and_coarse_labels(tmp_path):
    which = cifar_sets._CIFAR100
    archive, files = cifar_archive((*which.train, which.test), 2, which.inner)
    (tmp_path / "cifar-100-binary.tar.gz").write_bytes(archive)
    fine, _ = data.cifar100(tmp_path)
    coarse, _ = data.cifar100(tmp_path, coarse=True)
    records = np.frombuffer(files["train.bin"], np.uint8).reshape(3, -1)
    assert np.array_equal(fine.arrays[1], records[:, 1]) and np.array_equal(coarse.arrays[1], records[:, 0])
    assert len(set(fine.classes)) == 100 and len(set(coarse.classes)) == 20 and fine.classes[99] == "worm"
    assert np.array_equal(fine.arrays[0], coarse.arrays[0])


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (bytes(3073)[:-1], "has 3072 bytes, which is no whole number of records of 3073"),
        (b"", "has 0 bytes"),
        (bytes(3073) + bytes([10]) + bytes(3072), "record 1 has the label 10, expected 0 to 9"),
    ],
)
def test_damaged_cifar_files_are_named(tmp_path, contents, message):
    (tmp_path / "batch.bin").write_bytes(contents)
    with pytest.raises(ValueError, match=f"batch.bin: {message}"):
        data.read_cifar10(tmp_path / "batch.bin")


def test_fetch_by_md5(server, tmp_path):
    server.files["/f"] = BODY
    fetch([server.url + "f"], tmp_path / "f", hashlib.md5(BODY).hexdigest(), progress=False)
    assert (tmp_path / "f").read_bytes() == BODY


def test_tiny_shakespeare_is_found_and_split(no_shared_data, tmp_path, monkeypatch):
    text = "To be, or not to be.\n" * 10
    for place in ("tinyshakespeare.txt", "tiny_shakespeare/input.txt"):
        root = tmp_path / place.replace("/", "_")
        (root / place).parent.mkdir(parents=True)
        (root / place).write_text(text)
        train, test = data.tiny_shakespeare(root)
        assert train + test == text and len(train) == 189
        monkeypatch.setenv("FNET_DATA", str(root))
        assert data.tiny_shakespeare() == (train, test)
    with pytest.raises(FileNotFoundError, match=r"no tiny_shakespeare here.*tiny_shakespeare\(download=True\)"):
        data.tiny_shakespeare(tmp_path / "nowhere")
