"""What makes a layer a value: hyperparameters that compare, hash, print and pickle by what they say."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import partial
from inspect import Signature, signature
from typing import Any

import jax
import numpy as np


class FrozenList(tuple):
    """A list kept as a tuple, so that it hashes; it becomes a list again where it is used."""

    def __repr__(self) -> str:
        return repr(list(self))


class FrozenDict(dict):
    """A dict that hashes and refuses changes. The order counts: the parts of a `Sequential` are a program."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(tuple(self.items()))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, dict) and tuple(self.items()) == tuple(other.items())

    def __ne__(self, other: object) -> bool:
        return not self == other

    def _refuse(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("this dict is a part of an immutable layer; layer.replace(…) gives a changed copy")

    __setitem__ = __delitem__ = update = pop = popitem = clear = setdefault = _refuse  # type: ignore[assignment]
    __ior__ = _refuse  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        return (FrozenDict, (dict(self),))


@dataclass(frozen=True)
class Partial:
    """`functools.partial` that compares by value: the same function with the same arguments is the same."""

    func: Callable[..., Any]
    args: tuple[Any, ...] = ()
    keywords: FrozenDict = FrozenDict()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.func(*thaw(self.args), *args, **{**thaw(self.keywords), **kwargs})

    @property
    def __signature__(self) -> Signature:
        return signature(partial(self.func, *self.args, **self.keywords))

    def __repr__(self) -> str:
        shown = [text(self.func), *map(text, self.args), *(f"{k}={text(v)}" for k, v in self.keywords.items())]
        return f"partial({', '.join(shown)})"


def freeze(value: Any, where: str, lists: type = FrozenList) -> Any:
    """The hashable form of a hyperparameter. Arrays are refused: they neither hash nor compare to one truth value."""
    if isinstance(value, jax.Array | np.ndarray):
        raise TypeError(
            f"{where} is an array of shape {value.shape}; hyperparameters are plain values that hash. Declare a weight "
            "as nn.Param(shape, init.constant(…)), pass a table as an input, or give a tuple of numbers"
        )
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, list | FrozenList) or type(value) is tuple:
        kind = tuple if type(value) is tuple else lists
        return kind(freeze(item, f"{where}[{index}]", lists) for index, item in enumerate(value))
    if isinstance(value, dict):
        return FrozenDict({key: freeze(item, f"{where}[{key!r}]", lists) for key, item in value.items()})
    if isinstance(value, partial):
        keywords = freeze(dict(sorted(value.keywords.items())), where)
        return Partial(freeze(value.func, where), freeze(value.args, where), keywords)
    try:
        hash(value)
    except TypeError as error:
        raise TypeError(f"{where} is {value!r}, a {type(value).__name__}, which does not hash") from error
    return value


def typed(value: Any) -> Any:
    """A frozen value with the types of what is in it, to compare by: 1, 1.0 and True are equal and act differently."""
    if isinstance(value, FrozenDict):
        return (FrozenDict, tuple((key, typed(item)) for key, item in value.items()))
    if isinstance(value, tuple):
        return (type(value), tuple(map(typed, value)))
    return (type(value), value)


def thaw(value: Any) -> Any:
    """What the user gave, from its frozen form: lists and dicts as lists and dicts."""
    if isinstance(value, FrozenList):
        return [thaw(item) for item in value]
    if type(value) is tuple:
        return tuple(thaw(item) for item in value)
    if isinstance(value, FrozenDict):
        return {key: thaw(item) for key, item in value.items()}
    return value


def text(value: Any) -> str:
    """A hyperparameter as it reads in a repr: functions by their name."""
    if isinstance(value, FrozenList | tuple) and not hasattr(value, "_fields"):
        inner = ", ".join(map(text, value))
        if isinstance(value, FrozenList):
            return f"[{inner}]"
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {text(item)}" for key, item in value.items()) + "}"
    if not isinstance(value, type) and callable(value) and hasattr(value, "__name__"):
        return str(value.__name__)
    return repr(value)


def dataclass_text(value: Any) -> str:
    """``Linear(10, bias=False)``: required fields by position, others by name where they differ from the default."""
    if not is_dataclass(value):
        return type(value).__name__
    shown = []
    for field in fields(value):
        item = getattr(value, field.name)
        if field.default is MISSING and field.default_factory is MISSING:
            shown.append(text(item))
        elif field.default_factory is not MISSING or item != field.default:
            shown.append(f"{field.name}={text(item)}")
    return f"{type(value).__name__}({', '.join(shown)})"


def refuse_unpicklable(items: Iterable[tuple[str, Any]], owner: str) -> None:
    """Say which part of a value is a function that cannot be found by its name, before pickle fails less helpfully."""
    for name, value in items:
        for function in _functions(value):
            try:
                pickle.dumps(function)
            except Exception as error:
                raise pickle.PicklingError(
                    f"{owner} cannot be pickled: {name!r} is {getattr(function, '__qualname__', function)}, and a "
                    "function is pickled by its name. Define it with def at the top level of a module"
                ) from error


def _functions(value: Any) -> Iterable[Callable[..., Any]]:
    if isinstance(value, Partial):
        yield from _functions((value.func, value.args, value.keywords))
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _functions(item)
    elif isinstance(value, dict):
        yield from _functions(tuple(value.values()))
    elif callable(value) and not hasattr(value, "apply"):  # a layer speaks for itself
        yield value
