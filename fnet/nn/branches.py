"""`Parallel`: the same input through several layers, side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from fnet.nn.core.frame import Bound, Frame, PartScope, shape_text
from fnet.nn.core.model import Model
from fnet.nn.core.values import freeze, text
from fnet.nn.core.walk import is_layer
from fnet.nn.sequential import Sequential


def concatenate(outputs: list[Any]) -> jax.Array:
    """The outputs joined on the last axis, that of channels and features."""
    return jnp.concatenate(outputs, axis=-1)


class Parallel(Sequential):
    """Parts that all get the same inputs; ``combine``, a function of the list of their outputs, makes one of them.

    By default the outputs are concatenated on the last axis, as Inception and DenseNet do. ``combine=sum`` adds them,
    ``combine=tuple`` gives them as they are, and any function of the list will do. Parts are layers or plain functions,
    named as in `Sequential`: unnamed ones "0", "1", ….

    >>> import jax, jax.numpy as jnp
    >>> from fnet import functional as F, nn
    >>> model = nn.Parallel(nn.Linear(3), F.relu, wide=nn.Linear(5))
    >>> params, _ = model.init(jax.random.key(0), jnp.ones((2, 4)))
    >>> sorted(params), model(params, jnp.ones((2, 4))).shape
    (['0', 'wide'], (2, 12))
    >>> nn.Parallel(nn.Linear(3), nn.Linear(3), combine=sum)
    Parallel(Linear(3), Linear(3), combine=sum)
    """

    def __init__(self, *layers: Any, combine: Callable[[list[Any]], Any] = concatenate, **named: Any):
        if is_layer(combine) or not callable(combine):
            raise TypeError(f"Parallel's combine is a function of the list of outputs, got {combine!r}")
        if not layers and not named:
            raise ValueError("Parallel needs at least one part")
        parts = {str(index): layer for index, layer in enumerate(layers)} | named
        self._set(freeze(combine, "the combine of a Parallel"), parts)

    def _forward(self, frame: Frame, inputs: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        outputs = {}
        for name, part in self._bind(frame).items():
            if isinstance(part, Bound):
                outputs[name] = part(*inputs, **kwargs)
            else:
                with PartScope(name, part, inputs):
                    outputs[name] = part(*inputs, **kwargs)
        try:
            return self.forward(list(outputs.values()))
        except (TypeError, ValueError) as error:
            shown = ", ".join(f"{name}: {shape_text(output)}" for name, output in outputs.items())
            error.add_note(f"Parallel combined, with {text(self.forward)}, the outputs {shown}")
            raise

    def title(self) -> str:
        return "Parallel" if self.forward is concatenate else f"Parallel(combine={text(self.forward)})"

    def __repr__(self) -> str:
        shown = "" if self.forward is concatenate else f", combine={text(self.forward)}"
        return super().__repr__()[:-1] + shown + ")"


class Lambda(Model):
    """A plain function as a layer, where a layer is asked for: ``nn.Residual(nn.Lambda(F.relu))``.

    `Sequential` and `Parallel` take functions as they are. ``key`` and ``train``, if the signature has them, are
    filled in. Two Lambdas of one named function are equal; a lambda expression is equal to itself alone, so a model
    rebuilt around a new one compiles again, and it cannot be pickled.

    >>> import jax.numpy as jnp
    >>> from fnet import functional as F, nn
    >>> nn.Residual(nn.Lambda(F.relu))({}, jnp.array([-1.0, 2.0]))
    Array([-1.,  4.], dtype=float32)
    >>> nn.Lambda(F.relu) == nn.Lambda(F.relu), nn.Lambda(lambda x: x) == nn.Lambda(lambda x: x)
    (True, False)
    """

    def __init__(self, function: Callable[..., Any]):
        super().__init__(function)
