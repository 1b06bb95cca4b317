"""The tree back from its structure: check what a file says, find the classes that the caller trusts, build."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from fnet import tree
from fnet.io.leaves import EXTRA, Leaf
from fnet.io.safetensors import FileError, Misfit
from fnet.io.structure import CONTAINERS, MAX_DEPTH, UNSAVED, class_name, fields, join, set_fields

ABSENT: Any = object()


def leaves(node: Any, where: str, name: str = "", depth: int = 0) -> Iterator[tuple[str, Leaf]]:
    """All leaves of a structure by name; raises FileError for a structure that `describe` does not write."""

    def wrong() -> FileError:
        return FileError(f"{where} holds a structure that fnet does not write, at {name[:80]!r}: {str(node)[:80]}")

    if depth > MAX_DEPTH:
        raise FileError(f"{where} holds a structure of more than {MAX_DEPTH} levels")
    if isinstance(node, bool | int):
        yield name, Leaf("python", value=node)
    elif isinstance(node, str):
        if node not in ("jax", "numpy", "scalar"):
            raise wrong()
        yield name, Leaf(node)
    elif isinstance(node, dict):
        below = _below(node)
        if below is not None:
            for part, child in below:
                yield from leaves(child, where, join(name, part, depth), depth + 1)
            for static in (value for value in node.get("static", {}).values() if value != UNSAVED):
                if any(leaf.kind != "python" for _, leaf in leaves(static, where, name, depth + 1)):
                    raise wrong()
        elif node != {"hole": True}:
            try:
                yield name, _leaf(node)
            except (ValueError, TypeError, KeyError, OverflowError):
                raise wrong() from None
    elif node is not None:
        raise wrong()


def _below(node: dict[str, Any]) -> list[tuple[str, Any]] | None:
    """The children of a container with their parts of the name; None for another kind of node."""
    match node:
        case {"dict": dict(children)} | {"ordered": dict(children)} if len(node) == 1:
            return [(tree.escape(key), child) for key, child in children.items()]
        case {"list": list(children)} | {"tuple": list(children)} if len(node) == 1:
            return [(str(index), child) for index, child in enumerate(children)]
        case {"class": str(), "fields": dict(children), "static": dict()} if len(node) == 3:
            return [(tree.escape(key), child) for key, child in children.items()]
        case {"node": str(), "fields": dict(children)} if len(node) == 2:
            return [(tree.escape(key), child) for key, child in children.items()]
    return None


def _leaf(node: dict[str, Any]) -> Leaf:
    ((kind, value),) = node.items()
    match kind:
        case "int":
            return Leaf("python", value=int(value, 16))
        case "float":
            return Leaf("python", value=float.fromhex(value))
        case "complex":
            real, imag = value
            return Leaf("python", value=complex(float.fromhex(real), float.fromhex(imag)))
        case "str" if isinstance(value, str):
            return Leaf("python", value=value)
        case "key" if isinstance(value, str):
            return Leaf("key", value)
        case "jax" | "numpy" | "scalar" if value in EXTRA:
            return Leaf(kind, value)
    raise ValueError(kind)


def build(
    node: Any, values: dict[str, Any], classes: dict[str, type], partial: bool, name: str = "", depth: int = 0
) -> Any:
    """The tree of a structure that `leaves` has checked.

    With ``partial``, leaves that are not in ``values`` are left out: the keys of dicts that lead to no value are
    absent, and in the other containers there is a hole.
    """
    if node is None:
        return ABSENT if partial else None
    if node == {"hole": True}:
        return ABSENT if partial else tree.HOLE
    below = _below(node) if isinstance(node, dict) else None
    if below is None:
        return values.get(name, ABSENT)
    children = [build(child, values, classes, partial, join(name, part, depth), depth + 1) for part, child in below]
    if partial and all(child is ABSENT for child in children):
        return ABSENT
    kind = next(iter(node))
    if kind in ("dict", "ordered"):
        found = zip(node[kind], children, strict=True)
        return CONTAINERS[kind]((key, child) for key, child in found if child is not ABSENT)
    children = [tree.HOLE if child is ABSENT else child for child in children]
    if kind in ("list", "tuple"):
        return CONTAINERS[kind](children)
    return _instance(classes[node["class"]], dict(zip(node["fields"], children, strict=True)), node["static"], classes)


def _instance(cls: type, children: dict[str, Any], static: dict[str, Any], classes: dict[str, type]) -> Any:
    if issubclass(cls, tuple):
        return cls(*(children[field] for field in cls._fields))  # type: ignore[attr-defined]
    for field, node in static.items():
        values = {name: leaf.value for name, leaf in leaves(node, field)}
        children[field] = build(node, values, classes, partial=False)
    return set_fields(object.__new__(cls), children.keys(), children.values())


def find_classes(structure: Any, wanted: Iterable[str] | None, types: Iterable[type], where: str) -> dict[str, type]:
    """The class for each class name on the way to a wanted leaf (None: for all), from ``types`` and fnet's own.

    Raises FileError that lists what is not among them, or has other fields now.
    """
    types = list(types)
    for given in types:
        if not isinstance(given, type) or fields(given) is None:
            raise TypeError(f"types= takes NamedTuples and dataclasses, got {given!r}; like= rebuilds any pytree")
    on_the_way = {"", *(name[:end] for name in wanted or () for end, letter in enumerate(name) if letter == ".")}
    found, unknown = {}, []
    for place, node in _classes(structure):
        if wanted is not None and place not in on_the_way:
            continue
        name = node.get("class") or node["node"]
        cls = _find(name, types) if "class" in node else None
        trouble = _misfit(cls, node) if cls else "" if "class" in node else ", which only like= rebuilds"
        if cls and not trouble:
            found[name] = cls
        else:
            unknown.append(f"  {place or 'the tree itself'}: {name}{trouble}")
    if unknown:
        more = [f"  … and {len(unknown) - 10} more"] if len(unknown) > 10 else []
        raise Misfit(
            "\n".join([f"{where} holds classes, and a file may not choose the code that runs:", *unknown[:10], *more])
            + "\npass types=[TheClass, …] to rebuild them, or like=a tree of the same structure"
        )
    return found


def _classes(node: Any, name: str = "", depth: int = 0) -> Iterator[tuple[str, dict[str, Any]]]:
    below = _below(node) if isinstance(node, dict) else None
    if below is None:
        return
    if "class" in node or "node" in node:
        yield name, node
    for static in node.get("static", {}).values():
        yield from ((name, inner) for _, inner in _classes(static))
    for part, child in below:
        yield from _classes(child, join(name, part, depth), depth + 1)


def _find(name: str, types: list[type]) -> type | None:
    exact = [cls for cls in types if class_name(cls) == name]
    moved = [cls for cls in types if cls.__name__ == name.rpartition(".")[2]]
    if exact or len(moved) == 1:
        return (exact or moved)[0]
    if name == "fnet.TrainState":
        from fnet.train.state import TrainState

        return TrainState
    if name == "fnet.lora.Adapter":
        from fnet.lora import Adapter

        return Adapter
    return None


def _misfit(cls: type, node: dict[str, Any]) -> str:
    unsaved = [field for field, value in node["static"].items() if value == UNSAVED]
    if unsaved:
        return f", whose fields {', '.join(unsaved)} are not data; only like= gives them"
    saved, now = node["fields"].keys() | node["static"].keys(), fields(cls) or set()
    if saved != now or (node["static"] and issubclass(cls, tuple)):
        return f" with the fields {', '.join(sorted(saved))}, but it has {', '.join(sorted(now))} now"
    return ""
