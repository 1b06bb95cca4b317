"""What a file holds, before any tensor is read: its structure, and its leaves, shapes and checksums by dotted name."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, BinaryIO

from fnet import tree
from fnet.io.leaves import Leaf, abstract
from fnet.io.rebuild import leaves
from fnet.io.safetensors import HEADER_CHECKSUM, METADATA, FileError, Header, Misfit, Tensor, parse_json, read_header
from fnet.io.structure import MAX_DEPTH
from fnet.io.writing import CHECKSUMS

FORMAT_VERSION = 1
VERSION, STRUCTURE, USER = "fnet.version", "fnet.tree", "fnet.metadata"
RESERVED = f"~{METADATA}"  # the one name that the format takes for itself; no escaped name begins like this


@dataclass(frozen=True)
class Contents:
    """The leaves of a file by dotted name: the ``Leaf``, and what it will be (``abstract``)."""

    structure: Any
    leaves: dict[str, Leaf]
    abstract: dict[str, Any]
    header: Header  # its tensors under dotted names
    checksums: dict[str, str]
    user: dict[str, Any]


def encode(structure: Any, user: dict[str, Any] | None) -> dict[str, str]:
    """The metadata of a file of fnet's."""
    text = json.dumps({"tree": structure}, separators=(",", ":"))
    own = {"format": "fnet", VERSION: str(FORMAT_VERSION), STRUCTURE: text}
    return own | ({} if user is None else {USER: _user_json(user)})


def _user_json(user: dict[str, Any]) -> str:
    try:
        text = json.dumps(user)
        same = isinstance(user, dict) and set(json.loads(text)) == set(user)
    except (TypeError, ValueError) as error:
        raise TypeError(f"metadata= must be JSON: {error}; arrays belong in the tree") from None
    if not same:
        raise TypeError(f"metadata= must be a dict with strings for keys, got {str(user)[:80]}")
    return text


def read_contents(file: BinaryIO, path: str, verify: bool) -> Contents:
    """Read what an open file says about itself; raises FileError unless all of it agrees."""
    header = read_header(file, path, verify)
    if header.metadata.get("format") == "fnet" or any(key.startswith("fnet.") for key in header.metadata):
        return _own(header, path, verify)
    return _foreign(header, path)


def _own(header: Header, path: str, verify: bool) -> Contents:
    metadata = header.metadata
    missing = [key for key in ("format", VERSION, STRUCTURE, HEADER_CHECKSUM) if key not in metadata]
    if missing:
        raise FileError(f"{path}: the header lacks {', '.join(missing)}: the file is damaged")
    if metadata[VERSION] != str(FORMAT_VERSION):
        raise Misfit(
            f"{path}: written in version {metadata[VERSION][:20]!r} of the format; this fnet reads {FORMAT_VERSION}: "
            "a newer fnet may read it"
        )
    structure = parse_json(metadata[STRUCTURE], f"{path}: {STRUCTURE}").get("tree")
    checksums = parse_json(metadata.get(CHECKSUMS, "{}"), f"{path}: {CHECKSUMS}")
    user = parse_json(metadata.get(USER, "{}"), f"{path}: {USER}")
    found = dict(leaves(structure, path))
    tensors, checksums = _from_stored(header.tensors), _from_stored(checksums)
    expected = {name for name, leaf in found.items() if leaf.kind != "python"}
    if expected != tensors.keys() or (CHECKSUMS in metadata and checksums.keys() != expected):
        odd = sorted((expected ^ tensors.keys()) | (checksums.keys() - expected) | (expected - checksums.keys()))
        raise FileError(f"{path}: damaged: structure, tensors and checksums disagree about {', '.join(odd[:5])}")
    return _contents(structure, found, Header(tensors, metadata, header.data), checksums, user, path)


def to_stored(name: str) -> str:
    return RESERVED if name == METADATA else name


def _from_stored(named: dict[str, Any]) -> dict[str, Any]:
    return {METADATA if name == RESERVED else name: value for name, value in named.items()}


def _foreign(header: Header, path: str) -> Contents:
    """A file written elsewhere: dicts nested at the dots of the names, arrays of JAX."""
    root: dict[str, Any] = {}
    tensors: dict[str, Tensor] = {}
    for raw, tensor in header.tensors.items():
        *parents, last = raw.split(".")
        if len(parents) > MAX_DEPTH:
            raise FileError(f"{path}: the name {raw[:80]!r}… has more than {MAX_DEPTH} dots")
        node: Any = root
        for part in parents:
            node = node.setdefault(part, {}) if isinstance(node, dict) else None
        if not isinstance(node, dict) or last in node:
            raise FileError(f"{path}: {raw!r} and a name under it are both tensors, so they cannot nest at the dots")
        node[last] = "jax"
        tensors[".".join(map(tree.escape, raw.split(".")))] = tensor
    structure = _as_structure(root)
    found = dict(leaves(structure, path))
    return _contents(structure, found, Header(tensors, header.metadata, header.data), {}, dict(header.metadata), path)


def _as_structure(node: Any) -> Any:
    return {"dict": {key: _as_structure(child) for key, child in node.items()}} if isinstance(node, dict) else node


def _contents(
    structure: Any, found: dict[str, Leaf], header: Header, checksums: dict[str, Any], user: dict[str, Any], path: str
) -> Contents:
    specs = {}
    for name, leaf in found.items():
        tensor = header.tensors.get(name)
        specs[name] = abstract(leaf, tensor, f"{path}: {name!r}") if tensor else leaf.value
    return Contents(structure, found, specs, header, checksums, user)
