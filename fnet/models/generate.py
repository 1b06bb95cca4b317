"""Text from a language model, token by token, with its keys and values cached."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnet import tree
from fnet.functional.ids import is_concrete


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
    stop: int | Sequence[int] | None = None,
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
        stop: a token, or several, that ends a row; ``pad`` follows it, and when all rows have ended no more steps are
            run.
        pad: what follows ``stop``; any integer.

    The whole loop is one compiled program. Raises ValueError for a model without a cache or with one too short, for
    ids that are not in the vocabulary, and where the logits are NaN (not under jit, where such tokens mean nothing).

    >>> import jax, jax.numpy as jnp
    >>> from fnet import models
    >>> model = models.gpt(65, 64, num_layers=1, num_heads=2, width=16, cache=32)
    >>> params, _ = model.init(jax.random.key(0), jnp.zeros((1, 4), "int32"))
    >>> models.generate(model, params, [[5, 6, 7], [8]], 10, key=jax.random.key(1), top_k=20).shape
    (2, 10)
    """
    ids, mask, single = _padded(prompt)
    max_new_tokens, pad = operator.index(max_new_tokens), operator.index(pad)
    top_k = None if top_k is None else operator.index(top_k)
    top_p = None if top_p is None else float(top_p)
    _check(temperature, top_k, top_p, max_new_tokens)
    state = model.init_state(ids[:, :1], mask[:, :1])
    slots = [leaf.shape[-1] for name, leaf in tree.named(state) if name.endswith("mask")]
    if not slots:
        raise ValueError("generate needs a model with a cache, such as models.gpt(…, cache=256)")
    if ids.shape[1] + max_new_tokens > min(slots):
        raise ValueError(
            f"a prompt of {ids.shape[1]} tokens and {max_new_tokens} new ones do not fit into the cache of "
            f"{min(slots)}: build the model with cache={ids.shape[1] + max_new_tokens}"
        )
    greedy = key is None or (is_concrete(temperature) and temperature == 0)
    sampling = (None, None, True) if greedy else (top_k, top_p, False)
    key, temperature = (jax.random.key(0), 1.0) if greedy else (key, temperature)
    stops = () if stop is None else tuple(operator.index(token) for token in np.ravel(stop))
    out, nan_at, vocab = _run(
        model, max_new_tokens, sampling, stops, pad, params, state, ids, mask, key, jnp.float32(temperature)
    )
    if is_concrete(nan_at) and nan_at >= 0:
        raise ValueError(_why_nan(ids, mask, int(nan_at), vocab.shape[-1]))
    return out[0] if single else out


@partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def _run(
    model: Any, count: int, sampling: Any, stops: tuple[int, ...], pad: int, params: Any, state: Any, ids: Any,
    mask: Any, key: Any, temperature: Any,
) -> tuple[jax.Array, jax.Array, jax.Array]:  # fmt: skip
    """The new tokens, at which of them a row had NaN for logits (-1: none), and empty rows as wide as the logits."""
    top_k, top_p, greedy = sampling

    def pick(logits: jax.Array, index: Any) -> jax.Array:
        if greedy:
            return logits.argmax(-1).astype(jnp.int32)
        logits = logits.astype(jnp.float32)
        scores = kept((logits - logits.max(-1, keepdims=True)) / temperature, top_k, top_p)  # 0 however small it is
        return jax.random.categorical(jax.random.fold_in(key, index), scores).astype(jnp.int32)

    def go_on(carry: Any) -> jax.Array:
        index, _, ended, *_ = carry
        return (index < count) & ~ended.all()

    def one(carry: Any) -> Any:
        index, out, ended, nan_at, logits, state = carry
        failed = (jnp.isnan(logits).any(-1) & ~ended).any()
        nan_at = jnp.where(failed & (nan_at < 0), index, nan_at)
        token = pick(logits, index)
        out = out.at[:, index].set(jnp.where(ended, pad, token))
        if stops:
            ended = ended | jnp.isin(token, jnp.array(stops))
        # A row that has ended goes on unseen: `pad` need not be in the vocabulary.
        logits, state = model.apply(params, state, token[:, None], jnp.ones((len(token), 1), bool))
        return index + 1, out, ended, nan_at, logits[:, -1], state

    logits, state = model.apply(params, state, ids, mask)
    out = jnp.full((len(ids), count), pad, jnp.int32)
    carry = (jnp.int32(0), out, jnp.zeros(len(ids), bool), jnp.int32(-1), logits[:, -1], state)
    _, out, _, nan_at, *_ = jax.lax.while_loop(go_on, one, carry)
    return out, nan_at, logits[:0, -1]


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


def _padded(prompt: Any) -> tuple[jax.Array, jax.Array, bool]:
    """Prompts as ids (batch, longest), padded on the left, True at their tokens, and whether it was a single one."""
    if isinstance(prompt, jax.Array):
        single, rows = prompt.ndim == 1, list(jnp.atleast_2d(prompt)[:1])  # all are of one length and kind
    else:
        single = len(prompt) > 0 and np.ndim(prompt[0]) == 0
        rows = [np.asarray(row) for row in ([prompt] if single else prompt)]
    if not rows or not all(row.size for row in rows):
        raise ValueError("generate: a prompt is empty; begin with a start token")
    for row in rows:
        if row.ndim != 1 or not jnp.issubdtype(row.dtype, jnp.integer):
            raise TypeError(
                f"generate: a prompt is {row.dtype} of shape {row.shape}, expected integer ids (length,), or several "
                "as (batch, length) or a list; text goes through a tokenizer first"
            )
        if isinstance(row, np.ndarray) and not -(2**31) <= row.min() <= row.max() < 2**31:
            raise ValueError(f"generate: a prompt has ids from {row.min()} to {row.max()}, which is no vocabulary's")
    if isinstance(prompt, jax.Array):
        ids = jnp.atleast_2d(prompt).astype(jnp.int32)
        return ids, jnp.ones(ids.shape, bool), single
    longest = max(map(len, rows))
    padded = np.zeros((len(rows), longest), np.int32)  # 0, which every vocabulary has: NaN would spread from the cache
    mask = np.zeros((len(rows), longest), bool)
    for place, seen, row in zip(padded, mask, rows, strict=True):
        place[longest - len(row) :], seen[longest - len(row) :] = row, True
    return jnp.asarray(padded), jnp.asarray(mask), single


def _why_nan(ids: jax.Array, mask: jax.Array, nan_at: int, vocab: int) -> str:
    wrong = np.argwhere(np.asarray(mask & ((ids < 0) | (ids >= vocab))))
    if len(wrong):
        row, place = wrong[0]
        return f"generate: prompt {row} has id {ids[row, place]}, expected 0 to {vocab - 1}, the model's vocabulary"
    return (
        f"generate: the logits of new token {nan_at} are NaN: either parameters are (fnet.inspect.find_nan says where "
        "it begins), or the model has no position for it (its context is shorter than its cache)"
    )


def _check(temperature: Any, top_k: int | None, top_p: float | None, count: int) -> None:
    if is_concrete(temperature) and not 0 <= temperature < float("inf"):
        raise ValueError(f"generate: temperature={temperature}, expected a finite number of at least 0")
    if top_k is not None and top_k < 1:
        raise ValueError(f"generate: top_k={top_k}, expected at least 1")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"generate: top_p={top_p}, expected a number above 0 and at most 1")
    if count < 1:
        raise ValueError(f"generate: max_new_tokens={count}, expected at least 1")
