"""Readers of files: arrays, tables, text and images. Nothing is unpickled, and each error names the file."""

from .arrays import open_npy, read_npz
from .cifar import read_cifar10, read_cifar100
from .idx import read_idx
from .images import ImageCSV, ImageFolder, read_image
from .tables import read_csv, read_jsonl
from .text_files import read_lines, read_text

__all__ = [
    "ImageCSV",
    "ImageFolder",
    "open_npy",
    "read_cifar10",
    "read_cifar100",
    "read_csv",
    "read_idx",
    "read_image",
    "read_jsonl",
    "read_lines",
    "read_npz",
    "read_text",
]
