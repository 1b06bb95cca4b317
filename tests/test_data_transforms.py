"""Transforms on numpy and jax arrays alike."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from fnet import nn
from fnet.data.transforms import ToFloat


@pytest.mark.parametrize("array", [np.asarray, jnp.asarray])
def test_to_float_scales_bytes(array):
    bytes_ = array(np.arange(256, dtype="uint8").reshape(4, 8, 8, 1))
    floats = ToFloat()(bytes_)
    assert floats.dtype == np.float32 and type(floats) is type(bytes_)
    np.testing.assert_allclose(floats, np.arange(256).reshape(4, 8, 8, 1) / 255, rtol=1e-7)
    assert ToFloat()(floats) is floats
    with pytest.raises(TypeError, match=r"uint8 images .* got int32 \(2,\)"):
        ToFloat()(array(np.ones(2, "int32")))


def test_to_float_is_a_value_and_a_part():
    assert nn.Sequential(ToFloat(), nn.Linear(2)) == nn.Sequential(ToFloat(), nn.Linear(2))
    assert repr(nn.Sequential(ToFloat())) == "Sequential(ToFloat())"
