"""The convolution layers: shapes and names of their parameters, initialisation, ranks, and messages."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnet.functional as F
from fnet import nn

KEY = jax.random.key(0)
CASES = [
    (nn.Conv(6, 3, padding=1), (2, 9, 8, 4), (3, 3, 4, 6), (2, 9, 8, 6)),
    (nn.Conv(6, (3, 2), stride=(2, 1), groups=2), (2, 9, 8, 4), (3, 2, 2, 6), (2, 4, 7, 6)),
    (nn.Conv(6, 3, padding="CAUSAL"), (2, 9, 4), (3, 4, 6), (2, 9, 6)),
    (nn.Conv1d(6, 3, dilation=2, padding_mode="circular", padding=2), (9, 4), (3, 4, 6), (9, 6)),
    (nn.Conv2d(6, 3), (2, 3, 9, 8, 4), (3, 3, 4, 6), (2, 3, 7, 6, 6)),
    (nn.Conv3d(2, 2), (1, 3, 4, 5, 4), (2, 2, 2, 4, 2), (1, 2, 3, 4, 2)),
    (nn.ConvTranspose(6, 4, stride=2, padding=1), (2, 5, 4), (4, 4, 6), (2, 10, 6)),
    (nn.ConvTranspose1d(6, 3, 2, 1, 1), (2, 5, 4), (3, 4, 6), (2, 10, 6)),
    (nn.ConvTranspose2d(6, 3, 2, 1, 1, 2), (2, 5, 4, 4), (3, 3, 2, 6), (2, 10, 8, 6)),
    (nn.ConvTranspose3d(6, 2, 2), (2, 2, 3, 2, 4), (2, 2, 2, 4, 6), (2, 4, 6, 4, 6)),
]


@pytest.mark.parametrize("layer, x, weight, y", CASES, ids=lambda value: str(value))
def test_parameters_and_outputs_have_the_shapes_of_the_docstring(layer, x, weight, y):
    params, state = jax.eval_shape(layer.init, KEY, jax.ShapeDtypeStruct(x, "float32"))
    assert {name: leaf.shape for name, leaf in params.items()} == {"weight": weight, "bias": weight[-1:]}
    assert not state
    assert jax.eval_shape(layer, params, jax.ShapeDtypeStruct(x, "float32")).shape == y


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_initialisation_is_within_pytorchs_bounds_and_fills_them(rank):
    torch = pytest.importorskip("torch", reason="parity tests need the oracle extra: pip install fnet[oracle]")
    shape = (1, *(5,) * rank, 8)
    for name, extra in (("Conv", {}), ("Conv", {"groups": 4}), ("ConvTranspose", {}), ("ConvTranspose", {"groups": 4})):
        layer = getattr(nn, f"{name}{rank}d")(64, 3, **extra)
        params, _ = layer.init(KEY, jax.ShapeDtypeStruct(shape, "float32"))
        theirs = getattr(torch.nn, f"{name}{rank}d")(8, 64, 3, **extra)
        fan_in = torch.nn.init._calculate_fan_in_and_fan_out(theirs.weight)[0]
        assert params["weight"].size == theirs.weight.numel()
        for leaf in params.values():
            assert 0.9 / math.sqrt(fan_in) < float(jnp.abs(leaf).max()) <= 1 / math.sqrt(fan_in)


def test_the_layer_is_the_function_and_its_weight_sets_rank_and_dtype():
    layer = nn.Conv(6, 3, 2, ((1, 0), (2, 2)), bias=False, padding_mode="reflect")
    x = jax.random.normal(KEY, (2, 8, 9, 4))
    params, _ = layer.init(KEY, x)
    assert set(params) == {"weight"}
    wanted = F.conv(x, params["weight"], None, 2, ((1, 0), (2, 2)), padding_mode="reflect")
    np.testing.assert_array_equal(layer(params, x), wanted)
    np.testing.assert_allclose(layer(params, x[0]), wanted[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(layer(params, x[None]), wanted[None], rtol=1e-5, atol=1e-6)
    assert layer(jax.tree.map(lambda w: w.astype(jnp.bfloat16), params), x).dtype == jnp.bfloat16


def test_unfold_and_fold_are_the_functions():
    x = jax.random.normal(KEY, (2, 6, 8, 3))
    rows = nn.Unfold((2, 3), 1, (1, 0), 2)({}, x)
    np.testing.assert_array_equal(rows, F.unfold(x, (2, 3), 1, (1, 0), 2))
    folded = F.fold(rows, (6, 8), (2, 3), 1, (1, 0), 2)
    np.testing.assert_array_equal(nn.Fold((6, 8), (2, 3), 1, (1, 0), 2)({}, rows), folded)


def test_layers_are_values():
    assert nn.Conv(6, [3, 3]) == nn.Conv(6, (3, 3)) and hash(nn.Conv(6, [3, 3])) == hash(nn.Conv(6, (3, 3)))
    assert nn.Conv(6, 3) != nn.Conv2d(6, 3)
    assert repr(nn.Conv2d(6, 3, padding=1)) == "Conv2d(6, 3, padding=1)"


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: nn.Conv(0, 3), ValueError, "Conv needs out_channels of at least 1, got 0"),
        (lambda: nn.Conv2d(4, (3, 3, 3)), ValueError, r"Conv2d has 2 spatial axes, got kernel_size=\(3, 3, 3\)"),
        (lambda: nn.Conv(4, 0), ValueError, "kernel_size of at least 1 in each axis, got 0"),
        (lambda: nn.Conv(4, 3, groups=3), ValueError, "groups=3 must be an int that divides out_channels=4"),
        (lambda: nn.Conv2d(4, 3, bias=2), TypeError, r"Conv2d's bias is True or False, got 2.*Conv2d\(out, kernel\)"),
        (lambda: nn.Conv(4, 3, groups=2).init(KEY, jnp.ones((1, 8, 8, 3))), ValueError, "groups=2 must divide the 3"),
        (lambda: nn.Conv(4, 3).init(KEY, jnp.ones((8, 3))), ValueError, r"got an input of shape \(8, 3\), expected"),
        (lambda: nn.Conv(4, (3, 3)).init(KEY, jnp.ones((1, 8, 3))), ValueError, "2 spatial axes for kernel"),
        (lambda: nn.Conv2d(4, 3).init(KEY, jnp.ones((8, 3))), ValueError, r"\(…, \*spatial, channels\) with 2 spatial"),
        (lambda: nn.Conv2d(3, 64, 3).init(KEY, jnp.ones((1, 32, 32, 3))), ValueError, r"3\) is Conv2d\(64, 3\)"),
    ],
)
def test_what_does_not_fit_is_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_pytorchs_layout_is_warned_of_at_init():
    for layer in (nn.Conv2d(8, 3), nn.ConvTranspose2d(8, 3)):
        with pytest.warns(UserWarning, match=r"images 3 pixels high with 32 channels; if channels are first, jnp.move"):
            layer.init(KEY, jnp.ones((16, 3, 32, 32)))
        for shape in ((16, 32, 32, 3), (28, 28, 1), (3, 9, 9, 3), (2, 3, 8, 8), (8, 16, 16), (12, 8, 16)):
            layer.init(KEY, jnp.ones(shape))  # warnings are errors here


def test_a_shard_of_the_weights_and_nested_lists_compute():
    layer, x = nn.Linear(8), jnp.ones((2, 3))
    params, _ = layer.init(KEY, x)
    shard = jax.tree.map(lambda leaf: leaf[..., :4], params)
    np.testing.assert_allclose(layer(shard, x), layer(params, x)[:, :4], rtol=1e-6)
    lists = jax.tree.map(lambda leaf: leaf.tolist(), params)
    np.testing.assert_allclose(layer(lists, x), layer(params, x), rtol=1e-6)


def test_an_error_in_a_model_names_the_layer():
    model = nn.Sequential(stem=nn.Conv(4, 3), head=nn.Conv(4, 3, groups=3 - 2))
    params, _ = model.init(KEY, jnp.ones((1, 8, 8, 3)))
    with pytest.raises(ValueError, match="with 2 channels in the last axis, expected 3") as caught:
        model(params, jnp.ones((1, 8, 8, 2)))
    assert any("stem" in note for note in caught.value.__notes__)
