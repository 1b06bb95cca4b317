"""Read tensors out of a file whose header has been checked: several at once, or mapped and read when touched."""

from __future__ import annotations

import mmap
import os
import threading
import zlib
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO, TypeVar

import numpy as np

from fnet.io.safetensors import ALIGNMENT, FileError, Header, Tensor

CHUNK = 1 << 20  # small enough that the checksum finds the bytes in the processor's cache
BATCH = 8 << 20  # small tensors are read together until they have this many bytes
THREADS = min(8, os.cpu_count() or 1)
T = TypeVar("T")


def read_tensors(
    file: BinaryIO, header: Header, names: Iterable[str], checksums: Mapping[str, str], path: str
) -> dict[str, np.ndarray]:
    """Read the named tensors into memory of their own, checking the checksums given.

    Raises FileError that names every damaged tensor.
    """
    read_at = _reader(file)

    def read(name: str) -> tuple[np.ndarray, int]:
        tensor = header.tensors[name]
        buffer = _aligned(tensor.nbytes)
        crc, view = 0, buffer.data
        for start in range(0, tensor.nbytes, CHUNK):
            chunk = view[start : start + CHUNK]
            position = header.data + tensor.start + start
            while chunk:
                count = read_at(chunk, position)
                if not count:
                    raise FileError(f"{path}: it became shorter while it was read")
                if name in checksums:
                    crc = zlib.crc32(chunk[:count], crc)
                chunk, position = chunk[count:], position + count
        return _as_tensor(buffer, tensor, name, path), crc

    read_all = _each(read, {name: header.tensors[name].nbytes for name in names})
    _compare({name: crc for name, (_, crc) in read_all.items() if name in checksums}, checksums, path)
    return {name: array for name, (array, _) in read_all.items()}


def map_tensors(
    file: BinaryIO, header: Header, names: Iterable[str], checksums: Mapping[str, str], path: str
) -> dict[str, np.ndarray]:
    """Read-only views of the file, which reads their bytes when they are touched (now, to check ``checksums``)."""
    mapped = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    arrays, sizes = {}, {}
    for name in names:
        tensor = header.tensors[name]
        start = header.data + tensor.start
        buffer = mapped[start : start + tensor.nbytes]
        arrays[name] = _as_tensor(buffer, tensor, name, path, check=False)
        if name in checksums:
            sizes[name] = tensor.nbytes
    _compare(_each(lambda name: zlib.crc32(arrays[name].reshape(-1).view(np.uint8).data), sizes), checksums, path)
    return arrays


def _reader(file: BinaryIO) -> Callable[[memoryview, int], int]:
    """``read_at(buffer, position)`` that any number of threads may call."""
    fd = file.fileno()
    if hasattr(os, "preadv"):
        return lambda buffer, position: os.preadv(fd, [buffer], position)
    lock = threading.Lock()

    def read_at(buffer: memoryview, position: int) -> int:
        with lock:
            file.seek(position)
            return file.readinto(buffer)  # type: ignore[attr-defined]

    return read_at


def _aligned(nbytes: int) -> np.ndarray:
    """Memory that starts where XLA on CPU takes a buffer over without a copy."""
    buffer = np.empty(nbytes + ALIGNMENT, np.uint8)
    offset = -buffer.__array_interface__["data"][0] % ALIGNMENT
    return buffer[offset : offset + nbytes]


def _as_tensor(buffer: np.ndarray, tensor: Tensor, name: str, path: str, check: bool = True) -> np.ndarray:
    if check and tensor.dtype == np.bool_ and buffer.size and buffer.max() > 1:
        raise FileError(f"{path}: {name!r} is boolean but holds other bytes than 0 and 1")
    try:
        return buffer.view(tensor.dtype).reshape(tensor.shape)
    except ValueError as error:  # an empty shape with dimensions that numpy cannot hold
        raise FileError(f"{path}: {name!r} cannot have the shape {list(tensor.shape)}: {error}") from None


def _each(work: Callable[[str], T], sizes: dict[str, int]) -> dict[str, T]:
    """``{name: work(name)}``, the largest first, on several threads where there is enough to do."""
    batches: list[list[str]] = []
    room = 0
    for name in sorted(sizes, key=lambda name: -sizes[name]):
        if not batches or sizes[name] > room:
            batches.append([])
            room = BATCH
        batches[-1].append(name)
        room -= sizes[name]

    def batch(names: list[str]) -> dict[str, T]:
        return {name: work(name) for name in names}

    if len(batches) < 2:
        done = map(batch, batches)
        return {name: value for part in done for name, value in part.items()}
    with ThreadPoolExecutor(THREADS) as pool:
        return {name: value for part in pool.map(batch, batches) for name, value in part.items()}


def _compare(found: dict[str, int], stored: Mapping[str, str], path: str) -> None:
    wrong = [name for name, crc in found.items() if f"{crc:08x}" != stored[name]]
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise FileError(
            f"{path}: damaged: {', '.join(map(repr, wrong[:5]))}{more} do not match the checksums taken at saving "
            f"(verify=False loads the bytes as they are)"
        )
