"""Templates, classes and selections: what `like=`, `types=`, `select=` and `strict=` promise."""

import collections
import dataclasses
import os
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnet
from fnet import io
from fnet.io.safetensors import read_header


class Point(NamedTuple):
    x: object
    y: object


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Layer:
    weight: object
    activation: object = dataclasses.field(metadata={"static": True}, default=jnp.tanh)


@jax.tree_util.register_pytree_with_keys_class
class Custom:
    def __init__(self, value):
        self.value = value

    def tree_flatten_with_keys(self):
        return [(jax.tree_util.GetAttrKey("value"), self.value)], None

    @classmethod
    def tree_unflatten(cls, aux, children):
        return cls(*children)


PARAMS = {
    "enc": [{"weight": jnp.ones((2, 3)), "bias": jnp.zeros(3)}, {"weight": jnp.full((3, 3), 2.0), "bias": jnp.ones(3)}],
    "head": {"weight": jnp.ones((3, 4), jnp.bfloat16)},
    "step": 7,
}


@pytest.fixture
def path(tmp_path):
    io.save(tmp_path / "params.safetensors", PARAMS)
    return tmp_path / "params.safetensors"


def test_the_message_of_a_mismatch_lists_everything(tmp_path):
    tree = {"enc": {"bias_": jnp.ones(3)}, "head": jnp.ones((4, 100), "bfloat16"), "ema": 1}
    io.save(tmp_path / "b.safetensors", tree)
    like = {"enc": {"bias": jnp.ones(3)}, "head": jnp.ones((4, 10), "bfloat16")}
    with pytest.raises(io.FileError) as error:
        io.load(tmp_path / "b.safetensors", like=like)
    assert (
        str(error.value)
        == f"""{tmp_path}/b.safetensors does not fit the given tree:
  in the tree, missing from the file (1):
    enc.bias   (file has 'enc.bias_'?)
  in the file, not in the tree (2):
    enc.bias_, ema
  different shape or dtype (1):
    head: file bfloat16[4, 100], tree bfloat16[4, 10]"""
    )


def test_a_long_mismatch_is_cut_but_counted(tmp_path):
    io.save(tmp_path / "a", {f"new{i}": i for i in range(3000)})
    with pytest.raises(io.FileError) as error:
        io.load(tmp_path / "a", like={f"old{i}": i for i in range(3000)})
    assert "missing from the file (3000)" in str(error.value)
    assert len(str(error.value)) < 5000


@pytest.mark.parametrize(
    ("leaf", "words"),
    [
        (jnp.ones((3, 2)), "file float32[2, 3], tree float32[3, 2]"),
        (jnp.ones((2, 3), "bfloat16"), "file float32[2, 3], tree bfloat16[2, 3]"),
        (np.ones((2, 3)), "file float32[2, 3], tree float64[2, 3]"),
        (1.5, "file float32[2, 3], tree a Python float"),
        (jax.random.key(0), "file float32[2, 3], tree key<fry>[]"),
        (jax.ShapeDtypeStruct((2,), "float32"), "file float32[2, 3], tree float32[2]"),
    ],
)
def test_each_difference_is_worded(tmp_path, leaf, words):
    io.save(tmp_path / "a", {"w": jnp.ones((2, 3))})
    with pytest.raises(io.FileError) as error:
        io.load(tmp_path / "a", like={"w": leaf})
    assert f"w: {words}" in str(error.value)


def test_not_strict_loads_what_fits_and_says_what_it_skipped(path):
    like = {"enc": PARAMS["enc"], "head": {"weight": jnp.zeros((3, 10), jnp.bfloat16)}, "new": jnp.zeros(1), "step": 0}
    with pytest.warns(UserWarning) as caught:
        tree = io.load(path, like=like, strict=False)
    message = str(caught[0].message)
    assert "5 of 7 leaves loaded" in message and "head.weight: file bfloat16[3, 4], tree bfloat16[3, 10]" in message
    assert "missing from the file (1):\n    new" in message and caught[0].filename == __file__
    assert tree["new"] is like["new"] and tree["head"]["weight"] is like["head"]["weight"] and tree["step"] == 7
    assert not fnet.diff(tree["enc"], PARAMS["enc"])


def test_the_template_decides_the_structure_and_the_kind_of_array(path):
    like = jax.tree.map(lambda x: np.zeros_like(x), PARAMS | {"enc": tuple(PARAMS["enc"])}) | {"step": 0}
    tree = io.load(path, like=like)
    assert isinstance(tree["enc"], tuple) and type(tree["enc"][1]["weight"]) is np.ndarray
    io.save(path, {"a": np.float32(2), "b": np.ones(2)})
    tree = io.load(path, like={"a": jnp.zeros(()), "b": np.zeros(2)})
    assert isinstance(tree["a"], jax.Array) and type(tree["b"]) is np.ndarray
    assert type(io.load(path)["a"]) is np.float32


def test_a_template_of_shapes_only(path):
    abstract = jax.eval_shape(lambda: {name: PARAMS[name] for name in ("enc", "head")}) | {"step": 0}
    assert not fnet.diff(io.load(path, like=abstract), PARAMS)


def test_classes_need_types_or_a_template(tmp_path):
    tree = {"a": Point(jnp.ones(2), {"deep": [Point(1, None)]})}
    io.save(tmp_path / "a", tree)
    with pytest.raises(io.FileError) as error:
        io.load(tmp_path / "a")
    assert f"a: {__name__}.Point" in str(error.value) and "a.y.deep.0" in str(error.value)
    assert "types=[TheClass" in str(error.value) and "like=" in str(error.value)
    assert io.load(tmp_path / "a", types=[Point])["a"].y == {"deep": [Point(1, None)]}
    assert isinstance(io.load(tmp_path / "a", like=tree)["a"], Point)
    with pytest.raises(TypeError, match="types= takes NamedTuples and dataclasses, got <class 'int'>"):
        io.load(tmp_path / "a", types=[int])


def test_a_class_that_changed_its_fields_is_refused(tmp_path):
    io.save(tmp_path / "a", Point(1, 2))
    other = collections.namedtuple("Point", ["x", "z"])
    with pytest.raises(io.FileError, match="the tree itself: .*Point with the fields x, y, but it has x, z now"):
        io.load(tmp_path / "a", types=[other])


def test_a_class_that_moved_is_found_by_its_name_unless_two_have_it(tmp_path):
    io.save(tmp_path / "a", Point(1, 2))
    moved, second = (collections.namedtuple("Point", ["x", "y"]) for _ in range(2))
    moved.__module__ = second.__module__ = "elsewhere"
    assert type(io.load(tmp_path / "a", types=[moved])) is moved
    with pytest.raises(io.FileError, match="holds classes"):
        io.load(tmp_path / "a", types=[moved, second])
    assert type(io.load(tmp_path / "a", types=[moved, second, Point])) is Point


def test_static_fields_that_are_not_data_and_other_pytrees_need_a_template(tmp_path):
    cases = [(Layer(jnp.ones(2)), "fields activation are not data"), (Custom(jnp.ones(2)), "only like= rebuilds")]
    for tree, words in cases:
        io.save(tmp_path / "a", {"l": tree})
        with pytest.raises(io.FileError, match=words):
            io.load(tmp_path / "a", types=[Layer])
        again = io.load(tmp_path / "a", like={"l": tree})["l"]
        assert type(again) is type(tree) and jax.tree.leaves(again)[0].tolist() == [1, 1]


def test_a_file_never_imports_a_class(tmp_path):
    """The name of a class is compared, never looked up."""
    io.save(tmp_path / "a", Point(1, 2))

    sys.modules.pop("antigravity", None)
    saved = f"{__name__}.Point".encode()
    data = (tmp_path / "a").read_bytes().replace(saved, b"antigravity.Pt".ljust(len(saved), b"x"))
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(io.FileError, match=r"antigravity\.Pt"):
        io.load(tmp_path / "a", verify=False)
    assert "antigravity" not in sys.modules


def test_fnets_own_training_run_needs_no_template(tmp_path):
    train_state = pytest.importorskip("fnet.train.state", reason="the training run is another part")
    run = train_state.TrainState(
        params={"w": jnp.ones(2)}, state={}, opt_state={"step": jnp.zeros((), "int32")}, key=jax.random.key(1),
        step=jnp.asarray(3, "int32"),
    )  # fmt: skip
    io.save(tmp_path / "run", run)
    again = io.load(tmp_path / "run")
    assert type(again) is train_state.TrainState and not fnet.diff(run, again)
    assert io.load(tmp_path / "run", select="params.*").params.keys() == {"w"}


def test_select_loads_a_part(path):
    assert io.load(path, select="head.*").keys() == {"head"}
    part = io.load(path, select=["enc.1.*", "step"])
    assert part["enc"][0] is fnet.tree.HOLE and part["step"] == 7
    assert fnet.names(part) == ["enc.1.bias", "enc.1.weight", "step"]
    assert fnet.names(io.load(path, select=lambda name, leaf: getattr(leaf, "ndim", 0) == 2)) == [
        "enc.0.weight", "enc.1.weight", "head.weight",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="did you mean"):
        io.load(path, select="haed.weight")
    assert io.load(path, select=fnet.optional("nothing")) == {}


def test_select_agrees_with_the_selectors_of_trees(path):
    for selector in ("*", "*.weight", ["enc.*", "head.*"], "enc.0.bias"):
        chosen = fnet.select(PARAMS, selector)
        assert not fnet.diff(dict(fnet.named(io.load(path, select=selector))), chosen)


def test_select_into_a_template_keeps_the_rest(path):
    like = jax.tree.map(jnp.zeros_like, PARAMS) | {"head": {"weight": jnp.zeros((3, 10))}}
    tree = io.load(path, like=like, select="enc.1.*")
    assert not fnet.diff(tree["enc"][1], PARAMS["enc"][1])
    assert tree["enc"][0]["weight"] is like["enc"][0]["weight"] and tree["head"]["weight"] is like["head"]["weight"]
    with pytest.raises(io.FileError, match="head.weight: file"):
        io.load(path, like=like, select="head.*")


def test_a_part_needs_no_classes_outside_of_it(tmp_path):
    io.save(tmp_path / "a", {"params": {"w": jnp.ones(2)}, "opt": Point(jnp.ones(2), 3)})
    assert fnet.names(io.load(tmp_path / "a", select="params.*")) == ["params.w"]
    with pytest.raises(io.FileError, match="Point"):
        io.load(tmp_path / "a", select="opt.x")


def test_a_selected_part_reads_only_its_bytes(tmp_path):
    io.save(tmp_path / "a", {"good": jnp.ones(100), "bad": jnp.zeros(100)})
    data = bytearray((tmp_path / "a").read_bytes())
    data[-1] ^= 1
    (tmp_path / "a").write_bytes(data)
    assert io.load(tmp_path / "a", select="good")["good"].sum() == 100
    with pytest.raises(io.FileError, match="'bad' do"):
        io.load(tmp_path / "a", select="bad")
    lazily = io.load(tmp_path / "a", mmap=True)
    assert lazily["good"].sum() == 100
    with pytest.raises(io.FileError, match="'bad' do"):
        io.load(tmp_path / "a", mmap=True, verify=True)


def test_mapped_arrays_of_jax_are_the_bytes_of_the_file(tmp_path):
    """Seen by writing into the file, which nobody should; an array whose place XLA cannot take is a copy."""
    tree = {"odd": jnp.ones(3, jnp.int8), "last": jnp.ones(7), "h": jnp.ones(96, jnp.bfloat16), "w": jnp.ones((4, 4))}
    io.save(tmp_path / "a", tree)
    mapped, fitted = io.load(tmp_path / "a", mmap=True), io.load(tmp_path / "a", mmap=True, like=tree)
    with open(tmp_path / "a", "r+b") as file:
        start = read_header(file, "a").data
        size = file.seek(0, os.SEEK_END)
        file.seek(start)
        file.write(bytes(size - start))
    for found in (mapped, fitted):
        assert all(isinstance(leaf, jax.Array) for leaf in found.values())
        assert {name: float(leaf.sum()) for name, leaf in found.items()} == {"h": 0, "last": 0, "odd": 3, "w": 0}


def test_a_mapped_array_can_be_donated(tmp_path):
    io.save(tmp_path / "a", {"w": jnp.ones((64, 64))})
    before = (tmp_path / "a").read_bytes()
    mapped = io.load(tmp_path / "a", mmap=True)["w"]
    changed = jax.jit(lambda w: w.at[0].set(5.0), donate_argnums=0)(mapped)
    assert changed.sum() == 64 * 63 + 5 * 64
    assert (tmp_path / "a").read_bytes() == before


def test_a_mapped_file_survives_a_save_over_it(tmp_path):
    io.save(tmp_path / "a", {"w": np.ones(10000)})
    mapped = io.load(tmp_path / "a", mmap=True)
    io.save(tmp_path / "a", {"w": np.zeros(5)})
    assert mapped["w"].sum() == 10000
