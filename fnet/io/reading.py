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
BATCH = 16 << 20  # smaller tensors are read together until they have this many bytes, and share their memory
THREADS = min(8, os.cpu_count() or 1)
T = TypeVar("T")


def read_tensors(
    file: BinaryIO, header: Header, names: Iterable[str], checksums: Mapping[str, str], path: str
) -> dict[str, np.ndarray]:
    """Read the named tensors into memory of their own, checking the checksums given.

    Raises FileError that names every damaged tensor.
    """
    read_at = _reader(file)

    def read(batch: list[str]) -> dict[str, tuple[np.ndarray, int]]:
        memory = _memory(sum(_padded(header.tensors[name].nbytes) for name in batch))
        done = {}
        for name in batch:
            tensor = header.tensors[name]
            buffer, memory = memory[: tensor.nbytes], memory[_padded(tensor.nbytes) :]
            crc = fill(buffer.data, header.data + tensor.start, name in checksums)
            done[name] = _as_tensor(buffer, tensor, name, path), crc
        return done

    def fill(view: memoryview, position: int, check: bool) -> int:
        crc = 0
        while view:
            count = read_at(view[:CHUNK], position)
            if not count:
                raise FileError(f"{path}: it became shorter while it was read")
            if check:
                crc = zlib.crc32(view[:count], crc)
            view, position = view[count:], position + count
        return crc

    read_all = _each(read, {name: header.tensors[name].nbytes for name in names})
    _compare({name: crc for name, (_, crc) in read_all.items() if name in checksums}, checksums, path)
    return {name: array for name, (array, _) in read_all.items()}


def map_tensors(
    file: BinaryIO, header: Header, names: Iterable[str], checksums: Mapping[str, str], path: str
) -> dict[str, np.ndarray]:
    """Read-only views of the file, whose bytes are read when they are touched (now: booleans, and for checksums)."""
    mapped = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    arrays, sizes = {}, {}
    for name in names:
        tensor = header.tensors[name]
        start = header.data + tensor.start
        buffer = mapped[start : start + tensor.nbytes]
        arrays[name] = _as_tensor(buffer, tensor, name, path)
        if name in checksums:
            sizes[name] = tensor.nbytes

    def check(batch: list[str]) -> dict[str, int]:
        return {name: zlib.crc32(arrays[name].reshape(-1).view(np.uint8).data) for name in batch}

    _compare(_each(check, sizes), checksums, path)
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


def _memory(nbytes: int) -> np.ndarray:
    """New memory that starts where XLA on CPU takes a buffer over without a copy.

    From numpy, which asks for huge pages (memory in pages of 4 kB takes longer to get than to fill), and whose
    allocator hands out again what an earlier load has left.
    """
    buffer = np.empty(nbytes + ALIGNMENT, np.uint8)
    start = -buffer.__array_interface__["data"][0] % ALIGNMENT
    return buffer[start : start + nbytes]


def _padded(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


def _as_tensor(buffer: np.ndarray, tensor: Tensor, name: str, path: str) -> np.ndarray:
    if tensor.dtype == np.bool_ and buffer.size and buffer.max() > 1:
        raise FileError(f"{path}: {name!r} is boolean but holds other bytes than 0 and 1")
    try:
        return buffer.view(tensor.dtype).reshape(tensor.shape)
    except ValueError as error:  # an empty shape with dimensions that numpy cannot hold
        raise FileError(f"{path}: {name!r} cannot have the shape {list(tensor.shape)}: {error}") from None


def _each(work: Callable[[list[str]], dict[str, T]], sizes: dict[str, int]) -> dict[str, T]:
    """The results of ``work`` on batches of names, the largest first, on several threads where there is enough."""
    batches: list[list[str]] = []
    room = 0
    for name in sorted(sizes, key=lambda name: -sizes[name]):
        if not batches or sizes[name] > room:
            batches.append([])
            room = BATCH
        batches[-1].append(name)
        room -= sizes[name]
    if len(batches) < 2:
        return {name: value for part in map(work, batches) for name, value in part.items()}
    with ThreadPoolExecutor(THREADS) as pool:
        return {name: value for part in pool.map(work, batches) for name, value in part.items()}


def _compare(found: dict[str, int], stored: Mapping[str, str], path: str) -> None:
    wrong = [name for name, crc in found.items() if f"{crc:08x}" != stored[name]]
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise FileError(
            f"{path}: damaged: {', '.join(map(repr, wrong[:5]))}{more} do not match the checksums taken at saving "
            f"(verify=False loads the bytes as they are)"
        )
