"""Whatever is saved comes back: random trees, dtypes, shapes and memory layouts, every kind of leaf and container."""

import dataclasses
import os
import subprocess
import sys
import textwrap
from collections import OrderedDict
from contextlib import contextmanager
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import fnet
from fnet import io, nn
from fnet.io.safetensors import read_header
from fnet.io.structure import map_leaves

NUMPY = [
    "bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16", "float32", "float64",
    "complex64", "complex128",
]  # fmt: skip
ML = ["bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "int4", "uint4"]
JAX = ["bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "float16", "float32", "complex64", *ML]


class Pair(NamedTuple):
    first: object
    second: object


@dataclasses.dataclass(frozen=True)
class Plain:
    weight: object
    width: int = 3


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Registered:
    weight: object
    bias: object
    name: str = dataclasses.field(metadata={"static": True}, default="a")
    sizes: tuple = dataclasses.field(metadata={"static": True}, default=(1, 2.5, None, "x"))


TYPES = [Pair, Plain, Registered]


def dtype_of(name: str) -> np.dtype:
    return np.dtype(getattr(ml_dtypes, name, None) or name)


def assert_same(a, b):
    """Equal in every respect that a program could see, down to the sign of zeros and the payload of NaNs."""
    assert type(a) is type(b), (a, b)
    if isinstance(a, dict):
        assert list(a) == list(b)
        a, b = list(a.values()), list(b.values())
    elif dataclasses.is_dataclass(a):
        a, b = list(vars(a).values()), list(vars(b).values())
    if isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    elif isinstance(a, jax.Array) and jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
        assert a.dtype == b.dtype and a.shape == b.shape
        assert_same(jax.random.key_data(a), jax.random.key_data(b))
    elif isinstance(a, jax.Array | np.ndarray | np.generic):
        assert a.shape == b.shape and a.dtype.name == b.dtype.name and b.dtype.isnative
        x = np.asarray(a)
        assert x.astype(x.dtype.newbyteorder("=")).tobytes() == np.asarray(b).tobytes()
    else:
        assert repr(a) == repr(b)


def awkward(array: np.ndarray, layout: int) -> np.ndarray:
    """The same kind of array, lying in memory in another way."""
    if layout == 1:
        array = array.T
    if layout == 2 and array.ndim:
        array = array[::-1]
    if layout == 3 and array.ndim:
        array = np.concatenate([array, array], -1)[..., ::2]
    if layout == 4:
        array = array.astype(array.dtype.newbyteorder(">"))
    if layout == 5:
        array = array[..., None].swapaxes(0, -1) if array.ndim else array
    return array


@st.composite
def arrays(draw):
    kind = draw(st.sampled_from(["numpy", "jax"]))
    dtype = dtype_of(draw(st.sampled_from(JAX if kind == "jax" else NUMPY + ML)))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
    size = int(np.prod(shape))
    raw = np.random.default_rng(draw(st.integers(0, 2**32))).integers(0, 256, size * dtype.itemsize, np.uint8)
    if dtype == np.bool_:
        raw = raw % 2
    if dtype.name in ("int4", "uint4"):
        raw = raw % 8
    array = raw.view(dtype).reshape(shape)
    return jax.device_put(array) if kind == "jax" else awkward(array, draw(st.integers(0, 5)))


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.complex_numbers(),
    st.text(max_size=5),
    st.sampled_from([np.float32(1.5), np.int64(-3), np.bool_(True), np.complex128(1j), ml_dtypes.bfloat16(2.5)]),
    st.just(fnet.tree.HOLE),
)
keys = st.one_of(st.text(max_size=4), st.sampled_from(["a", "b.c", "~", "~0", "~1", ".", "", "__metadata__", "0"]))
trees = st.recursive(
    st.integers(0, 3).flatmap(lambda choice: arrays() if choice else scalars),
    lambda below: st.one_of(
        st.lists(below, max_size=3),
        st.lists(below, max_size=3).map(tuple),
        st.dictionaries(keys, below, max_size=3),
        st.dictionaries(keys, below, max_size=3).map(OrderedDict),
        st.builds(Pair, below, below),
        st.builds(Plain, below),
        st.builds(Registered, below, below, st.text(max_size=3)),
    ),
    max_leaves=8,
)
many = settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@many
@given(tree=trees, checksum=st.booleans())
def test_random_trees(tmp_path, tree, checksum):
    path = tmp_path / "tree.safetensors"
    io.save(path, tree, checksum=checksum)
    assert_same(tree, io.load(path, types=TYPES))
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("layout", range(6))
@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (3, 4), (2, 3, 4)])
def test_every_layout_of_every_dtype(tmp_path, layout, shape):
    values = np.arange(int(np.prod(shape))) % 7
    names = NUMPY if layout == 4 else NUMPY + ML  # numpy itself misreads a big-endian bfloat16
    tree = {name: awkward(values.reshape(shape).astype(dtype_of(name)), layout) for name in names}
    io.save(tmp_path / "a", tree)
    again = io.load(tmp_path / "a")
    assert_same(tree, again)
    for name, array in tree.items():
        assert array.tolist() == again[name].tolist()


@settings(many, max_examples=150)
@given(tree=trees)
def test_random_trees_through_a_template(tmp_path, tree):
    path = tmp_path / "tree.safetensors"
    io.save(path, tree)
    if tree is not None:
        assert_same(tree, io.load(path, like=tree))


@settings(many, max_examples=100)
@given(tree=trees)
def test_random_trees_mapped(tmp_path, tree):
    path = tmp_path / "tree.safetensors"
    io.save(path, tree)
    mapped = io.load(path, types=TYPES, mmap=True, verify=True)
    assert_same(tree, mapped)
    map_leaves(lambda _, x: check_read_only(x), mapped)


def check_read_only(leaf):
    assert not isinstance(leaf, np.ndarray) or not leaf.flags.writeable or not leaf.size


def test_names_in_the_file_are_the_names_of_the_tree(tmp_path):
    one = jnp.ones(1)
    tree = {"enc.1": [{"w": one}, Pair(one, (one,))], "~": Registered(one, one)}
    io.save(tmp_path / "a", tree)
    with open(tmp_path / "a", "rb") as file:
        found = read_header(file, "a").tensors
    assert set(found) == set(fnet.names(tree))
    assert "enc~11.1.second.0" in found


def test_typed_keys_of_every_implementation_and_shape(tmp_path):
    tree = {"one": jax.random.key(0)}
    for impl in ("rbg", "threefry2x32", "unsafe_rbg"):
        tree[impl] = jax.random.split(jax.random.key(3, impl=impl), (2, 2))
    io.save(tmp_path / "a", tree)
    again = io.load(tmp_path / "a")
    assert_same(tree, again)
    assert_same(jax.random.normal(tree["one"], 3), jax.random.normal(again["one"], 3))
    assert_same(tree, io.load(tmp_path / "a", like=jax.eval_shape(lambda: tree)))


def test_loaded_arrays_are_strongly_typed_writable_and_donatable(tmp_path):
    io.save(tmp_path / "a", {"weak": jnp.asarray(2.0), "np": np.ones((3, 3)), "big": jnp.ones((512, 512))})
    tree = io.load(tmp_path / "a")
    assert not tree["weak"].weak_type
    tree["np"][0, 0] = 5.0
    step = jax.jit(lambda x: x + 1, donate_argnums=0)
    big = tree["big"]
    assert float(step(big).sum()) == 2 * 512 * 512
    assert float(io.load(tmp_path / "a")["big"].sum()) == 512 * 512


def test_arrays_on_several_devices_or_deleted_or_traced(tmp_path):
    mesh = jax.make_mesh((1,), ("x",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    tree = {"w": jax.device_put(jnp.arange(8.0), sharding)}
    io.save(tmp_path / "a", tree)
    again = io.load(tmp_path / "a", like=tree)
    assert again["w"].sharding == sharding
    abstract = {"w": jax.ShapeDtypeStruct((8,), "float32", sharding=sharding)}
    assert io.load(tmp_path / "a", like=abstract)["w"].sharding == sharding
    tree["w"].delete()
    with pytest.raises(ValueError, match="'w'.*donated"):
        io.save(tmp_path / "a", tree)
    with pytest.raises(TypeError, match="'x'.*tracer"):
        jax.jit(lambda x: io.save(tmp_path / "a", {"x": x}))(1.0)
    assert_same(again, io.load(tmp_path / "a", like=abstract))


def test_64_bits_with_and_without_x64(tmp_path):
    with jax.enable_x64(True):
        tree = {"i": jnp.arange(3), "big": jnp.asarray([2**40]), "f": jnp.ones(2), "u": jnp.ones(1, "uint64")}
        io.save(tmp_path / "a", tree)
        assert_same(tree, io.load(tmp_path / "a"))
    narrow = io.load(tmp_path / "a")
    assert_same(narrow["i"], jnp.arange(3))
    assert_same(narrow["u"], jnp.ones(1, "uint32"))
    assert_same(narrow["big"], np.asarray([2**40]))
    assert_same(narrow["f"], np.ones(2))
    like = {"i": jnp.zeros(3, int), "big": np.zeros(1, int), "f": np.zeros(2), "u": jnp.zeros(1, "uint32")}
    assert_same(narrow, io.load(tmp_path / "a", like=like))
    with pytest.raises(io.FileError, match="'big' has values beyond the tree's int32"):
        io.load(tmp_path / "a", like=like | {"big": jnp.zeros(1, int)})
    with pytest.raises(io.FileError, match=r"f: file float64\[2\], tree float32\[2\]"):
        io.load(tmp_path / "a", like=like | {"f": jnp.zeros(2)})


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"a": {"b": [1, object()]}}, "'a.b.1': it is a object"),
        ({"a": {"f": len}}, "'a.f'"),
        ({"a": {1: 2}}, "the dict at 'a': its key 1 is not a string"),
        ({"a": {"\ud800": 2}}, "not valid Unicode"),
        ({"a": np.array(["x"])}, "'a': the dtype <U1"),
        ({"a": np.array([None])}, "'a': the dtype object"),
        ({"a": np.zeros(2, "M8[s]")}, "'a': the dtype datetime64"),
        ({"a": np.ma.array([1.0], mask=[True])}, "'a': it is a MaskedArray"),
        ({"a": jax.ShapeDtypeStruct((1,), "float32")}, "'a': it is a ShapeDtypeStruct"),
        ({"a": b"bytes"}, "'a': it is a bytes"),
        ({"a": nn.Linear(3)}, "'a': it is a Linear, and a model is code, which makes it again: save its params"),
        ({"a": {1, 2}}, "'a': it is a set"),
    ],
)
def test_what_cannot_be_saved_is_named_and_leaves_the_old_file(tmp_path, tree, words):
    path = tmp_path / "a.safetensors"
    io.save(path, {"old": 1})
    with pytest.raises((TypeError, ValueError)) as error:
        io.save(path, tree)
    assert words in str(error.value)
    assert io.load(path) == {"old": 1}
    assert os.listdir(tmp_path) == [path.name]


def test_pytorchs_order_of_arguments_is_refused(tmp_path):
    with pytest.raises(TypeError, match=r"save takes a path first, save\(path, tree\), got dict"):
        io.save({"w": 1.0}, tmp_path / "a.safetensors")


def test_a_tree_too_deep_or_that_contains_itself(tmp_path):
    tree: list = []
    tree.append(tree)
    with pytest.raises(ValueError, match="contains itself"):
        io.save(tmp_path / "a", tree)


def test_metadata(tmp_path):
    note = {"epoch": 3, "nested": {"scores": [0.5, None], "name": "é"}}
    io.save(tmp_path / "a", {}, metadata=note)
    assert io.metadata(tmp_path / "a") == note
    assert io.load(tmp_path / "a") == {}
    io.save(tmp_path / "a", {})
    assert io.metadata(tmp_path / "a") == {}
    for wrong in ({1: 2}, {"a": jnp.ones(2)}, [1]):
        with pytest.raises(TypeError, match="metadata= must be"):
            io.save(tmp_path / "a", {}, metadata=wrong)


def test_arrays_spread_over_devices(tmp_path):
    """Eight devices of the host: arrays come back whole, onto the template's sharding, and saving keeps no copies."""
    code = """
        import os, sys, tracemalloc
        import jax, jax.numpy as jnp, numpy as np
        from jax.sharding import NamedSharding, PartitionSpec as P
        from fnet import io
        mesh = jax.make_mesh((4, 2), ("x", "y"))
        put = lambda spec: jax.device_put(jnp.arange(2.0**20).reshape(1024, 1024), NamedSharding(mesh, P(*spec)))
        tree = {str(i): put(spec) for i, spec in enumerate([("x",), ("y", "x"), (), (None, "y"), ("x", "y")])}
        tree["key"] = jax.device_put(jax.random.split(jax.random.key(0), 8), NamedSharding(mesh, P("x")))
        tracemalloc.start()
        io.save(sys.argv[1], tree)
        held, peak = tracemalloc.get_traced_memory()
        assert held < 2e6 and peak < 12e6, (held, peak)
        plain, again = io.load(sys.argv[1]), io.load(sys.argv[1], like=tree)
        for name, x in tree.items():
            assert again[name].sharding == x.sharding and len(plain[name].devices()) == 1, name
            assert (again[name] == x).all() and (jax.device_get(plain[name]) == jax.device_get(x)).all(), name
        print("fine")
    """
    env = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "a")]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.stdout == "fine\n", done.stderr


def test_memory_does_not_grow_with_the_tree(tmp_path):
    """Saving copies chunks only; loading takes the tree's own size, whatever the sizes of its leaves."""
    import tracemalloc

    rng = np.random.default_rng(0)
    sizes = [1, 1000, 999_999, 2_500_001, 3_000_000, 17_000_000, *[1_300_000] * 24]
    tree = {f"l{i}": rng.integers(0, 256, (2, size // 2 + 1), np.uint8)[:, ::-1] for i, size in enumerate(sizes)}
    size = sum(x.nbytes for x in tree.values())  # 55 MB, none of it contiguous
    tracemalloc.start()
    try:
        io.save(tmp_path / "a", tree)
        saving = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert saving < 16e6, saving
    with peak_memory() as loading:
        again = io.load(tmp_path / "a")
    assert all(np.array_equal(again[name], tree[name]) for name in tree)
    assert not loading or loading[0] < 1.1 * size, loading  # on Linux, where the system tells
    data = bytearray((tmp_path / "a").read_bytes())
    data[-20_000_000] ^= 1
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(io.FileError, match=r"damaged: 'l\d+' do not match"):
        io.load(tmp_path / "a")


@contextmanager
def peak_memory():
    """By how many bytes the peak of this process grows in the block, in a list; it is empty where that is unknown."""

    def resident(key):
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith(key))

    found = []
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # the peak is now what there is
        before = resident("VmRSS")
    except OSError:
        yield found
        return
    yield found
    found.append(resident("VmHWM") - before)
