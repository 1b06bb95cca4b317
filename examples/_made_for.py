"""For what the checkpoints in a folder were made, so that a run does not go on from those of another."""

from __future__ import annotations

import argparse
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fnet import io


def made_for(folder: Path, args: argparse.Namespace, *free: str, **data: Any) -> dict[str, Any]:
    """The settings and data of a run, as metadata for its checkpoints; stops where the folder has others' checkpoints.

    They are the options in ``args``, but for ``--out`` and those named as ``free``, which do not change what the run
    is (how long it takes, what is done with it), and ``data``, what describes its data. Paths say nothing about what
    lies there: have them ``free``, and describe that in ``data``, with a `checksum`.
    """
    asked = {name: value for name, value in (vars(args) | data).items() if name not in ("out", *free)}
    asked = json.loads(json.dumps(asked, default=str))
    for path in sorted(folder.rglob("step-*.safetensors")):
        try:
            there = io.metadata(path).get("made_for")
        except (OSError, io.FileError):
            continue  # damaged: `restore` says so, and takes another
        if there is None:
            raise SystemExit(f"{path} does not say for what it was made; give another --out, or delete {path.parent}")
        differ = [name for name in there | asked if name not in free and there.get(name) != asked.get(name)]
        if differ:
            both = [f"  {name}: {there.get(name)!r:.300} there, {asked.get(name)!r:.300} asked for" for name in differ]
            lines = [
                f"{path.parent} holds the checkpoints of another run:",
                *both,
                f"ask for the same, give another --out, or delete {path.parent}",
            ]
            raise SystemExit("\n".join(lines))
    return {"made_for": asked}


def checksum(*values: Any) -> str:
    """A number, as eight digits, that differs where arrays, texts or other values differ."""
    total = 0
    for value in values:
        total = zlib.crc32(value.tobytes() if hasattr(value, "tobytes") else str(value).encode(), total)
    return f"{total:08x}"


def of_files(root: Path, paths: Sequence[Path]) -> str:
    """What describes files in a folder without reading them: how many, and a checksum of their names and sizes."""
    listed = [(path.relative_to(root).as_posix(), path.stat().st_size) for path in paths]
    return f"{len(paths)} files, checksum of names and sizes {checksum(*listed)}"
