"""What lies in a folder of checkpoints: files by step, what each says about itself, and the index for people."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fnet.io.safetensors import FileError, Misfit
from fnet.io.saveload import load_named, metadata, put_in
from fnet.io.writing import remove_stale as remove_temporaries
from fnet.io.writing import replacing, write_all

MAX_STEP = 10**12
NAME = re.compile(r"step-(\d{8,12})\.safetensors")
INDEX = "checkpoints.json"
PATTERN = r"(step-\d{8,12}\.safetensors|checkpoints\.json)"
KEY = "checkpoint"


@dataclass(frozen=True)
class Record:
    """What a checkpoint says about itself, in the metadata of its file."""

    step: int
    metrics: dict[str, float]
    saved: str  # the time, ISO 8601, UTC
    version: int  # of the user's tree: one more than there were migrations
    metadata: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """As JSON has it, where numbers are finite."""
        metrics = {name: value if math.isfinite(value) else repr(value) for name, value in self.metrics.items()}
        about = {"step": self.step, "metrics": metrics, "saved": self.saved, "version": self.version}
        return {KEY: about, **self.metadata}


def path_of(folder: str, step: int) -> str:
    return os.path.join(folder, f"step-{step:08}.safetensors")


def steps(folder: str) -> list[int]:
    if not os.path.isdir(folder):
        return []
    found = (NAME.fullmatch(name) for name in os.listdir(folder))
    return sorted(int(match[1]) for match in found if match)


def read_record(path: str, step: int) -> Record:
    """Raises FileError for a file that is damaged or no checkpoint of this step."""
    more = metadata(path)
    try:
        about = more.pop(KEY)
        if about["step"] != step:
            raise Misfit(f"{path} was saved as step {about['step']}: somebody gave it another name")
        metrics = {str(name): float(value) for name, value in about["metrics"].items()}
        return Record(step, metrics, str(about["saved"]), int(about["version"]), more)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, FileError):
            raise
        raise FileError(f"{path}: not a checkpoint: its metadata lack {error}") from None


def records(folder: str) -> dict[int, Record]:
    """The records of all checkpoints in order of steps; of one that cannot be read only the step."""
    found = {}
    for step in steps(folder):
        try:
            found[step] = read_record(path_of(folder, step), step)
        except (FileError, OSError) as error:
            found[step] = Record(step, {}, "", 0, {"unreadable": str(error)})
    return found


def write_index(folder: str, records: Mapping[int, Record]) -> None:
    """Write ``checkpoints.json``, which people read and nothing else does."""
    listed = [{"file": os.path.basename(path_of("", step)), **record.to_json()[KEY], **record.metadata}
              for step, record in records.items()]  # fmt: skip
    with replacing(os.path.join(folder, INDEX)) as fd:
        write_all(fd, memoryview(json.dumps({"checkpoints": listed}, indent=2).encode() + b"\n"))


def remove_stale(folder: str) -> list[str]:
    """Remove what killed processes left."""
    return remove_temporaries(folder, PATTERN) if os.path.isdir(folder) else []


def load_migrated(
    path: str, migrations: Sequence[Callable[[dict[str, Any]], Mapping[str, Any]]], like: Any
) -> Any:
    """A checkpoint of an older version of the user's tree, brought up to date and put into the template."""
    if like is None:
        raise ValueError(f"{path} is of an older version of your tree: restore(like=run) says what it is now")
    leaves: Mapping[str, Any] = load_named(path)
    for migrate in migrations:
        leaves = migrate(dict(leaves))
        if not isinstance(leaves, Mapping):
            raise TypeError(f"the migration {migrate!r} returned {type(leaves).__name__}, expected a dict")
    return put_in(dict(leaves), like, f"{path}, migrated,")
