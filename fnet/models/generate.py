"""Text from a language model, token by token, with its keys and values cached."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnet import tree


def generate(
    model: Any,
    params: Any,
    prompt: Any,
    max_new_tokens: int,
    *,
    key: jax.Array | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    stop: int | None = None,
    pad: int = 0,
) -> jax.Array:
    """``max_new_tokens`` tokens after each prompt, drawn from the model's distribution: ids (batch, max_new_tokens).

    Args:
        model: built with ``cache=`` at least the longest prompt's length and ``max_new_tokens`` together.
        prompt: ids (batch, length) or (length,), or a list of prompts of any lengths.
        key: the random key; without one the most likely token is taken, as with ``temperature=0``.
        temperature: divides the logits: below 1 keeps to likely tokens, above 1 to variety.
        top_k: draw among the k most likely tokens.
        top_p: draw among the fewest tokens whose probabilities make up p (Holtzman et al. 2020, arXiv:1904.09751).
        stop: a token that ends a row; ``pad`` follows it, and when all rows have ended no more steps are run.

    The whole loop is one compiled program. Raises ValueError for a model without a cache or with one too short.

    >>> import jax, jax.numpy as jnp
    >>> from fnet import models
    >>> model = models.gpt(65, 64, num_layers=1, num_heads=2, width=16, cache=32)
    >>> params, _ = model.init(jax.random.key(0), jnp.zeros((1, 4), "int32"))
    >>> models.generate(model, params, [[5, 6, 7], [8]], 10, key=jax.random.key(1), top_k=20).shape
    (2, 10)
    """
    ids, mask = _padded(prompt, pad)
    single = not isinstance(prompt[0], list | tuple) and np.ndim(prompt[0]) == 0
    state = model.init_state(ids, mask)
    slots = [leaf.shape[-1] for name, leaf in tree.named(state) if name.endswith("mask")]
    if not slots:
        raise ValueError("generate needs a model with a cache, such as models.gpt(…, cache=256)")
    if ids.shape[1] + max_new_tokens > min(slots):
        raise ValueError(
            f"a prompt of {ids.shape[1]} tokens and {max_new_tokens} new ones do not fit into the cache of "
            f"{min(slots)}: build the model with cache={ids.shape[1] + max_new_tokens}"
        )
    if key is None or temperature == 0:
        key, temperature = jax.random.key(0), 0.0
    _check(temperature, top_k, top_p, max_new_tokens)
    sampling = (None if temperature == 0 else top_k, None if temperature == 0 else top_p, temperature == 0)
    out = _run(model, max_new_tokens, sampling, stop, pad, params, state, ids, mask, key, jnp.float32(temperature or 1))
    return out[0] if single else out


@partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def _run(
    model: Any, count: int, sampling: Any, stop: Any, pad: int, params: Any, state: Any, ids: Any, mask: Any, key: Any,
    temperature: Any,
) -> jax.Array:  # fmt: skip
    top_k, top_p, greedy = sampling

    def pick(logits: jax.Array, index: Any) -> jax.Array:
        if greedy:
            return logits.argmax(-1).astype(jnp.int32)
        scores = kept(logits.astype(jnp.float32) / temperature, top_k, top_p)
        return jax.random.categorical(jax.random.fold_in(key, index), scores).astype(jnp.int32)

    def go_on(carry: Any) -> jax.Array:
        index, _, ended, *_ = carry
        return (index < count) & ~ended.all()

    def one(carry: Any) -> Any:
        index, out, ended, logits, state = carry
        token = jnp.where(ended, pad, pick(logits, index))
        out = out.at[:, index].set(token)
        if stop is not None:
            ended = ended | (token == stop)
        logits, state = model.apply(params, state, token[:, None], jnp.ones((len(token), 1), bool))
        return index + 1, out, ended, logits[:, -1], state

    logits, state = model.apply(params, state, ids, mask)
    out = jnp.full((len(ids), count), pad, jnp.int32)
    carry = (jnp.int32(0), out, jnp.zeros(len(ids), bool), logits[:, -1], state)
    return jax.lax.while_loop(go_on, one, carry)[1]


def kept(logits: jax.Array, top_k: int | None = None, top_p: float | None = None) -> jax.Array:
    """Logits (…, vocab) with -inf at tokens that are not among the ``top_k`` and the nucleus of ``top_p``.

    >>> kept(jnp.array([1.0, 3.0, 2.0]), top_k=2).tolist()
    [-inf, 3.0, 2.0]
    """
    if top_k is not None:
        least = jax.lax.top_k(logits, min(top_k, logits.shape[-1]))[0][..., -1:]
        logits = jnp.where(logits < least, -jnp.inf, logits)
    if top_p is not None:
        order = jnp.sort(logits, axis=-1, descending=True)
        before = jnp.cumsum(jax.nn.softmax(order, axis=-1), axis=-1) - jax.nn.softmax(order, axis=-1)
        least = jnp.where(before < top_p, order, jnp.inf).min(-1, keepdims=True)
        logits = jnp.where(logits < least, -jnp.inf, logits)
    return logits


def _padded(prompt: Any, pad: int) -> tuple[jax.Array, jax.Array]:
    """Prompts as ids (batch, longest), padded on the left, and True at their tokens."""
    if hasattr(prompt, "shape"):
        ids = jnp.atleast_2d(jnp.asarray(prompt, jnp.int32))
        return ids, jnp.ones(ids.shape, bool)
    rows = [list(prompt)] if isinstance(prompt[0], int) else [list(row) for row in prompt]
    longest = max(map(len, rows))
    if not all(rows):
        raise ValueError("generate: a prompt is empty; begin with a start token")
    padded = np.array([[pad] * (longest - len(row)) + row for row in rows], np.int32)
    mask = np.array([[False] * (longest - len(row)) + [True] * len(row) for row in rows])
    return jnp.asarray(padded), jnp.asarray(mask)


def _check(temperature: float, top_k: Any, top_p: Any, count: int) -> None:
    if temperature < 0:
        raise ValueError(f"generate: temperature={temperature}, expected at least 0")
    if top_k is not None and top_k < 1:
        raise ValueError(f"generate: top_k={top_k}, expected at least 1")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"generate: top_p={top_p}, expected a number above 0 and at most 1")
    if count < 1:
        raise ValueError(f"generate: max_new_tokens={count}, expected at least 1")
