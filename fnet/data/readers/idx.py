"""IDX, the format of MNIST."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

# The third byte of an IDX file; all are big-endian. Format: yann.lecun.com/exdb/mnist, "The IDX file format".
_IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(path: str | Path) -> np.ndarray:
    """Read an IDX file, the format of MNIST, whether it is gzipped or not.

    Args:
        path: the file; gzip is recognised by its contents and not by its name.

    Returns:
        a new array with the file's shape and its dtype in the machine's byte order: uint8, int8, int16, int32, float32
        or float64.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not IDX, is damaged, or is shorter or longer than its header says; it names the file.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "labels-idx1-ubyte"
    ...     _ = path.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 2, 1]))
    ...     read_idx(path)
    array([7, 2, 1], dtype=uint8)
    """
    path = Path(path)
    contents = path.read_bytes()
    if contents[:2] == b"\x1f\x8b":
        try:
            contents = gzip.decompress(contents)
        except (EOFError, OSError, zlib.error) as error:
            raise ValueError(f"{path}: damaged or incomplete gzip file ({error}); fetch it again") from error
    if len(contents) < 4 or contents[:2] != b"\0\0" or contents[2] not in _IDX_TYPES:
        raise ValueError(
            f"{path}: not an IDX file. It begins with {contents[:4].hex(' ') or 'nothing'}; IDX begins with 00 00, a "
            f"type of {', '.join(f'{code:02x}' for code in _IDX_TYPES)}, and the number of dimensions"
        )
    dtype, dimensions = np.dtype(_IDX_TYPES[contents[2]]), contents[3]
    header = 4 + 4 * dimensions
    if dimensions == 0 or len(contents) < header:
        raise ValueError(f"{path}: the IDX header is cut short, or has no dimensions ({len(contents)} bytes)")
    shape = tuple(int(size) for size in np.frombuffer(contents, ">u4", dimensions, offset=4))
    expected = header + math.prod(shape) * dtype.itemsize
    if len(contents) != expected:
        raise ValueError(
            f"{path}: the header promises {dtype.newbyteorder('=')}{list(shape)}, which is {expected} bytes with the "
            f"header, but there are {len(contents)}: it is {'cut short' if len(contents) < expected else 'damaged'}"
        )
    return np.frombuffer(contents, dtype, offset=header).reshape(shape).astype(dtype.newbyteorder("="))
