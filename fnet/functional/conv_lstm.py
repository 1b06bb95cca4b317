"""The convolutional LSTM."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fnet.functional.convolution import conv
from fnet.functional.recurrence import LSTM, recur


def _same(h: jax.Array, weight: jax.Array, bias: Any = None) -> jax.Array:
    return conv(h, weight, bias, padding="SAME")


CONV_LSTM = LSTM._replace(name="conv_lstm", product=_same)


def conv_lstm(
    x: ArrayLike, hx: tuple[ArrayLike, ArrayLike] | None, weight_ih: ArrayLike, weight_hh: ArrayLike,
    bias: ArrayLike | None = None, *, mask: ArrayLike | None = None, reverse: bool = False,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:  # fmt: skip
    """An LSTM over time whose gates are convolutions, "SAME" padded: (h after each step, (h, c) after the last).

    i, f, g, o = conv(x, W_ih) + b + conv(h, W_hh); then as in `lstm_cell`. Shapes: x (batch, time, *spatial, in), h and
    c (batch, *spatial, hidden) or hx None for zeros, weight_ih (*kernel, in, 4 hidden), weight_hh (*kernel, hidden,
    4 hidden), bias (4 hidden,) -> (batch, time, *spatial, hidden) and (h, c). `mask` (batch, time) and `reverse` as in
    `rnn`. Source: Shi et al. 2015, without the peephole connections.

    >>> y, (h, c) = conv_lstm(jnp.ones((2, 5, 8, 8, 3)), None, jnp.ones((3, 3, 3, 16)), jnp.ones((3, 3, 4, 16)))
    >>> y.shape, h.shape
    ((2, 5, 8, 8, 4), (2, 8, 8, 4))
    """
    weight_ih, weight_hh = jnp.asarray(weight_ih), jnp.asarray(weight_hh)
    wide, hidden = weight_hh.shape[-1], weight_hh.shape[-2]
    if wide != 4 * hidden or weight_ih.shape[-1:] != (wide,) or weight_ih.ndim != weight_hh.ndim:
        raise ValueError(
            f"conv_lstm: weight_ih has shape {weight_ih.shape} and weight_hh {weight_hh.shape}, expected "
            "(*kernel, in, 4 * hidden) and (*kernel, hidden, 4 * hidden)"
        )
    if jnp.ndim(x) != weight_ih.ndim + 1:
        raise ValueError(f"conv_lstm: x has shape {jnp.shape(x)}, expected (batch, time, *spatial, in) for a kernel of "
                         f"{weight_ih.ndim - 2} axes")  # fmt: skip
    x_tbsg = jnp.moveaxis(_same(jnp.asarray(x), weight_ih, bias), 1, 0)
    shape = (*x_tbsg.shape[1:-1], hidden)
    if hx is None:
        zeros = jnp.zeros(shape, weight_hh.dtype)
        hx = (zeros, zeros)
    h, c = (jnp.asarray(a, weight_hh.dtype) for a in hx)
    if h.shape != shape or c.shape != shape:
        raise ValueError(f"conv_lstm: the state hx has shapes {h.shape} and {c.shape}, expected {shape} twice")
    mask_t = None if mask is None else jnp.moveaxis(jnp.asarray(mask, bool), 1, 0)
    if mask_t is not None:
        mask_t = jnp.expand_dims(mask_t, range(2, x_tbsg.ndim))
    (h, c), y = recur(CONV_LSTM, reverse, x_tbsg, (h, c), weight_hh, None, mask_t)
    if mask_t is not None:
        y = jnp.where(mask_t, y, 0)
    return jnp.moveaxis(y, 0, 1), (h, c)


def conv_lstm_cell(
    x: ArrayLike, hx: tuple[ArrayLike, ArrayLike] | None, weight_ih: ArrayLike, weight_hh: ArrayLike,
    bias: ArrayLike | None = None,
) -> tuple[jax.Array, jax.Array]:  # fmt: skip
    """One step of `conv_lstm`: the new (h, c) for x (batch, *spatial, in).

    >>> h, c = conv_lstm_cell(jnp.ones((2, 8, 8, 3)), None, jnp.ones((3, 3, 3, 16)), jnp.ones((3, 3, 4, 16)))
    >>> h.shape
    (2, 8, 8, 4)
    """
    return conv_lstm(jnp.asarray(x)[:, None], hx, weight_ih, weight_hh, bias)[1]
