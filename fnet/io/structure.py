"""The structure of a tree as JSON, and the tree back from it: what the flat names of a file's tensors leave out.

    null                                   None
    true, 3, {"int": "0x…"}                bool, int (in hexadecimal where JSON readers would round it)
    {"float": "0x1.8p+1"}, {"complex": [re, im]}, {"str": "…"}
    "jax", "numpy", "scalar"               an array, under this place's dotted name; {"jax": "complex128"} for a dtype
                                           that the format lacks
    {"key": "threefry2x32"}                a typed PRNG key
    {"hole": true}                         what `fnet.split` left
    {"dict": {…}}, {"ordered": {…}}, {"list": […]}, {"tuple": […]}
    {"class": "module.Name", "fields": {…}, "static": {…}}       a NamedTuple or a dataclass
    {"node": "module.Name", "fields": {…}}                       any other pytree: only a template rebuilds it

A class is a name to compare with those that the caller trusts. It is never imported.
"""

from __future__ import annotations

import copy
import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

import jax

from fnet import tree
from fnet.io.leaves import ACCEPTED, SCALARS, classify, is_array

MAX_DEPTH = 100
MAX_JSON_INT = 2**53
UNSAVED = {"unsaved": True}  # a static field that is not data, such as a function
CONTAINERS: dict[str, type] = {"dict": dict, "ordered": OrderedDict, "list": list, "tuple": tuple}
KINDS = {kind: name for name, kind in CONTAINERS.items()}


def join(name: str, part: str, depth: int) -> str:
    return f"{name}.{part}" if depth else part


def describe(node: Any, arrays: dict[str, Any], name: str = "", depth: int = 0) -> Any:
    """The structure of a tree; its arrays are added to ``arrays`` by name.

    Raises TypeError or ValueError that names the leaf that cannot be saved.
    """
    if depth > MAX_DEPTH:
        raise ValueError(f"cannot save {name[:80]!r}…: the tree has more than {MAX_DEPTH} levels, or contains itself")
    if is_array(node):
        leaf = classify(name, node)
        arrays[name] = node
        return {leaf.kind: leaf.detail} if leaf.detail else leaf.kind
    if node is None or type(node) in SCALARS:
        return _scalar(node)
    if isinstance(node, tree.Hole):
        return {"hole": True}

    def below(children: Iterable[tuple[str, Any]]) -> dict[str, Any]:
        named = ((part, join(name, tree.escape(part), depth), child) for part, child in children)
        return {part: describe(child, arrays, place, depth + 1) for part, place, child in named}

    if type(node) in (list, tuple):
        return {KINDS[type(node)]: list(below((str(index), child) for index, child in enumerate(node)).values())}
    if type(node) in KINDS:
        _check_keys(node, name)
        return {KINDS[type(node)]: below(node.items())}
    from fnet.nn.core.walk import is_layer  # here, since plain trees are saved without loading the layers

    if is_layer(node):
        raise TypeError(
            f"cannot save {name!r}: it is a {type(node).__name__}, and a model is code, which makes it again: save its "
            "params and its state. io.export writes what a model computes, together with them"
        )
    parts = expand(node)
    if parts is None:
        raise TypeError(f"cannot save {name!r}: it is a {type(node).__name__}, expected {ACCEPTED}")
    children = [(tree.unescape(part), child) for part, child in parts[0]]
    if len(dict(children)) < len(children):
        raise TypeError(f"cannot save {name!r}: two parts of this {type(node).__name__} have the same name")
    own = fields(type(node))
    if own is None or not own >= dict(children).keys():
        return {"node": class_name(type(node)), "fields": below(children)}
    static = {field: _static(getattr(node, field)) for field in sorted(own - dict(children).keys())}
    return {"class": class_name(type(node)), "fields": below(children), "static": static}


def _check_keys(node: dict, name: str) -> None:
    for key in node:
        where = f"cannot save the dict at {name!r}" if name else "cannot save this dict"
        if type(key) is not str:
            raise TypeError(f"{where}: its key {key!r} is not a string; names in files are")
        if any("\ud800" <= letter <= "\udfff" for letter in key):
            raise ValueError(f"{where}: its key {key!r} is not valid Unicode")


def _scalar(value: Any) -> Any:
    match value:
        case None | bool():
            return value
        case int():
            return value if abs(value) <= MAX_JSON_INT else {"int": hex(value)}
        case float():
            return {"float": value.hex()}
        case complex():
            return {"complex": [value.real.hex(), value.imag.hex()]}
    return {"str": value}


def _static(value: Any) -> Any:
    """A dataclass's static field; one that holds more than plain data is left to the template."""
    arrays: dict[str, Any] = {}
    try:
        structure = describe(value, arrays)
    except (TypeError, ValueError):
        return UNSAVED
    return UNSAVED if arrays else structure


def expand(node: Any) -> tuple[list[tuple[str, Any]], Callable[[list], Any]] | None:
    """The children of a node with their parts of the name, and how to make the node of new ones; None for a leaf.

    As JAX sees the tree, but that dicts keep their order, and that dataclasses which JAX does not know have fields.
    """
    if type(node) in (dict, OrderedDict):
        children = [(tree.escape(str(key)), child) for key, child in node.items()]
        return children, lambda new: type(node)(zip(node, new, strict=True))
    below, shape = jax.tree_util.tree_flatten_with_path(node, is_leaf=lambda child: child is not node)
    if len(below) != 1 or below[0][0] != ():
        children = [(tree.path_name(path), child) for path, child in below]
        return children, lambda new: jax.tree_util.tree_unflatten(shape, new)
    if not dataclasses.is_dataclass(node) or isinstance(node, type):
        return None
    names = [field.name for field in dataclasses.fields(node)]
    return [(name, getattr(node, name)) for name in names], lambda new: set_fields(copy.copy(node), names, new)


def same(a: Any, b: Any) -> bool:
    """Whether two descriptions are of one tree: of a dict the order of keys says nothing, of an OrderedDict it does."""
    if type(a) is not type(b):  # True == 1
        return False
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    if not isinstance(a, dict):
        return a == b
    orders = [list(node["ordered"]) for node in (a, b) if isinstance(node.get("ordered"), dict)]
    return a.keys() == b.keys() and orders[:1] == orders[1:] and all(same(child, b[key]) for key, child in a.items())


def set_fields(instance: Any, names: Iterable[str], values: Iterable[Any]) -> Any:
    """Set the fields of a dataclass, frozen or not, past its constructor, which made them what they are."""
    for name, value in zip(names, values, strict=True):
        object.__setattr__(instance, name, value)
    return instance


def map_leaves(f: Callable[[str, Any], Any], node: Any, name: str = "", depth: int = 0) -> Any:
    """A tree of the same structure with ``f(dotted name, leaf)`` at each leaf, named as `describe` names them."""
    if depth > MAX_DEPTH:
        raise ValueError(f"the given tree has more than {MAX_DEPTH} levels, or contains itself")
    parts = None if is_array(node) else expand(node)
    if parts is None:
        return f(name, node)
    return parts[1]([map_leaves(f, child, join(name, part, depth), depth + 1) for part, child in parts[0]])


OWN = {  # the classes that fnet's own files may hold
    "fnet.TrainState": ("fnet.train.state", "TrainState"),
    "fnet.lora.Adapter": ("fnet.lora", "Adapter"),
}


def class_name(cls: type) -> str:
    """What a file calls a class."""
    for name, place in OWN.items():
        if place == (cls.__module__, cls.__qualname__):
            return name
    return f"{cls.__module__}.{cls.__qualname__}"


def fields(cls: type) -> set[str] | None:
    """The fields of a NamedTuple or a dataclass; None for another class."""
    if dataclasses.is_dataclass(cls):
        return {field.name for field in dataclasses.fields(cls)}
    return set(cls._fields) if issubclass(cls, tuple) and hasattr(cls, "_fields") else None
