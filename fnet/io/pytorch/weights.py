"""Parameters and state from a PyTorch state_dict, by name and kind of layer; and back."""

from __future__ import annotations

import itertools
import os
import re
import warnings
from collections.abc import Callable, Collection, Container, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from fnet import nn, tree
from fnet.io.leaves import to_jax
from fnet.io.pytorch.files import numpy_dtype, read_torch
from fnet.io.pytorch.layouts import Weight, layout_of
from fnet.io.safetensors import FileError, parse_json
from fnet.io.saveload import load_named
from fnet.nn.core.param import Param, flat_specs, keys_of, put
from fnet.nn.core.surgery import walk_parts
from fnet.nn.core.walk import is_layer, specs_of
from fnet.selectors import near

Rename = Mapping[str, str | None] | Callable[[str], str | None]
MAX_LINES = 20


class Misfit(FileError):
    """The weights are whole, but not those of the model."""


def from_torch(
    model: Any,
    source: Any,
    *inputs: Any,
    rename: Rename | None = None,
    flattened: Mapping[str, tuple[int, ...]] | None = None,
    strict: bool = True,
    key: jax.Array | None = None,
    **kwargs: Any,
) -> tuple[dict, dict]:
    """``(params, state)`` of a model from PyTorch's weights, matched by dotted name and turned by kind of layer.

    Args:
        model: the model; ``inputs`` are those of ``model.init``, arrays or ShapeDtypeStructs.
        source: a ``.pth``/``.pt``/``.bin`` or ``.safetensors`` file, or a state_dict of tensors or arrays, or a
            torch module. A pickled file is read without running it (`read_torch`). Of weights in several files, the
            index: ``model.safetensors.index.json``, with the files beside it.
        rename: from PyTorch's names to the model's: ``{pattern: replacement}`` of regular expressions, tried in
            order on each name, or a function of the name; None as the replacement drops what matches. Two names may
            become one where both hold the same numbers, as tied weights do.
        flattened: ``{"fc1": (height, width, channels)}`` for a Linear that reads a flattened image: PyTorch flattens
            channels first, JAX channels last, so its rows are reordered. The sizes are those before the flattening.
        strict: False keeps the initial values, drawn with ``key``, of what is missing or does not fit, and warns.

    An array of PyTorch's that has no place, one that is missing and one of another shape are listed in one FileError
    with the nearest names. State that PyTorch has none of, such as a cache, starts as ``model.init`` starts it.

    >>> import jax.numpy as jnp, numpy as np
    >>> from fnet import io, nn
    >>> model = nn.Sequential(fc=nn.Linear(2))
    >>> theirs = {"net.fc.weight": np.ones((2, 3)), "net.fc.bias": np.zeros(2)}
    >>> params, state = io.from_torch(model, theirs, jnp.ones((1, 3)), rename={r"^net\\.": ""})
    >>> params["fc"]["weight"].shape
    (3, 2)
    """
    arrays = _renamed(_arrays(source), rename)
    if not inputs and not kwargs:
        raise TypeError("from_torch(model, source, x): give an input, or its jax.ShapeDtypeStruct, as model.init takes")
    specs = flat_specs(specs_of(model, inputs, kwargs, False))
    found: dict[str, np.ndarray] = {}
    report = _Report()
    shapes = {name: spec.shape for name, spec in specs.items()}
    for at in _places(model, shapes, {name for name in specs if not specs[name].trainable}, arrays):
        if at.theirs not in arrays:
            if not at.optional:
                report.missing.append(at.theirs)
            continue
        report.used.add(at.theirs)
        _place(at, np.asarray(arrays[at.theirs]), specs, flattened or {}, found, report)
    report.unused = [name for name in arrays if name not in report.used]
    lines = report.lines(arrays)
    if lines and strict:
        raise Misfit("\n".join([f"{_title(source)} does not fit the model:", *lines]))
    if lines:
        warnings.warn("\n".join([f"{_title(source)}: taken in part; not taken:", *lines]), stacklevel=2)
    return _filled(model, specs, found, report, inputs, kwargs, key)


def to_torch(model: Any, params: Any, state: Any = None) -> dict[str, Any]:
    """The state_dict of a model, for PyTorch's ``module.load_state_dict(io.to_torch(model, params, state))``.

    Names are the model's, arrays turned to PyTorch's layouts, as torch tensors. Raises ImportError when torch is not
    installed. State that PyTorch has none of is left out: an attention layer's cache.

    >>> to_torch(nn.Linear(2), {"weight": jnp.ones((3, 2)), "bias": jnp.zeros(2)})["weight"].shape  # doctest: +SKIP
    torch.Size([2, 3])
    """
    try:
        import torch
    except ImportError as error:
        raise ImportError("io.to_torch needs PyTorch: pip install torch") from error
    leaves = {**dict(tree.named(params)), **dict(tree.named(state or {}))}
    out = {}
    for at in _places(model, {name: np.shape(leaf) for name, leaf in leaves.items()}, (), ()):
        arrays = tuple(np.asarray(leaves[name])[at.index] for name in at.ours)
        value = at.weight.give(arrays)
        if at.theirs.rpartition(".")[2] == "num_batches_tracked":
            value = value.astype(np.int64)
        bits = np.require(value, requirements="C")
        if bits.dtype == numpy_dtype("bfloat16"):
            out[at.theirs] = torch.from_numpy(bits.view(np.int16).copy()).view(torch.bfloat16)
        else:
            out[at.theirs] = torch.from_numpy(bits.copy())
    return out


@dataclass(frozen=True)
class _At:
    """Where one array of PyTorch goes: its full name, fnet's full names, and the slice of stacked arrays."""

    theirs: str
    ours: tuple[str, ...]
    index: tuple[int, ...]
    weight: Weight
    owner: str
    optional: bool


def _places(
    model: Any, shapes: Mapping[str, tuple[int, ...]], states: Container[str], there: Collection[str]
) -> Iterator[_At]:
    """Each array that PyTorch has for the arrays of these shapes; ``there`` are the names that it has in fact."""
    layers = _layers(model)
    owned: dict[str, dict[str, str]] = {}
    for name in shapes:
        owner = max((path for path in layers if not path or name.startswith(f"{path}.")), key=len)
        owned.setdefault(owner, {})[name[len(owner) + 1 if owner else 0 :]] = name
    for owner, names in owned.items():
        layer, stacks = _unwrapped(layers, owner)
        own = {short: shapes[name][len(stacks) :] for short, name in names.items() if _known(layer, short)}
        for index in itertools.product(*(range(size) for _, size in stacks)):
            prefix = _indexed(owner, stacks, index)
            for weight in layout_of(layer, own, {name[len(prefix) :] for name in there if name.startswith(prefix)}):
                ours = tuple(names[short] for short in weight.ours)
                optional = all(name in states for name in ours) and not _has_statistics(layer, weight.theirs)
                yield _At(prefix + weight.theirs, ours, index, weight, owner, optional)


def _layers(model: Any) -> dict[str, Any]:
    """Every layer by dotted name; the experts of a mixture as the ensemble that their weights are."""
    layers = {"": model, **{path: part for path, part in walk_parts(model) if is_layer(part)}}
    for path, layer in list(layers.items()):
        if isinstance(layer, nn.MoE):
            layers[f"{path}.experts" if path else "experts"] = nn.Ensemble(layer.expert, layer.num_experts)
    return layers


def _known(layer: Any, name: str) -> bool:
    """Whether an array can be in PyTorch's file: the cache of an attention layer cannot."""
    return not isinstance(layer, nn.MultiheadAttention) or "." in name


def _has_statistics(layer: Any, name: str) -> bool:
    return isinstance(layer, nn.BatchNorm | nn.InstanceNorm) and name != "num_batches_tracked"


def _unwrapped(layers: Mapping[str, Any], owner: str) -> tuple[Any, list[tuple[str, int]]]:
    """The layer inside the combinators at a path, and the stacks on the way to it as ``(path, size)``."""
    stacks = []
    parts = owner.split(".") if owner else []
    for path in ["", *(".".join(parts[: i + 1]) for i in range(len(parts)))]:
        layer = layers.get(path)
        while isinstance(layer, nn.Stack | nn.Ensemble | nn.Remat | nn.Residual):
            if isinstance(layer, nn.Stack | nn.Ensemble):
                stacks.append((path, layer.n))
            layer = layer.layer
    return layer, stacks


def _indexed(owner: str, stacks: list[tuple[str, int]], index: tuple[int, ...]) -> str:
    """The name of a layer in PyTorch, where each member of a stack has a number: ``blocks.3.fc.``."""
    parts = owner.split(".") if owner else []
    for (path, _), number in reversed(list(zip(stacks, index, strict=True))):
        parts.insert(len(path.split(".")) if path else 0, str(number))
    return "".join(f"{part}." for part in parts)


def _place(
    at: _At, array: np.ndarray, specs: Mapping[str, Param], flattened: Mapping[str, Any], found: dict, report: _Report
) -> None:
    try:
        values = at.weight.take(array)
    except ValueError:
        values = ()
    wanted = [specs[name].shape[len(at.index) :] for name in at.ours]
    # Axes of one: not where they were turned, since a depthwise kernel would fit a convolution with one output.
    alike = len(values) == 1 and (values[0] is array or values[0].ndim != len(wanted[0]))
    if alike and _squeezed(values[0].shape) == _squeezed(wanted[0]):
        values = (values[0].reshape(wanted[0]),)  # (channels, 1, 1), say, which broadcasts the channels first
    if [value.shape for value in values] != wanted:
        ours = " and ".join(f"{name} {list(shape)}" for name, shape in zip(at.ours, wanted, strict=True))
        report.misfits.append(f"{at.theirs}: PyTorch's {list(array.shape)} does not turn into {ours}")
        return
    if at.owner in flattened and at.weight.theirs == "weight":
        values = (_channels_last(values[0], flattened[at.owner], at.owner),)
    for name, value in zip(at.ours, values, strict=True):
        spec = specs[name]
        full = found.setdefault(name, np.empty(spec.shape, spec.dtype))
        full[at.index] = value


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)


def _channels_last(weight: np.ndarray, shape: tuple[int, ...], owner: str) -> np.ndarray:
    *space, channels = shape
    if weight.ndim != 2 or len(weight) != np.prod(shape):
        raise ValueError(f"flattened={{{owner!r}: {tuple(shape)}}} does not fit {weight.shape[:1]} rows of the weight")
    rows = weight.reshape(channels, *space, -1)
    return np.moveaxis(rows, 0, -2).reshape(weight.shape)


def _filled(
    model: Any, specs: Mapping[str, Param], found: dict, report: _Report, inputs: Any, kwargs: Any, key: Any
) -> tuple[dict, dict]:
    lost = [name for name in specs if name not in found]
    drawn: dict[str, Any] = {}
    if any(specs[name].trainable for name in lost):
        if key is None:
            raise ValueError(f"from_torch(strict=False): give key= to draw what is missing, such as {lost[0]!r}")
        drawn = {name: leaf for part in model.init(key, *inputs, **kwargs) for name, leaf in tree.named(part)}
    elif lost:
        drawn = dict(tree.named(model.init_state(*inputs, **kwargs)))
    params: dict = {}
    state: dict = {}
    for name, spec in specs.items():
        value = to_jax(found[name]) if name in found else drawn[name]
        put(params if spec.trainable else state, keys_of(name), value)
    return params, state


class _Report:
    """What of PyTorch's weights and of the model's did not meet."""

    def __init__(self) -> None:
        self.missing: list[str] = []
        self.unused: list[str] = []
        self.misfits: list[str] = []
        self.used: set[str] = set()

    def lines(self, arrays: Mapping[str, Any]) -> list[str]:
        """The report; empty when all is well."""

        def with_hint(name: str, others: list[str]) -> str:
            close = near(name, others[:1000], 1)
            return f"{name}   (there is {close[0]!r} {list(np.shape(arrays[close[0]]))}?)" if close else name

        return [
            *_listing("the model needs, and is not there", [with_hint(name, self.unused) for name in self.missing]),
            *_listing("is there, and the model has no place for", self.unused),
            *_listing("has another shape", self.misfits),
            *(["  rename={pattern: replacement} maps names, and None drops"] if self.missing or self.unused else []),
        ]


def _listing(title: str, lines: list[str]) -> list[str]:
    shown = [*lines[:MAX_LINES], *([f"… and {len(lines) - MAX_LINES} more"] if len(lines) > MAX_LINES else [])]
    return [f"  {title} ({len(lines)}):", *(f"    {line}" for line in shown)] if lines else []


def _title(source: Any) -> str:
    return os.fspath(source) if isinstance(source, str | os.PathLike) else "the state_dict"


def _arrays(source: Any) -> dict[str, np.ndarray]:
    """The arrays of a file, a module or a state_dict, by name."""
    if isinstance(source, str | os.PathLike):
        path = os.fspath(source)
        source = _shards(path) if path.endswith(".index.json") else _read(path)
    elif hasattr(source, "state_dict"):
        source = source.state_dict()
    if not isinstance(source, Mapping):
        raise TypeError(f"from_torch takes a path, a state_dict or a torch module, got {type(source).__name__}")
    inner = [name for name, value in source.items() if isinstance(value, Mapping)]
    others = [name for name, value in source.items() if name not in inner and not hasattr(value, "shape")]
    if inner or others:
        raise FileError(
            f"this is no state_dict: it has {', '.join(map(repr, [*inner, *others][:5]))}, which are no arrays; take "
            f"the one inside, such as io.read_torch(path)[{(inner or ['state_dict'])[0]!r}]"
        )
    return {name: as_numpy(value) for name, value in source.items()}


def _read(path: str) -> Any:
    return load_named(path) if path.endswith(".safetensors") else read_torch(path)


def _shards(path: str) -> dict[str, Any]:
    """The arrays of the files that an index maps them to, all of which lie beside it."""
    with open(path, "rb") as file:
        files = parse_json(file.read(), path).get("weight_map")
    if not isinstance(files, dict) or not all(isinstance(name, str) for name in files.values()):
        raise FileError(f"{path}: an index has a weight_map from the name of each array to its file")
    found: dict[str, Any] = {}
    for name in sorted(set(files.values())):
        if name != os.path.basename(name):
            raise FileError(f"{path}: the index names {name!r}, expected a file beside it")
        found |= _read(os.path.join(os.path.dirname(path), name))
    lost = sorted(files.keys() - found.keys())
    if lost:
        raise FileError(f"{path}: {lost[0]!r} is not in {files[lost[0]]}, where the index has it ({len(lost)} such)")
    return found


def as_numpy(value: Any) -> np.ndarray:
    """A tensor of any library as numpy; 16-bit brain floats pass as bits."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        if str(value.dtype) == "torch.bfloat16":
            import torch

            return value.contiguous().view(torch.int16).numpy().view(numpy_dtype("bfloat16"))
        return value.numpy()
    return np.asarray(value)


def _renamed(arrays: dict[str, np.ndarray], rename: Rename | None) -> dict[str, np.ndarray]:
    renamed: dict[str, np.ndarray] = {}
    before: dict[str, str] = {}
    for name, array in arrays.items():
        new = new_name(name, rename)
        if new in renamed and not np.array_equal(renamed[new], array, equal_nan=True):
            raise ValueError(
                f"rename gives two arrays the name {new!r}, {before[new]!r} and {name!r}, and they differ: if the "
                "model has one array for both, such as a head tied to an embedding, these weights are of an untied "
                "one, and the model cannot compute what they do"
            )
        if new is not None:
            renamed[new], before[new] = array, name
    return renamed


def new_name(name: str, rename: Rename | None) -> str | None:
    """A name of PyTorch's as the model has it; None where it is dropped."""
    if rename is None:
        return name
    if callable(rename):
        return rename(name)
    for pattern, replacement in rename.items():
        if replacement is None and re.search(pattern, name):
            return None
        name = re.sub(pattern, replacement or "", name)
    return name
