"""The initialisers themselves. Each is a frozen dataclass named like the function it acts as."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from numbers import Real
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from fnet.init.draw import erf_inv, filled, finish, unit

Shape = tuple[int, ...]
Initializer = Callable[[jax.Array, Shape, DTypeLike], jax.Array]


class _Value:
    """What the dataclasses share: numbers checked and made floats, and a repr that reads like the call."""

    def __post_init__(self) -> None:
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if field.type != "float":
                continue
            if not isinstance(value, Real):
                raise TypeError(f"{type(self).__name__}: {field.name} is a {type(value).__name__}, expected a number")
            object.__setattr__(self, field.name, float(value))

    def __repr__(self) -> str:
        arguments: list[str] = []
        skipped = False  # after an argument left at its default, the others need their names
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if value == field.default:
                skipped = True
            else:
                arguments.append(f"{field.name}={value!r}" if skipped else repr(value))
        return f"{type(self).__name__}({', '.join(arguments)})"

    def _require(self, ok: bool, expected: str) -> None:
        if not ok:
            raise ValueError(f"{self!r}: expected {expected}")


class _OfMatrix(_Value):
    """What makes weights (..., in, out), and raises for vectors; `Layer.init` reads how many axes it takes."""

    axes: ClassVar[int] = 2


@dataclass(frozen=True, repr=False)
class constant(_Value):
    """Every element is `value`; any dtype.

    >>> constant(0.5)(jax.random.key(0), (2,))
    Array([0.5, 0.5], dtype=float32)
    """

    value: float

    def __call__(self, key: jax.Array, shape: Shape, dtype: DTypeLike = jnp.float32) -> jax.Array:
        return filled(key, shape, self.value, dtype)


@dataclass(frozen=True, repr=False)
class _Named(constant):
    """zeros and ones: constants that give themselves when called with nothing, so `init.zeros` is `init.zeros()`."""

    def __call__(self, key=None, shape=None, dtype: DTypeLike = jnp.float32):  # type: ignore[no-untyped-def]
        return self if key is None and shape is None else super().__call__(key, shape, dtype)

    def __repr__(self) -> str:
        return "ones" if self.value else "zeros"


zeros = _Named(0.0)
ones = _Named(1.0)


@dataclass(frozen=True, repr=False)
class uniform(_Value):
    """Uniform between `low` and `high`.

    >>> uniform(-0.1, 0.1)(jax.random.key(0), (3, 4)).shape
    (3, 4)
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(self.low <= self.high, "low to be at most high")

    def __call__(self, key: jax.Array, shape: Shape, dtype: DTypeLike = jnp.float32) -> jax.Array:
        half, middle = (self.high - self.low) / 2, (self.high + self.low) / 2
        return finish(unit(key, shape, dtype) * half + middle, dtype)


@dataclass(frozen=True, repr=False)
class normal(_Value):
    """Normal with standard deviation `std` about `mean` (PyTorch has the mean first).

    >>> normal(0.02)(jax.random.key(0), (3, 4)).shape
    (3, 4)
    """

    std: float = 1.0
    mean: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(self.std >= 0, "std to be 0 or more")

    def __call__(self, key: jax.Array, shape: Shape, dtype: DTypeLike = jnp.float32) -> jax.Array:
        return finish(erf_inv(unit(key, shape, dtype)) * (math.sqrt(2) * self.std) + self.mean, dtype)


@dataclass(frozen=True, repr=False)
class truncated_normal(_Value):
    """Normal, redrawn until within `low` and `high` standard deviations of the mean (PyTorch's bounds are absolute).

    The result's standard deviation is below `std`, which is that of the normal before the cut: 0.88 of it for the
    default.

    >>> bool(jnp.abs(truncated_normal(0.02)(jax.random.key(0), (100,))).max() <= 0.04)
    True
    """

    std: float = 1.0
    mean: float = 0.0
    low: float = -2.0
    high: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(self.std >= 0, "std to be 0 or more")
        below, above = self._mass()
        self._require(above - below > 1e-3, "low below high, with some of the normal's mass between them")

    def _mass(self) -> tuple[float, float]:
        return math.erf(self.low / math.sqrt(2)), math.erf(self.high / math.sqrt(2))

    def __call__(self, key: jax.Array, shape: Shape, dtype: DTypeLike = jnp.float32) -> jax.Array:
        below, above = self._mass()
        share = unit(key, shape, dtype) * ((above - below) / 2) + (above + below) / 2
        x = erf_inv(share) * (math.sqrt(2) * self.std) + self.mean
        # Rounding, and the infinite tail of a one-sided cut, can pass the bound.
        return finish(x.clip(self.mean + self.low * self.std, self.mean + self.high * self.std), dtype)


def fans(shape: Shape) -> tuple[int, int]:
    """(fan_in, fan_out) of a weight in JAX's layouts: (..., in, out), leading axes being a receptive field.

    Raises ValueError for fewer than two axes.

    >>> fans((784, 10)), fans((3, 3, 16, 32))
    ((784, 10), (144, 288))
    """
    if len(shape) < 2:
        raise ValueError(
            f"shape {shape} has no fans, which takes axes (..., in, out); "
            f"use normal or uniform, or torch_uniform(fan_in) for a bias"
        )
    field = math.prod(shape[:-2])
    return shape[-2] * field, shape[-1] * field


@dataclass(frozen=True, repr=False)
class variance_scaling(_OfMatrix):
    """Mean 0 and variance scale / fan, which the named schemes below are cases of.

    `mode`: "fan_in", "fan_out" or "fan_avg". `distribution`: "normal", "uniform" or "truncated_normal" (cut at two
    standard deviations and widened to keep the variance). Source: He et al. 2015 (arXiv:1502.01852).

    >>> variance_scaling(2.0, "fan_in", "normal")(jax.random.key(0), (8, 4)).shape
    (8, 4)
    """

    scale: float = 1.0
    mode: str = "fan_in"
    distribution: str = "truncated_normal"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(self.scale >= 0, "scale to be 0 or more")
        self._require(self.mode in ("fan_in", "fan_out", "fan_avg"), 'mode "fan_in", "fan_out" or "fan_avg"')
        known = ("normal", "uniform", "truncated_normal")
        self._require(self.distribution in known, 'distribution "normal", "uniform" or "truncated_normal"')

    def __call__(self, key: jax.Array, shape: Shape, dtype: DTypeLike = jnp.float32) -> jax.Array:
        fan_in, fan_out = fans(shape)
        fan = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[self.mode]
        std = math.sqrt(self.scale / max(fan, 1))  # an empty weight has fan 0, and nothing to draw
        if self.distribution == "uniform":
            return uniform(-math.sqrt(3) * std, math.sqrt(3) * std)(key, shape, dtype)
        if self.distribution == "normal":
            return normal(std)(key, shape, dtype)
        return truncated_normal(std / 0.87962566103423978)(key, shape, dtype)  # the cut normal's standard deviation


@dataclass(frozen=True, repr=False)
class xavier_uniform(_OfMatrix):
    """Uniform with variance gain^2 * 2 / (fan_in + fan_out). Source: Glorot and Bengio 2010.

    >>> xavier_uniform()(jax.random.key(0), (8, 4)).shape
    (8, 4)
    """

    gain: float = 1.0

    def __call__(self, key: jax.Array, shape: Shape, dtype: DTypeLike = jnp.float32) -> jax.Array:
        return variance_scaling(self.gain**2, "fan_avg", "uniform")(key, shape, dtype)


@dataclass(frozen=True, repr=False)
class xavier_normal(xavier_uniform):
    """Normal with variance gain^2 * 2 / (fan_in + fan_out). Source: Glorot and Bengio 2010.

    >>> xavier_normal()(jax.random.key(0), (8, 4)).shape
    (8, 4)
    """

    def __call__(self, key: jax.Array, shape: Shape, dtype: DTypeLike = jnp.float32) -> jax.Array:
        return variance_scaling(self.gain**2, "fan_avg", "normal")(key, shape, dtype)


def calculate_gain(nonlinearity: str, a: float = 0.01) -> float:
    """The factor that makes up for what an activation takes from the standard deviation, as PyTorch has it.

    Names: linear, sigmoid, tanh, relu, leaky_relu (with negative slope `a`), selu. Raises ValueError for others.

    >>> calculate_gain("leaky_relu", 0.0) == calculate_gain("relu")
    True
    """
    gains = {"linear": 1.0, "sigmoid": 1.0, "tanh": 5 / 3, "relu": math.sqrt(2), "selu": 3 / 4}
    gains["leaky_relu"] = math.sqrt(2 / (1 + a**2))
    if nonlinearity not in gains:
        raise ValueError(f"nonlinearity {nonlinearity!r} has no known gain, expected one of {', '.join(gains)}")
    return gains[nonlinearity]


@dataclass(frozen=True, repr=False)
class kaiming_uniform(_OfMatrix):
    """Uniform with variance gain^2 / fan: keeps the size of activations through relu layers, whatever the depth.

    `a` is the negative slope of leaky_relu; `mode` "fan_in" keeps the forward pass, "fan_out" the backward pass.
    Arguments and defaults are PyTorch's. Source: He et al. 2015 (arXiv:1502.01852).

    >>> kaiming_uniform(nonlinearity="relu")(jax.random.key(0), (8, 4)).shape
    (8, 4)
    """

    a: float = 0.0
    mode: str = "fan_in"
    nonlinearity: str = "leaky_relu"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._scaling("uniform")

    def _scaling(self, distribution: str) -> variance_scaling:
        return variance_scaling(calculate_gain(self.nonlinearity, self.a) ** 2, self.mode, distribution)

    def __call__(self, key: jax.Array, shape: Shape, dtype: DTypeLike = jnp.float32) -> jax.Array:
        return self._scaling("uniform")(key, shape, dtype)


@dataclass(frozen=True, repr=False)
class kaiming_normal(kaiming_uniform):
    """Normal with variance gain^2 / fan; see kaiming_uniform.

    >>> kaiming_normal(mode="fan_out", nonlinearity="relu")(jax.random.key(0), (3, 3, 8, 4)).shape
    (3, 3, 8, 4)
    """

    def __call__(self, key: jax.Array, shape: Shape, dtype: DTypeLike = jnp.float32) -> jax.Array:
        return self._scaling("normal")(key, shape, dtype)


@dataclass(frozen=True, repr=False)
class lecun_uniform(_OfMatrix):
    """Uniform with variance 1 / fan_in, for selu. Source: LeCun et al. 1998, "Efficient BackProp".

    >>> lecun_uniform()(jax.random.key(0), (8, 4)).shape
    (8, 4)
    """

    def __call__(self, key: jax.Array, shape: Shape, dtype: DTypeLike = jnp.float32) -> jax.Array:
        return variance_scaling(1.0, "fan_in", "uniform")(key, shape, dtype)


@dataclass(frozen=True, repr=False)
class lecun_normal(_OfMatrix):
    """Normal, cut at two standard deviations, with variance 1 / fan_in; what Flax's layers start from.

    >>> lecun_normal()(jax.random.key(0), (8, 4)).shape
    (8, 4)
    """

    def __call__(self, key: jax.Array, shape: Shape, dtype: DTypeLike = jnp.float32) -> jax.Array:
        return variance_scaling(1.0, "fan_in", "truncated_normal")(key, shape, dtype)


@dataclass(frozen=True, repr=False)
class torch_uniform(_Value):
    """Uniform within 1 / sqrt(fan_in) of 0, which PyTorch's Linear and Conv start from: weights and biases alike.

    For a weight fan_in is read from the shape. A bias does not show it: `torch_uniform(fan_in)` with that of its
    weight.

    >>> torch_uniform()(jax.random.key(0), (8, 4)).shape, torch_uniform(8)(jax.random.key(0), (4,)).shape
    ((8, 4), (4,))
    """

    fan_in: int | None = None

    @property
    def axes(self) -> int:
        """The least number of axes that it can draw."""
        return 2 if self.fan_in is None else 0

    def __post_init__(self) -> None:
        self._require(self.fan_in is None or self.fan_in >= 0, "fan_in to be 0 or more")

    def __call__(self, key: jax.Array, shape: Shape, dtype: DTypeLike = jnp.float32) -> jax.Array:
        fan_in = fans(shape)[0] if self.fan_in is None else self.fan_in
        bound = 1 / math.sqrt(fan_in) if fan_in else 0.0  # of no inputs, PyTorch's bias is 0
        return uniform(-bound, bound)(key, shape, dtype)


@dataclass(frozen=True, repr=False)
class orthogonal(_OfMatrix):
    """`gain` times a matrix with orthonormal columns (or rows, if it has fewer), uniform among all such.

    All axes but the last are the rows, so a convolution (h, w, in, out) is one matrix (h * w * in, out). A stack of
    matrices takes jax.vmap over keys. LAPACK's QR is compiled for each new shape, unlike the other initialisers.

    The sign of R's diagonal is moved into Q, without which QR is not uniform (Mezzadri 2007,
    arXiv:math-ph/0609050). Source: Saxe et al. 2013 (arXiv:1312.6120). Raises ValueError for fewer than two axes.

    >>> w = orthogonal()(jax.random.key(0), (4, 2))
    >>> bool(jnp.allclose(w.T @ w, jnp.eye(2), atol=1e-6))
    True
    """

    gain: float = 1.0

    def __call__(self, key: jax.Array, shape: Shape, dtype: DTypeLike = jnp.float32) -> jax.Array:
        if len(shape) < 2:
            raise ValueError(
                f"orthogonal: shape {shape} is not a matrix; it takes two axes or more, the last being the columns"
            )
        rows, columns = math.prod(shape[:-1]), shape[-1]
        precise = jnp.promote_types(dtype, jnp.float32)
        q = _orthonormal(normal()(key, (rows, columns), precise))
        return (self.gain * q).reshape(shape).astype(dtype)


@jax.jit
def _orthonormal(matrix: jax.Array) -> jax.Array:
    wide = matrix.shape[0] < matrix.shape[1]
    q, r = jnp.linalg.qr(matrix.T if wide else matrix)
    q = q * jnp.where(jnp.diagonal(r) < 0, -1, 1).astype(q.dtype)[None, :]
    return q.T if wide else q


glorot_uniform, glorot_normal = xavier_uniform, xavier_normal
he_uniform, he_normal = kaiming_uniform, kaiming_normal
