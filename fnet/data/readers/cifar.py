"""The binary version of CIFAR-10 and CIFAR-100: records of label bytes and 3,072 bytes of pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np

_PIXELS = 3 * 32 * 32


def read_cifar10(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Read a file of CIFAR-10's binary version, such as data_batch_1.bin.

    Returns:
        (uint8 images (n, 32, 32, 3), int32 labels (n,) of 0 to 9).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: its length is no multiple of a record's, or a label is out of range.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = (Path(folder) / "batch.bin").write_bytes(bytes([7]) + bytes(range(256)) * 12)
    ...     images, labels = read_cifar10(Path(folder) / "batch.bin")
    >>> images.shape, labels
    ((1, 32, 32, 3), array([7], dtype=int32))
    """
    labels, images = _records(path, ((10, "label"),))
    return images, labels[:, 0]


def read_cifar100(path: str | Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read a file of CIFAR-100's binary version: train.bin or test.bin.

    Returns:
        (uint8 images (n, 32, 32, 3), int32 fine labels (n,) of 0 to 99, int32 coarse labels (n,) of 0 to 19).

    Raises as `read_cifar10`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = (Path(folder) / "train.bin").write_bytes(bytes([3, 77]) + bytes(range(256)) * 12)
    ...     images, fine, coarse = read_cifar100(Path(folder) / "train.bin")
    >>> fine, coarse
    (array([77], dtype=int32), array([3], dtype=int32))
    """
    labels, images = _records(path, ((20, "coarse label"), (100, "fine label")))
    return images, labels[:, 1], labels[:, 0]


def _records(path: str | Path, labels: tuple[tuple[int, str], ...]) -> tuple[np.ndarray, np.ndarray]:
    contents = np.frombuffer(Path(path).read_bytes(), np.uint8)
    size = len(labels) + _PIXELS
    if len(contents) % size or not len(contents):
        raise ValueError(
            f"{path}: has {len(contents)} bytes, which is no whole number of records of {size}: it is cut short, or "
            "not the binary version (*.bin) of this dataset"
        )
    records = contents.reshape(-1, size)
    numbers = records[:, : len(labels)].astype(np.int32)
    for column, (classes, what) in enumerate(labels):
        if numbers[:, column].max() >= classes:
            at = int(numbers[:, column].argmax())
            raise ValueError(f"{path}: record {at} has the {what} {numbers[at, column]}, expected 0 to {classes - 1}")
    planes = records[:, len(labels) :].reshape(-1, 3, 32, 32)  # red, then green, then blue
    return numbers, np.ascontiguousarray(planes.transpose(0, 2, 3, 1))
