"""A gated recurrence over time, and its derivative in a form that runs fast forwards and backwards.

Differentiating the obvious scan adds T products (H, B) @ (B, G) into the gradient of the recurrent weight, one a step.
Here the tangent is written out: h_{t-1} @ dW for all steps is one matmul before the tangent's scan, so that its
transpose, the weight's gradient, is one matmul after the reverse scan; and the slopes of the gates are computed for all
steps at once, so that what is left in each step is one matmul and products. It is a `custom_jvp` and not a
`custom_vjp`, so forward mode, reverse mode and second derivatives all come from this one rule.

Shapes: T steps, B any batch axes, H hidden, G = gates * H.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fnet.functional.linear import linear

Carry = tuple[jax.Array, ...]  # (h,) or (h, c)


class Gates(NamedTuple):
    """What a cell does after the matmuls: elementwise on pre-activations from the input and from the hidden state."""

    name: str
    width: int  # gates in a row of a weight
    step: Callable[..., Any]  # (x, h pre-activations, carry) -> (new carry, activations worth keeping)
    slopes: Callable[..., Any]  # (kept, carry before, carry after) -> what `tangent` and `merge` multiply by
    merge: Callable[..., Any]  # (slopes, tangents of the x and of the h pre-activations) -> of their sum
    tangent: Callable[..., Any]  # (slopes, tangent of the pre-activations, of the carry) -> of the new carry
    product: Callable[..., jax.Array] = linear  # (h, w, b) -> what h adds to the pre-activations, linear in all
    split: Callable[[jax.Array], Any] = lambda x: x  # x pre-activations -> the form of them that `step` takes


def _scan(gates: Gates, reverse: bool, x: jax.Array, carry: Carry, w: jax.Array, b: Any, mask: Any, keep: bool) -> Any:
    def step(carry: Carry, inputs: Any) -> tuple[Carry, Any]:
        x, mask = inputs
        new, kept = gates.step(x, gates.product(carry[0], w, b), carry)
        new = hold(mask, new, carry)
        return new, ((new, kept) if keep else new[0])

    return jax.lax.scan(step, carry, (gates.split(x), mask), reverse=reverse)


def hold(mask: Any, new: Carry, old: Carry) -> Carry:
    """The new carry where the mask is True, the old one elsewhere."""
    return new if mask is None else tuple(jnp.where(mask, a, b) for a, b in zip(new, old, strict=True))


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def recur(
    gates: Gates, reverse: bool, x_tbg: jax.Array, carry: Carry, w_hg: jax.Array, b_g: Any, mask_tb1: Any
) -> tuple[Carry, jax.Array]:
    """The last carry, and the hidden state h after each step (T, B, H), for pre-activations of the input `x_tbg`.

    Where `mask_tb1` (or None) is False the carry stays as it was. With `reverse` the steps are taken from the last to
    the first; h keeps the order of time.
    """
    return _scan(gates, reverse, x_tbg, carry, w_hg, b_g, mask_tb1, keep=False)


@recur.defjvp
def _recur_jvp(gates: Gates, reverse: bool, primals: Any, tangents: Any) -> Any:
    x, carry, w, b, mask = primals
    dx, dcarry, dw, db, _ = tangents
    last, (after, kept) = _scan(gates, reverse, x, carry, w, b, mask, keep=True)
    before = tuple(_shifted(first, steps, reverse) for first, steps in zip(carry, after, strict=True))
    slopes = gates.slopes(kept, before, after)
    da = gates.merge(slopes, dx, gates.product(before[0], dw, db))

    def step(dcarry: Carry, inputs: Any) -> tuple[Carry, jax.Array]:
        slopes, da, mask = inputs
        new = gates.tangent(slopes, gates.merge(slopes, da, gates.product(dcarry[0], w)), dcarry)
        new = hold(mask, new, dcarry)
        return new, new[0]

    return (last, after[0]), jax.lax.scan(step, dcarry, (slopes, da, mask), reverse=reverse)


def _shifted(first: jax.Array, steps: jax.Array, reverse: bool) -> jax.Array:
    """What the carry was before each step."""
    return jnp.concatenate([steps[1:], first[None]] if reverse else [first[None], steps[:-1]])


def _add(slopes: Any, dx: jax.Array, dh: jax.Array) -> jax.Array:
    return dx + dh


# h' = tanh(a) or relu(a)


def _elman(activation: Callable[[jax.Array], jax.Array], slope: Callable[[jax.Array], jax.Array]) -> Gates:
    def step(x: jax.Array, h: jax.Array, carry: Carry) -> tuple[Carry, None]:
        return (activation(x + h),), None

    def slopes(kept: None, before: Carry, after: Carry) -> jax.Array:
        return slope(after[0])

    def tangent(k: jax.Array, da: jax.Array, dcarry: Carry) -> Carry:
        return (k * da,)

    return Gates("rnn", 1, step, slopes, _add, tangent)


ELMAN = {
    "tanh": _elman(jnp.tanh, lambda h: 1 - h * h),
    "relu": _elman(jax.nn.relu, lambda h: (h > 0).astype(h.dtype)),
}


# i, f, o = sigmoid, g = tanh;  c' = f c + i g,  h' = o tanh(c').  Hochreiter and Schmidhuber 1997, Gers et al. 2000.


def _lstm_step(x: jax.Array, h: jax.Array, carry: Carry) -> tuple[Carry, jax.Array]:
    kept = _packed_gates(x + h) if _tanh_is_faster() else _gates(x + h)
    i, f, g, o = jnp.split(kept, 4, axis=-1)
    c = f * carry[1] + i * g
    return (o * jnp.tanh(c), c), kept


def _gates(a: jax.Array) -> jax.Array:
    i, f, g, o = jnp.split(a, 4, axis=-1)
    return jnp.concatenate([jax.nn.sigmoid(i), jax.nn.sigmoid(f), jnp.tanh(g), jax.nn.sigmoid(o)], axis=-1)


def _packed_gates(a: jax.Array) -> jax.Array:
    """The four gates in one tanh: sigmoid(x) = tanh(x / 2) / 2 + 1 / 2."""
    size = a.shape[-1] // 4
    scale = jnp.repeat(jnp.array([0.5, 0.5, 1.0, 0.5], a.dtype), size)
    return jnp.tanh(a * scale) * scale + (1 - scale)


def _tanh_is_faster() -> bool:
    """Whether to compute a sigmoid as a tanh: on CPU, XLA has the latter as a polynomial without exp and division, and
    one kernel for four gates in place of five makes the LSTM's forward 1.5x faster. Both are equal to an ulp of 1."""
    return jax.default_backend() == "cpu"


def _lstm_slopes(kept: jax.Array, before: Carry, after: Carry) -> tuple[jax.Array, ...]:
    i, f, g, o = jnp.split(kept, 4, axis=-1)
    t = jnp.tanh(after[1])
    k = [g * i * (1 - i), before[1] * f * (1 - f), i * (1 - g * g), t * o * (1 - o)]
    return jnp.concatenate(k, axis=-1), f, o * (1 - t * t)


def _lstm_tangent(slopes: tuple[jax.Array, ...], da: jax.Array, dcarry: Carry) -> Carry:
    k, f, dh_dc = slopes
    i, f_, g, o = jnp.split(k * da, 4, axis=-1)
    dc = f * dcarry[1] + i + f_ + g
    return dh_dc * dc + o, dc


LSTM = Gates("lstm", 4, _lstm_step, _lstm_slopes, _add, _lstm_tangent)


# r, z = sigmoid;  n = tanh(x_n + r h_n),  h' = n + z (h - n).  Cho et al. 2014, with r after the matmul as in cuDNN.


def _thirds(x: jax.Array) -> list[jax.Array]:
    """The gates apart before the scan: steps that each take parts of one slice are twice as slow on CPU."""
    return jnp.split(x, 3, axis=-1)


def _gru_step(x: list[jax.Array], h: jax.Array, carry: Carry) -> tuple[Carry, jax.Array]:
    h_r, h_z, h_n = jnp.split(h, 3, axis=-1)
    r, z = (_sigmoid(a + b) for a, b in ((x[0], h_r), (x[1], h_z)))
    n = jnp.tanh(x[2] + r * h_n)
    return (n + z * (carry[0] - n),), jnp.concatenate([r, z, n, h_n], axis=-1)


def _sigmoid(a: jax.Array) -> jax.Array:
    return jnp.tanh(a / 2) / 2 + 0.5 if _tanh_is_faster() else jax.nn.sigmoid(a)


def _gru_slopes(kept: jax.Array, before: Carry, after: Carry) -> tuple[jax.Array, ...]:
    r, z, n, h_n = jnp.split(kept, 4, axis=-1)
    k_n = (1 - z) * (1 - n * n)
    k = [k_n * h_n * r * (1 - r), (before[0] - n) * z * (1 - z), k_n]
    return jnp.concatenate(k, axis=-1), z, r


def _gru_merge(slopes: tuple[jax.Array, ...], dx: jax.Array, dh: jax.Array) -> jax.Array:
    r, size = slopes[2], slopes[2].shape[-1]
    return dx + jnp.concatenate([dh[..., : 2 * size], r * dh[..., 2 * size :]], axis=-1)


def _gru_tangent(slopes: tuple[jax.Array, ...], da: jax.Array, dcarry: Carry) -> Carry:
    k, z, _ = slopes
    r_, z_, n_ = jnp.split(k * da, 3, axis=-1)
    return (r_ + z_ + n_ + z * dcarry[0],)


GRU = Gates("gru", 3, _gru_step, _gru_slopes, _gru_merge, _gru_tangent, split=_thirds)
