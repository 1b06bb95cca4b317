"""`export` and `load_exported`: a model as one file that runs without its code.

The file is a safetensors file like all others of fnet's: the parameters under their names, the StableHLO program as
bytes beside them, the signature in the metadata. Checksums are always verified before the program is looked at, since
the parser of programs ends the process on some damaged ones.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from fnet import tree
from fnet.io import structure
from fnet.io.safetensors import FileError, Misfit
from fnet.io.saveload import load_named, metadata, save

FORMAT, VERSION = "exported", 1
PLATFORMS = ("cpu", "cuda", "tpu")
PROGRAM = "program"
BATCH = "batch"  # the name of the axis of any size
PyTree = Any


def export(
    path: str | os.PathLike[str],
    model: Any,
    params: PyTree,
    state: PyTree,
    *inputs: Any,
    any_batch: bool = True,
    platforms: Sequence[str] = PLATFORMS,
    note: dict[str, Any] | None = None,
) -> None:
    """Write a model with its parameters into one file, which `load_exported` runs without the model's code.

    The program is ``model.apply(params, state, *inputs, train=False)[0]`` in StableHLO, for any size of the first
    axis. JAX promises that a program runs for six months of newer versions; the parameters in the file can be read for
    ever, with `fnet.load(path, select="params.*")`. Everything is lowered once for all platforms, on the machine at
    hand: choices that fnet makes by backend are made for this one.

    Args:
        path: the file; written as `save` does, aside and renamed.
        model: a layer; params, state: its values.
        inputs: arrays or `jax.ShapeDtypeStruct`, or dicts, lists and tuples of them; only shapes and dtypes are used.
            The first axis of each is the batch.
        any_batch: False takes exactly the shapes given.
        platforms: where it shall run, among "cpu", "cuda", "rocm" and "tpu".
        note: anything in JSON to keep with it.

    Raises:
        ImportError: flatbuffers is missing (the extra ``export``).
        ValueError: the model cannot run on a batch of unknown size, changes its state, or returns more than arrays in
            dicts, lists and tuples; the message says what to do.

    >>> import tempfile, os, jax, jax.numpy as jnp
    >>> from fnet import io, nn
    >>> model, x = nn.Linear(3), jnp.ones((8, 5))
    >>> params, state = model.init(jax.random.key(0), x)
    >>> path = os.path.join(tempfile.mkdtemp(), "model.fnet")
    >>> io.export(path, model, params, state, x)
    >>> io.load_exported(path)(jnp.ones((2, 5))).shape
    (2, 3)
    """
    _need_flatbuffers()
    arrays: dict[str, Any] = {}
    held = {"params": params, "state": state}
    structure.describe(held, arrays)
    if not inputs:
        raise TypeError("export needs an example of the model's input: io.export(path, model, params, state, x)")

    def run(values: dict[str, Any], *inputs: Any) -> Any:
        given = structure.map_leaves(lambda name, leaf: values.get(name, leaf), held)
        output, after = model.apply(given["params"], given["state"], *inputs, train=False)
        _check_unchanged(given["state"], after)
        return output

    def lower(symbolic: bool) -> jax.export.Exported:
        shapes = _shapes(inputs, symbolic)
        return jax.export.export(jax.jit(run), platforms=tuple(platforms))(arrays, *shapes)

    exported = _lower_for_any_batch(lower) if any_batch else lower(False)
    about = {
        "format": FORMAT, "version": VERSION, "model": repr(model), "arguments": list(arrays),
        "inputs": _describe(jax.tree.unflatten(exported.in_tree, exported.in_avals)[0][1:]),
        "outputs": _describe(jax.tree.unflatten(exported.out_tree, exported.out_avals)),
        "platforms": list(platforms), "jax": jax.__version__, "saved": datetime.now(UTC).isoformat(timespec="seconds"),
    }  # fmt: skip
    try:
        program = np.frombuffer(exported.serialize(), np.uint8)
    except ValueError as error:
        raise ValueError(
            f"export: the model takes or returns classes of yours, which a file cannot name; use dicts, lists and "
            f"tuples (nn.Model of a function that converts them): {_first_line(error)}"
        ) from error
    save(path, held | {PROGRAM: program}, metadata={FORMAT: about, **(note or {})})


@dataclass(frozen=True, eq=False)
class Exported:
    """A model that `load_exported` read: call it with arrays of its signature.

    ``inputs`` and ``outputs`` list the signature, ``platforms`` where it runs, ``note`` what was kept with it. It works
    under jax.jit; JAX gives exported programs no vmap, and here no gradient.
    """

    inputs: tuple[dict[str, Any], ...]
    outputs: tuple[dict[str, Any], ...]
    platforms: tuple[str, ...]
    note: dict[str, Any]
    _call: Callable[..., Any] = field(repr=False)
    _arrays: dict[str, Any] = field(repr=False)
    _tree: Any = field(repr=False)

    def __call__(self, *inputs: Any) -> Any:
        """The model's output; raises ValueError or TypeError for inputs that are not of the signature."""
        leaves, shape = jax.tree.flatten(inputs)
        if shape != self._tree:
            raise TypeError(f"the exported model takes {self._tree}, got {shape}")
        arrays = [jnp.asarray(leaf) for leaf in leaves]
        _check_inputs(arrays, self.inputs)
        return self._call(self._arrays, *jax.tree.unflatten(shape, arrays))

    def __repr__(self) -> str:
        words = [", ".join(f"{spec['name']} {_type(spec)}".strip() for spec in part)
                 for part in (self.inputs, self.outputs)]  # fmt: skip
        return f"<Exported: ({words[0]}) -> ({words[1]}) on {', '.join(self.platforms)}>"


def load_exported(path: str | os.PathLike[str]) -> Exported:
    """A function from a file that `export` wrote; needs jax (and flatbuffers), but not the model's code.

    Checksums are verified first. A program can only compute, but its parser is no fortress: load programs only from
    whom you trust. Raises FileError for a file that is damaged, no exported model, or of a jax too far from this one.

    >>> import tempfile, os, jax, jax.numpy as jnp
    >>> from fnet import io, nn
    >>> model, x = nn.Linear(3), jnp.ones((8, 5))
    >>> path = os.path.join(tempfile.mkdtemp(), "model.fnet")
    >>> io.export(path, model, *model.init(jax.random.key(0), x), x)
    >>> io.load_exported(path)
    <Exported: (0 float32[batch, 5]) -> (float32[batch, 3]) on cpu, cuda, tpu>
    """
    _need_flatbuffers()
    path = os.fspath(path)
    note = metadata(path)
    about = note.pop(FORMAT, None)
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise FileError(f"{path}: no exported model, but other tensors; fnet.load reads it")
    if about.get("version") != VERSION:
        raise Misfit(f"{path}: exported in version {about.get('version')}; this fnet reads {VERSION}: a newer one may")
    named = load_named(path)
    try:
        exported = jax.export.deserialize(bytearray(named[PROGRAM].tobytes()))
        arrays = {name: named[name] for name in about["arguments"]}
        inputs, outputs, platforms = (tuple(about[part]) for part in ("inputs", "outputs", "platforms"))
        shape = jax.tree.unflatten(exported.in_tree, exported.in_avals)[0][1:]
    except Exception as error:  # whatever jax raises on a program that it cannot read
        raise FileError(
            f"{path}: jax {jax.__version__} cannot read the program, which jax {about.get('jax')} wrote "
            f"({_first_line(error)}); export it again: its parameters are readable, fnet.load(path, select='params.*')"
        ) from error
    return Exported(inputs, outputs, platforms, note, jax.jit(exported.call), arrays, jax.tree.structure(shape))


def _need_flatbuffers() -> None:
    try:
        importlib.import_module("flatbuffers")
    except ImportError:
        raise ImportError("exported models need flatbuffers: pip install 'fnet[export]'") from None


def _shapes(inputs: Any, symbolic: bool) -> Any:
    batch = jax.export.symbolic_shape(BATCH)

    def shape(leaf: Any) -> jax.ShapeDtypeStruct:
        leaf = leaf if isinstance(leaf, jax.ShapeDtypeStruct) else jnp.asarray(leaf)
        return jax.ShapeDtypeStruct((*batch, *leaf.shape[1:]) if symbolic and leaf.shape else leaf.shape, leaf.dtype)

    return jax.tree.map(shape, inputs)


def _lower_for_any_batch(lower: Callable[[bool], jax.export.Exported]) -> jax.export.Exported:
    try:
        return lower(True)
    except Exception as error:
        lower(False)  # raises what is wrong with the model itself
        raise ValueError(
            f"export: the model does not run on a batch of unknown size: {_first_line(error)}\n"
            "x.shape[0] may stand in shapes, x.reshape(x.shape[0], -1); len(x), int(x.shape[0]), range and if need a "
            "number. Change that, or export for this size of batch alone: io.export(…, any_batch=False)"
        ) from error


def _check_unchanged(before: PyTree, after: PyTree) -> None:
    old = dict(tree.named(before))
    changed = [name for name, leaf in tree.named(after) if leaf is not old.get(name)]
    if changed:
        raise ValueError(
            f"export: the model changes its state when it runs ({', '.join(changed[:5])}), and an exported function "
            "has none; export a model whose inputs and outputs hold it"
        )


def _describe(avals: Any) -> list[dict[str, Any]]:
    """Each array's name, shape and dtype, in the words of JSON."""
    return [
        {"name": name, "shape": [size if isinstance(size, int) else str(size) for size in aval.shape],
         "dtype": str(aval.dtype)}
        for name, aval in tree.named(avals)
    ]  # fmt: skip


def _check_inputs(arrays: list[jax.Array], expected: Sequence[dict[str, Any]]) -> None:
    batch = None
    for array, spec in zip(arrays, expected, strict=True):
        fits = len(array.shape) == len(spec["shape"]) and str(array.dtype) == spec["dtype"]
        for size, wanted in zip(array.shape, spec["shape"], strict=False):
            if wanted == BATCH:
                batch = size if batch is None else batch
                wanted = batch
            fits = fits and size == wanted
        if not fits:
            one = f" (batch is {batch} so far)" if batch is not None and BATCH in spec["shape"] else ""
            raise ValueError(
                f"the exported model's input {spec['name']!r} is {array.dtype}{list(array.shape)}, expected "
                f"{_type(spec)}{one}"
            )
        if BATCH in spec["shape"] and not batch:
            raise ValueError(f"the exported model's input {spec['name']!r} has no rows; it needs at least one")


def _type(spec: dict[str, Any]) -> str:
    return f"{spec['dtype']}[{', '.join(map(str, spec['shape']))}]"


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
