"""The kinds of dropout: what they drop together, what stays of mean and variance, keys, layers, messages."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnet.functional as F
from fnet import nn

KEY = jax.random.key(0)
# Each function with a layer, an input, and the axes along which a decision is shared.
KINDS = {
    "dropout1d": (nn.Dropout1d, (6, 7, 50), (1,)),
    "dropout2d": (nn.Dropout2d, (6, 3, 4, 50), (1, 2)),
    "dropout3d": (nn.Dropout3d, (6, 2, 3, 2, 50), (1, 2, 3)),
    "drop_path": (nn.DropPath, (300, 3, 2), (1, 2)),
    "feature_alpha_dropout": (nn.FeatureAlphaDropout, (6, 3, 4, 50), (1, 2)),
    "alpha_dropout": (nn.AlphaDropout, (300,), ()),
}
each_kind = pytest.mark.parametrize("name", KINDS)


@each_kind
def test_what_is_dropped_goes_together_and_the_share_is_p(name):
    layer, shape, shared = KINDS[name]
    p, f = 0.3, getattr(F, name)
    y, pull = jax.vjp(lambda x: f(x, p, True, key=KEY), jnp.ones(shape))
    lowest = y.min()
    dropped = y == lowest
    assert len(np.unique(y)) == 2
    np.testing.assert_array_equal(dropped.all(shared), dropped.any(shared))
    # Six standard errors of the share of 300 independent decisions.
    assert abs(dropped.mean() - p) < 6 * (p * (1 - p) / 300) ** 0.5
    if "alpha" not in name:
        np.testing.assert_allclose(np.unique(y), [0, 1 / (1 - p)], rtol=1e-6)
    grad = pull(jnp.ones(shape))[0]
    assert (grad[dropped] == 0).all() and (grad[~dropped] > 0).all()
    # The layer, and what needs no key.
    np.testing.assert_array_equal(layer(p).apply({}, {}, jnp.ones(shape), key=KEY, train=True)[0], y)
    x = jnp.ones(shape)
    assert layer(p)({}, x) is x and f(x, p, False) is x and f(x, 0.0, True) is x
    assert (f(x, 1.0, True, key=KEY) == 0).all() and f(x.astype(jnp.bfloat16), p, True, key=KEY).dtype == jnp.bfloat16
    np.testing.assert_allclose(jax.jit(lambda p: f(x, p, True, key=KEY))(p), y, rtol=1e-5)
    with pytest.raises(F.MissingKey, match=f"{name} with p=0.3"):
        f(x, p, True)
    with pytest.raises(ValueError, match=f"{name}: p=2 is not a probability"):
        f(x, 2, True, key=KEY)
    with pytest.raises(ValueError, match=f"{layer.__name__}'s p is a probability"):
        layer(1.5)
    with pytest.raises(TypeError, match=f"{name}: got int32"):
        f(jnp.ones(shape, "int32"), p, True, key=KEY)


@pytest.mark.parametrize("name", sorted(KINDS.keys() - {"drop_path"}))
def test_the_map_of_what_is_kept_and_dropped_is_torchs(name):
    torch = pytest.importorskip("torch", reason="parity tests need the oracle extra: pip install fnet[oracle]")
    f, p = getattr(torch.nn.functional, name), 0.35
    x = torch.full((4, 50, *(3,) * {"dropout2d": 2, "dropout3d": 3}.get(name, 1)), 1.7)
    theirs = np.unique(f(x, p, True).numpy().round(5))
    shape = KINDS[name][1]
    ours = np.unique(np.asarray(getattr(F, name)(jnp.full(shape, 1.7), p, True, key=KEY)).round(5))
    np.testing.assert_allclose(ours, theirs, atol=2e-5)


def test_alpha_dropout_keeps_mean_and_variance():
    x = jax.random.normal(KEY, (100_000,))
    for p in (0.1, 0.5):
        y = F.alpha_dropout(x, p, True, key=jax.random.key(1))
        # Standard errors of a mean and a standard deviation of 100,000 are 0.003 and, with these tails, below 0.005.
        assert abs(y.mean()) < 0.02 and abs(y.std() - 1) < 0.03


def test_an_unbatched_input_drops_channels_too_and_other_ranks_are_errors():
    y = F.dropout2d(jnp.ones((3, 4, 50)), key=KEY)
    np.testing.assert_array_equal(y, jnp.broadcast_to(y[:1, :1], y.shape))
    for f, shape in [(F.dropout1d, (5,)), (F.dropout2d, (2, 3)), (F.dropout3d, (2, 3, 4))]:
        with pytest.raises(ValueError, match=rf"{f.__name__}: x has shape .* expected {len(shape)} axes and channels"):
            f(jnp.ones(shape), key=KEY)
    with pytest.raises(ValueError, match="drop_path: x is a scalar"):
        F.drop_path(1.0, key=KEY)
    with pytest.raises(ValueError, match=r"feature_alpha_dropout: x has shape \(3,\)"):
        F.feature_alpha_dropout(jnp.ones(3), 0.5, True, key=KEY)


def test_stochastic_depth_in_a_stack_draws_for_every_layer():
    block = nn.Residual(nn.Sequential(nn.Linear(4), nn.DropPath(0.5)))
    stack = nn.Stack(block, 8)
    x = jnp.ones((16, 4))
    params, _ = stack.init(KEY, x)
    y, _ = stack.apply(params, {}, x, key=KEY, train=True)
    assert len(np.unique(np.asarray(y).round(4), axis=0)) > 8
