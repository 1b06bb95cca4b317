"""Named sets: each function gives (train, test), whose samples are (image HWC uint8 of 0 to 255, int32 label)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np

from .datasets import ArrayDataset
from .download import fetch
from .orders import hash64
from .readers import read_idx
from .structure import signature

_DIGITS_SPLIT = 0x64696769_7473  # "digits" in ASCII: keeps this hash apart from every other use


def digits() -> tuple[ArrayDataset, ArrayDataset]:
    """Give the UCI handwritten digits, which come with fnet: 1,797 grey images of 8 x 8 pixels.

    One fifth of each class is the test set, chosen by a fixed hash of the sample's number.

    Returns:
        (train, test) of 1,438 and 359 samples (uint8 image (8, 8, 1) of 0 to 255, int32 label of 0 to 9).

    Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository,
    1998, https://doi.org/10.24432/C50P49, licensed CC BY 4.0; fnet/data/assets/digits.txt says what was changed.

    >>> train, test = digits()
    >>> train
    ArrayDataset(1438 samples of (uint8[8, 8, 1], int32[]))
    >>> test.classes
    ('0', '1', '2', '3', '4', '5', '6', '7', '8', '9')
    """
    with files(__package__).joinpath("assets", "digits.npz").open("rb") as file, np.load(file) as arrays:
        grey, labels = arrays["images"], arrays["labels"].astype(np.int32)
    images = ((grey.astype(np.uint16) * 255 + 8) // 16).astype(np.uint8)[..., None]  # 0..16 to 0..255, rounded
    held_out = _stratified(labels, fraction=0.2)
    classes = [str(digit) for digit in range(10)]
    train, test = (ArrayDataset(images[rows], labels[rows], classes=classes) for rows in (~held_out, held_out))
    return train, test


def mnist(root: str | Path | None = None, download: bool = False) -> tuple[ArrayDataset, ArrayDataset]:
    """Read MNIST: 60,000 and 10,000 grey images of handwritten digits, 28 x 28 pixels.

    The four IDX files, gzipped or not, are taken from the first of these folders that has them: `root` (or its
    subfolders mnist and MNIST/raw, which is torchvision's) if it is given; else $FNET_DATA/mnist, then the cache folder
    ~/.cache/fnet/mnist ($XDG_CACHE_HOME/fnet/mnist).

    Args:
        root: a folder to look in, and with download to write to.
        download: fetch missing files (11 MB, checked) into root, or into the cache folder.

    Returns:
        (train, test) with samples (uint8 image (28, 28, 1) of 0 to 255, int32 label of 0 to 9).

    Raises:
        FileNotFoundError: the files are in none of the folders; it lists the folders and the files.
        DownloadError: they could not be downloaded.
        ValueError: a file is damaged or is not what its name says; it names the file.

    Source: Y. LeCun, L. Bottou, Y. Bengio and P. Haffner, "Gradient-based learning applied to document recognition",
    Proceedings of the IEEE, 1998.

    >>> train, test = mnist(download=True)  # doctest: +SKIP
    >>> train[0][0].shape, train.classes[:3]  # doctest: +SKIP
    ((28, 28, 1), ('0', '1', '2'))
    """
    return _read_set(_MNIST, root, download)


def fashion_mnist(root: str | Path | None = None, download: bool = False) -> tuple[ArrayDataset, ArrayDataset]:
    """Read Fashion-MNIST: 60,000 and 10,000 grey images of clothes, 28 x 28 pixels, in the format of MNIST.

    Folders, arguments, result and errors are those of `mnist`, with the folder names fashion_mnist and
    FashionMNIST/raw; the download has 31 MB.

    Source: H. Xiao, K. Rasul and R. Vollgraf, "Fashion-MNIST", 2017, arXiv:1708.07747, MIT licence.

    >>> train, test = fashion_mnist(download=True)  # doctest: +SKIP
    >>> train.classes[:3]  # doctest: +SKIP
    ('T-shirt/top', 'Trouser', 'Pullover')
    """
    return _read_set(_FASHION_MNIST, root, download)


@dataclass(frozen=True)
class _IdxSet:
    name: str
    torchvision: str
    mirrors: tuple[str, ...]
    sha256: dict[str, str]
    classes: tuple[str, ...]


_MNIST = _IdxSet(
    name="mnist",
    torchvision="MNIST",
    mirrors=("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/"),
    sha256={
        "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    },
    classes=tuple(str(digit) for digit in range(10)),
)

_FASHION_MNIST = _IdxSet(
    name="fashion_mnist",
    torchvision="FashionMNIST",
    mirrors=(
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    ),
    sha256={
        "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    },
    classes=(
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    ),
)  # fmt: skip


def cache_folder(name: str) -> Path:
    """Say where a named set is kept: $XDG_CACHE_HOME/fnet/<name>, by default ~/.cache/fnet/<name>."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "fnet" / name


def _read_set(which: _IdxSet, root: str | Path | None, download: bool) -> tuple[ArrayDataset, ArrayDataset]:
    folders = _folders(which, root)
    found = next((paths for folder in folders if len(paths := _find_files(which, folder)) == len(which.sha256)), {})
    if not found and download:
        target = folders[0] if root is not None else folders[-1]
        found = _find_files(which, target)
        for name in which.sha256.keys() - found.keys():
            found[name] = fetch([mirror + name for mirror in which.mirrors], target / name, which.sha256[name])
    if not found:
        raise FileNotFoundError(
            f"no {which.name} here: looked in {', '.join(map(str, folders))} for {', '.join(which.sha256)} (or "
            f"without .gz). Pass root=<their folder>, set FNET_DATA to the folder that contains {which.name}/, or call "
            f"{which.name}(download=True)"
        )
    train, test = (
        _read_pair(found[f"{part}-images-idx3-ubyte.gz"], found[f"{part}-labels-idx1-ubyte.gz"], which.classes)
        for part in ("train", "t10k")
    )
    return train, test


def _folders(which: _IdxSet, root: str | Path | None) -> list[Path]:
    if root is not None:
        base = Path(root).expanduser()
        return [base, base / which.name, base / which.torchvision / "raw"]
    shared = os.environ.get("FNET_DATA")
    return [*([Path(shared).expanduser() / which.name] if shared else []), cache_folder(which.name)]


def _find_files(which: _IdxSet, folder: Path) -> dict[str, Path]:
    """Find the files that a folder has, gzipped or not; some archives have a dot for the hyphen before "idx"."""
    found = {}
    for name in which.sha256:
        plain = name.removesuffix(".gz")
        spellings = [spelling + end for end in ("", ".gz") for spelling in (plain, plain.replace("-idx", ".idx"))]
        path = next((folder / spelling for spelling in spellings if (folder / spelling).is_file()), None)
        if path is not None:
            found[name] = path
    return found


def _read_pair(images_path: Path, labels_path: Path, classes: tuple[str, ...]) -> ArrayDataset:
    images, labels = read_idx(images_path), read_idx(labels_path)
    if images.dtype != np.uint8 or images.ndim != 3 or images.shape[1:] != (28, 28):
        raise ValueError(f"{images_path}: expected images as uint8[n, 28, 28], the file has {signature(images)}")
    if labels.dtype != np.uint8 or labels.ndim != 1:
        raise ValueError(f"{labels_path}: expected labels as uint8[n], the file has {signature(labels)}")
    if len(images) != len(labels):
        raise ValueError(f"{labels_path} has {len(labels)} labels, but {images_path} has {len(images)} images")
    if labels.size and labels.max() >= len(classes):
        raise ValueError(f"{labels_path}: has the label {labels.max()}, but there are {len(classes)} classes")
    return ArrayDataset(images[..., None], labels.astype(np.int32), classes=classes)


def _stratified(labels: np.ndarray, fraction: float) -> np.ndarray:
    """Choose, in each class, the given fraction of samples whose numbers have the smallest hashes; return a mask."""
    hashes = hash64(_DIGITS_SPLIT, np.arange(len(labels)))
    chosen = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        chosen[members[np.argsort(hashes[members])][: round(fraction * len(members))]] = True
    return chosen
