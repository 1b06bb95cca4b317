"""`once`: the same numbers, and on CPU no operation that adds up the whole of a residual stream."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnet import functional as F
from fnet.functional.once import once

SPECIAL = np.float32([0.0, -0.0, 1.5, -3e38, np.inf, -np.inf, np.nan])  # subnormals XLA rounds to 0 on CPU


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_every_value_stays_bit_for_bit(dtype):
    x = jnp.asarray(SPECIAL).astype(dtype)
    y = jax.jit(once)(x)
    assert y.dtype == x.dtype
    assert np.asarray(y).tobytes() == np.asarray(x).tobytes()


def test_what_is_not_floating_and_what_is_not_traced_comes_back_as_it_is():
    x = jnp.ones(3)
    assert once(x) is x
    assert jax.jit(once)(jnp.arange(3)).dtype == jnp.int32


def deep(depth):
    """The loss of a stack of residual blocks of convolutions."""

    def loss(weights, x):
        for w in weights:
            x = F.relu(x + F.conv(x, w, padding=1))
        return jnp.sum(x**2)

    keys = jax.random.split(jax.random.key(0), depth + 1)
    weights = [0.1 * jax.random.normal(key, (3, 3, 4, 4)) for key in keys[1:]]
    return loss, weights, jax.random.normal(keys[0], (2, 6, 6, 4))


def test_both_choices_of_platform_give_the_same_numbers(monkeypatch):
    loss, weights, x = deep(3)
    step = jax.jit(jax.value_and_grad(loss))
    here = step(weights, x)
    monkeypatch.setattr("fnet.functional.activation.once", lambda x: x)
    jax.clear_caches()
    there = jax.jit(jax.value_and_grad(loss))(weights, x)
    for a, b in zip(jax.tree.leaves(here), jax.tree.leaves(there), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * float(jnp.abs(b).max()))  # orders of sums in float32


def test_derivatives_of_any_order_and_mode_are_those_of_relu():
    x, v = jax.random.normal(jax.random.key(1), (2, 2, 2, 2, 2))
    f = jax.jit(lambda x: jnp.sum(F.relu(x) ** 3))
    _, slope = jax.jvp(f, (x,), (v,))
    np.testing.assert_allclose(slope, jnp.sum(3 * jnp.maximum(x, 0) ** 2 * v), rtol=1e-5)
    _, curve = jax.jvp(jax.grad(f), (x,), (v,))
    np.testing.assert_allclose(curve, 6 * jnp.maximum(x, 0) * v, rtol=1e-5)


def test_no_operation_reads_all_of_a_residual_stream():
    def most(depth):
        loss, weights, x = deep(depth)
        text = jax.jit(jax.grad(loss)).lower(weights, x).compile().as_text()
        fusions = re.findall(r" fusion\((.*?)\), kind=kLoop", text[text.index("ENTRY") :])
        return max(fusion.count("%") for fusion in fusions)

    if jax.default_backend() != "cpu":
        pytest.skip("about XLA on CPU")
    assert most(8) == most(4)
