"""Write a file so that it is either wholly there or not at all, one chunk at a time."""

from __future__ import annotations

import json
import os
import queue
import re
import secrets
import threading
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np

from fnet.io.safetensors import Tensor, encode_header

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

CHUNK = 1 << 20  # bytes written, checksummed or converted at once
CHECKSUMS = "fnet.crc32"


def write_file(
    path: str,
    tensors: dict[str, Tensor],
    arrays: Iterable[np.ndarray],
    metadata: dict[str, str],
    checksum: bool,
    sync_new: bool = True,
) -> None:
    """Write a safetensors file; ``arrays`` come in the order of ``tensors``, and none is held longer than needed.

    The checksums are taken on the way; the header is written last, when they are known. ``sync_new`` as in `replacing`.
    """

    def header(checksums: dict[str, str]) -> bytes:
        return encode_header(tensors, metadata | ({CHECKSUMS: json.dumps(checksums)} if checksum else {}))

    begin = header(dict.fromkeys(tensors, "00000000"))
    with replacing(path, sync_new) as fd:
        os.lseek(fd, len(begin), os.SEEK_SET)
        checksums = _write_arrays(fd, zip(tensors, arrays, strict=True), checksum)
        os.lseek(fd, 0, os.SEEK_SET)
        if checksum:
            begin = header({name: checksums[name] for name in tensors})
        write_all(fd, memoryview(begin))


@contextmanager
def replacing(path: str, sync_new: bool = True) -> Iterator[int]:
    """A descriptor of a new file that takes the place of ``path`` when the block ends well.

    The new file lies in the same folder until it is complete and on the disk; if anything fails it is removed and
    ``path`` stays what it was. A symbolic link stays one: what it points to is replaced. An OSError says so. Without
    ``sync_new`` the disk is waited for only where a file is replaced, which a power cut must not lose.
    """
    target = os.path.realpath(path)
    folder, name = os.path.split(target)
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"cannot save {path}: the folder {folder} does not exist")
    if os.path.isdir(target):
        raise IsADirectoryError(f"cannot save {path}: it is a folder")
    aside = os.path.join(folder, f".{name[:100]}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        fd = os.open(aside, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        try:
            with suppress(OSError):  # some network disks know no locks
                _lock(fd)
            yield fd
            if sync := sync_new or os.path.exists(target):
                os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(aside, target)
    except BaseException as error:
        with suppress(OSError):
            os.unlink(aside)
        if isinstance(error, OSError) and error.errno is not None:
            kept = "; the file that was there is untouched" if os.path.exists(target) else ""
            raise OSError(error.errno, f"cannot save {path}: {error.strerror}{kept}") from error
        raise
    if sync:
        _sync_folder(folder)


def remove_stale(folder: str, pattern: str) -> list[str]:
    """Remove what killed processes left of files whose names match; those that are being written stay."""
    removed = []
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        if not re.fullmatch(rf"\.{pattern}\.\d+-[0-9a-f]{{8}}\.tmp", name):
            continue
        with suppress(OSError):  # locked, so it is alive; or gone meanwhile
            fd = os.open(path, os.O_RDWR)
            try:
                _lock(fd, wait=False)
                os.unlink(path)
            finally:
                os.close(fd)
            removed.append(path)
    return removed


def _lock(fd: int, wait: bool = True) -> None:
    """Mark a file as being written, for as long as this process lives; raises OSError if another one has it."""
    if fcntl is not None:  # Windows removes no open file, so it needs no mark
        fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))


def _sync_folder(folder: str) -> None:
    """Make the new name last through a power cut, where the system can (not on Windows, not on every network disk)."""
    with suppress(OSError):
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _write_arrays(fd: int, arrays: Iterable[tuple[str, np.ndarray]], checksum: bool) -> dict[str, str]:
    """Write the arrays while another thread takes the checksums of the large ones, at most two arrays behind.

    One thread for all of them, since a new one often begins on the processor that writes. A thread, not a pool: pools
    refuse work when the interpreter ends, which waits for a save in the background.
    """
    found: dict[str, str] = {}
    waiting: queue.Queue[tuple[str, np.ndarray] | None] = queue.Queue(1)

    def take() -> None:
        while (item := waiting.get()) is not None:
            found[item[0]] = checksum_of(item[1])

    other = threading.Thread(target=take)
    try:
        for name, array in arrays:
            beside = checksum and array.nbytes > CHUNK and _is_plain(array)
            if beside:
                if not other.is_alive():
                    other.start()
                waiting.put((name, array))
            here, crc = checksum and not beside, 0
            for chunk in _chunks(array, CHUNK if here else max(array.nbytes, CHUNK)):
                if here:
                    crc = zlib.crc32(chunk, crc)
                write_all(fd, chunk)
            if not beside:
                found[name] = f"{crc:08x}"
    finally:
        if other.is_alive():
            waiting.put(None)
            other.join()
    return found


def checksum_of(array: np.ndarray) -> str:
    """The checksum that a file has of this array."""
    crc = 0
    for chunk in _chunks(array):
        crc = zlib.crc32(chunk, crc)
    return f"{crc:08x}"


def _chunks(array: np.ndarray, plain_size: int = CHUNK) -> Iterator[memoryview]:
    """The bytes of an array in C order and little-endian, ``plain_size`` of them at once if none has to be copied."""
    if _is_plain(array):
        data = array.reshape(-1).view(np.uint8).data
        for start in range(0, len(data), plain_size):
            yield data[start : start + plain_size]
        return
    little = array.dtype.newbyteorder("<")
    size = max(1, CHUNK // array.dtype.itemsize)
    flags: Any = ["external_loop", "buffered", "zerosize_ok"]
    for part in np.nditer(array, flags, op_dtypes=little, casting="equiv", order="C", buffersize=size):
        yield np.ascontiguousarray(part).view(np.uint8).data


def _is_plain(array: np.ndarray) -> bool:
    """Whether its memory is what goes into the file."""
    return array.flags.c_contiguous and array.dtype == array.dtype.newbyteorder("<")


def write_all(fd: int, data: memoryview) -> None:
    while data:
        data = data[os.write(fd, data) :]
