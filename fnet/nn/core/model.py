"""`Model`: the one composite layer, an ordinary function of its inputs and of its named parts."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax

from fnet.nn.core.frame import Frame, bind, dotted
from fnet.nn.core.layer import Layer
from fnet.nn.core.param import Param, Path, Spec, Tree, put
from fnet.nn.core.render import holds_layers
from fnet.nn.core.values import FrozenDict, freeze, text, typed
from fnet.nn.core.walk import is_layer, specs_of
from fnet.selectors import hint

RESERVED = ("key", "train")


class Model(Layer):
    """A layer made of an ordinary function and the named parts that it uses.

    ``forward`` takes the inputs and, by name, the parts. Layers arrive bound to their arrays and are called like
    functions; a list or dict of layers arrives as a list or dict of them; a `Param` arrives as its array; anything
    else arrives as it is. ``key`` and ``train``, if the signature has them, are filled in.

    >>> import jax, jax.numpy as jnp
    >>> from fnet import functional as F, nn
    >>> def mlp(x, fc1, fc2):
    ...     return fc2(F.relu(fc1(x)))
    >>> model = nn.Model(mlp, fc1=nn.Linear(16), fc2=nn.Linear(3))
    >>> params, state = model.init(jax.random.key(0), jnp.ones((8, 4)))
    >>> model(params, jnp.ones((8, 4))).shape
    (8, 3)
    >>> print(model)
    mlp
    ├─ fc1: Linear(16)
    └─ fc2: Linear(3)
    """

    forward: Callable[..., Any]
    _parts: FrozenDict

    def __init__(self, forward: Callable[..., Any], /, **parts: Any):
        if is_layer(forward) or not callable(forward):
            raise TypeError(
                f"Model takes a function of inputs and parts first, got {forward!r}; nn.Sequential(…) chains layers"
            )
        frozen = freeze(forward, "the forward of a Model")
        try:
            signature = inspect.signature(frozen).parameters
        except ValueError as error:
            raise TypeError(f"Model cannot read the parameters of {forward!r}; wrap it: def f(x): return …") from error
        any_name = any(p.kind is p.VAR_KEYWORD for p in signature.values())
        for name in parts:
            if name not in signature and not any_name and name not in RESERVED:
                raise TypeError(
                    f"{text(frozen)} has no parameter {name!r} to receive that part; {hint(name, signature)}"
                )
        self._set(frozen, parts)

    def _set(self, forward: Callable[..., Any], parts: Mapping[str, Any]) -> None:
        for name, part in parts.items():
            self._check_part(name, part)
        frozen = FrozenDict({name: freeze(part, f"part {name!r}") for name, part in parts.items()})
        object.__setattr__(self, "forward", forward)
        object.__setattr__(self, "_parts", frozen)

    def _check_part(self, name: str, part: Any) -> None:
        if name in RESERVED:
            raise ValueError(f"{name!r} is filled in by fnet and cannot be the name of a part")
        if isinstance(part, type) and hasattr(part, "apply"):
            raise TypeError(f"part {name!r} is the class {part.__name__}; make a layer of it: {part.__name__}(…)")
        if isinstance(part, dict) and holds_layers(part):
            for key in part:
                if not isinstance(key, str):
                    raise TypeError(f"part {name!r} has a layer under {key!r}; names are strings: {str(key)!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"a model is immutable: model.replace({name!r}, …) gives a changed copy")

    __delattr__ = __setattr__  # type: ignore[assignment]

    @property
    def parts(self) -> dict[str, Any]:
        return dict(self._parts)

    def with_parts(self, parts: Mapping[str, Any]) -> Model:
        model = object.__new__(type(self))
        model._set(self.forward, parts)
        return model

    def apply(
        self, params: Tree, state: Tree, *inputs: Any, key: jax.Array | None = None, train: bool = False, **kwargs: Any
    ) -> tuple[Any, Tree]:
        frame = Frame(params, state, key, train, recording=False)
        return self._call(frame, inputs, kwargs), frame.state

    def spec(self, *inputs: Any, train: bool = False, **kwargs: Any) -> Spec:
        return specs_of(self, inputs, kwargs, train)

    def record_parts(
        self, inputs: tuple[Any, ...], kwargs: Mapping[str, Any], key: Any, train: bool
    ) -> tuple[Spec, Any]:
        """Walk the forward on stand-ins: ``(the Params of all parts in the order of declaration, the output)``."""
        frame = Frame({}, {}, key, train, recording=True)
        output = self._call(frame, inputs, kwargs)
        if output is None:
            raise TypeError(f"the forward {self.title()} returned None; does it end without a return?")
        specs: Spec = {}
        unreached = []
        for path, part in _leaves(self.parts, ()):
            if isinstance(part, Param):
                put(specs, path, part)
            elif path not in frame.specs:
                unreached.append(dotted(path))
            elif frame.specs[path]:
                put(specs, path, frame.specs[path])
        if unreached:
            raise ValueError(
                f"{self.title()} never calls its part(s) {', '.join(map(repr, unreached))} with train={train}, so they "
                "get no parameters. Remove them, or call init(…, train=True) if only the training path uses them"
            )
        return specs, output

    def _call(self, frame: Frame, inputs: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        try:
            return self._forward(frame, inputs, kwargs)
        finally:
            frame.close()

    def _bind(self, frame: Frame) -> dict[str, Any]:
        return {name: bind(part, (name,), frame) for name, part in self._parts.items()}

    def _forward(self, frame: Frame, inputs: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        signature = inspect.signature(self.forward).parameters
        filled = {name: getattr(frame, name) for name in RESERVED if name in signature}
        by_position = [n for n, p in signature.items() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        takes = [name for name in by_position if name not in filled and name not in self._parts]
        if len(inputs) > len(takes) and all(p.kind != p.VAR_POSITIONAL for p in signature.values()):
            raise TypeError(f"{self.title()} takes {len(takes)} input(s) ({', '.join(takes)}), got {len(inputs)}")
        left = [name for name in takes[len(inputs) :] if name not in kwargs]
        missing = [name for name in left if signature[name].default is inspect.Parameter.empty]
        if missing:
            raise TypeError(
                f"{self.title()} also needs {', '.join(missing)}: as inputs, model.apply(params, state, x) or "
                "model(params, x), or as parts of the Model"
            )
        return self.forward(*inputs, **self._bind(frame), **filled, **kwargs)

    def title(self) -> str:
        """The first line of the printed tree: the name of the forward."""
        return text(self.forward)

    def __repr__(self) -> str:
        parts = "".join(f", {name}={text(part)}" for name, part in self._parts.items())
        return f"{type(self).__name__}({text(self.forward)}{parts})"

    def _identity(self) -> tuple[Any, ...]:
        return (type(self), typed(self.forward), typed(self._parts))

    def __eq__(self, other: object) -> bool:
        return self is other or (
            isinstance(other, Model) and hash(self) == hash(other) and self._identity() == other._identity()
        )

    def __hash__(self) -> int:
        if "_hash" not in self.__dict__:  # models are static arguments of jit: each call hashes them
            self.__dict__["_hash"] = hash(self._identity())
        return self.__dict__["_hash"]


def _leaves(parts: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    """The layers and Params among parts, through lists and dicts, with their paths."""
    items = parts.items() if isinstance(parts, dict) else enumerate(parts)
    for name, part in items:
        inner = (*path, str(name))
        if isinstance(part, Param) or is_layer(part):
            yield inner, part
        elif isinstance(part, list | tuple | dict) and holds_layers(part):
            yield from _leaves(part, inner)
