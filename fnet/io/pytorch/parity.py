"""Both models on the same input, part by part: where their outputs begin to differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from fnet.io.pytorch.weights import Rename, as_numpy, new_name
from fnet.nn.core.surgery import Around, rebuild
from fnet.nn.core.walk import is_layer


@dataclass(frozen=True)
class Parity:
    """The greatest difference of each output that both models have, in the order of their calls; true if all agree.

    ``rows`` are (name, shape, difference relative to the largest value of PyTorch's, agrees); ``first`` is the name of
    the first part that differs, None where none does.
    """

    rows: tuple[tuple[str, tuple[int, ...], float, bool], ...]
    rtol: float

    @property
    def first(self) -> str | None:
        """The name of the first part whose output differs; "" is the model itself."""
        return next((name for name, _, _, agrees in self.rows if not agrees), None)

    def __bool__(self) -> bool:
        return self.first is None

    def __str__(self) -> str:
        width = max(len(name) for name, *_ in self.rows) + 1
        lines = [
            f"{name or '(model)':{width}} {str(list(shape)):20} {difference:9.2e}{'' if agrees else '  ← differs'}"
            for name, shape, difference, agrees in self.rows
        ]
        first = f"the first that differs is {self.first or '(model)'!r}" if not self else "all agree"
        return "\n".join([*lines, f"{len(self.rows)} outputs compared, {first} (relative tolerance {self.rtol:g})"])

    __repr__ = __str__


def compare_with_torch(
    model: Any,
    params: Any,
    state: Any,
    module: Any,
    *inputs: Any,
    torch_inputs: tuple[Any, ...] | None = None,
    rename: Rename | None = None,
    rtol: float = 1e-4,
) -> Parity:
    """Run a model and its PyTorch counterpart, in evaluation, and compare the output of each part by name.

    ``inputs`` are the model's. PyTorch's are the same, images (batch, height, width, channels) with the channels
    moved first; give ``torch_inputs`` where that is not what it takes. Outputs are compared with the channels last.
    ``rename`` is that of `from_torch`. Parts inside a `Stack` or `Remat` are compared as one.

    >>> print(compare_with_torch(model, params, state, module, x))  # doctest: +SKIP
    conv1     [2, 8, 8, 16]         3.21e-07
    bn1       [2, 8, 8, 16]         8.10e-02  ← differs
    """
    import torch

    theirs: dict[str, np.ndarray] = {}

    def keep(name: str) -> Any:
        def hook(_module: Any, _inputs: Any, output: Any) -> None:
            first = output[0] if isinstance(output, tuple) else output
            if isinstance(first, torch.Tensor):
                theirs.setdefault(name, as_numpy(first))

        return hook

    names = {new_name(name, rename) if name else "": part for name, part in module.named_modules()}
    hooks = [part.register_forward_hook(keep(name)) for name, part in names.items() if name is not None]
    given = torch_inputs if torch_inputs is not None else tuple(map(_channels_first, inputs))
    was_training = module.training
    try:
        with torch.no_grad():
            module.eval()(*(torch.tensor(np.asarray(x)) if not isinstance(x, torch.Tensor) else x for x in given))
    finally:
        module.train(was_training)
        for hook in hooks:
            hook.remove()
    ours = _outputs(model, params, state, inputs)
    rows = [_row(name, value, theirs[name], rtol) for name, value in ours.items() if name in theirs]
    if not rows:
        raise ValueError(
            f"no part with an array for output has the same name in both: here {list(ours)[:5]}, in PyTorch "
            f"{list(theirs)[:5]}; rename={{pattern: replacement}} maps PyTorch's names"
        )
    return Parity(tuple(rows), rtol)


class _Tap(Around):
    """A layer that does what another does and keeps its output."""

    def __init__(self, layer: Any, name: str, outputs: dict[str, np.ndarray]):
        super().__init__(layer, name)
        self.outputs = outputs

    def apply(self, params: Any, state: Any, *inputs: Any, **kwargs: Any) -> Any:
        output, state = self.layer.apply(params, state, *inputs, **kwargs)
        first = output[0] if isinstance(output, tuple) else output
        if isinstance(first, jax.Array) and not isinstance(first, jax.core.Tracer):
            self.outputs.setdefault(self.name, np.asarray(first))
        return output, state


def _outputs(model: Any, params: Any, state: Mapping[str, Any], inputs: tuple[Any, ...]) -> dict[str, np.ndarray]:
    outputs: dict[str, np.ndarray] = {}
    tapped = rebuild(model, "", lambda path, part: _Tap(part, path, outputs) if is_layer(part) else part)
    _Tap(tapped, "", outputs).apply(params, state, *inputs)
    return outputs


def _row(name: str, ours: np.ndarray, theirs: np.ndarray, rtol: float) -> tuple[str, tuple[int, ...], float, bool]:
    both = [theirs, np.moveaxis(theirs, 1, -1)] if theirs.ndim > 2 else [theirs]  # the channels may be second or last
    gaps = [float(np.max(np.abs(ours - value), initial=0)) for value in both if value.shape == ours.shape]
    difference = min(gaps, default=float("inf")) / (float(np.max(np.abs(theirs), initial=0)) or 1.0)
    return name, ours.shape, difference, difference <= rtol


def _channels_first(x: Any) -> np.ndarray:
    x = np.asarray(x)
    return np.moveaxis(x, -1, 1) if x.ndim >= 4 else x
