"""Datasets that the benchmark of loaders reads; numpy alone, so that other processes import it in no time."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


class Normalised:
    """One image at a time, normalised in Python, as a PyTorch dataset does it."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return (self.images[index].astype(np.float32) - np.float32(33.3)) / np.float32(78.6), int(self.labels[index])


class Jpegs:
    """Decoded images (32, 32, 3) and the numbers of their folders."""

    def __init__(self, folder: Path) -> None:
        self.paths = sorted(folder.rglob("*.jpg"))
        names = sorted({path.parent.name for path in self.paths})
        self.labels = [names.index(path.parent.name) for path in self.paths]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return np.asarray(Image.open(io.BytesIO(self.paths[index].read_bytes()))), self.labels[index]


class Augmented(Jpegs):
    """The same, each cropped out of a margin of 4 pixels and flipped at random, as PyTorch's examples do it."""

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        image, label = super().__getitem__(index)
        rng = np.random.default_rng(index)
        top, left = rng.integers(0, 9, 2)
        image = np.pad(image, ((4, 4), (4, 4), (0, 0)))[top : top + 32, left : left + 32]
        return np.ascontiguousarray(image[:, ::-1] if rng.random() < 0.5 else image), label


def augment(batch: Any, rng: Any) -> Any:
    """The same for a batch, with fnet's transforms."""
    from fnet.data import transforms as T

    images, labels = batch
    return T.Compose([T.RandomCrop(32, padding=4), T.RandomHorizontalFlip()]).batch(images, rng), labels
