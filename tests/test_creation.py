"""Arrays from values, constants and draws, against numpy, jax.random and torch; and every refusal's message."""

from __future__ import annotations

import subprocess
import sys

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from jax.sharding import NamedSharding, PartitionSpec

import fnet

KEY = jax.random.key(0)
DTYPES = ["bool", "int8", "int16", "int32", "uint8", "uint16", "uint32", "float16", "float32", "complex64"]


def same(x: jax.Array, expected: np.ndarray) -> None:
    assert isinstance(x, jax.Array) and x.dtype == expected.dtype and not x.weak_type
    np.testing.assert_array_equal(x, expected)


# --- tensor


@given(hnp.arrays(st.sampled_from(DTYPES), hnp.array_shapes(min_dims=0, min_side=0)))
def test_tensor_of_an_array_and_of_its_lists_is_the_array(a: np.ndarray) -> None:
    same(fnet.tensor(a), a)
    same(fnet.tensor(a.T), a.T)
    same(fnet.from_numpy(a[..., ::-1] if a.ndim else a), a[..., ::-1] if a.ndim else a)
    same(fnet.tensor(a.tolist(), dtype=a.dtype), np.array(a.tolist(), a.dtype))  # an empty outer axis hides the rest
    same(fnet.tensor(fnet.tensor(a)), a)
    same(fnet.tensor(a.astype(a.dtype.newbyteorder())), a)


@pytest.mark.parametrize(
    ("data", "dtype"),
    [(1, "int32"), (1.5, "float32"), (True, "bool"), (1j, "complex64"), ([], "float32"), ([1, 2.5], "float32"),
     ([True, 2], "int32"), (range(3), "int32"), ((1, 2), "int32"), (np.float64(1), "float32"), (np.int64(3), "int32"),
     (np.uint64(3), "uint32"), ([np.ones(2), [3, 4]], "float32"), ([jnp.ones(2), jnp.zeros(2)], "float32"),
     (jnp.asarray(1.0), "float32"), (-(2**31), "int32")],
)  # fmt: skip
def test_dtypes_of_data_are_those_of_jax_and_never_weak(data: object, dtype: str) -> None:
    x = fnet.tensor(data)
    assert x.dtype == dtype and not x.weak_type
    np.testing.assert_array_equal(x, np.asarray(data))


def test_tensor_takes_the_dtype_it_is_told() -> None:
    same(fnet.tensor([1.7, -2.3], dtype=int), np.array([1, -2], np.int32))
    same(fnet.tensor([0, 3], dtype=bool), np.array([False, True]))
    same(fnet.tensor(jnp.arange(3), dtype="bfloat16"), np.arange(3).astype(jnp.bfloat16))
    assert fnet.tensor([1.0], dtype=float).dtype == jnp.float32
    assert np.isinf(fnet.tensor(1e300))
    with pytest.warns(UserWarning, match="float64 .* not available"):
        assert fnet.tensor([1.0], dtype=np.float64).dtype == jnp.float32


def test_tensor_in_64_bits(x64: None) -> None:
    same(fnet.tensor([1, 2**40]), np.array([1, 2**40]))
    same(fnet.tensor(0.1), np.array(0.1))
    same(fnet.zeros(2), np.zeros(2))
    assert fnet.rand(KEY, 2).dtype == np.float64 and fnet.randint(KEY, 0, 2**40, 2).dtype == np.int64


def test_tensor_works_under_every_transform() -> None:
    same(jax.jit(lambda x: fnet.tensor([x, x + 1, 2.0]))(1.0), np.array([1, 2, 2], np.float32))
    same(jax.jit(lambda: fnet.tensor([[1, 2]]))(), np.array([[1, 2]], np.int32))
    same(jax.jit(fnet.tensor)(3.0), np.float32(3))
    assert jax.vmap(lambda x: fnet.tensor([x, x]))(jnp.ones(3)).shape == (3, 2)
    assert jax.grad(lambda x: (fnet.tensor([x, x]) ** 2).sum())(3.0) == 12


@pytest.mark.parametrize("size", [1, 100, 10**6])
@pytest.mark.parametrize("make", [fnet.tensor, fnet.from_numpy, lambda a: fnet.to({"a": a}, "cpu")["a"]])
def test_later_changes_to_the_numpy_array_do_not_reach_the_tensor(size: int, make: object) -> None:
    for _ in range(5):  # jnp.array fails this one time in three at a million numbers: its copy runs later
        a = np.zeros(size, np.float32)
        x = make(a)  # type: ignore[operator]
        a[:] = 7
        assert not x.any()


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [([[1, 2], [3]], ValueError, r"ragged: data\[1\] has shape \(1,\) where data\[0\] has shape \(2,\)"),
     ([[[1], [2]], [[1, 2], 3]], ValueError, r"ragged: data\[1\]\[1\] has shape \(\) where data\[1\]\[0\]"),
     ([1, [2]], ValueError, r"ragged: data\[1\] has shape \(1,\)"),
     ([np.ones(2), np.ones(3)], ValueError, r"ragged: data\[1\] has shape \(3,\)"),
     ("abc", TypeError, "data is str 'abc'"),
     ([[1, 2], [3, "x"]], TypeError, r"data\[1\]\[1\] is str 'x'"),
     ([1, None], TypeError, r"data\[1\] is NoneType None"),
     (None, TypeError, "data is NoneType"),
     ({"a": 1}, TypeError, "data is dict .*jax.tree.map"),
     ({1, 2}, TypeError, r"data is set \{1, 2\}; write list"),
     ((i for i in range(3)), TypeError, "data is generator .*write list"),
     (np.array(["a"]), TypeError, "an array of dtype <U1"),
     (np.array([object()]), TypeError, "an array of dtype object"),
     (np.datetime64("2020-01-01"), TypeError, "dtype datetime64"),
     (2**31, OverflowError, "2147483648 does not fit int32.*jax_enable_x64"),
     ([0, 2**31], OverflowError, r"2147483648 at \[1\] does not fit int32"),
     (np.array([[1, -(2**40)]]), OverflowError, r"-1099511627776 at \[0, 1\] does not fit int32"),
     (np.uint64(2**40), OverflowError, "does not fit uint32"),
     ([0, 2**64], OverflowError, r"data\[1\] is 18446744073709551616, which fits no integer dtype")],
)  # fmt: skip
def test_what_tensor_refuses(data: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        fnet.tensor(data)


@pytest.mark.parametrize(
    ("data", "dtype", "error", "message"),
    [([300], "uint8", OverflowError, r"300 at \[0\] does not fit uint8, 0 to 255; pass a wider"),
     ([-1], jnp.uint8, OverflowError, "-1 at"), ([9], "int4", OverflowError, "int4, -8 to 7"),
     ([float("nan")], int, OverflowError, "nan at"), ([1e10], int, OverflowError, "10000000000.0 at"),
     ([2.0**31], int, OverflowError, "does not fit int32"), ([1 + 1j], float, TypeError, "data.real"),
     ([1], "nope", TypeError, "'nope' is no dtype"), ([1], str, TypeError, "numbers or booleans")],
)  # fmt: skip
def test_what_tensor_refuses_to_become(data: object, dtype: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        fnet.tensor(data, dtype=dtype)


def test_ragged_traced_data_says_where() -> None:
    with pytest.raises(ValueError, match=r"ragged: data\[1\] has shape \(2,\)"):
        jax.jit(lambda x: fnet.tensor([x, [1, 2]]))(1.0)


# --- devices


def test_devices_and_their_names() -> None:
    assert list(fnet.devices()) == jax.local_devices()
    text = str(fnet.devices())
    assert text == repr(fnet.devices()) and "cpu:0" in text and "(the default)" in text and "\ngpu " in text
    cpu = jax.devices("cpu")[0]
    for device in ("cpu", "cpu:0", cpu, jax.sharding.SingleDeviceSharding(cpu)):
        x = fnet.tensor([1], device=device)
        assert x.devices() == {cpu} and x.committed
    for make in (fnet.zeros, fnet.ones, lambda n, **k: fnet.full(n, 1, **k), fnet.eye, fnet.arange):
        assert make(2, device="cpu").committed and not make(2).committed
    for draw in (fnet.rand, fnet.randn, fnet.uniform, fnet.normal, fnet.permutation, fnet.randperm):
        assert draw(KEY, 2, device="cpu").committed and not draw(KEY, 2).committed


@pytest.mark.parametrize("device", ["cpu:99", "cpu:x", "quantum"])
def test_a_device_that_is_not_there_is_an_error_that_lists_what_is(device: str) -> None:
    with pytest.raises(ValueError, match=f"no device '{device}' here. There is:\ncpu:0"):
        fnet.zeros(2, device=device)


def test_a_device_of_another_kind_is_an_error() -> None:
    with pytest.raises(TypeError, match="a device is a name such as"):
        fnet.tensor([1], device=0)  # type: ignore[arg-type]


def test_what_is_not_there_comes_with_how_to_get_it() -> None:
    code = "import fnet; print(fnet.devices())"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={"JAX_PLATFORMS": "cpu"})
    assert "tpu    not looked for: JAX_PLATFORMS is 'cpu'" in found.stdout, found.stderr


def test_to_moves_arrays_and_leaves_the_rest() -> None:
    tree = {"x": jnp.ones(2), "n": np.arange(3), "s": "name", "i": 3, "none": None, "t": np.array(["a"]), "k": KEY}
    moved = fnet.to(tree, "cpu")
    assert all(isinstance(moved[name], jax.Array) and moved[name].committed for name in ("x", "n", "k"))
    assert (moved["s"], moved["i"], moved["none"]) == ("name", 3, None) and moved["t"] is tree["t"]
    assert fnet.to(jnp.ones(2), jax.devices("cpu")[0]).committed


# --- constants


@pytest.mark.parametrize("shape", [(), 3, (2, 3), [4], (0, 2)])
@pytest.mark.parametrize("dtype", [None, *DTYPES])
def test_constants_are_numpy_s(shape: object, dtype: str | None) -> None:
    same(fnet.zeros(shape, dtype), np.zeros(shape, dtype or "float32"))
    same(fnet.ones(shape, dtype), np.ones(shape, dtype or "float32"))
    same(fnet.full(shape, 1, dtype), np.full(shape, 1, dtype or "int32"))


def test_full_takes_the_dtype_and_the_shape_of_its_value() -> None:
    same(fnet.full(2, 1.5), np.full(2, 1.5, np.float32))
    same(fnet.full(2, True), np.full(2, True))
    same(fnet.full((2, 2), [1, 2]), np.array([[1, 2], [1, 2]], np.int32))
    with pytest.raises(OverflowError, match="does not fit int32"):
        fnet.full(2, 2**40)


@pytest.mark.parametrize("arguments", [(5,), (2, 10, 3), (5, 0), (10, 0, -2), (0.0, 1, 0.25), (3.0,)])
def test_arange_is_numpy_s(arguments: tuple[float, ...]) -> None:
    expected = np.arange(*arguments)
    same(fnet.arange(*arguments), expected.astype("int32" if expected.dtype.kind == "i" else "float32"))


def test_eye_and_linspace_are_numpy_s() -> None:
    same(fnet.eye(2, 3), np.eye(2, 3, dtype=np.float32))
    same(fnet.eye(2, dtype=int), np.eye(2, dtype=np.int32))
    np.testing.assert_allclose(fnet.linspace(-1, 2, 7), np.linspace(-1, 2, 7), rtol=1e-6, atol=1e-7)
    assert fnet.linspace(0, 10, 3, dtype="float16").dtype == np.float16
    same(fnet.arange(250, 256, dtype="uint8"), np.arange(250, 256, dtype="uint8"))


def test_constants_refuse_what_jax_would_wrap_or_misread() -> None:
    with pytest.raises(OverflowError, match="2147483648"):
        fnet.arange(2**31, 2**31 + 2)
    with pytest.raises(OverflowError, match="uint8"):
        fnet.arange(0, 257, dtype="uint8")
    with pytest.raises(ValueError, match="step other than 0"):
        fnet.arange(0, 3, 0)
    for wrong in (lambda: fnet.zeros(2, 3), lambda: fnet.ones(2, 3), lambda: fnet.rand(KEY, 2, 3)):  # type: ignore
        with pytest.raises(TypeError, match=r"dtype=3 looks like a size: a shape is one argument, \(2, 3\)"):
            wrong()


LIKE = {
    "zeros_like": fnet.zeros_like,
    "ones_like": fnet.ones_like,
    "full_like": lambda x, **k: fnet.full_like(x, 2, **k),
    "rand_like": lambda x, **k: fnet.rand_like(KEY, x, **k),
    "randn_like": lambda x, **k: fnet.randn_like(KEY, x, **k),
}


@pytest.mark.parametrize("make", LIKE.values(), ids=LIKE)
def test_like_keeps_shape_dtype_and_device_unless_told(make) -> None:
    for x in (jnp.ones((2, 3), "bfloat16"), np.ones((2, 3), "float16"), jax.ShapeDtypeStruct((2, 3), "float32")):
        y = make(x)
        assert (y.shape, y.dtype, y.weak_type) == (x.shape, x.dtype, False)
        assert make(x, dtype=jnp.float32).dtype == jnp.float32
    assert make(np.ones(3)).dtype == jnp.float32  # float64 is narrowed, without a warning
    assert not make(jnp.asarray(1.0)).weak_type
    mesh = jax.make_mesh((1,), ("data",))
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    assert make(jax.device_put(jnp.ones(4), sharding)).sharding == sharding
    assert not make(jnp.ones(4)).committed and make(jnp.ones(4), device="cpu").committed
    assert jax.eval_shape(make, jax.ShapeDtypeStruct((4,), "float16")).dtype == "float16"
    assert jax.vmap(make)(jnp.ones((3, 2))).shape == (3, 2)
    with pytest.raises(TypeError, match="takes an array; got list"):
        make([1, 2])
    with pytest.raises(TypeError, match="cannot make an array of dtype key"):
        make(KEY)


def test_random_like_integers_needs_a_dtype() -> None:
    for draw in (fnet.rand_like, fnet.randn_like):
        with pytest.raises(TypeError, match="draws are floats, and dtype is int32: pass dtype=float"):
            draw(KEY, jnp.arange(3))
        assert draw(KEY, jnp.arange(3), dtype=float).dtype == jnp.float32
        with pytest.raises(TypeError, match="take a key first"):
            draw(jnp.ones(3), KEY)


# --- draws


def test_draws_are_those_of_jax_random() -> None:
    np.testing.assert_array_equal(fnet.rand(KEY, (2, 3)), jax.random.uniform(KEY, (2, 3)))
    np.testing.assert_array_equal(fnet.randn(KEY, [5], "bfloat16"), jax.random.normal(KEY, (5,), "bfloat16"))
    np.testing.assert_array_equal(fnet.uniform(KEY, 9, -2, 3), jax.random.uniform(KEY, (9,), minval=-2, maxval=3))
    np.testing.assert_allclose(fnet.normal(KEY, 9, 1, 2), 1 + 2 * jax.random.normal(KEY, (9,)), rtol=1e-6)
    np.testing.assert_array_equal(fnet.randint(KEY, -3, 9, 50), jax.random.randint(KEY, (50,), -3, 9))
    np.testing.assert_array_equal(fnet.randperm(KEY, 9), jax.random.permutation(KEY, 9))
    np.testing.assert_array_equal(fnet.permutation(KEY, 9), jax.random.permutation(KEY, 9))
    np.testing.assert_array_equal(fnet.permutation(KEY, np.eye(3), axis=1), jax.random.permutation(KEY, jnp.eye(3), 1))
    np.testing.assert_array_equal(fnet.rand(jax.random.PRNGKey(0), 4), fnet.rand(KEY, 4))


def test_draws_keep_to_their_bounds_and_dtypes() -> None:
    x = fnet.randint(KEY, 0, 256, 10_000, dtype="uint8")
    assert x.dtype == np.uint8 and set(np.unique(x)) == set(range(256))
    y = fnet.randint(KEY, np.array([0, 10]), jnp.array([1, 11]), 2)
    same(y, np.array([0, 10], np.int32))
    z = fnet.uniform(KEY, (1000, 2), np.array([0.0, 5.0]), 6.0, dtype="float16")
    assert z.dtype == np.float16 and z.min() >= 0 and z[:, 1].min() >= 5 and z.max() <= 6
    assert fnet.normal(KEY, 3, np.float32(1), jnp.ones(3), dtype="bfloat16").dtype == jnp.bfloat16
    assert sorted(fnet.randperm(KEY, 100).tolist()) == list(range(100))


def test_draws_work_under_transforms() -> None:
    assert jax.vmap(lambda key: fnet.normal(key, 2))(jax.random.split(KEY, 3)).shape == (3, 2)
    np.testing.assert_array_equal(jax.jit(lambda key: fnet.rand(key, 2))(KEY), fnet.rand(KEY, 2))
    np.testing.assert_array_equal(jax.jit(lambda n: fnet.randint(KEY, 0, n, 4))(5), fnet.randint(KEY, 0, 5, 4))
    low = jnp.zeros(2)  # an array that the trace does not know
    assert jax.jit(lambda: fnet.uniform(KEY, 2, low, low + 1))().shape == (2,)


@pytest.mark.parametrize("key", [0, None, (2, 3), 1.5, jnp.ones(2)])
def test_a_seed_is_no_key(key: object) -> None:
    for draw in (fnet.rand, fnet.randn, fnet.uniform, fnet.normal, fnet.permutation, fnet.randperm):
        with pytest.raises(TypeError, match=r"take a key first; got .*: write jax.random.key\(0\)"):
            draw(key, 2)
    with pytest.raises(TypeError, match=r"take a key first; got the int 7: write jax.random.key\(7\)"):
        fnet.randint(7, 0, 5, 2)


@pytest.mark.parametrize(
    ("draw", "error", "message"),
    [(lambda: fnet.uniform(KEY, 2, 1.0, 0.0), ValueError, "uniform needs low < high; got low=1.0, high=0.0"),
     (lambda: fnet.randint(KEY, 5, 5, 2), ValueError, "randint needs low < high"),
     (lambda: fnet.randint(KEY, (3,), 0, 10), TypeError, "bounds first"),
     (lambda: fnet.randint(KEY, 0, 1.5, 3), TypeError, "whole bounds; got high=1.5"),
     (lambda: fnet.randint(KEY, 0, 300, 3, dtype="uint8"), OverflowError, "299 does not fit uint8"),
     (lambda: fnet.randint(KEY, 0, 2**31, 3), OverflowError, "does not fit int32"),
     (lambda: fnet.rand(KEY, 2, dtype=int), TypeError, "draws are floats"),
     (lambda: fnet.randperm(KEY, -1), ValueError, "0 or more; got -1"),
     (lambda: fnet.rand(jax.random.split(KEY), 2), ValueError, "single key")],
)  # fmt: skip
def test_what_draws_refuse(draw, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        draw()


# --- bridges


def test_to_numpy_is_a_writable_copy() -> None:
    x = jnp.arange(6.0, dtype="bfloat16").reshape(2, 3)
    a = fnet.to_numpy(x)
    assert a.dtype == jnp.bfloat16 and a.shape == (2, 3)
    a[:] = 7
    assert x[0, 0] == 0
    assert fnet.to_numpy(jnp.float32(2)).shape == ()
    with pytest.raises(TypeError, match="takes a numpy array; got list"):
        fnet.from_numpy([1])  # type: ignore[arg-type]


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="parity tests need the oracle extra: pip install fnet[oracle]")


TORCH_DTYPES = [*DTYPES, "bfloat16", "float8_e4m3fn"]


@pytest.mark.parametrize("dtype", TORCH_DTYPES)
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0, 2)])
def test_torch_and_back(torch, dtype: str, shape: tuple[int, ...]) -> None:
    t = torch.ones(shape).to(getattr(torch, dtype))
    x = fnet.from_torch(t)
    assert (x.dtype, x.shape, x.weak_type) == (dtype, shape, False)
    back = fnet.to_torch(x)
    assert back.dtype == t.dtype and torch.equal(back, t)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_torch_views_arrive_as_they_look(torch, dtype: str) -> None:
    t = torch.arange(24).reshape(2, 3, 4).to(getattr(torch, dtype))
    for view in (t.permute(2, 0, 1), t[:, ::2], t[1:, 1:], t[:1].expand(5, 3, 4)):
        np.testing.assert_array_equal(np.float32(fnet.tensor(view)), view.float().numpy())
    np.testing.assert_array_equal(fnet.to_torch(fnet.tensor(t).T).float().numpy(), t.permute(2, 1, 0).float().numpy())


def test_torch_bridges_copy(torch) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        t = torch.zeros(1_000_000, dtype=dtype)
        x = fnet.from_torch(t)
        t[:] = 7
        assert not x.any()
        t = fnet.to_torch(x)
        t[:] = 7
        assert not x.any()


def test_torch_narrows_as_tensor_does_and_leaves_gradients_behind(torch) -> None:
    same(fnet.from_torch(torch.tensor([1, -2])), np.array([1, -2], np.int32))
    same(fnet.from_torch(torch.tensor([0.5], dtype=torch.float64)), np.array([0.5], np.float32))
    same(fnet.tensor([torch.ones(2), torch.zeros(2)]), np.array([[1, 1], [0, 0]], np.float32))
    with pytest.raises(OverflowError, match="1099511627776 at"):
        fnet.from_torch(torch.tensor([2**40]))
    weight = torch.nn.Linear(2, 3).weight
    np.testing.assert_array_equal(fnet.from_torch(weight), weight.detach().numpy())


def test_a_sharded_array_goes_to_torch_from_one_device(torch) -> None:
    code = (
        "import jax, fnet; from jax.sharding import *\n"
        "mesh = jax.make_mesh((2,), ('data',))\n"
        "x = jax.device_put(fnet.arange(4), NamedSharding(mesh, PartitionSpec('data')))\n"
        "print(fnet.to_torch(x).tolist(), len(fnet.devices()), fnet.zeros_like(x).sharding == x.sharding)\n"
        "print(fnet.tensor([1], device='cpu:1').device.id)\n"
    )
    env = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.stdout == "[0, 1, 2, 3] 2 True\n1\n", done.stderr


def test_what_the_torch_bridges_refuse(torch) -> None:
    for wrong in (torch.ones(2, device="meta"), torch.ones(2).to_sparse(), torch.tensor([1j]).conj()):
        with pytest.raises(TypeError, match=r"cannot read a torch.Tensor on \w+ through dlpack(.|\n)*Fix: "):
            fnet.from_torch(wrong)
    with pytest.raises(TypeError, match="fnet.io.from_torch reads a model's"):
        fnet.from_torch(torch.nn.Linear(2, 2))
    with pytest.raises(TypeError, match="takes a torch tensor; got list"):
        fnet.from_torch([1])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"cannot read data\[0\], a Parameter: .*requires grad"):
        fnet.tensor([torch.nn.Linear(2, 2).weight])
    with pytest.raises(TypeError, match="takes a jax.Array; got ndarray"):
        fnet.to_torch(np.ones(2))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="jax.random.key_data"):
        fnet.to_torch(KEY)
    with pytest.raises(TypeError, match="runs outside jit"):
        jax.jit(fnet.to_torch)(jnp.ones(2))
    with pytest.raises(TypeError, match="torch cannot take an array of dtype int4"):
        fnet.to_torch(jnp.ones(2, "int4"))
    with pytest.raises(TypeError, match="torch.float32 is no dtype"):
        fnet.zeros(2, dtype=torch.float32)


def test_to_torch_without_torch_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match="to_torch needs PyTorch: pip install torch"):
        fnet.to_torch(jnp.ones(2))
