"""Dotted names over pytrees, against jax.tree and against plain dicts."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fnet
from fnet import tree


class Pair(NamedTuple):
    second: Any
    first: Any


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Point:
    y: Any
    x: Any


keys = st.text(alphabet="ab.~1*_é", max_size=4)
trees = st.recursive(
    st.floats(-1, 1) | st.none(),
    lambda inner: st.one_of(
        st.dictionaries(keys, inner, max_size=3),
        st.lists(inner, max_size=3),
        st.tuples(inner, inner),
        st.builds(Pair, inner, inner),
        st.builds(Point, inner, inner),
    ),
    max_leaves=12,
)


@given(trees)
def test_names_are_unique_and_reach_their_leaves(t: Any):
    names = fnet.names(t)
    assert len(set(names)) == len(names) == len(jax.tree.leaves(t))
    for name, leaf in fnet.named(t):
        assert tree.get(t, name) is leaf or tree.get(t, name) == leaf
    assert sorted(map(id, (leaf for _, leaf in fnet.named(t)))) == sorted(map(id, jax.tree.leaves(t)))


@given(trees, st.integers(0, 3))
def test_split_and_merge_are_inverse(t: Any, remainder: int):
    chosen = {name for i, name in enumerate(fnet.names(t)) if i % 4 == remainder}
    a, b = fnet.split(t, fnet.optional(lambda name, leaf: name in chosen))
    assert set(fnet.names(a)) == chosen and set(fnet.names(b)) == set(fnet.names(t)) - chosen
    merged = fnet.merge(a, b)
    assert jax.tree.structure(merged) == jax.tree.structure(t) and jax.tree.leaves(merged) == jax.tree.leaves(t)
    assert jax.tree.leaves(fnet.merge(b, a)) == jax.tree.leaves(t)


@given(st.dictionaries(keys, st.floats(0, 1), max_size=4))
def test_a_dotted_key_is_never_ambiguous(flat: dict):
    nested = {"a": {"b": 1.0}, "a.b": 2.0, "x": flat}
    assert tree.get(nested, "a.b") == 1.0 and tree.get(nested, "a~1b") == 2.0
    assert [tree.unescape(name.removeprefix("x.")) for name in fnet.names(nested) if name[0] == "x"] == sorted(
        flat, key=lambda k: tree._natural(tree.escape(k))
    )


def test_natural_order_and_kept_orders():
    t = {"b": {str(i): float(i) for i in range(12)}, "a": Pair(1.0, 2.0), "p": Point(3.0, 4.0)}
    assert fnet.names(t) == [
        "a.second", "a.first", *[f"b.{i}" for i in range(12)], "p.y", "p.x",
    ]  # fmt: skip
    assert fnet.names([{"w": 1.0}] * 11)[-2:] == ["9.w", "10.w"]
    assert fnet.names(OrderedDict(z=1.0, a=2.0)) == ["z", "a"]
    assert fnet.names(1.0) == [""] and fnet.names({"a": None}) == []


def test_selectors():
    t = {"enc": {"fc": {"weight": 1.0, "bias": 2.0}}, "head": {"weight": 3.0, "bias": 4.0}, "bias": 5.0}
    assert fnet.select(t, "*.bias") == {"enc.fc.bias": 2.0, "head.bias": 4.0}
    assert fnet.select(t, "enc.*") == {"enc.fc.bias": 2.0, "enc.fc.weight": 1.0}
    assert list(fnet.select(t, ["head.weight", "bias"])) == ["bias", "head.weight"]
    assert list(fnet.select(t, lambda name, leaf: leaf > 3)) == ["bias", "head.bias"]
    assert fnet.select(t, ("*.weight", "nothing")) == {"enc.fc.weight": 1.0, "head.weight": 3.0}
    assert fnet.select({}, "*") == {} and fnet.select(t, fnet.optional("x*")) == {}
    for bad in ("head.wieght", ["head.wieght"]):
        with pytest.raises(ValueError, match=r"matches none of the 5 names.*'head\.weight'"):
            fnet.select(t, bad)
    with pytest.raises(ValueError, match="is true for none"):
        fnet.select(t, lambda name, leaf: False)
    with pytest.raises(TypeError, match="a selector is a glob"):
        fnet.select(t, 3)


def test_assign_takes_the_first_match_and_refuses_dead_rules():
    t = {"a": {"w": 1.0, "b": 2.0}, "c": 3.0}
    assert tree.assign(t, ["a.b", "a.*", "*"]) == {"a.b": 0, "a.w": 1, "c": 2}
    assert tree.assign(t, [fnet.optional("z"), "c"]) == {"c": 1}
    assert tree.assign(t, ["a.*", "c", "*"]) == {"a.b": 0, "a.w": 0, "c": 1}, "a final * may find nothing left"
    with pytest.raises(ValueError, match="'z' matches none"):
        tree.assign(t, ["z", "*"])
    with pytest.raises(ValueError, match=r"'a\.b' never applies.*narrower rule first"):
        tree.assign(t, ["a.*", "a.b"])


def test_merge_names_conflicts():
    with pytest.raises(ValueError, match="'a' has a value in 2 trees"):
        fnet.merge({"a": 1.0}, {"a": 2.0})
    with pytest.raises(ValueError, match="different structures"):
        fnet.merge({"a": 1.0}, {"b": 2.0})


def test_halves_go_through_transforms():
    params = {"a": jnp.ones(2), "b": jnp.ones(2)}
    frozen, trained = fnet.split(params, "a")
    grads = jax.jit(jax.grad(lambda t: sum(jnp.sum(v**2) for v in jax.tree.leaves(fnet.merge(t, frozen)))))(trained)
    assert grads["a"] is tree.HOLE and fnet.names(grads) == ["b"]
    assert repr(frozen) == "{'a': Array([1., 1.], dtype=float32), 'b': HOLE}"


def test_overlay_says_what_it_did():
    new = {"body": {"w": jnp.zeros(3), "b": jnp.zeros(2, jnp.bfloat16)}, "head": jnp.zeros(5), "extra": jnp.zeros(1)}
    old = {"body": {"w": jnp.ones(3), "b": jnp.ones(2)}, "head": jnp.ones(4), "gone": jnp.ones(1)}
    said: list[str] = []
    out = fnet.overlay(new, old, report=said.append)
    assert float(out["body"]["w"].sum()) == 3 and out["body"]["b"].dtype == jnp.bfloat16 and out["head"] is new["head"]
    assert said == [
        "overlay: 2 of 4 values taken over\n  stayed new: extra\n"
        "  stayed new, shapes or kinds differ: head (new float32[5], old float32[4])\n  dropped: gone"
    ]
    with pytest.raises(ValueError, match="none of the 1 names"):
        fnet.overlay({"a": 1.0}, {"b": 1.0})


def test_diff():
    a = {"w": jnp.ones(3), "n": np.nan, "k": jax.random.key(0), "i": np.int64(2**60), "s": "x"}
    assert fnet.diff(a, dict(a)) == {}
    b = {"w": jnp.ones(3).at[1].set(1.5), "n": np.nan, "k": jax.random.key(1), "i": np.int64(2**60 + 1), "s": "y"}
    assert set(fnet.diff(a, b)) == {"w", "k", "i", "s"}
    assert fnet.diff(a, b)["w"] == "values differ by at most 0.5 (1 of 3)"
    assert fnet.diff({"w": 1.0}, {"w": 1.001}, rtol=1e-2) == {}
    assert "dtype" in fnet.diff({"w": jnp.ones(2)}, {"w": jnp.ones(2, "bfloat16")})["w"]
    assert "shape" in fnet.diff({"w": jnp.ones(2)}, {"w": jnp.ones(3)})["w"]
    shape = jax.ShapeDtypeStruct((2,), "float32")
    assert fnet.diff({"w": shape}, {"w": jnp.ones(2)}) == {}


def test_count_nbytes_cast_map():
    t = {
        "w": jnp.ones((3, 4)),
        "i": jnp.zeros(5, "int32"),
        "k": jax.random.key(0),
        "h": jnp.ones(2, "bfloat16"),
        "f": 1.0,
    }
    assert fnet.count(t) == 12 + 5 + 1 + 2 + 1 and fnet.nbytes(t) == 48 + 20 + 8 + 4
    low = fnet.cast(t, "bfloat16")
    assert low["w"].dtype == jnp.bfloat16 and low["i"] is t["i"] and low["h"] is t["h"] and low["f"] == 1.0
    assert fnet.cast(t, jnp.float16, "h")["w"] is t["w"]
    assert jax.eval_shape(lambda v: fnet.cast(v, "bfloat16"), t)["w"].dtype == jnp.bfloat16
    with pytest.raises(TypeError, match="floating dtypes"):
        fnet.cast(t, "int32")
    assert fnet.map_named(lambda name, x, y: (name, x + y), {"a": [1]}, {"a": [2]}) == {"a": [("a.0", 3)]}
    with pytest.raises(KeyError, match="'enc.fcc'.*'enc.fc'"):
        fnet.get({"enc": {"fc": 1.0}}, "enc.fcc")


def test_the_hole_is_one_and_small_mistakes_are_named():
    import copy
    import pickle

    assert pickle.loads(pickle.dumps(tree.HOLE)) is tree.HOLE and copy.deepcopy({"a": tree.HOLE})["a"] is tree.HOLE
    assert "NaN in one" in fnet.diff({"a": np.nan}, {"a": 1.0})["a"]
    with pytest.raises(ValueError, match="not in both: 'a', 'b'"):
        fnet.merge({"a": 1.0}, {"b": 1.0})
    with pytest.raises(TypeError, match="got none"):
        fnet.merge()
    said: list[str] = []
    new, old = {"i": jnp.int32(3), "f": jnp.float32(0)}, {"i": 1.7 * jnp.ones(()), "f": jnp.ones(())}
    kept = fnet.overlay(new, old, said.append)
    assert int(kept["i"]) == 3 and "kinds differ: i (new int32[], old float32[])" in said[0]
    assert fnet.select({"a": 1.0}, [fnet.optional("z")]) == {}
