"""Linear and Embedding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax

from fnet import functional as F
from fnet import init
from fnet.init import Initializer
from fnet.nn.core import Layer, Param


@dataclass(frozen=True, repr=False)
class Linear(Layer):
    """``y = x @ weight + bias`` over the last axis.

    Input ``(…, in_features)``, output ``(…, out_features)``; ``weight`` is ``(in_features, out_features)``, the
    transpose of PyTorch's. Initialised as PyTorch does, uniform in ±1/√in_features. Computes in the weight's dtype.

    >>> import jax, jax.numpy as jnp
    >>> from fnet import nn
    >>> params, state = nn.Linear(3).init(jax.random.key(0), jnp.ones((8, 5)))
    >>> params["weight"].shape, params["bias"].shape
    ((5, 3), (3,))
    """

    keyless = True

    out_features: int
    bias: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.out_features, int) or self.out_features < 1:
            raise ValueError(f"Linear needs out_features of at least 1, got {self.out_features!r}")
        if not isinstance(self.bias, bool):
            raise TypeError(
                f"Linear's bias is True or False, got {self.bias!r}; the input's width is read from the data, so "
                f"PyTorch's Linear(in, out) is Linear(out) here"
            )

    def spec(self, x: Any) -> dict[str, Param]:
        if len(x.shape) < 1:
            raise ValueError("Linear needs an input of at least one axis, (…, in_features); got a scalar")
        in_features = x.shape[-1]
        spec = {"weight": Param((in_features, self.out_features), init.torch_uniform())}
        return spec | {"bias": Param((self.out_features,), init.torch_uniform(in_features))} if self.bias else spec

    def apply(self, params: dict, state: dict, x: Any, key: Any = None, train: bool = False) -> tuple[jax.Array, dict]:
        return F.linear(x, params["weight"], params["bias"] if self.bias else None), state


@dataclass(frozen=True, repr=False)
class Embedding(Layer):
    """Rows of a table by integer id.

    Input: ids of any integer dtype and shape ``(…)``; output ``(…, embedding_dim)``; ``weight`` is
    ``(num_embeddings, embedding_dim)``, initialised N(0, 1) as in PyTorch, with zeros at ``padding_idx``, a row that
    gets no gradient. Ids out of range raise when concrete and give NaN under jit.

    >>> import jax, jax.numpy as jnp
    >>> from fnet import nn
    >>> params, state = nn.Embedding(100, 16).init(jax.random.key(0), jnp.zeros((8, 5), "int32"))
    >>> nn.Embedding(100, 16)(params, jnp.array([[1, 2, 3]])).shape
    (1, 3, 16)
    """

    keyless = True

    num_embeddings: int
    embedding_dim: int
    padding_idx: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_embeddings < 1 or self.embedding_dim < 1:
            raise ValueError(f"Embedding needs sizes of at least 1, got {self.num_embeddings}, {self.embedding_dim}")
        if self.padding_idx is not None:
            if not -self.num_embeddings <= self.padding_idx < self.num_embeddings:
                raise ValueError(
                    f"padding_idx {self.padding_idx} is outside the {self.num_embeddings} rows of the table"
                )
            object.__setattr__(self, "padding_idx", self.padding_idx % self.num_embeddings)

    def spec(self, ids: Any = None) -> dict[str, Param]:
        draw: Initializer = init.normal(1.0)
        if self.padding_idx is not None:
            draw = ZeroRow(draw, self.padding_idx)
        return {"weight": Param((self.num_embeddings, self.embedding_dim), draw)}

    def apply(
        self, params: dict, state: dict, ids: Any, key: Any = None, train: bool = False
    ) -> tuple[jax.Array, dict]:
        return F.embedding(ids, params["weight"], self.padding_idx), state


@dataclass(frozen=True)
class ZeroRow:
    """An initialiser with one row set to zero, for `Embedding`'s padding."""

    init: Initializer
    row: int

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: Any = "float32") -> jax.Array:
        return self.init(key, shape, dtype).at[self.row].set(0)
