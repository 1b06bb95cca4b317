"""`Sequential`: layers and plain functions, one after another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fnet.nn.core.frame import Bound, Frame, PartScope
from fnet.nn.core.model import Model
from fnet.nn.core.values import text
from fnet.nn.core.walk import is_layer


def sequential(parts: Mapping[str, Any], inputs: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """The forward of `Sequential`: all inputs go to the first part, each output to the next."""
    if not parts:
        return inputs[0] if len(inputs) == 1 else inputs
    for name, part in parts.items():
        if isinstance(part, Bound):
            inputs = (part(*inputs, **kwargs),)
        else:
            with PartScope(name, part, inputs):
                inputs = (part(*inputs, **kwargs),)
        kwargs = {}
    return inputs[0]


class Sequential(Model):
    """Parts applied in turn; each is a layer or a plain function of arrays.

    Unnamed parts are called "0", "1", …, counting every part as PyTorch does. All inputs go to the first part.
    ``model[0]`` and ``model["head"]`` give the parts, ``model[:2]`` a shorter Sequential.

    >>> import jax, jax.numpy as jnp
    >>> from fnet import functional as F, nn
    >>> model = nn.Sequential(nn.Linear(16), F.relu, head=nn.Linear(3))
    >>> params, state = model.init(jax.random.key(0), jnp.ones((8, 4)))
    >>> sorted(params)
    ['0', 'head']
    >>> model(params, jnp.ones((8, 4))).shape
    (8, 3)
    """

    def __init__(self, *layers: Any, **named: Any):
        self._set(sequential, {str(index): layer for index, layer in enumerate(layers)} | named)

    def _check_part(self, name: str, part: Any) -> None:
        super()._check_part(name, part)
        own = type(self).__name__
        if isinstance(part, list | tuple):
            raise TypeError(f"part {name!r} of {own} is a {type(part).__name__}; unpack it: {own}(*layers)")
        if isinstance(part, type):
            raise TypeError(f"part {name!r} of {own} is the class {part.__name__}; make one: {part.__name__}(…)")
        if not is_layer(part) and not callable(part):
            raise TypeError(f"part {name!r} of {own} is {part!r}, expected a layer or a function")

    def _forward(self, frame: Frame, inputs: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        return sequential(self._bind(frame), inputs, kwargs)

    def __getitem__(self, name: str | int | slice) -> Any:
        if isinstance(name, int):
            return list(self.parts.values())[name]
        if isinstance(name, slice):  # the parts keep their names, so the same params serve
            return self.with_parts(dict(list(self.parts.items())[name]))
        return super().__getitem__(name)

    def __len__(self) -> int:
        return len(self._parts)

    def title(self) -> str:
        return "Sequential"

    def __repr__(self) -> str:
        shown = [
            text(part) if name == str(index) else f"{name}={text(part)}"
            for index, (name, part) in enumerate(self._parts.items())
        ]
        return f"{type(self).__name__}({', '.join(shown)})"
