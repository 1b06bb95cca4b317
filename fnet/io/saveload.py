"""`save` and `load`: any pytree in one file, and back."""

from __future__ import annotations

import json
import os
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

import jax
import numpy as np

from fnet.io import contents, leaves, rebuild, structure
from fnet.io.contents import Contents
from fnet.io.leaves import Leaf
from fnet.io.matching import match, narrows
from fnet.io.reading import map_tensors, read_tensors
from fnet.io.safetensors import Misfit, Tensor, lay_out
from fnet.io.writing import checksum_of, write_file
from fnet.selectors import Selector
from fnet.selectors import match as matching_names


def save(
    path: str | os.PathLike[str],
    tree: Any,
    *,
    metadata: dict[str, Any] | None = None,
    checksum: bool = True,
) -> None:
    """Save a pytree in one safetensors file, from which `load` gives it back.

    Arrays go under their dotted names, so that the safetensors package and PyTorch read them; the structure, Python
    scalars and strings go into the header, with a crc32 of each array and of the header. Dicts need strings for
    keys. A typed PRNG key is stored as its uint32 data. A dtype that the format lacks (complex128, int4) is stored
    as bytes. Arrays may lie anywhere in memory, in any order of bytes, and on several devices of this host.

    The file is written beside its place and renamed: at any failure, a full disk included, the file that was there
    stays as it was and nothing else is left behind. Before it replaces a file it is synced; a new one is not, so that
    for some seconds a power cut can lose it, as what any program writes (`Checkpoints` syncs every file).

    Args:
        path: the file; its folder must exist.
        tree: any pytree of JAX and numpy arrays, typed keys, None, bool, int, float, complex and str.
        metadata: anything in JSON to keep in the header, read by `metadata`.
        checksum: take the checksum of each array, with which `load` recognises damage.

    Raises:
        TypeError: a leaf, a key of a dict or the metadata cannot be saved; the message names it.
        ValueError: an array was donated, or is on other hosts.
        OSError: the file cannot be written.

    >>> import tempfile, os, jax.numpy as jnp
    >>> from fnet import io
    >>> path = os.path.join(tempfile.mkdtemp(), "model.safetensors")
    >>> io.save(path, {"fc": {"weight": jnp.ones((2, 3))}, "classes": ("cat", "dog")}, metadata={"epoch": 3})
    >>> io.load(path)["classes"], io.metadata(path)
    (('cat', 'dog'), {'epoch': 3})
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"save takes a path first, save(path, tree), got {type(path).__name__}")
    ready = prepare(tree, metadata)
    arrays = _on_host(ready.arrays, ready.tensors)
    write_file(os.fspath(path), ready.tensors, arrays, ready.metadata, checksum, sync_new=False)


@dataclass(frozen=True)
class Prepared:
    """A tree that can be saved: what its header will say, and its arrays under their names in the file."""

    tensors: dict[str, Tensor]
    arrays: dict[str, Any]
    metadata: dict[str, str]


def prepare(tree: Any, metadata: dict[str, Any] | None) -> Prepared:
    """Look at every leaf before anything is written; raises as `save` does."""
    arrays: dict[str, Any] = {}
    header = contents.encode(structure.describe(tree, arrays), metadata)
    arrays = {contents.to_stored(name): leaf for name, leaf in arrays.items()}
    return Prepared(lay_out({name: leaves.stored(leaf) for name, leaf in arrays.items()}), arrays, header)


def snapshot(ready: Prepared) -> dict[str, np.ndarray]:
    """All arrays on the host, unchanged by whatever the caller does next; arrays of JAX on CPU are not copied."""
    moving = {name: leaves.start_transfer(ready.arrays[name]) for name in ready.tensors}
    kept = {name: leaf.copy() if isinstance(leaf, np.ndarray) else leaf for name, leaf in moving.items()}
    return {name: leaves.to_host(leaf) for name, leaf in kept.items()}


def holds(path: str, ready: Prepared, arrays: dict[str, np.ndarray]) -> bool:
    """Whether a file holds exactly this tree; raises FileError if it is damaged."""
    with open(path, "rb") as file:
        found = contents.read_contents(file, path, verify=True)
        map_tensors(file, found.header, list(found.header.tensors), found.checksums, path)
    if not structure.same(found.structure, json.loads(ready.metadata[contents.STRUCTURE])["tree"]):
        return False
    sums = {name: checksum_of(array) for name, array in arrays.items()}
    return sums == {contents.to_stored(name): crc for name, crc in found.checksums.items()}


def _on_host(arrays: dict[str, Any], order: Iterable[str]) -> Iterator[np.ndarray]:
    """The arrays on the host, one after the other; the next one is on its way while one is written."""
    ahead = deque[Any]()
    for name in order:
        ahead.append(leaves.start_transfer(arrays[name]))
        if len(ahead) > 1:
            yield leaves.to_host(ahead.popleft())
    if ahead:
        yield leaves.to_host(ahead.popleft())


def load(
    path: str | os.PathLike[str],
    *,
    like: Any = None,
    types: Iterable[type] = (),
    select: Selector | None = None,
    strict: bool = True,
    verify: bool | None = None,
    mmap: bool = False,
) -> Any:
    """Load what `save` saved: the same structure with the same values, arrays of JAX as such and numpy's as numpy's.

    A file written elsewhere loads as dicts nested at the dots of its names, with arrays of JAX.

    JAX arrays go to the default device and are strongly typed. Where JAX cannot hold 64 bits (`jax_enable_x64` is
    off), 64-bit integers become 32-bit ones if no value changes; the others, float64 and complex128 stay numpy arrays.

    Args:
        path: the file.
        like: a template, whose arrays may be `jax.ShapeDtypeStruct`. Names, shapes and dtypes must be those of the
            file. The result has the template's structure and classes, and its kind of arrays: of JAX with the
            template's sharding, or numpy's.
        types: your NamedTuples and dataclasses that the file may rebuild. A file holds the names of classes only and
            never imports one; fields are set past the constructor. fnet's own TrainState needs no mention.
        select: load only the leaves that this selector matches (a glob, a list of globs, or ``(name, leaf) -> bool``
            with a ShapeDtypeStruct for the leaf). Without a template, dicts leave out the other keys and other
            containers have `fnet.tree.HOLE` in their place; with one, other leaves stay what the template has.
        strict: False loads from the file what fits the template, leaves the rest what the template has, and warns
            with the list of what was skipped.
        verify: check the checksums of what is loaded; by default unless ``mmap``.
        mmap: map the file and read what is touched, when it is. Arrays of numpy are read-only views of the file; so
            are JAX's on the CPU, where XLA can take them (64-byte aligned, as most are that `save` wrote); the
            others are copied now. `save` over the file is safe, since it makes a new one. Whoever writes into the
            file changes the arrays, and cutting it short ends the process.

    Raises:
        FileError: the file is damaged, is not in this format or does not fit the template, or holds classes that are
            not in ``types``. The message lists everything that does not fit.
        ValueError: ``select`` matches nothing.
        OSError: the file cannot be read.

    >>> import tempfile, os, jax.numpy as jnp
    >>> from fnet import io
    >>> path = os.path.join(tempfile.mkdtemp(), "model.safetensors")
    >>> io.save(path, {"fc": {"weight": jnp.ones((2, 2)), "bias": jnp.zeros(2)}})
    >>> io.load(path, select="*.bias")
    {'fc': {'bias': Array([0., 0.], dtype=float32)}}
    """
    path = os.fspath(path)
    with open(path, "rb") as file:
        found = contents.read_contents(file, path, verify is not False)
        verify = not mmap if verify is None else verify
        if like is not None:
            return _load_like(file, path, found, like, select, strict, verify, mmap)
        chosen = list(found.leaves) if select is None else matching_names(select, found.abstract)
        classes = rebuild.find_classes(found.structure, None if select is None else chosen, types, path)
        arrays = _read(file, path, found, chosen, verify, mmap)
        values = {name: _restore(found.leaves[name], arrays.get(name)) for name in chosen}
        tree = rebuild.build(found.structure, values, classes, partial=select is not None)
        return {} if tree is rebuild.ABSENT else tree


def metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What was given to `save` as ``metadata``; for a file written elsewhere, its metadata, strings by name.

    Reads and checks the header only; raises FileError as `load` does.

    >>> import tempfile, os
    >>> from fnet import io
    >>> path = os.path.join(tempfile.mkdtemp(), "model.safetensors")
    >>> io.save(path, {"step": 7}, metadata={"note": "the first run"})
    >>> io.metadata(path)
    {'note': 'the first run'}
    """
    path = os.fspath(path)
    with open(path, "rb") as file:
        return contents.read_contents(file, path, verify=True).user


def _read(
    file: BinaryIO, path: str, found: Contents, names: Iterable[str], verify: bool, mmap: bool
) -> dict[str, np.ndarray]:
    tensors = [name for name in names if found.leaves[name].kind != "python"]
    read = map_tensors if mmap else read_tensors
    return read(file, found.header, tensors, found.checksums if verify else {}, path)


def _restore(leaf: Leaf, array: np.ndarray | None, sharding: Any = None) -> Any:
    return leaf.value if array is None else leaves.restore(leaf, array, sharding)


def _load_like(
    file: BinaryIO,
    path: str,
    found: Contents,
    like: Any,
    select: Selector | None,
    strict: bool,
    verify: bool,
    mmap: bool,
) -> Any:
    template = _leaves_of(like)
    there, wanted = found.abstract, template
    if select is not None:
        chosen = set(matching_names(select, template | there))
        there = {name: leaf for name, leaf in there.items() if name in chosen}
        wanted = {name: leaf for name, leaf in template.items() if name in chosen}
    result = match(there, wanted)
    if result.report and strict:
        raise Misfit("\n".join([f"{path} does not fit the given tree:", *result.report]))
    spread = {name for name in result.fitting if _is_spread(found.leaves[name], there[name], template[name])}
    whole = [name for name in result.fitting if name not in spread]
    arrays = _read(file, path, found, whole, verify, mmap) | _read(file, path, found, spread, verify, mmap=True)
    values = {name: _as_template(found.leaves[name], arrays.get(name), template[name]) for name in result.fitting}
    for name, value in values.items():
        if narrows(there[name], template[name]) and isinstance(value, np.ndarray):
            raise Misfit(_beyond(path, name, template[name]))
    if result.report:
        head = f"{path}: {len(result.fitting)} of {len(wanted)} leaves loaded; the others stay what the given tree has:"
        warnings.warn("\n".join([head, *result.report]), stacklevel=3)
    return structure.map_leaves(lambda name, leaf: values.get(name, leaf), like)


def _is_spread(leaf: Leaf, found: Any, template: Any) -> bool:
    """Whether the array goes in parts to several devices, each of which takes its part out of the mapped file."""
    if leaf.kind in ("key", "python") or not isinstance(template, jax.Array | jax.ShapeDtypeStruct):
        return False
    if found.dtype != template.dtype or found.dtype == np.bool_:  # booleans are looked at when they are read
        return False
    return template.sharding is not None and not template.sharding.is_fully_replicated


def _as_template(leaf: Leaf, array: np.ndarray | None, template: Any) -> Any:
    """The leaf as the kind of array that the template has there, with its sharding."""
    sharding = None
    if isinstance(template, jax.Array | jax.ShapeDtypeStruct):
        sharding = template.sharding if getattr(template, "committed", True) else None
        kind = "jax"
    else:
        kind = "scalar" if isinstance(template, np.generic) else "numpy"
    return _restore(leaf if leaf.kind == "key" else replace(leaf, kind=kind), array, sharding)


def load_named(path: str) -> dict[str, Any]:
    """All leaves of a file by dotted name, verified, whatever tree they were."""
    with open(path, "rb") as file:
        found = contents.read_contents(file, path, verify=True)
        arrays = _read(file, path, found, found.leaves, verify=True, mmap=False)
        return {name: _restore(leaf, arrays.get(name)) for name, leaf in found.leaves.items()}


def put_in(named: dict[str, Any], like: Any, where: str) -> Any:
    """Leaves by dotted name as a tree like the template; raises FileError, which begins with ``where``, on a misfit."""
    template = _leaves_of(like)
    report = match(named, template).report
    if report:
        raise Misfit("\n".join([f"{where} does not fit the given tree:", *report]))

    def place(name: str, leaf: Any) -> Any:
        value = named[name]
        if not isinstance(leaf, jax.Array | jax.ShapeDtypeStruct):
            return np.asarray(value) if isinstance(leaf, np.ndarray) else value
        sharding = leaf.sharding if getattr(leaf, "committed", True) else None
        placed = jax.device_put(value, sharding) if leaves.is_key(value) else leaves.to_jax(np.asarray(value), sharding)
        if placed.dtype != leaf.dtype:
            raise Misfit(_beyond(where, name, leaf))
        return placed

    return structure.map_leaves(place, like)


def _beyond(where: str, name: str, leaf: Any) -> str:
    return f"{where}: {name!r} has values beyond the tree's {leaf.dtype}; turn jax_enable_x64 on for them"


def _leaves_of(tree: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    structure.map_leaves(found.setdefault, tree)
    return found
