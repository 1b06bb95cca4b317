"""Generation with a cache against the model run whole again for each token; sampling against its distribution."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnet
from fnet import init, models

KEY = jax.random.key(0)
KINDS = {
    "gpt": lambda cache: models.gpt(30, 24, num_layers=2, num_heads=2, width=16, cache=cache),
    "llama": lambda cache: models.llama(30, 2, 4, 16, 24, num_kv_heads=2, cache=cache),
}


def drawn(kind: str):
    model, ids = KINDS[kind](None), jnp.zeros((1, 3), jnp.int32)
    norms = fnet.optional(lambda name, leaf: "norm" in name or "ln_" in name)
    return model, model.init(KEY, ids, init={norms: init.ones, "*": init.normal(0.3)})[0]


def greedy_by_hand(model, params, prompt: list[int], count: int) -> list[int]:
    ids = list(prompt)
    for _ in range(count):
        padded = jnp.array([ids + [0] * (24 - len(ids))])  # causal: what comes after changes nothing
        ids.append(int(jax.jit(model)(params, padded)[0, len(ids) - 1].argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("kind", KINDS)
def test_cached_generation_is_the_model_run_again_also_for_prompts_of_other_lengths(kind):
    model, params = drawn(kind)
    prompts = [[5, 6, 7, 8], [9], [1, 2]]
    expected = [greedy_by_hand(model, params, prompt, 8) for prompt in prompts]
    found = models.generate(KINDS[kind](16), params, prompts, 8)
    np.testing.assert_array_equal(found, expected)
    assert len({tuple(row) for row in expected}) > 1
    np.testing.assert_array_equal(models.generate(KINDS[kind](16), params, prompts[0], 8), expected[0])
    np.testing.assert_array_equal(models.generate(KINDS[kind](16), params, jnp.array(prompts[0]), 8), expected[0])


def test_a_stop_token_ends_its_row_and_the_loop():
    model, params = drawn("gpt")
    cached = KINDS["gpt"](16)
    free = models.generate(cached, params, [[5, 6, 7, 8], [9]], 8)
    stop = int(free[0, 2])
    ended = models.generate(cached, params, [[5, 6, 7, 8], [9]], 8, stop=stop, pad=29)
    for before, after in zip(np.asarray(free), np.asarray(ended), strict=True):
        where = np.flatnonzero(before == stop)
        end = where[0] + 1 if len(where) else 8
        assert (after[:end] == before[:end]).all() and (after[end:] == 29).all()


def test_draws_follow_the_distribution_that_is_left():
    model, params = drawn("gpt")
    logits = np.asarray(model(params, jnp.array([[5, 6, 7]]))[0, -1], "float64")
    rows = jnp.tile(jnp.array([[5, 6, 7]]), (4000, 1))

    def share(**options) -> np.ndarray:
        ids = models.generate(KINDS["gpt"](4), params, rows, 1, key=KEY, **options)
        return np.bincount(np.asarray(ids)[:, 0], minlength=30) / 4000

    for options, scores in (
        ({}, logits),
        ({"temperature": 0.7}, logits / 0.7),
        ({"top_k": 3}, np.where(logits >= np.sort(logits)[-3], logits, -np.inf)),
    ):
        p = np.exp(scores - scores.max())
        p /= p.sum()
        assert np.abs(share(**options) - p).max() < 4 * 0.5 / 4000**0.5
    p = np.exp(logits - logits.max())
    p /= p.sum()
    order = np.argsort(-p)
    nucleus = order[: np.searchsorted(np.cumsum(p[order]), 0.6) + 1]
    assert set(np.flatnonzero(share(top_p=0.6))) == set(nucleus)
    np.testing.assert_array_equal(
        models.generate(KINDS["gpt"](4), params, rows[:1], 1, key=KEY, temperature=0), logits.argmax()
    )


def test_wrong_settings_are_named():
    model, params = drawn("gpt")
    cached = KINDS["gpt"](8)
    with pytest.raises(ValueError, match="needs a model with a cache"):
        models.generate(model, params, [1], 2)
    with pytest.raises(ValueError, match=r"prompt of 3 tokens and 6 new.*cache=9"):
        models.generate(cached, params, [1, 2, 3], 6)
    with pytest.raises(ValueError, match="a prompt is empty"):
        models.generate(cached, params, [[1], []], 2)
    for bad in ({"temperature": -1.0}, {"temperature": np.nan}, {"top_k": 0}, {"top_p": 1.5}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            models.generate(cached, params, [1], 2, key=KEY, **bad)
    with pytest.raises(ValueError, match="cache=64 is more than context=24"):
        KINDS["gpt"](64)


def test_a_prompt_may_be_of_any_integers_and_nothing_else():
    model, params = drawn("gpt")
    cached = KINDS["gpt"](8)
    expected = models.generate(cached, params, [5, 6], 2)
    for prompt in (np.array([5, 6]), list(np.array([5, 6])), [jnp.int32(5), jnp.int32(6)], (5, 6)):
        np.testing.assert_array_equal(models.generate(cached, params, prompt, jnp.int32(2)), expected)
    for empty in ([], [[]], np.zeros(0, int), jnp.zeros((2, 0), int)):
        with pytest.raises(ValueError, match="a prompt is empty"):
            models.generate(cached, params, empty, 2)
    for wrong in ([5.7, 6], jnp.array([5.0]), "ab", [["a"]], jnp.zeros((1, 1, 2), int)):
        with pytest.raises(TypeError, match="expected integer ids"):
            models.generate(cached, params, wrong, 2)
    with pytest.raises(ValueError, match=r"prompt of 9 tokens and 2 new ones do not fit into the cache of 8"):
        models.generate(cached, params, [1] * 9, 2)


def test_what_the_model_cannot_know_is_an_error_and_no_token():
    model, params = drawn("gpt")
    cached = KINDS["gpt"](16)
    for bad in (99, -1):
        with pytest.raises(ValueError, match=rf"prompt 1 has id {bad}, expected 0 to 29, the model's vocabulary"):
            models.generate(cached, params, [[1, 2, 3], [5, bad]], 3)
    with pytest.raises(ValueError, match="a prompt has ids from 8589934593 to 8589934593"):
        models.generate(cached, params, [2**33 + 1], 3)
    broken = fnet.map_named(lambda n, a: a * jnp.nan if n == "ln_f.weight" else a, params)
    with pytest.raises(ValueError, match="the logits of new token 0 are NaN"):
        models.generate(cached, broken, [1, 2], 3)
    # Padding and what follows the end are no tokens: any integer will do.
    prompts = [[5, 6, 7, 8], [9]]
    free = models.generate(cached, params, prompts, 8)
    np.testing.assert_array_equal(models.generate(cached, params, prompts, 8, pad=-1), free)
    stops = [int(free[0, 1]), int(free[1, 2])]
    ended = models.generate(cached, params, prompts, 8, stop=stops, pad=-1)
    for before, after in zip(np.asarray(free), np.asarray(ended), strict=True):
        end = np.flatnonzero(np.isin(before, stops))[0] + 1
        assert (after[:end] == before[:end]).all() and (after[end:] == -1).all()


def test_a_tiny_and_a_traced_temperature():
    model, params = drawn("gpt")
    cached = KINDS["gpt"](8)
    likely = models.generate(cached, params, [5, 6, 7], 4)
    np.testing.assert_array_equal(models.generate(cached, params, [5, 6, 7], 4, key=KEY, temperature=1e-38), likely)
    draw = jax.jit(lambda t: models.generate(cached, params, [5, 6, 7], 4, key=KEY, temperature=t))
    expected = models.generate(cached, params, [5, 6, 7], 4, key=KEY, temperature=0.7)
    np.testing.assert_array_equal(draw(0.7), expected)
    np.testing.assert_array_equal(draw(1e-38), likely)


def test_translate_is_greedy_and_stops():
    model = models.encoder_decoder(20, num_layers=1, num_heads=2, width=16, hidden=32)
    src = jnp.array([[3, 4, 5], [6, 7, 0]])
    mask = jnp.array([[True] * 3, [True, True, False]])
    params, _ = model.init(KEY, src, src, init={"*": init.normal(0.4)})
    out = np.asarray(models.translate(model, params, src, 1, 5, src_mask=mask))
    rows = np.concatenate([np.full((2, 1), 1), out], 1)
    again = model(params, src, jnp.asarray(rows[:, :-1]), mask).argmax(-1)
    np.testing.assert_array_equal(again, out)
    alone = models.translate(model, params, src[1:, :2], 1, 5)
    np.testing.assert_array_equal(alone[0], out[1], "padding of the source changes nothing")
    ended = np.asarray(models.translate(model, params, src, 1, 5, end=int(out[0, 1]), src_mask=mask))
    assert (ended[0, 1:] == out[0, 1]).all()
    with pytest.raises(ValueError, match="translate: logits are NaN: start=99"):
        models.translate(model, params, src, 99, 2)
