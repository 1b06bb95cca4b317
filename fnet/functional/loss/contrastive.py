"""Losses of pairs and triplets of embeddings: what belongs together comes close, what does not goes apart."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fnet.functional.distance import pairwise_distance
from fnet.functional.loss.arguments import aligned, hinge, signs
from fnet.functional.reduction import or_nan, reduce
from fnet.functional.softmax import normalize


def cosine_embedding_loss(
    input1: ArrayLike,
    input2: ArrayLike,
    target: ArrayLike,
    margin: float = 0.0,
    *,
    reduction: str = "mean",
    mask: ArrayLike | None = None,
) -> jax.Array:
    """1 - cos(input1, input2) where target is 1; max(0, cos - margin) where it is -1.

    Shapes: inputs equal (..., features), target (...). Raises ValueError for other shapes and targets (NaN under jit).

    >>> a, b = jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 2.0]])
    >>> cosine_embedding_loss(a, b, jnp.array([1])), cosine_embedding_loss(a, b, jnp.array([-1]))
    (Array(1., dtype=float32), Array(0., dtype=float32))
    """
    where = "cosine_embedding_loss"
    valid = signs(target, where, mask)
    (a, b), mask = aligned(where, mask, True, input1=input1, input2=input2)
    if jnp.shape(target) != a.shape[:-1]:
        raise ValueError(
            f"{where}: target has shape {jnp.shape(target)}, expected one for each pair of vectors: {a.shape[:-1]}"
        )
    squares = (jnp.square(a).sum(-1) + 1e-12) * (jnp.square(b).sum(-1) + 1e-12)  # PyTorch's guard against 0 vectors
    cosine = (a * b).sum(-1) / jnp.sqrt(squares)
    loss = jnp.where(jnp.asarray(target) > 0, 1 - cosine, hinge(cosine - margin))
    return reduce(or_nan(loss, valid), reduction, mask)


def triplet_margin_loss(
    anchor: ArrayLike,
    positive: ArrayLike,
    negative: ArrayLike,
    margin: float = 1.0,
    p: float = 2.0,
    eps: float = 1e-6,
    swap: bool = False,
    *,
    reduction: str = "mean",
    mask: ArrayLike | None = None,
) -> jax.Array:
    """max(0, d(anchor, positive) - d(anchor, negative) + margin), d being pairwise_distance with `p` and `eps`.

    Shapes: all three equal (..., features) -> (...) unreduced. With `swap` the negative's distance is the smaller of
    those to the anchor and to the positive (Balntas et al. 2016). Raises ValueError for unequal shapes.

    >>> a, b, c = jnp.zeros((1, 2)), jnp.array([[0.0, 1.0]]), jnp.array([[3.0, 4.0]])
    >>> triplet_margin_loss(a, b, c), triplet_margin_loss(a, c, b)
    (Array(0., dtype=float32), Array(4.99..., dtype=float32))
    """
    where = "triplet_margin_loss"
    (anchor, positive, negative), mask = aligned(
        where, mask, True, anchor=anchor, positive=positive, negative=negative
    )

    def distance(a: jax.Array, b: jax.Array) -> jax.Array:
        return pairwise_distance(a, b, p, eps)

    return reduce(_triplet(anchor, positive, negative, distance, margin, swap), reduction, mask)


def triplet_margin_with_distance_loss(
    anchor: ArrayLike,
    positive: ArrayLike,
    negative: ArrayLike,
    *,
    distance_function: Callable[[jax.Array, jax.Array], jax.Array] = pairwise_distance,
    margin: float = 1.0,
    swap: bool = False,
    reduction: str = "mean",
    mask: ArrayLike | None = None,
) -> jax.Array:
    """triplet_margin_loss with a distance of your own: (..., features) twice -> (...).

    Raises ValueError for a margin that is not positive, for unequal shapes, and for a distance of another shape.

    >>> a, b, c = jnp.zeros((1, 2)), jnp.array([[0.0, 1.0]]), jnp.array([[3.0, 4.0]])
    >>> triplet_margin_with_distance_loss(a, c, b, distance_function=lambda x, y: jnp.abs(x - y).sum(-1))
    Array(7., dtype=float32)
    """
    where = "triplet_margin_with_distance_loss"
    if margin <= 0:
        raise ValueError(f"{where}: margin={margin}, expected more than 0")
    (anchor, positive, negative), mask = aligned(
        where, mask, True, anchor=anchor, positive=positive, negative=negative
    )
    loss = _triplet(anchor, positive, negative, distance_function, margin, swap)
    if loss.shape != anchor.shape[:-1]:
        raise ValueError(
            f"{where}: distance_function gave shape {loss.shape} for inputs of shape {anchor.shape}, "
            f"expected {anchor.shape[:-1]}"
        )
    return reduce(loss, reduction, mask)


def nt_xent_loss(
    z1: ArrayLike,
    z2: ArrayLike,
    temperature: float = 0.5,
    *,
    reduction: str = "mean",
    mask: ArrayLike | None = None,
) -> jax.Array:
    """SimCLR's contrastive loss of two views of the same examples, row i of `z1` belonging to row i of `z2`.

    Each of the 2n embeddings classifies its partner among the other 2n - 1, by cosine similarity over `temperature`;
    the loss of a pair is the mean of its two directions. Shapes: z1 and z2 equal (n, features) -> (n,) unreduced. A
    masked pair is not a negative of others either. On a mesh, n is the whole batch. Raises ValueError for other ranks
    and for a temperature that is not positive. Source: Chen et al. 2020 (arXiv:2002.05709), equation 1.

    >>> z = jnp.eye(2)
    >>> nt_xent_loss(z, z, temperature=1.0)
    Array(0.55144..., dtype=float32)
    """
    where = "nt_xent_loss"
    if jnp.ndim(z1) != 2:
        raise ValueError(f"{where}: z1 has shape {jnp.shape(z1)}, expected (examples, features)")
    if isinstance(temperature, int | float) and temperature <= 0:
        raise ValueError(f"{where}: temperature={temperature}, expected more than 0")
    (z1, z2), mask = aligned(where, mask, True, z1=z1, z2=z2)
    n = z1.shape[0]
    z = normalize(jnp.concatenate([z1, z2]))
    scores = z @ z.T / temperature
    rivals = ~jnp.eye(2 * n, dtype=bool)
    if mask is not None:
        rivals &= jnp.tile(mask, 2)[None] | jnp.eye(2 * n, k=n, dtype=bool) | jnp.eye(2 * n, k=-n, dtype=bool)
    partner = jnp.tile((z[:n] * z[n:]).sum(-1) / temperature, 2)
    each = jax.nn.logsumexp(scores, axis=-1, where=rivals) - partner
    return reduce((each[:n] + each[n:]) / 2, reduction, mask)


def _triplet(
    anchor: jax.Array,
    positive: jax.Array,
    negative: jax.Array,
    distance: Callable[[jax.Array, jax.Array], jax.Array],
    margin: float,
    swap: bool,
) -> jax.Array:
    near, far = distance(anchor, positive), distance(anchor, negative)
    if swap:
        far = jnp.minimum(far, distance(positive, negative))
    return hinge(margin + near - far)
