"""The cells of PyTorch: one step of a recurrence, (x, state) -> new state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from fnet import functional as F
from fnet import init
from fnet.nn.core import Layer, Param


@dataclass(frozen=True, repr=False)
class _Cell(Layer):
    keyless = True
    gates: ClassVar[int]
    time_axis: ClassVar[int] = -2  # any number of batch axes before time

    hidden_size: int
    bias: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        name = type(self).__name__
        if not isinstance(self.hidden_size, int) or self.hidden_size < 1:
            raise ValueError(f"{name} needs hidden_size of at least 1, got {self.hidden_size!r}")
        if not isinstance(self.bias, bool):
            raise TypeError(
                f"{name}'s bias is True or False, got {self.bias!r}; the input's width is read from the data, so "
                f"PyTorch's {name}(in, hidden) is {name}(hidden) here"
            )

    def spec(self, x: Any, hx: Any = None) -> dict[str, Param]:
        if len(x.shape) < 1:
            raise ValueError(f"{type(self).__name__} needs an input of at least one axis, (…, features); got a scalar")
        draw, wide = init.torch_uniform(self.hidden_size), self.gates * self.hidden_size
        spec = {"weight_ih": Param((x.shape[-1], wide), draw), "weight_hh": Param((self.hidden_size, wide), draw)}
        if self.bias:
            spec |= {"bias_ih": Param((wide,), draw), "bias_hh": Param((wide,), draw)}
        return spec

    def _weights(self, params: dict) -> dict[str, Any]:
        names = ["weight_ih", "weight_hh", *(["bias_ih", "bias_hh"] if self.bias else [])]
        return {name: params[name] for name in names}


@dataclass(frozen=True, repr=False)
class RNNCell(_Cell):
    """One step of Elman's network: ``h' = tanh(x @ weight_ih + bias_ih + h @ weight_hh + bias_hh)``, or relu.

    Input x ``(…, features)`` and the state h ``(…, hidden_size)``, zeros if it is left out; output the new state.
    ``weight_ih`` is ``(features, hidden_size)``, ``weight_hh`` ``(hidden_size, hidden_size)``, all drawn as PyTorch
    does, uniform in ±1/√hidden_size. Source: Elman 1990.

    >>> import jax, jax.numpy as jnp
    >>> from fnet import nn
    >>> params, _ = nn.RNNCell(4).init(jax.random.key(0), jnp.ones((2, 3)))
    >>> nn.RNNCell(4)(params, jnp.ones((2, 3)), jnp.zeros((2, 4))).shape
    (2, 4)
    """

    gates = 1

    nonlinearity: str = "tanh"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nonlinearity not in ("tanh", "relu"):
            raise ValueError(f'RNNCell\'s nonlinearity is "tanh" or "relu", got {self.nonlinearity!r}')

    def apply(self, params: dict, state: dict, x: Any, hx: Any = None, key: Any = None, train: bool = False) -> Any:
        return F.rnn_cell(x, hx, nonlinearity=self.nonlinearity, **self._weights(params)), state

    def sequence(self, params: dict, x: Any, hx: Any, mask: Any, reverse: bool) -> Any:
        """All steps at once, as `RNN` asks for them: (outputs, last state)."""
        return F.rnn(x, hx, nonlinearity=self.nonlinearity, **self._weights(params), mask=mask, reverse=reverse)


@dataclass(frozen=True, repr=False)
class LSTMCell(_Cell):
    """One step of an LSTM: the new ``(h, c)`` for x and ``(h, c)``; see `functional.lstm_cell` for the formula.

    Input x ``(…, features)``; h and c are ``(…, hidden_size)``, zeros if the pair is left out. ``weight_ih`` is
    ``(features, 4 * hidden_size)`` with the gates i, f, g, o in PyTorch's order, ``weight_hh`` ``(hidden_size,
    4 * hidden_size)``, all drawn uniform in ±1/√hidden_size. With ``proj_size`` h is ``(…, proj_size)``, projected by
    ``weight_hr`` ``(hidden_size, proj_size)``. Source: Hochreiter and Schmidhuber 1997; Sak et al. 2014.

    >>> import jax, jax.numpy as jnp
    >>> from fnet import nn
    >>> params, _ = nn.LSTMCell(4).init(jax.random.key(0), jnp.ones((2, 3)))
    >>> h, c = nn.LSTMCell(4)(params, jnp.ones((2, 3)))
    >>> h.shape, params["weight_ih"].shape
    ((2, 4), (3, 16))
    """

    gates = 4

    proj_size: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.proj_size, int) or not 0 <= self.proj_size < self.hidden_size:
            raise ValueError(
                f"LSTM's proj_size is smaller than its hidden_size={self.hidden_size}, and 0 for no projection; got "
                f"{self.proj_size!r}"
            )

    def spec(self, x: Any, hx: Any = None) -> dict[str, Param]:
        spec = super().spec(x, hx)
        if self.proj_size:
            draw = init.torch_uniform(self.hidden_size)
            spec["weight_hh"] = Param((self.proj_size, 4 * self.hidden_size), draw)
            spec["weight_hr"] = Param((self.hidden_size, self.proj_size), draw)
        return spec

    def _weights(self, params: dict) -> dict[str, Any]:
        weights = super()._weights(params)
        return weights | {"weight_hr": params["weight_hr"]} if self.proj_size else weights

    def apply(self, params: dict, state: dict, x: Any, hx: Any = None, key: Any = None, train: bool = False) -> Any:
        return F.lstm_cell(x, hx, **self._weights(params)), state

    def sequence(self, params: dict, x: Any, hx: Any, mask: Any, reverse: bool) -> Any:
        """All steps at once, as `RNN` asks for them: (outputs, last state)."""
        return F.lstm(x, hx, **self._weights(params), mask=mask, reverse=reverse)


@dataclass(frozen=True, repr=False)
class GRUCell(_Cell):
    """One step of a GRU: the new h for x and h; see `functional.gru_cell` for the formula.

    Input x ``(…, features)``; h is ``(…, hidden_size)``, zeros if it is left out. ``weight_ih`` is ``(features,
    3 * hidden_size)`` with the gates r, z, n in PyTorch's order, ``weight_hh`` ``(hidden_size, 3 * hidden_size)``,
    all drawn uniform in ±1/√hidden_size. Source: Cho et al. 2014.

    >>> import jax, jax.numpy as jnp
    >>> from fnet import nn
    >>> params, _ = nn.GRUCell(4).init(jax.random.key(0), jnp.ones((2, 3)))
    >>> nn.GRUCell(4)(params, jnp.ones((2, 3))).shape
    (2, 4)
    """

    gates = 3

    def apply(self, params: dict, state: dict, x: Any, hx: Any = None, key: Any = None, train: bool = False) -> Any:
        return F.gru_cell(x, hx, **self._weights(params)), state

    def sequence(self, params: dict, x: Any, hx: Any, mask: Any, reverse: bool) -> Any:
        """All steps at once, as `RNN` asks for them: (outputs, last state)."""
        return F.gru(x, hx, **self._weights(params), mask=mask, reverse=reverse)
