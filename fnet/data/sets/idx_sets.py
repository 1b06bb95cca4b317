"""MNIST and the sets that took over its format."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..datasets import ArrayDataset
from ..download import fetch
from ..readers import read_idx
from ..structure import signature
from .places import download_folder, not_found, places


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


def kmnist(root: str | Path | None = None, download: bool = False) -> tuple[ArrayDataset, ArrayDataset]:
    """Read Kuzushiji-MNIST: 60,000 and 10,000 grey images of ten cursive Japanese characters, in the format of MNIST.

    Folders, arguments, result and errors are those of `mnist`, with the folder names kmnist and KMNIST/raw; the
    download has 21 MB.

    Source: T. Clanuwat et al., "Deep Learning for Classical Japanese Literature", 2018, arXiv:1812.01718, licensed
    CC BY-SA 4.0 by ROIS-DS Center for Open Data in the Humanities.

    >>> train, test = kmnist(download=True)  # doctest: +SKIP
    >>> train.classes[:3]  # doctest: +SKIP
    ('o', 'ki', 'su')
    """
    return _read_set(_KMNIST, root, download)


@dataclass(frozen=True)
class _IdxSet:
    name: str
    torchvision: str
    mirrors: tuple[str, ...]
    checksums: dict[str, str]  # SHA-256 or MD5, as published
    classes: tuple[str, ...]


_MNIST = _IdxSet(
    name="mnist",
    torchvision="MNIST",
    mirrors=("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/"),
    checksums={
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
    checksums={
        "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    },
    classes=(
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    ),
)  # fmt: skip

_KMNIST = _IdxSet(
    name="kmnist",
    torchvision="KMNIST",
    mirrors=(
        "http://codh.rois.ac.jp/kmnist/dataset/kmnist/",
        "https://codh.rois.ac.jp/kmnist/dataset/kmnist/",
    ),
    checksums={
        "train-images-idx3-ubyte.gz": "bdb82020997e1d708af4cf47b453dcf7",
        "train-labels-idx1-ubyte.gz": "e144d726b3acfaa3e44228e80efcd344",
        "t10k-images-idx3-ubyte.gz": "5c965bf0a639b31b8f53240b1b52f4d7",
        "t10k-labels-idx1-ubyte.gz": "7320c461ea6c1c855c0b718fb2a4b134",
    },
    classes=("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
)


def _read_set(which: _IdxSet, root: str | Path | None, download: bool) -> tuple[ArrayDataset, ArrayDataset]:
    folders = places(which.name, f"{which.torchvision}/raw", root)
    found = next((paths for folder in folders if len(paths := _find_files(which, folder)) == len(which.checksums)), {})
    if not found and download:
        target = download_folder(which.name, root)
        found = _find_files(which, target)
        for name in which.checksums.keys() - found.keys():
            found[name] = fetch([mirror + name for mirror in which.mirrors], target / name, which.checksums[name])
    if not found:
        raise not_found(which.name, folders, ", ".join(which.checksums) + " (or without .gz)")
    train, test = (
        _read_pair(found[f"{part}-images-idx3-ubyte.gz"], found[f"{part}-labels-idx1-ubyte.gz"], which.classes)
        for part in ("train", "t10k")
    )
    return train, test


def _find_files(which: _IdxSet, folder: Path) -> dict[str, Path]:
    """Find the files that a folder has, gzipped or not; some archives have a dot for the hyphen before "idx"."""
    found = {}
    for name in which.checksums:
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
