"""CIFAR-10 and CIFAR-100, in their binary version, which needs no unpickling."""

from __future__ import annotations

import os
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from ..datasets import ArrayDataset
from ..download import fetch
from ..readers import read_cifar10, read_cifar100
from .places import download_folder, not_found, places


@dataclass(frozen=True)
class _Archive:
    name: str
    urls: tuple[str, ...]
    checksum: str  # MD5, published on the page of the dataset
    inner: str  # the folder in the archive
    train: tuple[str, ...]
    test: str


_CIFAR10 = _Archive(
    name="cifar10",
    urls=("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",),
    checksum="c32a1d4ab5d03f1284b67883e8d87530",
    inner="cifar-10-batches-bin",
    train=tuple(f"data_batch_{k}.bin" for k in range(1, 6)),
    test="test_batch.bin",
)
_CIFAR100 = _Archive(
    name="cifar100",
    urls=("https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",),
    checksum="03b5dce01913d631647c71ecec9e9cb8",
    inner="cifar-100-binary",
    train=("train.bin",),
    test="test.bin",
)
_CLASSES10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_CLASSES100 = tuple(
    """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
    castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
    elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster
    man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck
    pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
    skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger
    tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
    """.split()
)
_SUPERCLASSES = tuple(
    """
    aquatic_mammals fish flowers food_containers fruit_and_vegetables household_electrical_devices
    household_furniture insects large_carnivores large_man-made_outdoor_things large_natural_outdoor_scenes
    large_omnivores_and_herbivores medium_mammals non-insect_invertebrates people reptiles small_mammals trees
    vehicles_1 vehicles_2
    """.split()
)


def cifar10(root: str | Path | None = None, download: bool = False) -> tuple[ArrayDataset, ArrayDataset]:
    """Read CIFAR-10: 50,000 and 10,000 colour photographs of ten classes, 32 x 32 pixels.

    The files of the binary version (data_batch_1.bin, …, test_batch.bin) or their archive cifar-10-binary.tar.gz are
    taken from the first of these folders that has them: `root`, or its subfolders cifar10 and cifar-10-batches-bin, if
    it is given; else $FNET_DATA/cifar10, then the cache folder ~/.cache/fnet/cifar10. (torchvision keeps the Python
    version, cifar-10-batches-py, which is pickled and not read.)

    Args:
        root: a folder to look in, and with download to write to.
        download: fetch the archive (162 MB, checked) into root, or into the cache folder, and unpack it there.

    Returns:
        (train, test) with samples (uint8 image (32, 32, 3) of 0 to 255, int32 label of 0 to 9).

    Raises:
        FileNotFoundError: the files are in none of the folders; it lists them.
        DownloadError: the archive could not be downloaded.
        ValueError: a file is damaged; it names the file.

    Source: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.

    >>> train, test = cifar10(download=True)  # doctest: +SKIP
    >>> train[0][0].shape, train.classes[:3]  # doctest: +SKIP
    ((32, 32, 3), ('airplane', 'automobile', 'bird'))
    """
    folder = _unpacked(_CIFAR10, root, download)
    parts = [read_cifar10(folder / name) for name in _CIFAR10.train]
    images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    test = read_cifar10(folder / _CIFAR10.test)
    return ArrayDataset(images, labels, classes=_CLASSES10), ArrayDataset(*test, classes=_CLASSES10)


def cifar100(
    root: str | Path | None = None, download: bool = False, *, coarse: bool = False
) -> tuple[ArrayDataset, ArrayDataset]:
    """Read CIFAR-100: 50,000 and 10,000 colour photographs of a hundred classes, 32 x 32 pixels.

    As `cifar10`, with train.bin and test.bin of cifar-100-binary.tar.gz (161 MB) and the folder names cifar100 and
    cifar-100-binary; coarse=True gives the 20 superclasses as labels.

    >>> train, test = cifar100(download=True)  # doctest: +SKIP
    >>> train.classes[:3]  # doctest: +SKIP
    ('apple', 'aquarium_fish', 'baby')
    """
    folder = _unpacked(_CIFAR100, root, download)
    classes = _SUPERCLASSES if coarse else _CLASSES100
    sets = []
    for name in (_CIFAR100.train[0], _CIFAR100.test):
        images, fine, superclass = read_cifar100(folder / name)
        sets.append(ArrayDataset(images, superclass if coarse else fine, classes=classes))
    return sets[0], sets[1]


def _unpacked(which: _Archive, root: str | Path | None, download: bool) -> Path:
    """Find the folder with all files, or an archive beside which they can be unpacked, or download it."""
    folders = places(which.name, which.inner, root)
    names = (*which.train, which.test)
    archive = which.urls[0].rsplit("/", 1)[1]
    for folder in folders:
        if all((folder / name).is_file() for name in names):
            return folder
    packed = next((folder / archive for folder in folders if (folder / archive).is_file()), None)
    if packed is None and download:
        packed = fetch(which.urls, download_folder(which.name, root) / archive, which.checksum)
    if packed is None:
        raise not_found(which.name, folders, f"{', '.join(names)} or {archive}")
    target = packed.parent / which.inner
    _unpack(packed, names, target)
    return target


def _unpack(archive: Path, names: tuple[str, ...], target: Path) -> None:
    """Write these files of a tar archive to a folder, each in one step, whatever folder they have in the archive."""
    target.mkdir(exist_ok=True)
    missing = set(names)
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                name = PurePosixPath(member.name).name
                file = tar.extractfile(member) if name in missing else None
                if file is None:
                    continue
                part = target / (name + ".part")
                part.write_bytes(file.read())
                os.replace(part, target / name)
                missing.remove(name)
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise ValueError(f"{archive}: damaged or incomplete archive ({error}); delete it and download again") from error
    if missing:
        raise ValueError(f"{archive}: has no {', '.join(sorted(missing))}: it is not the archive of this dataset")
