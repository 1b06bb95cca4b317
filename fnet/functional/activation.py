"""Activations: functions of one element, with PyTorch's names, arguments, defaults, and gradients at their kinks.

Any shape, and the input's floating dtype is kept; integers become JAX's default float. Arguments are Python
numbers. Where a function has a corner, the derivative is the one PyTorch takes there, so that training runs
compare: relu'(0) = 0.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fnet.functional.dropout import MissingKey
from fnet.functional.dtypes import as_float, to_weight_dtype
from fnet.functional.once import once
from fnet.functional.softplus import softpluses


def _clip(x: jax.Array, low: float, high: float) -> jax.Array:
    """x clipped to [low, high], with slope 1 strictly inside and 0 elsewhere (jnp.clip has 1/2 on the bounds)."""
    return jnp.where((x > low) & (x < high), x, jax.lax.stop_gradient(jnp.clip(x, low, high)))


def _negative_part(x: jax.Array) -> jax.Array:
    """min(x, 0) with slope 1 at 0: keeps exp away from large x, where its inf would make the gradient NaN."""
    return jnp.where(x > 0, 0, x)


# Piecewise linear


def relu(x: ArrayLike) -> jax.Array:
    """max(x, 0).

    >>> relu(jnp.array([-1.0, 2.0]))
    Array([0., 2.], dtype=float32)
    """
    y = jax.nn.relu(as_float(x))
    return once(y) if y.ndim > 3 else y  # images: what a convolution reads, and its weight gradient reads transposed


def relu6(x: ArrayLike) -> jax.Array:
    """min(max(x, 0), 6). Source: Krizhevsky 2010.

    >>> relu6(jnp.array([-1.0, 7.0]))
    Array([0., 6.], dtype=float32)
    """
    return _clip(as_float(x), 0, 6)


def hardtanh(x: ArrayLike, min_val: float = -1.0, max_val: float = 1.0) -> jax.Array:
    """`x` clipped to [min_val, max_val]. Raises ValueError when the bounds are not in order.

    >>> hardtanh(jnp.array([-3.0, 0.5]))
    Array([-1. ,  0.5], dtype=float32)
    """
    if min_val > max_val:
        raise ValueError(f"hardtanh: min_val={min_val} is above max_val={max_val}")
    return _clip(as_float(x), min_val, max_val)


def hardsigmoid(x: ArrayLike) -> jax.Array:
    """min(max(x + 3, 0), 6) / 6. Source: Howard et al. 2019 (arXiv:1905.02244).

    >>> hardsigmoid(jnp.array([-3.0, 0.0, 3.0]))
    Array([0. , 0.5, 1. ], dtype=float32)
    """
    return _clip(as_float(x) + 3, 0, 6) / 6


def hardswish(x: ArrayLike) -> jax.Array:
    """x * hardsigmoid(x). Source: Howard et al. 2019 (arXiv:1905.02244).

    >>> hardswish(jnp.array([-3.0, 3.0]))
    Array([-0.,  3.], dtype=float32)
    """
    x = as_float(x)
    return x * hardsigmoid(x)


def leaky_relu(x: ArrayLike, negative_slope: float = 0.01) -> jax.Array:
    """x where x > 0, else negative_slope * x. Source: Maas et al. 2013.

    >>> leaky_relu(jnp.array([-1.0, 2.0]), 0.5)
    Array([-0.5,  2. ], dtype=float32)
    """
    x = as_float(x)
    return jnp.where(x > 0, x, negative_slope * x)


def prelu(x: ArrayLike, weight: ArrayLike) -> jax.Array:
    """leaky_relu with learned slopes: x where x > 0, else weight * x. Source: He et al. 2015 (arXiv:1502.01852).

    Shapes: x (..., channels), weight (channels,), (1,) or (). The result has the weight's dtype. Raises TypeError for
    integer `x`, ValueError for another shape of weight.

    >>> prelu(jnp.array([-1.0, 2.0]), jnp.array([0.1, 0.1]))
    Array([-0.1,  2. ], dtype=float32)
    """
    weight = jnp.asarray(weight)
    x = to_weight_dtype(x, weight, "prelu")
    if weight.shape not in ((), (1,), x.shape[-1:]):
        raise ValueError(
            f"prelu: weight has shape {weight.shape}, expected one slope or one per channel of input {x.shape}"
        )
    slope = jnp.broadcast_to(weight, x.shape) if x.ndim else weight.reshape(())
    return jnp.where(x > 0, x, slope * x)


def rrelu(
    x: ArrayLike, lower: float = 1 / 8, upper: float = 1 / 3, train: bool = False, *, key: jax.Array | None = None
) -> jax.Array:
    """leaky_relu whose slopes are drawn from U(lower, upper) when training, and their mean otherwise.

    Source: Xu et al. 2015 (arXiv:1505.00853). Raises MissingKey when training without a key, ValueError when
    the bounds are not in order.

    >>> rrelu(jnp.array([-1.0, 2.0]), 0.25, 0.75)
    Array([-0.5,  2. ], dtype=float32)
    """
    if lower > upper:
        raise ValueError(f"rrelu: lower={lower} is above upper={upper}")
    x = as_float(x)
    if not train:
        return leaky_relu(x, (lower + upper) / 2)
    if key is None:
        raise MissingKey(
            "rrelu with train=True draws its slopes and has no key: "
            "pass key=jax.random.key(seed), a new one for each call"
        )
    return jnp.where(x > 0, x, jax.random.uniform(key, x.shape, x.dtype, lower, upper) * x)


def threshold(x: ArrayLike, threshold: float, value: float) -> jax.Array:
    """x where x > threshold, else `value`.

    >>> threshold(jnp.array([0.1, 2.0]), 1.0, -1.0)
    Array([-1.,  2.], dtype=float32)
    """
    x = as_float(x)
    return jnp.where(x > threshold, x, jnp.asarray(value, x.dtype))


def softshrink(x: ArrayLike, lambd: float = 0.5) -> jax.Array:
    """`x` moved towards 0 by `lambd`, and 0 within `lambd` of it. Raises ValueError for a negative `lambd`.

    >>> softshrink(jnp.array([-2.0, 0.25, 2.0]))
    Array([-1.5,  0. ,  1.5], dtype=float32)
    """
    if lambd < 0:
        raise ValueError(f"softshrink: lambd={lambd}, expected 0 or more")
    x = as_float(x)
    return jnp.where(jnp.abs(x) > lambd, x - jnp.sign(x) * lambd, 0 * x)  # 0 * x keeps a NaN


def hardshrink(x: ArrayLike, lambd: float = 0.5) -> jax.Array:
    """`x` outside [-lambd, lambd], else 0.

    >>> hardshrink(jnp.array([-2.0, 0.25, 2.0]))
    Array([-2.,  0.,  2.], dtype=float32)
    """
    x = as_float(x)
    return jnp.where((x >= -lambd) & (x <= lambd), 0, x)


# Smooth


def sigmoid(x: ArrayLike) -> jax.Array:
    """1 / (1 + exp(-x)).

    >>> sigmoid(jnp.array([0.0, 100.0]))
    Array([0.5, 1. ], dtype=float32)
    """
    return jax.nn.sigmoid(as_float(x))


def logsigmoid(x: ArrayLike) -> jax.Array:
    """log(sigmoid(x)), exact where sigmoid(x) would underflow.

    >>> logsigmoid(jnp.array([-1000.0, 1000.0]))
    Array([-1000.,    -0.], dtype=float32)
    """
    return -softpluses(as_float(x))[1]


def tanh(x: ArrayLike) -> jax.Array:
    """The hyperbolic tangent.

    >>> tanh(jnp.array([0.0, 100.0]))
    Array([0., 1.], dtype=float32)
    """
    return jnp.tanh(as_float(x))


def tanhshrink(x: ArrayLike) -> jax.Array:
    """x - tanh(x).

    >>> tanhshrink(jnp.array([0.0, 10.0]))
    Array([0., 9.], dtype=float32)
    """
    x = as_float(x)
    return x - jnp.tanh(x)


def softsign(x: ArrayLike) -> jax.Array:
    """x / (1 + |x|).

    >>> softsign(jnp.array([-1.0, 3.0]))
    Array([-0.5 ,  0.75], dtype=float32)
    """
    return jax.nn.soft_sign(as_float(x))


def softplus(x: ArrayLike, beta: float = 1.0, threshold: float = 20.0) -> jax.Array:
    """log(1 + exp(beta * x)) / beta, and `x` itself where beta * x > threshold.

    >>> softplus(jnp.array([0.0, 100.0]))
    Array([  0.6931472, 100.       ], dtype=float32)
    """
    x = as_float(x)
    return jnp.where(beta * x > threshold, x, softpluses(beta * x)[0] / beta)


def silu(x: ArrayLike) -> jax.Array:
    """x * sigmoid(x), also known as swish. Source: Elfwing et al. 2017 (arXiv:1702.03118).

    >>> silu(jnp.array([0.0, 100.0]))
    Array([  0., 100.], dtype=float32)
    """
    return jax.nn.silu(as_float(x))


swish = silu


def mish(x: ArrayLike) -> jax.Array:
    """x * tanh(softplus(x)). Source: Misra 2019 (arXiv:1908.08681).

    >>> mish(jnp.array([0.0, 100.0]))
    Array([  0., 100.], dtype=float32)
    """
    return jax.nn.mish(as_float(x))


def gelu(x: ArrayLike, approximate: str = "none") -> jax.Array:
    """x * Phi(x), Phi being the normal distribution function; "tanh" is the approximation that GPT-2 was trained with.

    The default is exact, as in PyTorch (jax.nn.gelu's is the approximation). Source: Hendrycks and Gimpel 2016
    (arXiv:1606.08415). Raises ValueError for another `approximate`.

    >>> gelu(jnp.array([0.0, 100.0])), gelu(jnp.array([0.0, 100.0]), approximate="tanh")
    (Array([  0., 100.], dtype=float32), Array([  0., 100.], dtype=float32))
    """
    x = as_float(x)
    if approximate == "none":
        if jnp.finfo(x.dtype).bits < 32:
            return jax.nn.gelu(x, approximate=False)
        # PyTorch's form. jax.nn.gelu's, with erfc, is slower on CPU, and has more digits where x is far below 0.
        return 0.5 * x * (1 + jax.lax.erf(x * 0.5**0.5))
    if approximate != "tanh":
        raise ValueError(f'gelu: approximate={approximate!r}, expected "none" (exact) or "tanh"')
    # tanh is 1 to the last bit beyond 10; the cube of a large x would overflow and make the gradient 0 * inf.
    near = jnp.clip(x, -10, 10)
    return 0.5 * x * (1 + jnp.tanh((2 / jnp.pi) ** 0.5 * (near + 0.044715 * near**3)))


def elu(x: ArrayLike, alpha: float = 1.0) -> jax.Array:
    """x where x > 0, else alpha * (exp(x) - 1). Source: Clevert et al. 2015 (arXiv:1511.07289).

    >>> elu(jnp.array([-100.0, 2.0]))
    Array([-1.,  2.], dtype=float32)
    """
    x = as_float(x)
    return jnp.where(x > 0, x, alpha * jnp.expm1(_negative_part(x)))


def selu(x: ArrayLike) -> jax.Array:
    """elu with the two constants that keep activations at mean 0 and variance 1. Source: Klambauer et al. 2017
    (arXiv:1706.02515).

    >>> selu(jnp.array([-100.0, 1.0]))
    Array([-1.7580993,  1.050701 ], dtype=float32)
    """
    return 1.0507009873554804934193349852946 * elu(x, 1.6732632423543772848170429916717)


def celu(x: ArrayLike, alpha: float = 1.0) -> jax.Array:
    """x where x > 0, else alpha * (exp(x / alpha) - 1): elu with a continuous derivative. Source: Barron 2017
    (arXiv:1704.07483).

    >>> celu(jnp.array([-100.0, 2.0]), alpha=2.0)
    Array([-2.,  2.], dtype=float32)
    """
    x = as_float(x)
    return jnp.where(x > 0, x, alpha * jnp.expm1(_negative_part(x) / alpha))


def glu(x: ArrayLike, dim: int = -1) -> jax.Array:
    """a * sigmoid(b), with a and b the halves of `x` along axis `dim`. Source: Dauphin et al. 2016 (arXiv:1612.08083).

    Shapes: (..., 2n) -> (..., n). Raises ValueError when the axis has an odd length.

    >>> glu(jnp.array([3.0, 0.0]))
    Array([1.5], dtype=float32)
    """
    x = as_float(x)
    if x.ndim == 0 or x.shape[dim] % 2:
        raise ValueError(f"glu: input has shape {x.shape}, and axis {dim} must split into two equal halves")
    a, b = jnp.split(x, 2, axis=dim)
    return a * jax.nn.sigmoid(b)
