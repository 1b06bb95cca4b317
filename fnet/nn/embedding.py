"""Tables of rows, looked up by integer id: one at a time, or in bags."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax

from fnet import functional as F
from fnet import init
from fnet.init import Initializer
from fnet.nn.core import Layer, Param


@dataclass(frozen=True, repr=False)
class _Table(Layer):
    keyless = True

    num_embeddings: int
    embedding_dim: int
    padding_idx: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_embeddings < 1 or self.embedding_dim < 1:
            name = type(self).__name__
            raise ValueError(f"{name} needs sizes of at least 1, got {self.num_embeddings}, {self.embedding_dim}")
        if self.padding_idx is not None:
            if not -self.num_embeddings <= self.padding_idx < self.num_embeddings:
                raise ValueError(
                    f"padding_idx {self.padding_idx} is outside the {self.num_embeddings} rows of the table"
                )
            object.__setattr__(self, "padding_idx", self.padding_idx % self.num_embeddings)

    def spec(self, *inputs: Any, **kwargs: Any) -> dict[str, Param]:
        draw: Initializer = init.normal(1.0)
        if self.padding_idx is not None:
            draw = ZeroRow(draw, self.padding_idx)
        return {"weight": Param((self.num_embeddings, self.embedding_dim), draw)}


@dataclass(frozen=True, repr=False)
class Embedding(_Table):
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

    def apply(
        self, params: dict, state: dict, ids: Any, key: Any = None, train: bool = False
    ) -> tuple[jax.Array, dict]:
        return F.embedding(ids, params["weight"], self.padding_idx), state


@dataclass(frozen=True, repr=False)
class EmbeddingBag(_Table):
    """The ``mode`` ("mean", "sum" or "max") of the rows that each bag of ids names.

    Input: ids ``(…, bag)``, bags padded to one length with ``padding_idx`` or by ``mask`` (bool, True: counts), output
    ``(…, embedding_dim)``; or ids ``(n,)`` and ``offsets`` ``(bags,)``, output ``(bags, embedding_dim)``.
    ``per_sample_weights`` (like ids) scales the rows of a "sum". ``weight`` is as `Embedding`'s. An empty bag is 0.

    >>> import jax, jax.numpy as jnp
    >>> from fnet import nn
    >>> bag = nn.EmbeddingBag(100, 16, padding_idx=0)
    >>> params, _ = bag.init(jax.random.key(0), jnp.zeros((8, 5), "int32"))
    >>> bag(params, jnp.array([[1, 2, 3], [4, 0, 0]])).shape
    (2, 16)
    """

    mode: str = "mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mode not in ("mean", "sum", "max"):
            raise ValueError(f'EmbeddingBag\'s mode is "mean", "sum" or "max", got {self.mode!r}')

    def apply(
        self,
        params: dict,
        state: dict,
        ids: Any,
        offsets: Any = None,
        per_sample_weights: Any = None,
        mask: Any = None,
        key: Any = None,
        train: bool = False,
    ) -> tuple[jax.Array, dict]:
        bags = F.embedding_bag(
            ids,
            params["weight"],
            offsets,
            mode=self.mode,
            per_sample_weights=per_sample_weights,
            padding_idx=self.padding_idx,
            mask=mask,
        )
        return bags, state


@dataclass(frozen=True)
class ZeroRow:
    """An initialiser with one row set to zero, for `Embedding`'s padding."""

    init: Initializer
    row: int

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: Any = "float32") -> jax.Array:
        return self.init(key, shape, dtype).at[self.row].set(0)
