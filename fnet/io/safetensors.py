"""The safetensors format: eight bytes of length, a JSON header, then the bytes of the tensors without gaps.

fnet writes and reads the format itself, because the `safetensors` package saves non-contiguous arrays wrong, cannot
read float8 into numpy, and loads slower and in twice the memory. This file knows headers only: it turns a list of
tensors into header bytes, and header bytes that nobody vouches for into a checked table of tensors.

Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
import os
import re
import struct
import zlib
from dataclasses import dataclass, field
from functools import cache
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

METADATA = "__metadata__"
MAX_HEADER = 100_000_000  # bytes, the limit of the safetensors package too
MAX_RANK = 64  # numpy's and JAX's
ALIGNMENT = 64  # of the first tensor in the file: what XLA needs to take a buffer without a copy
HEADER_CHECKSUM = "fnet.header_crc32"


class FileError(ValueError):
    """A file cannot be loaded: damaged, not in this format, or not fitting what the caller asked for.

    The message begins with the file's path and says what is wrong and, where it helps, what to do.

    >>> import tempfile, os
    >>> from fnet import io
    >>> path = os.path.join(tempfile.mkdtemp(), "a.safetensors")
    >>> with open(path, "wb") as file: _ = file.write(b"text")
    >>> try: io.load(path)
    ... except io.FileError as error: print(str(error).removeprefix(path))
    : not a safetensors file: it has 4 bytes
    """

    def __init__(self, message: str = ""):
        """Names come from the file and may have any length, so those beyond a thousand letters are cut."""
        super().__init__(re.sub(r"\S{1000,}", lambda long: long[0][:500] + "…", message[:100_000]))


class Misfit(FileError):
    """The file is whole, but not what the caller asked for."""


def _dtypes() -> dict[str, np.dtype]:
    codes = {
        "BOOL": np.bool_, "U8": np.uint8, "I8": np.int8, "U16": np.uint16, "I16": np.int16, "U32": np.uint32,
        "I32": np.int32, "U64": np.uint64, "I64": np.int64, "F16": np.float16, "F32": np.float32, "F64": np.float64,
        "C64": np.complex64, "BF16": ml_dtypes.bfloat16, "F8_E4M3": ml_dtypes.float8_e4m3fn,
        "F8_E5M2": ml_dtypes.float8_e5m2, "F8_E4M3FNUZ": ml_dtypes.float8_e4m3fnuz,
        "F8_E5M2FNUZ": ml_dtypes.float8_e5m2fnuz, "F8_E8M0": getattr(ml_dtypes, "float8_e8m0fnu", None),
    }  # fmt: skip
    return {code: np.dtype(dtype) for code, dtype in codes.items() if dtype is not None}


DTYPES = _dtypes()
CODES = {dtype.name: code for code, dtype in DTYPES.items()}


@cache
def dtype_name(dtype: np.dtype) -> str:
    """``dtype.name``, which numpy puts together anew each time; half the work of a header of many small tensors."""
    return dtype.name


@dataclass(frozen=True)
class Tensor:
    """One line of the header: the dtype, the shape, and where the bytes are, counted from the end of the header."""

    dtype: np.dtype
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def nbytes(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Header:
    """What the header says: the ``tensors`` and the ``metadata`` by name, and where in the file the ``data`` begins."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str] = field(default_factory=dict)
    data: int = 0


def lay_out(specs: dict[str, tuple[np.dtype, tuple[int, ...]]]) -> dict[str, Tensor]:
    """Give each tensor its place, so that as many as can be are aligned for XLA when mapped, and all for numpy.

    The format allows no gaps. So those whose size keeps the alignment come first, then the others, the widest dtypes
    before the narrow ones.
    """

    def order(item: tuple[str, tuple[np.dtype, tuple[int, ...]]]) -> tuple[bool, int]:
        _, (dtype, shape) = item
        return math.prod(shape) * dtype.itemsize % ALIGNMENT != 0, -dtype.itemsize

    tensors, start = {}, 0
    for name, (dtype, shape) in sorted(specs.items(), key=order):
        stop = start + math.prod(shape) * dtype.itemsize
        tensors[name] = Tensor(dtype, shape, start, stop)
        start = stop
    return tensors


def encode_header(tensors: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    """The first bytes of a file, with the header's own checksum in its metadata.

    Every checksum has a fixed width, so the length depends on the names and shapes only. Raises ValueError when
    the header grows past the format's limit.
    """
    entries: dict[str, Any] = {METADATA: metadata | {HEADER_CHECKSUM: "00000000"}}
    for name, tensor in tensors.items():
        offsets = [tensor.start, tensor.stop]
        entries[name] = {"dtype": CODES[dtype_name(tensor.dtype)], "shape": list(tensor.shape), "data_offsets": offsets}
    entries[METADATA][HEADER_CHECKSUM] = _checksum(entries)
    text = _dump(entries)
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    if len(text) > MAX_HEADER:
        raise ValueError(f"the header would have {len(text)} bytes, more than the format's {MAX_HEADER}")
    return struct.pack("<Q", len(text)) + text


def _dump(entries: dict[str, Any]) -> bytes:
    return json.dumps(entries, separators=(",", ":")).encode()


def _checksum(entries: dict[str, Any]) -> str:
    """The crc32 of the header with its own checksum left out."""
    zeroed = entries | {METADATA: entries[METADATA] | {HEADER_CHECKSUM: "00000000"}}
    return f"{zlib.crc32(_dump(zeroed)):08x}"


def read_header(file: BinaryIO, path: str, verify: bool = True) -> Header:
    """Read and check the header of an open file; raises FileError for anything that is not exactly right."""
    size = os.fstat(file.fileno()).st_size
    first = file.read(8)
    if len(first) < 8:
        raise FileError(f"{path}: not a safetensors file: it has {size} bytes")
    (length,) = struct.unpack("<Q", first)
    if length > size - 8:
        raise FileError(f"{path}: not a safetensors file{_what_else(first, length, size)}")
    if length > MAX_HEADER:
        raise FileError(f"{path}: its header has {length} bytes; the format allows {MAX_HEADER}")
    entries = parse_json(file.read(length), f"{path}: the header")
    metadata = entries.pop(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise FileError(f"{path}: {METADATA} in the header must map strings to strings")
    if verify and HEADER_CHECKSUM in metadata:
        if metadata[HEADER_CHECKSUM] != _checksum({METADATA: metadata} | entries):
            raise FileError(f"{path}: the header does not match its checksum: the file is damaged")
    tensors = {name: _tensor(name, entry, path) for name, entry in entries.items()}
    _check_cover(tensors, size - 8 - length, path)
    return Header(tensors, metadata, 8 + length)


def _what_else(first: bytes, length: int, size: int) -> str:
    if first.startswith(b"PK\x03\x04"):
        return " but a zip archive, as torch.save and numpy.savez write; io.from_torch reads the former"
    if first.startswith(b"\x80") and first[1] <= 5:
        return " but a pickle, as torch.save used to write; loading one can run code"
    return f": it says its header has {length} bytes, but the file has {size}"


def parse_json(text: bytes | str, what: str) -> dict[str, Any]:
    """A JSON object, without duplicate keys and in valid UTF-8; raises FileError otherwise."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        out = dict(pairs)
        if len(out) != len(pairs):
            raise ValueError("a key appears twice")
        return out

    try:
        decoded = text.decode("utf-8") if isinstance(text, bytes) else text
        if not decoded.startswith("{"):
            raise ValueError("it does not begin with '{'")
        return json.loads(decoded, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise FileError(f"{what} is not valid JSON: {error}") from None


def _tensor(name: str, entry: Any, path: str) -> Tensor:
    """Check one entry of the header; products are of Python integers, which do not overflow."""
    where = f"{path}: the header's entry {name!r}"
    if any("\ud800" <= letter <= "\udfff" for letter in name):
        raise FileError(f"{where} is not valid Unicode")
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise FileError(f"{where} must have dtype, shape and data_offsets, got {str(entry)[:80]}")
    code, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(code, str) or code not in DTYPES:
        raise FileError(f"{where} has dtype {str(code)[:20]!r}, which is not supported; known are {', '.join(DTYPES)}")
    if not _are_sizes(shape) or len(shape) > MAX_RANK:
        raise FileError(f"{where} has the shape {str(shape)[:80]}, expected at most {MAX_RANK} non-negative integers")
    if not _are_sizes(offsets) or len(offsets) != 2:
        raise FileError(f"{where} has data_offsets {str(offsets)[:80]}, expected two non-negative integers")
    expected = math.prod(shape) * DTYPES[code].itemsize
    if offsets[1] - offsets[0] != expected:
        raise FileError(f"{where} is {code}{shape}, {expected} bytes, but its data_offsets are {offsets}")
    return Tensor(DTYPES[code], tuple(shape), *offsets)


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**63 for value in values)


def _check_cover(tensors: dict[str, Tensor], size: int, path: str) -> None:
    """The tensors must fill the rest of the file, without holes or overlaps."""
    end = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].stop)):
        if tensor.start != end:
            kind = "a hole" if tensor.start > end else "an overlap"
            raise FileError(f"{path}: {kind} before {name!r}: its data starts at {tensor.start}, expected {end}")
        end = tensor.stop
    if end != size:
        raise FileError(f"{path}: the header describes {end} bytes of data, but {size} follow it: cut off or damaged")
