"""The handwritten digits that come with fnet."""

from __future__ import annotations

from importlib.resources import files

import numpy as np

from ..datasets import ArrayDataset
from ..orders import hash64

_SPLIT = 0x64696769_7473  # "digits" in ASCII: keeps this hash apart from every other use


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
    with files("fnet.data").joinpath("assets", "digits.npz").open("rb") as file, np.load(file) as arrays:
        grey, labels = arrays["images"], arrays["labels"].astype(np.int32)
    images = ((grey.astype(np.uint16) * 255 + 8) // 16).astype(np.uint8)[..., None]  # 0..16 to 0..255, rounded
    held_out = _stratified(labels, fraction=0.2)
    classes = [str(digit) for digit in range(10)]
    train, test = (ArrayDataset(images[rows], labels[rows], classes=classes) for rows in (~held_out, held_out))
    return train, test


def _stratified(labels: np.ndarray, fraction: float) -> np.ndarray:
    """Choose, in each class, the given fraction of samples whose numbers have the smallest hashes; return a mask."""
    hashes = hash64(_SPLIT, np.arange(len(labels)))
    chosen = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        chosen[members[np.argsort(hashes[members])][: round(fraction * len(members))]] = True
    return chosen
