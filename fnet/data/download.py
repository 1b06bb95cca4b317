"""Fetch a file once: from mirrors, resumed where it broke off, checked, and put in place in one step."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_CHUNK = 1 << 16
_TIMEOUT = 30.0  # seconds without a byte


class DownloadError(OSError):
    """A file could not be fetched from any of its addresses, or was not the file that was expected."""


def fetch(urls: Sequence[str], path: str | Path, checksum: str, *, progress: bool = True) -> Path:
    """Download a file unless it is there already, and check it.

    What arrived of a broken download stays in `<path>.part`, and the next attempt goes on from there if the server
    can. The file appears under its own name only when it is complete and its checksum is right.

    Args:
        urls: addresses of the same file, tried in turn.
        path: where to put it; folders are made.
        checksum: its SHA-256, or its MD5 where nothing better is published, in hexadecimal.
        progress: show a bar.

    Returns:
        the path.

    Raises:
        DownloadError: no address gave the file; it lists what each said.
    """
    path = Path(path)
    kind = {32: "md5", 64: "sha256"}[len(checksum)]
    if path.is_file() and file_digest(path, kind) == checksum:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    failures = []
    for url in urls:
        try:
            resumed = _receive(url, part, progress)
            if resumed and file_digest(part, kind) != checksum:  # it may have begun as another file: once more, whole
                part.unlink()
                _receive(url, part, progress)
            actual = file_digest(part, kind)
            if actual == checksum:
                os.replace(part, path)
                return path
            part.unlink()
            failures.append(f"{url}: the checksum is wrong: {kind} {actual}, expected {checksum}")
        except OSError as error:  # urllib's errors, time-outs, refused and broken connections, a full disk
            failures.append(f"{url}: {error}")
    raise DownloadError(
        f"could not download {path.name}:\n  " + "\n  ".join(failures) + f"\nWithout a network, put the file at {path} "
        "yourself. What has arrived is kept, and another attempt goes on from there."
    )


def file_digest(path: Path, kind: str = "sha256") -> str:
    """Hash a file's contents with SHA-256 or MD5, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()


def _receive(url: str, part: Path, progress: bool) -> bool:
    """Bring the partial file to the server's full length; return whether it was continued and not begun anew."""
    import http.client
    import urllib.error
    import urllib.request

    have = part.stat().st_size if part.is_file() else 0
    headers = {"User-Agent": "fnet", **({"Range": f"bytes={have}-"} if have else {})}
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416 and have:  # nothing lies beyond what we have: complete, or not our file
                return True
            raise OSError(f"HTTP {error.code} {error.reason}") from None
    with response:
        resumed = response.status == 206 and _range_start(response) == have
        if response.status == 206 and not resumed:
            raise OSError("the server sent another part of the file than it was asked for")
        have = have if resumed else 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        try:
            have += _write(response, part, "ab" if resumed else "wb", have, total, progress)
        except http.client.HTTPException as error:
            raise OSError(f"the connection broke: {error!r}") from error
    if total is not None and have != total:
        raise OSError(f"the connection broke after {have} of {total} bytes")
    return resumed


def _write(response: Any, part: Path, mode: str, have: int, total: int | None, progress: bool) -> int:
    from tqdm.auto import tqdm

    written = 0
    bar = tqdm(
        total=total, initial=have, desc=part.stem, unit="B", unit_scale=True, unit_divisor=1024, disable=not progress
    )
    with part.open(mode) as file, bar:
        while chunk := response.read(_CHUNK):
            file.write(chunk)
            written += len(chunk)
            bar.update(len(chunk))
    return written


def _range_start(response: Any) -> int:
    match = re.fullmatch(r"bytes (\d+)-\d+/.*", response.headers.get("Content-Range", ""))
    return int(match[1]) if match else -1
