"""`save` and `load`: any pytree in one file, and back."""

from __future__ import annotations

import os
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, BinaryIO

import jax
import numpy as np

from fnet.io import contents, leaves, rebuild, structure
from fnet.io.contents import Contents
from fnet.io.leaves import Leaf
from fnet.io.matching import match, narrows
from fnet.io.reading import map_tensors, read_tensors
from fnet.io.safetensors import FileError, lay_out
from fnet.io.writing import write_file
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

    The file is written beside its place, synced and renamed: at any failure, a full disk included, the file that was
    there stays as it was and nothing else is left behind.

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
    arrays: dict[str, Any] = {}
    header = contents.encode(structure.describe(tree, arrays), metadata)
    arrays = {contents.to_stored(name): leaf for name, leaf in arrays.items()}
    tensors = lay_out({name: leaves.stored(leaf) for name, leaf in arrays.items()})
    write_file(os.fspath(path), tensors, _on_host(arrays, tensors), header, checksum)


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
        mmap: give every array as a read-only numpy view of the file, which is read when touched. `save` over the
            file is safe then, since it makes a new one; writing into it is not.

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
        values = {name: _restore(found.leaves[name], arrays.get(name), mmap) for name in chosen}
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


def _restore(leaf: Leaf, array: np.ndarray | None, mmap: bool, sharding: Any = None) -> Any:
    if array is None:
        return leaf.value
    if mmap and leaf.kind == "jax":
        leaf = replace(leaf, kind="numpy")
    return leaves.restore(leaf, array, sharding)


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
    template: dict[str, Any] = {}
    structure.map_leaves(template.setdefault, like)
    there, wanted = found.abstract, template
    if select is not None:
        chosen = set(matching_names(select, template | there))
        there = {name: leaf for name, leaf in there.items() if name in chosen}
        wanted = {name: leaf for name, leaf in template.items() if name in chosen}
    result = match(there, wanted)
    if result.report and strict:
        raise FileError("\n".join([f"{path} does not fit the given tree:", *result.report]))
    arrays = _read(file, path, found, result.fitting, verify, mmap)
    values = {name: _as_template(found.leaves[name], arrays.get(name), template[name], mmap) for name in result.fitting}
    for name, value in values.items():
        if narrows(there[name], template[name]) and not mmap and isinstance(value, np.ndarray):
            dtype = template[name].dtype
            raise FileError(f"{path}: {name!r} has values beyond the tree's {dtype}; turn jax_enable_x64 on for them")
    if result.report:
        head = f"{path}: {len(result.fitting)} of {len(wanted)} leaves loaded; the others stay what the given tree has:"
        warnings.warn("\n".join([head, *result.report]), stacklevel=3)
    return structure.map_leaves(lambda name, leaf: values.get(name, leaf), like)


def _as_template(leaf: Leaf, array: np.ndarray | None, template: Any, mmap: bool) -> Any:
    """The leaf as the kind of array that the template has there, with its sharding."""
    sharding = None
    if isinstance(template, jax.Array | jax.ShapeDtypeStruct):
        sharding = template.sharding if getattr(template, "committed", True) else None
        kind = "jax"
    else:
        kind = "scalar" if isinstance(template, np.generic) else "numpy"
    return _restore(leaf if leaf.kind == "key" else replace(leaf, kind=kind), array, mmap, sharding)
