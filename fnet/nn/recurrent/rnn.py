"""`RNN`: any cell over time, in one direction or both, in one layer or several."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from fnet import functional as F
from fnet.functional.reduction import or_nan
from fnet.nn.combinators import Combinator
from fnet.nn.core.keys import fold_index
from fnet.nn.core.param import NoState, Spec, Tree
from fnet.nn.core.walk import is_layer
from fnet.nn.recurrent.steps import check_leading, counted_steps, record_cell, run_cell, time_axis


@dataclass(frozen=True, repr=False)
class RNN(Combinator):
    """A cell over time: `jax.lax.scan` of a layer ``(x, state) -> new state``. (PyTorch's nn.RNN is `ElmanRNN`.)

    Input ``(batch, time, …)``, output ``(batch, time, …)``: after each step the cell's state, or the first of it where
    the state is a tuple, as an LSTM's ``(h, c)``. Names are the cell's own. Called as ``rnn(x, initial, lengths=,
    mask=, return_state=)``:

    - ``initial``: the first state; without it the cell is called on its input alone to learn the shapes, and zeros
      of them begin.
    - ``lengths``, integers ``(batch,)``, or ``mask``, bool ``(batch, time)``: steps that do not count leave the state
      as it is and give zeros, so the last state is that of the last step which counts, in either direction, as
      with PyTorch's packed sequences.
    - ``return_state``: also the last state, ``(outputs, state)``. Here it holds for one call, as a field for all.

    ``reverse`` runs from the last step to the first. With ``num_layers`` or ``bidirectional`` there is one cell per
    layer and direction: names end in ``_l0``, ``_l0_reverse``, ``_l1``, …, outputs of the two directions are joined
    on the last axis, ``dropout`` acts between layers, and states have a leading axis over layers and directions, all
    as in PyTorch. Keys are per step; a state of the cell's own (BatchNorm) goes from step to step.

    A cell may offer ``sequence(params, x, state, mask, reverse) -> (outputs, last state)`` to take all steps at once,
    as those of fnet do.

    >>> import jax, jax.numpy as jnp
    >>> from fnet import nn
    >>> rnn, x = nn.RNN(nn.LSTMCell(8), return_state=True), jnp.ones((2, 5, 3))
    >>> params, _ = rnn.init(jax.random.key(0), x)
    >>> y, (h, c) = rnn(params, x, lengths=jnp.array([5, 2]))
    >>> y.shape, h.shape, sorted(params)
    ((2, 5, 8), (2, 8), ['bias_hh', 'bias_ih', 'weight_hh', 'weight_ih'])

    A cell of one's own is any layer:

    >>> def leaky(x, h=0.0, *, mix):
    ...     return 0.9 * h + 0.1 * jnp.tanh(mix(x) + h)
    >>> rnn = nn.RNN(nn.Model(leaky, mix=nn.Linear(4)))
    >>> params, _ = rnn.init(jax.random.key(0), x)
    >>> rnn(params, x).shape
    (2, 5, 4)
    """

    num_layers: int = 1
    dropout: float = 0.0
    bidirectional: bool = False
    reverse: bool = False
    return_state: bool = False

    always_layered: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not is_layer(self.layer):
            raise TypeError(
                f"RNN takes a cell first, such as nn.LSTMCell(8), got {self.layer!r}; PyTorch's nn.RNN(…) is "
                "nn.ElmanRNN(hidden_size)"
            )
        super().__post_init__()
        check_layers("RNN", self.num_layers, self.dropout)
        if self.reverse and self.bidirectional:
            raise ValueError("RNN runs in both directions with bidirectional=True; leave reverse out")

    @property
    def _layered(self) -> bool:
        return self.always_layered or self.bidirectional or self.num_layers > 1

    def _directions(self, level: int) -> list[tuple[str, bool]]:
        """The suffix of the names, and whether time is reversed, of the cells of one layer."""
        suffix = f"_l{level}" if self._layered else ""
        return [(suffix, self.reverse)] + ([(f"{suffix}_reverse", True)] if self.bidirectional else [])

    def apply(
        self, params: Tree, state: Tree, x: Any, initial: Any = None, *, lengths: Any = None, mask: Any = None,
        return_state: bool | None = None, key: Any = None, train: bool = False,
    ) -> Any:  # fmt: skip
        new = state

        def one(suffix: str, reverse: bool, x: Any, hx: Any, mask: Any, key: Any) -> tuple[Any, Any]:
            nonlocal new
            own = _own(state, suffix)
            y, last, changed = run_cell(self.layer, _own(params, suffix), own, x, hx, mask, reverse, key, train)
            new = _merged(new, changed, suffix)
            return y, last

        return self._layers(one, x, initial, lengths, mask, return_state, key, train), new

    def record_parts(
        self, inputs: tuple[Any, ...], kwargs: Mapping[str, Any], key: Any, train: bool
    ) -> tuple[Spec, Any]:
        return self._record(*inputs, key=key, train=train, **kwargs)

    def _record(
        self, x: Any, initial: Any = None, *, lengths: Any = None, mask: Any = None, return_state: bool | None = None,
        key: Any = None, train: bool = False,
    ) -> tuple[Spec, Any]:  # fmt: skip
        specs: Spec = {}

        def one(suffix: str, reverse: bool, x: Any, hx: Any, mask: Any, key: Any) -> tuple[Any, Any]:
            found, y, last = record_cell(self.layer, x, hx, key, train)
            specs.update({name + suffix: spec for name, spec in found.items()})
            return y, last

        return specs, self._layers(one, x, initial, lengths, mask, return_state, key, train)

    def _layers(
        self, one: Callable[..., tuple[Any, Any]], x: Any, initial: Any, lengths: Any, mask: Any, return_state: Any,
        key: Any, train: bool,
    ) -> Any:  # fmt: skip
        """What `one` cell over time makes of each layer and direction in turn."""
        mask, valid = counted_steps(x, time_axis(self.layer), lengths, mask)
        count = self.num_layers * len(self._directions(0))
        if initial is not None and self._layered:
            check_leading(initial, count)
        lasts: list[Any] = []
        for level in range(self.num_layers):
            if level and self.dropout:
                x = jax.tree.map(lambda a: F.dropout(a, self.dropout, train, key=fold_index(key, count + level)), x)  # noqa: B023
            outputs = []
            for suffix, reverse in self._directions(level):
                index = len(lasts)
                hx = jax.tree.map(lambda a: a[index], initial) if self._layered else initial  # noqa: B023
                y, last = one(suffix, reverse, x, hx, mask, fold_index(key, index))
                outputs.append(y)
                lasts.append(last)
            x = outputs[0] if len(outputs) == 1 else jax.tree.map(lambda *y: jnp.concatenate(y, -1), *outputs)
        if valid is not None:
            x, lasts = jax.tree.map(lambda a: or_nan(a, jnp.expand_dims(valid, range(valid.ndim, a.ndim))), (x, lasts))
        if not (self.return_state if return_state is None else return_state):
            return x
        return x, (jax.tree.map(lambda *rows: jnp.stack(rows), *lasts) if self._layered else lasts[0])


def check_layers(name: str, num_layers: Any, dropout: Any) -> None:
    """Raise ValueError for a number of layers or a probability that is none."""
    if not isinstance(num_layers, int) or num_layers < 1:
        raise ValueError(f"{name} needs num_layers of at least 1, got {num_layers!r}")
    if isinstance(dropout, bool) or not 0.0 <= dropout <= 1.0:  # PyTorch's fourth after the size is batch_first
        raise ValueError(f"{name}'s dropout is a probability between 0 and 1, got {dropout!r}")
    if dropout and num_layers == 1:
        raise ValueError(
            f"{name}'s dropout={dropout} acts between layers, and num_layers is 1; put nn.Dropout after it"
        )


def _own(tree: Tree, suffix: str) -> Tree:
    """The arrays of one cell, by the cell's own names."""
    if not suffix or isinstance(tree, NoState):
        return tree
    own = {name.removesuffix(suffix): value for name, value in tree.items() if name.endswith(suffix)}
    if tree and not own:
        raise KeyError(f"no array's name ends in {suffix!r}; there are {', '.join(map(repr, tree))}")
    return own


def _merged(tree: Tree, own: Tree, suffix: str) -> Tree:
    if not own:
        return tree
    return {**tree, **{name + suffix: value for name, value in own.items()}} if suffix else own
