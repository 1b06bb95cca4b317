"""NumPy's npy and npz files, in memory or mapped from the disk."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import numpy as np
from numpy.lib import format as npy_format


def open_npy(path: str | Path, mode: str = "r") -> np.memmap:
    """Map an npy file: an array that is read from the disk where it is indexed, so it may exceed the memory.

    An ArrayDataset of it pickles as a reference to the file. Tokens for a language model are kept well so:
    `np.save("tokens.npy", tokenizer.encode(text))`.

    Args:
        path: the file.
        mode: "r" to read, "r+" to change the file, "c" to change a copy in memory.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not an npy file, is cut short, or holds Python objects.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(Path(folder) / "x.npy", np.arange(6).reshape(3, 2))
    ...     open_npy(Path(folder) / "x.npy")[1].tolist()
    [2, 3]
    """
    try:
        return np.lib.format.open_memmap(Path(path), mode)
    except ValueError as error:
        raise ValueError(f"{path}: cannot be mapped as an npy file: {error}") from error


def read_npz(path: str | Path, memmap: bool = False) -> dict[str, np.ndarray]:
    """Read all arrays of an npz file, by name.

    Args:
        path: the file.
        memmap: map the arrays from the disk in place of reading them; for files of np.savez, not savez_compressed.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not an npz file, is damaged, holds Python objects, or is compressed and to be mapped.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.savez(Path(folder) / "x.npz", images=np.zeros((2, 3)), labels=np.arange(2))
    ...     arrays = read_npz(Path(folder) / "x.npz")
    >>> {name: array.shape for name, array in arrays.items()}
    {'images': (2, 3), 'labels': (2,)}
    """
    path = Path(path)
    try:
        if memmap:
            with zipfile.ZipFile(path) as archive, path.open("rb") as file:
                return {info.filename.removesuffix(".npy"): _map(path, file, info) for info in archive.infolist()}
        with path.open("rb") as file:
            arrays = np.load(file, allow_pickle=False)
            if not isinstance(arrays, np.lib.npyio.NpzFile):
                raise ValueError("it is an npy file of one array; use open_npy or np.load")
            with arrays:
                return dict(arrays)
    except (ValueError, EOFError, zipfile.BadZipFile, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"{path}: cannot be read as an npz file: {error}") from error


def _map(path: Path, file, info: zipfile.ZipInfo) -> np.memmap:  # type: ignore[no-untyped-def]
    if info.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{info.filename} is compressed and cannot be mapped; write the file with np.savez")
    file.seek(info.header_offset)
    header = file.read(30)  # the local header repeats the name, and has an extra field of its own length
    name_length, extra_length = struct.unpack("<HH", header[26:30])
    file.seek(name_length + extra_length, 1)
    version = npy_format.read_magic(file)
    read_header = npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
    shape, fortran, dtype = read_header(file)
    if dtype.hasobject:
        raise ValueError(f"{info.filename} holds Python objects")
    return np.memmap(path, dtype, "r", file.tell(), shape, "F" if fortran else "C")
