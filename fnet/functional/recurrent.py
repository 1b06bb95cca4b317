"""Recurrent cells and whole sequences: the Elman RNN, the LSTM and the GRU, with PyTorch's formulas and gate orders.

Weights have JAX's layout, PyTorch's transposed: weight_ih (in, gates * hidden), weight_hh (hidden, gates * hidden).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fnet.functional.dtypes import to_weight_dtype
from fnet.functional.linear import linear
from fnet.functional.recurrence import ELMAN, GRU, LSTM, Carry, Gates, hold, recur


def rnn_cell(
    x: ArrayLike, hx: ArrayLike | None, weight_ih: ArrayLike, weight_hh: ArrayLike, bias_ih: ArrayLike | None = None,
    bias_hh: ArrayLike | None = None, nonlinearity: str = "tanh",
) -> jax.Array:  # fmt: skip
    """One step of Elman's network: h' = tanh(x W_ih + b_ih + h W_hh + b_hh), or relu.

    Shapes: x (..., in), hx (..., hidden) or None for zeros, weight_ih (in, hidden), weight_hh (hidden, hidden), biases
    (hidden,) -> (..., hidden), in the weight's dtype. Source: Elman 1990; PyTorch's RNNCell.

    Raises TypeError for integer x, ValueError for shapes that do not fit or another nonlinearity.

    >>> rnn_cell(jnp.ones((2, 3)), None, jnp.ones((3, 4)), jnp.ones((4, 4))).shape
    (2, 4)
    """
    gates = _elman(nonlinearity)
    return _cell(gates, x, None if hx is None else (hx,), weight_ih, weight_hh, bias_ih, bias_hh)[0]


def lstm_cell(
    x: ArrayLike, hx: tuple[ArrayLike, ArrayLike] | None, weight_ih: ArrayLike, weight_hh: ArrayLike,
    bias_ih: ArrayLike | None = None, bias_hh: ArrayLike | None = None, *, weight_hr: ArrayLike | None = None,
) -> tuple[jax.Array, jax.Array]:  # fmt: skip
    """One step of an LSTM, (h', c') from hx = (h, c): i, f, g, o = x W_ih + b_ih + h W_hh + b_hh in this order,
    c' = σ(f) c + σ(i) tanh(g), h' = σ(o) tanh(c').

    Shapes: x (..., in), h and c (..., hidden), hx None for zeros, weight_ih (in, 4 hidden), weight_hh (hidden,
    4 hidden), biases (4 hidden,). With `weight_hr` (hidden, proj) the state is projected, h' = (σ(o) tanh(c')) W_hr,
    of proj features, as weight_hh's rows then are (Sak et al. 2014, arXiv:1402.1128). Source: Hochreiter and
    Schmidhuber 1997; PyTorch's LSTMCell.

    Raises TypeError for integer x or an hx that is no pair, ValueError for shapes that do not fit.

    >>> h, c = lstm_cell(jnp.ones((2, 3)), None, jnp.ones((3, 16)), jnp.ones((4, 16)))
    >>> h.shape, c.shape
    ((2, 4), (2, 4))
    """
    h, c = _cell(LSTM, x, _pair(hx), weight_ih, weight_hh, bias_ih, bias_hh, weight_hr)
    return h, c


def gru_cell(
    x: ArrayLike, hx: ArrayLike | None, weight_ih: ArrayLike, weight_hh: ArrayLike, bias_ih: ArrayLike | None = None,
    bias_hh: ArrayLike | None = None,
) -> jax.Array:  # fmt: skip
    """One step of a GRU: r, z = σ(x W_ih + b_ih + h W_hh + b_hh), n = tanh(x W_in + b_in + r (h W_hn + b_hn)),
    h' = (1 - z) n + z h.

    Shapes: x (..., in), hx (..., hidden) or None for zeros, weight_ih (in, 3 hidden), weight_hh (hidden, 3 hidden),
    biases (3 hidden,) -> (..., hidden). Source: Cho et al. 2014; PyTorch's GRUCell, where r acts after the matmul.

    Raises TypeError for integer x, ValueError for shapes that do not fit.

    >>> gru_cell(jnp.ones((2, 3)), None, jnp.ones((3, 12)), jnp.ones((4, 12))).shape
    (2, 4)
    """
    return _cell(GRU, x, None if hx is None else (hx,), weight_ih, weight_hh, bias_ih, bias_hh)[0]


def rnn(
    x: ArrayLike, hx: ArrayLike | None, weight_ih: ArrayLike, weight_hh: ArrayLike, bias_ih: ArrayLike | None = None,
    bias_hh: ArrayLike | None = None, nonlinearity: str = "tanh", *, mask: ArrayLike | None = None,
    reverse: bool = False,
) -> tuple[jax.Array, jax.Array]:  # fmt: skip
    """`rnn_cell` over time: (h after each step, h after the last).

    Shapes: x (..., time, in), hx (..., hidden) or None -> ((..., time, hidden), (..., hidden)). Steps where the bool
    `mask` (..., time) is False leave the state as it is and give zeros. With `reverse` time runs from the last step
    to the first, and the outputs keep their places.

    >>> y, h = rnn(jnp.ones((2, 5, 3)), None, jnp.ones((3, 4)), jnp.ones((4, 4)))
    >>> y.shape, h.shape
    ((2, 5, 4), (2, 4))
    """
    gates = _elman(nonlinearity)
    carry = None if hx is None else (hx,)
    y, (h,) = _sequence(gates, x, carry, weight_ih, weight_hh, bias_ih, bias_hh, mask, reverse)
    return y, h


def lstm(
    x: ArrayLike, hx: tuple[ArrayLike, ArrayLike] | None, weight_ih: ArrayLike, weight_hh: ArrayLike,
    bias_ih: ArrayLike | None = None, bias_hh: ArrayLike | None = None, *, weight_hr: ArrayLike | None = None,
    mask: ArrayLike | None = None, reverse: bool = False,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:  # fmt: skip
    """`lstm_cell` over time: (h after each step, (h, c) after the last). Shapes, `mask` and `reverse` as in `rnn`.

    >>> y, (h, c) = lstm(jnp.ones((2, 5, 3)), None, jnp.ones((3, 16)), jnp.ones((4, 16)))
    >>> y.shape, h.shape, c.shape
    ((2, 5, 4), (2, 4), (2, 4))
    """
    y, (h, c) = _sequence(LSTM, x, _pair(hx), weight_ih, weight_hh, bias_ih, bias_hh, mask, reverse, weight_hr)
    return y, (h, c)


def gru(
    x: ArrayLike, hx: ArrayLike | None, weight_ih: ArrayLike, weight_hh: ArrayLike, bias_ih: ArrayLike | None = None,
    bias_hh: ArrayLike | None = None, *, mask: ArrayLike | None = None, reverse: bool = False,
) -> tuple[jax.Array, jax.Array]:  # fmt: skip
    """`gru_cell` over time: (h after each step, h after the last). Shapes, `mask` and `reverse` as in `rnn`.

    >>> y, h = gru(jnp.ones((2, 5, 3)), None, jnp.ones((3, 12)), jnp.ones((4, 12)))
    >>> y.shape, h.shape
    ((2, 5, 4), (2, 4))
    """
    carry = None if hx is None else (hx,)
    y, (h,) = _sequence(GRU, x, carry, weight_ih, weight_hh, bias_ih, bias_hh, mask, reverse)
    return y, h


def _cell(
    gates: Gates, x: Any, carry: Any, weight_ih: Any, weight_hh: Any, bias_ih: Any, bias_hh: Any, weight_hr: Any = None
) -> Carry:
    x, weight_hh, bias, weight_hr = _project(gates, x, weight_ih, weight_hh, bias_ih, bias_hh, weight_hr)
    carry = _initial(gates, carry, x.shape[:-1], weight_hh)
    return _projected(gates.step(gates.split(x), linear(carry[0], weight_hh, bias), carry)[0], weight_hr)


def _sequence(
    gates: Gates, x: Any, carry: Any, weight_ih: Any, weight_hh: Any, bias_ih: Any, bias_hh: Any, mask: Any,
    reverse: bool, weight_hr: Any = None,
) -> tuple[jax.Array, Carry]:  # fmt: skip
    if jnp.ndim(x) < 2:
        raise ValueError(f"{gates.name}: x has shape {jnp.shape(x)}, expected (..., time, in)")
    x = jnp.moveaxis(jnp.asarray(x), -2, 0)
    x_tbg, weight_hh, bias, weight_hr = _project(gates, x, weight_ih, weight_hh, bias_ih, bias_hh, weight_hr)
    carry = _initial(gates, carry, x_tbg.shape[1:-1], weight_hh)
    mask_tb1 = None if mask is None else _time_mask(gates, mask, x_tbg.shape)
    if weight_hr is None:
        carry, h_tbh = recur(gates, reverse, x_tbg, carry, weight_hh, bias, mask_tb1)
    else:

        def step(carry: Carry, inputs: Any) -> tuple[Carry, jax.Array]:
            x, mask = inputs
            new = _projected(gates.step(x, linear(carry[0], weight_hh, bias), carry)[0], weight_hr)
            new = hold(mask, new, carry)
            return new, new[0]

        carry, h_tbh = jax.lax.scan(step, carry, (x_tbg, mask_tb1), reverse=reverse)
    if mask_tb1 is not None:
        h_tbh = jnp.where(mask_tb1, h_tbh, 0)
    return jnp.moveaxis(h_tbh, 0, -2), carry


def _projected(carry: Carry, weight_hr: jax.Array | None) -> Carry:
    """The carry of a step with its h projected, if there is a weight to do so."""
    return carry if weight_hr is None else (linear(carry[0], weight_hr), *carry[1:])


def _project(
    gates: Gates, x: Any, weight_ih: Any, weight_hh: Any, bias_ih: Any, bias_hh: Any, weight_hr: Any
) -> tuple[jax.Array, jax.Array, Any, Any]:
    """What x adds to the gates, for all steps in one matmul; and the recurrent weight, bias and projection."""
    weight_ih, weight_hh = jnp.asarray(weight_ih), jnp.asarray(weight_hh)
    wide = weight_hh.shape[-1] if weight_hh.ndim == 2 else 0
    hidden = wide // gates.width
    if weight_hr is not None:
        weight_hr = to_weight_dtype(weight_hr, weight_ih, f"{gates.name} weight_hr")
        if weight_hr.ndim != 2 or weight_hr.shape[0] != hidden:
            raise ValueError(f"{gates.name}: weight_hr has shape {weight_hr.shape}, expected ({hidden}, proj)")
    rows = hidden if weight_hr is None else weight_hr.shape[1]
    if weight_hh.shape != (rows, wide) or weight_ih.shape[1:] != (wide,) or wide % gates.width:
        raise ValueError(
            f"{gates.name}: weight_ih has shape {weight_ih.shape} and weight_hh {weight_hh.shape}, expected "
            f"(in, {gates.width} * hidden) and ({'hidden' if weight_hr is None else rows}, {gates.width} * hidden), "
            "PyTorch's transposed"
        )
    x = to_weight_dtype(x, weight_ih, gates.name)
    if x.ndim == 0 or x.shape[-1] != weight_ih.shape[0]:
        raise ValueError(
            f"{gates.name}: x has {x.shape[-1] if x.ndim else 'no'} features (shape {x.shape} here), expected "
            f"{weight_ih.shape[0]}, the rows of weight_ih {weight_ih.shape}"
        )
    for name, bias in (("bias_ih", bias_ih), ("bias_hh", bias_hh)):
        if bias is not None and jnp.shape(bias) != (wide,):
            raise ValueError(f"{gates.name}: {name} has shape {jnp.shape(bias)}, expected ({wide},)")
    if bias_hh is not None and gates is not GRU:  # only a GRU has anything between the two biases
        bias_ih, bias_hh = bias_hh if bias_ih is None else jnp.asarray(bias_ih) + bias_hh, None
    weight_hh = to_weight_dtype(weight_hh, weight_ih, f"{gates.name} weight_hh")
    return linear(x, weight_ih, bias_ih), weight_hh, bias_hh, weight_hr


def _initial(gates: Gates, carry: Any, batch: tuple[int, ...], weight_hh: jax.Array) -> Carry:
    rows, wide = weight_hh.shape
    shapes = [(*batch, rows), (*batch, wide // gates.width)][: 2 if gates is LSTM else 1]
    if carry is None:
        return tuple(jnp.zeros(shape, weight_hh.dtype) for shape in shapes)
    arrays = tuple(to_weight_dtype(array, weight_hh, f"{gates.name} hx") for array in carry)
    for array, shape in zip(arrays, shapes, strict=True):
        if array.shape != shape:
            raise ValueError(f"{gates.name}: the state hx has shape {array.shape}, expected {shape}")
    return arrays


def _time_mask(gates: Gates, mask: Any, shape: tuple[int, ...]) -> jax.Array:
    mask = jnp.asarray(mask)
    expected = (*shape[1:-1], shape[0])
    if mask.dtype != bool:
        raise TypeError(f"{gates.name}: mask is {mask.dtype}, expected bool (True: a step that counts); pass mask > 0")
    if mask.shape != expected:
        raise ValueError(f"{gates.name}: mask has shape {mask.shape}, expected {expected}: the batch axes, then time")
    return jnp.moveaxis(mask, -1, 0)[..., None]


def _pair(hx: Any) -> Any:
    if hx is None or (isinstance(hx, tuple | list) and len(hx) == 2):
        return hx
    raise TypeError(f"lstm: the state hx is a pair (h, c) or None, got {type(hx).__name__}")


def _elman(nonlinearity: str) -> Gates:
    if nonlinearity not in ELMAN:
        raise ValueError(f'rnn: nonlinearity={nonlinearity!r}, expected "tanh" or "relu"')
    return ELMAN[nonlinearity]
