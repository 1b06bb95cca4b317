"""Where the files of a named set are looked for, and where they are downloaded to."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(name: str) -> Path:
    """Say where a named set is kept: $XDG_CACHE_HOME/fnet/<name>, by default ~/.cache/fnet/<name>."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "fnet" / name


def places(name: str, inner: str, root: str | Path | None) -> list[Path]:
    """List the folders to look in: `root` and its subfolders <name> and `inner` (torchvision's, or the archive's) if it
    is given; else $FNET_DATA/<name>, then the cache folder, each with its subfolder `inner`.
    """
    if root is not None:
        base = Path(root).expanduser()
        return [base, base / name, base / inner, base / name / inner]
    shared = os.environ.get("FNET_DATA")
    bases = [*([Path(shared).expanduser() / name] if shared else []), cache_folder(name)]
    return [folder for base in bases for folder in (base, base / inner)]


def download_folder(name: str, root: str | Path | None) -> Path:
    """Say where downloaded files go."""
    return cache_folder(name) if root is None else Path(root).expanduser()


def not_found(name: str, folders: list[Path], files: str) -> FileNotFoundError:
    """Make the error of a set that is not here: where it was looked for, and what to do."""
    return FileNotFoundError(
        f"no {name} here: looked in {', '.join(map(str, folders))} for {files}. Pass root=<their folder>, set "
        f"FNET_DATA to the folder that contains {name}/, or call {name}(download=True)"
    )
