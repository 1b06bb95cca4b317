"""Finding and exchanging the parts of a composite layer by dotted name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from fnet.nn.core.param import Spec
from fnet.nn.core.render import holds_layers, parts_of
from fnet.nn.core.values import thaw
from fnet.nn.core.walk import is_layer, record
from fnet.selectors import hint
from fnet.tree import escape


def walk_parts(layer: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """All parts at every depth as ``(dotted name, part)``, each before what is inside it."""
    for name, part in parts_of(layer).items():
        path = prefix + escape(name)
        yield path, thaw(part)
        if is_layer(part) or holds_layers(part):
            yield from walk_parts(part, path + ".")


def part_at(layer: Any, name: str) -> Any:
    parts = dict(walk_parts(layer))
    if name not in parts:
        raise KeyError(f"{type(layer).__name__} has no part {name!r}; {hint(str(name), parts)}")
    return parts[name]


def rebuild(value: Any, path: str, f: Callable[[str, Any], Any]) -> Any:
    """The same composite with ``f(path, part)`` at each part, innermost first; what did not change is kept as it is."""
    parts = parts_of(value) if is_layer(value) or holds_layers(value) else {}
    if parts:
        prefix = f"{path}." if path else ""
        new = {name: rebuild(part, prefix + escape(name), f) for name, part in parts.items()}
        if any(new[name] is not parts[name] for name in parts):
            if is_layer(value):
                value = value.with_parts(new)
            else:
                value = new if isinstance(value, dict) else _like(value, new.values())
    if not path:
        return value
    thawed = thaw(value)
    result = f(path, thawed)
    return value if result is thawed else result


class Around:
    """A layer that is another one under its dotted name, for an ``apply`` of one's own."""

    def __init__(self, layer: Any, name: str):
        self.layer, self.name = layer, name

    def __getattr__(self, name: str) -> Any:
        return getattr(self.layer, name)  # hyperparameters, for forwards that read them

    def spec(self, *inputs: Any, **kwargs: Any) -> Spec:
        """The Params of the layer inside."""
        return self.layer.spec(*inputs, **kwargs)

    def record_parts(self, inputs: tuple[Any, ...], kwargs: Any, key: Any, train: bool) -> tuple[Spec, Any]:
        """The walk of the layer inside."""
        return record(self.layer, inputs, kwargs, key, train)


def _like(value: Any, items: Any) -> Any:
    """Items in a list or tuple of the same type, NamedTuples included."""
    return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
