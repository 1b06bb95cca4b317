"""The summary counts what the parameters are, without computing anything."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from layers import Counter, mlp

import fnet
from fnet import functional as F
from fnet import init, nn

KEY = jax.random.key(0)


def test_summary_counts_what_init_draws():
    body = nn.Model(mlp, fc1=nn.Linear(16), fc2=nn.Linear(4))
    model = nn.Sequential(body=body, act=F.relu, count=Counter(), blocks=nn.Stack(nn.Linear(4), 3), head=nn.Linear(2))
    x = jax.ShapeDtypeStruct((8, 4), "float32")
    found = fnet.summary(model, x)
    params, state = model.init(KEY, x)
    assert (found.parameters, found.nbytes, found.state) == (fnet.count(params), fnet.nbytes(params), fnet.count(state))
    rows = {row.name: row for row in found.rows}
    assert list(rows) == ["body", "body.fc1", "body.fc2", "count", "blocks", "head"]
    assert rows["body"].parameters == fnet.count(params["body"]) and rows["blocks"].parameters == 3 * 20
    assert rows["body.fc1"].output == "float32[8, 16]" and found.output == "float32[8, 2]"
    assert "head" in str(found) and found._repr_html_().startswith("<table>") and repr(found) == str(found)


def test_summary_shows_shared_parts_and_takes_any_input():
    def twice(batch: Any, scale: float, fc: Any) -> Any:
        return scale * fc(fc(batch["x"]))

    model = nn.Model(twice, fc=nn.Linear(4))
    found = fnet.summary(model, {"x": jnp.ones((2, 4))}, 3.0)
    assert [row.calls for row in found.rows] == [2] and "fc ×2" in str(found) and found.parameters == 20


def test_summary_of_a_shape_says_what_to_give():
    with pytest.raises(TypeError, match=r"summary takes inputs.*not shapes: jax\.ShapeDtypeStruct\(\(4, 8\), "):
        fnet.summary(nn.Linear(2), (4, 8))


def test_summary_takes_no_memory_and_leaves():
    wide = nn.Sequential(nn.Linear(2**18), nn.Linear(2**18))
    assert fnet.summary(wide, jax.ShapeDtypeStruct((1, 2**18), "float32")).parameters > 2**37
    assert fnet.summary(nn.Linear(3), jnp.ones((2, 4))).parameters == 15
    table = str(fnet.summary(nn.Sequential(nn.Dropout(0.5)), jnp.ones(3), train=True))
    assert "Dropout()" in table and "0 parameters" in table


def with_token(x: Any, cls: Any, fc: Any) -> Any:
    return fc(x + cls) * fc.layer.out_features


def test_every_parameter_has_a_row():
    model = nn.Sequential(body=nn.Model(with_token, cls=nn.Param((1, 4), init.zeros), fc=nn.Linear(4)))
    found = fnet.summary(model, jnp.ones((2, 4)))
    assert [(row.name, row.parameters) for row in found.rows] == [("body", 24), ("body.cls", 4), ("body.fc", 20)]
    (alone,) = fnet.summary(nn.Linear(3), jnp.ones((2, 4))).rows
    assert alone.parameters == 15 and alone.output == "float32[2, 3]"
