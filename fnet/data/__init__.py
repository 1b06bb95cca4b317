"""Data: datasets, orders, the loader, readers and named sets. Needs numpy only, and never imports JAX.

- dataset: anything with `__len__` and `__getitem__(i)`; ArrayDataset is the one made of arrays, TokenWindows of a text;
  Map, Filter, Concat, Zip, Subset, Cache, Packed, random_split, k_fold make datasets of datasets
- order: a pure function of (epoch, positions) -> indices: Shuffle, Weighted, ClassBalanced, Mixture, LengthBuckets, …
- DataLoader: `batch(step)` is a pure function of (seed, step); StreamLoader promises less, for what only goes forward
- to_device: batches as jax arrays, transferred ahead
- transforms: functions of an image and of the random numbers of its sample (Rng)
- readers: files of arrays, tables, text and images; tokenizers
- named sets: digits(), mnist(), cifar10(), tiny_shakespeare(), …; each gives (train, test)
"""

from typing import Any

from . import transforms
from .datasets import ArrayDataset
from .download import DownloadError
from .feed import to_device
from .loader import DataLoader
from .maps import Cache, Map, MapBatch
from .orders import Sequential, Shuffle
from .readers import (
    ImageCSV,
    ImageFolder,
    open_npy,
    read_cifar10,
    read_cifar100,
    read_csv,
    read_idx,
    read_image,
    read_jsonl,
    read_lines,
    read_npz,
    read_text,
)
from .reading import Dataset
from .rng import Rng, Rngs
from .sampling import BlockShuffle, ClassBalanced, LengthBuckets, Mixture, Weighted, WindowShuffle
from .sequences import Packed, PadTo, TokenWindows
from .sets import cifar10, cifar100, digits, fashion_mnist, kmnist, mnist, tiny_shakespeare
from .streams import StreamLoader
from .structure import collate
from .text import BPETokenizer, ByteTokenizer, CharTokenizer
from .views import Concat, Filter, Subset, Zip, k_fold, random_split

__all__ = [
    "ArrayDataset",
    "BPETokenizer",
    "BlockShuffle",
    "ByteTokenizer",
    "Cache",
    "CharTokenizer",
    "ClassBalanced",
    "Concat",
    "DataLoader",
    "Dataset",
    "DownloadError",
    "Filter",
    "ImageCSV",
    "ImageFolder",
    "LengthBuckets",
    "Map",
    "MapBatch",
    "Mixture",
    "Packed",
    "PadTo",
    "Rng",
    "Rngs",
    "Sequential",
    "Shuffle",
    "StreamLoader",
    "Subset",
    "TokenWindows",
    "Weighted",
    "WindowShuffle",
    "Zip",
    "cifar10",
    "cifar100",
    "collate",
    "digits",
    "fashion_mnist",
    "k_fold",
    "kmnist",
    "mnist",
    "open_npy",
    "random_split",
    "read_cifar10",
    "read_cifar100",
    "read_csv",
    "read_idx",
    "read_image",
    "read_jsonl",
    "read_lines",
    "read_npz",
    "read_text",
    "tiny_shakespeare",
    "to_device",
    "transforms",
]


def __getattr__(name: str) -> Any:
    from .pytorch import NAMES

    if name in NAMES:
        raise AttributeError(f"data.{name} is data.{NAMES[name]} in fnet")
    raise AttributeError(f"module 'fnet.data' has no {name!r}")
