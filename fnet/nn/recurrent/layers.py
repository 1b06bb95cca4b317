"""PyTorch's recurrent layers: `RNN` over a cell of one kind, under PyTorch's names."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from fnet.nn.core import Layer
from fnet.nn.core.param import Spec, Tree
from fnet.nn.core.walk import specs_of
from fnet.nn.recurrent.cells import GRUCell, LSTMCell, RNNCell
from fnet.nn.recurrent.rnn import RNN, check_layers


class _Layered(RNN):
    """`RNN` with names that end in ``_l0`` and states with a leading axis, also where there is one layer."""

    always_layered = True


class _Recurrent(Layer):
    num_layers: int
    dropout: float
    bidirectional: bool
    return_state: bool

    def __post_init__(self) -> None:
        super().__post_init__()
        check_layers(type(self).__name__, self.num_layers, self.dropout)
        self._cell()

    @abstractmethod
    def _cell(self) -> Layer: ...

    def _rnn(self) -> RNN:
        return _Layered(self._cell(), self.num_layers, self.dropout, self.bidirectional, return_state=self.return_state)

    def spec(self, *inputs: Any, **kwargs: Any) -> Spec:
        return specs_of(self, inputs, kwargs, False)

    def record_parts(
        self, inputs: tuple[Any, ...], kwargs: Mapping[str, Any], key: Any, train: bool
    ) -> tuple[Spec, Any]:
        """Walk the cells inside."""
        _refuse_pytorchs_order(self, inputs)
        return self._rnn().record_parts(inputs, kwargs, key, train)

    def apply(
        self, params: Tree, state: Tree, *inputs: Any, key: Any = None, train: bool = False, **kwargs: Any
    ) -> Any:
        return self._rnn().apply(params, state, *inputs, key=key, train=train, **kwargs)


def _refuse_pytorchs_order(layer: Any, inputs: tuple[Any, ...]) -> None:
    """Refuse PyTorch's LSTM(10, 20) of 10 features: as wide as the input, and deeper than anybody stacks."""
    features, size, depth = jnp.shape(inputs[0])[-1:] if inputs else (), layer.hidden_size, layer.num_layers
    if features == (size,) and (depth >= 8 or depth >= max(4, size / 2)):
        name = type(layer).__name__
        raise ValueError(
            f"{name} got hidden_size={size} and num_layers={depth} for an input of {size} features. These are read "
            f"from the data: PyTorch's {name}({size}, {depth}) is {name}({depth}) here. If {depth} layers are meant, "
            f"write nn.RNN(nn.{type(layer._cell()).__name__}({size}), num_layers={depth})"
        )


@dataclass(frozen=True, repr=False)
class LSTM(_Recurrent):
    """PyTorch's LSTM over ``(batch, time, features)``: `RNN` of `LSTMCell`, called as `RNN` is.

    ``lstm(x, initial, lengths=, mask=, return_state=)`` gives ``(batch, time, hidden_size)``, twice as wide where
    ``bidirectional``; with ``return_state`` also ``(h, c)``, each ``(num_layers * directions, batch, hidden_size)``,
    the form of ``initial`` too. With ``proj_size`` outputs and h have that many features. Parameters are
    ``weight_ih_l0``, ``weight_hh_l0``, ``bias_ih_l0``, ``bias_hh_l0``, then ``…_l0_reverse`` and ``…_l1`` as in
    PyTorch, weights transposed. ``dropout`` acts between layers.

    >>> import jax, jax.numpy as jnp
    >>> from fnet import nn
    >>> lstm, x = nn.LSTM(8, num_layers=2, bidirectional=True), jnp.ones((2, 5, 3))
    >>> params, _ = lstm.init(jax.random.key(0), x)
    >>> y, (h, c) = lstm(params, x, return_state=True)
    >>> y.shape, h.shape, params["weight_ih_l1_reverse"].shape
    ((2, 5, 16), (4, 2, 8), (16, 32))
    """

    hidden_size: int
    num_layers: int = 1
    bias: bool = True
    dropout: float = 0.0
    bidirectional: bool = False
    return_state: bool = False
    proj_size: int = 0

    def _cell(self) -> Layer:
        return LSTMCell(self.hidden_size, self.bias, self.proj_size)


@dataclass(frozen=True, repr=False)
class GRU(_Recurrent):
    """PyTorch's GRU over ``(batch, time, features)``: `RNN` of `GRUCell`; shapes, names and call as `LSTM`'s, with
    the state h alone.

    >>> import jax, jax.numpy as jnp
    >>> from fnet import nn
    >>> x = jnp.ones((2, 5, 3))
    >>> params, _ = nn.GRU(8).init(jax.random.key(0), x)
    >>> y, h = nn.GRU(8, return_state=True)(params, x)
    >>> y.shape, h.shape
    ((2, 5, 8), (1, 2, 8))
    """

    hidden_size: int
    num_layers: int = 1
    bias: bool = True
    dropout: float = 0.0
    bidirectional: bool = False
    return_state: bool = False

    def _cell(self) -> Layer:
        return GRUCell(self.hidden_size, self.bias)


@dataclass(frozen=True, repr=False)
class ElmanRNN(_Recurrent):
    """PyTorch's nn.RNN, Elman's network over ``(batch, time, features)``: `RNN` of `RNNCell`; shapes, names and call
    as `LSTM`'s, with the state h alone. (`nn.RNN` is the combinator here.)

    >>> import jax, jax.numpy as jnp
    >>> from fnet import nn
    >>> x = jnp.ones((2, 5, 3))
    >>> params, _ = nn.ElmanRNN(8, nonlinearity="relu").init(jax.random.key(0), x)
    >>> nn.ElmanRNN(8, nonlinearity="relu")(params, x).shape
    (2, 5, 8)
    """

    hidden_size: int
    num_layers: int = 1
    nonlinearity: str = "tanh"
    bias: bool = True
    dropout: float = 0.0
    bidirectional: bool = False
    return_state: bool = False

    def _cell(self) -> Layer:
        return RNNCell(self.hidden_size, self.bias, self.nonlinearity)
