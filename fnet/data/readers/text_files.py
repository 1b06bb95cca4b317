"""Text files."""

from __future__ import annotations

from pathlib import Path


def read_text(path: str | Path, encoding: str = "utf-8") -> str:
    """Read a whole text file; a byte order mark at its beginning is left out, line ends stay as they are.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the bytes are not of this encoding; it names the file, the line and the byte.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = (Path(folder) / "a.txt").write_bytes(b"two\\nlines\\n")
    ...     read_text(Path(folder) / "a.txt")
    'two\\nlines\\n'
    """
    contents = Path(path).read_bytes()
    try:
        return contents.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = contents[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{path}: line {line} is not {encoding}: byte 0x{contents[error.start]:02x} at position {error.start}; "
            'pass the encoding it has, such as encoding="latin-1"'
        ) from error


def read_lines(path: str | Path, encoding: str = "utf-8") -> list[str]:
    """Read the lines of a text file, without their ends (LF, CRLF or CR): a list is a dataset of texts.

    Raises as `read_text`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = (Path(folder) / "a.txt").write_bytes(b"two\\r\\nlines\\n")
    ...     read_lines(Path(folder) / "a.txt")
    ['two', 'lines']
    """
    text = read_text(path, encoding).replace("\r\n", "\n").replace("\r", "\n")
    lines = text.split("\n")  # and not splitlines, which also ends lines at form feeds and Unicode's separators
    return lines[:-1] if lines[-1] == "" else lines
