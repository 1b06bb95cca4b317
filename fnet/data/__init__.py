"""Data: datasets, orders, the loader, readers and named sets. Needs numpy only, and never imports JAX.

- dataset: anything with `__len__` and `__getitem__(i)`; ArrayDataset is the one made of arrays
- order: a pure function of (epoch, positions) -> indices
- DataLoader: `batch(step)` is a pure function of (seed, step)
- transforms: functions of an image and of the random numbers of its sample (Rng)
- named sets: digits(), mnist(), fashion_mnist(); each gives (train, test)
"""

from . import transforms
from .datasets import ArrayDataset
from .download import DownloadError
from .loader import DataLoader
from .orders import Sequential, Shuffle
from .readers import read_idx
from .reading import Dataset
from .rng import Rng, Rngs
from .sets import digits, fashion_mnist, mnist
from .structure import collate

__all__ = [
    "ArrayDataset",
    "DataLoader",
    "Dataset",
    "DownloadError",
    "Rng",
    "Rngs",
    "Sequential",
    "Shuffle",
    "collate",
    "digits",
    "fashion_mnist",
    "mnist",
    "read_idx",
    "transforms",
]
