"""Files go both ways between fnet, the safetensors package and PyTorch."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import fnet
from fnet import io

WHY = "parity tests need the oracle extra: pip install fnet[oracle]"
st = pytest.importorskip("safetensors", reason=WHY)
stnumpy = pytest.importorskip("safetensors.numpy", reason=WHY)
torch = pytest.importorskip("torch", reason=WHY)
sttorch = pytest.importorskip("safetensors.torch", reason=WHY)

INTEGERS = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"]
DTYPES = ["bool", *INTEGERS, "float16", "float32", "float64"]
TORCH = [*DTYPES, "bfloat16", "float8_e4m3fn", "float8_e5m2", "complex64"]


def example(dtype: str, shape=(3, 4)) -> np.ndarray:
    values = np.random.default_rng(len(dtype)).integers(0, 2, shape) * 1.5
    return values.astype(getattr(ml_dtypes, dtype, None) or dtype)


def torch_bytes(tensor) -> bytes:
    return tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("dtype", TORCH)
@pytest.mark.parametrize("shape", [(), (0, 3), (3, 4)])
def test_torch_reads_ours(tmp_path, dtype, shape):
    array = example(dtype, shape)
    io.save(tmp_path / "a", {"x": {"y": array, "n": 1}, "t": np.arange(12).reshape(3, 4).T})
    found = sttorch.load_file(tmp_path / "a")
    assert set(found) == {"x.y", "t"}
    assert tuple(found["x.y"].shape) == shape and str(found["x.y"].dtype) == f"torch.{dtype}"
    assert torch_bytes(found["x.y"].reshape(-1)) == array.tobytes()
    assert np.array_equal(found["t"].numpy(), np.arange(12).reshape(3, 4).T)


@pytest.mark.parametrize("dtype", TORCH)
@pytest.mark.parametrize("shape", [(), (0, 3), (3, 4)])
def test_we_read_what_torch_writes(tmp_path, dtype, shape):
    array = example(dtype, shape)
    raw = torch.frombuffer(bytearray(array.tobytes() or b"\0" * 16), dtype=getattr(torch, dtype))
    tensor = raw[: array.size].reshape(shape)
    sttorch.save_file({"layers.0.x": tensor, "plain": torch.ones(2)}, tmp_path / "a", metadata={"format": "pt"})
    with jax.enable_x64(True):
        tree = io.load(tmp_path / "a")
    leaf = tree["layers"]["0"]["x"]
    assert isinstance(leaf, jax.Array) and leaf.dtype.name == dtype and leaf.shape == shape
    assert np.asarray(leaf).tobytes() == array.tobytes()
    assert io.metadata(tmp_path / "a") == {"format": "pt"}


def test_the_numpy_package_reads_ours_and_we_read_its(tmp_path):
    flat = {f"part.{dtype}": example(dtype) for dtype in DTYPES}
    io.save(tmp_path / "a", {"part": {dtype: flat[f"part.{dtype}"] for dtype in DTYPES}})
    theirs = stnumpy.load_file(tmp_path / "a")
    assert theirs.keys() == flat.keys()
    for name in flat:
        assert theirs[name].dtype == flat[name].dtype and np.array_equal(theirs[name], flat[name])
    stnumpy.save_file(flat, tmp_path / "b")
    like = {"part": {dtype: flat[f"part.{dtype}"] for dtype in DTYPES}}  # of numpy, which keeps 64 bits
    ours = io.load(tmp_path / "b", like=like, mmap=True)["part"]
    for dtype in DTYPES:
        assert np.array_equal(ours[dtype], flat[f"part.{dtype}"]) and ours[dtype].dtype == dtype


def test_64_bits_of_a_foreign_file_narrow_only_where_no_value_changes(tmp_path):
    arrays = {
        "small": np.array([-(2**31), 2**31 - 1]), "large": np.array([2**31]), "none": np.zeros((0, 2), np.int64),
        "unsigned": np.array([2**32 - 1], np.uint64), "too": np.array([2**32], np.uint64), "double": np.ones(2),
    }  # fmt: skip
    stnumpy.save_file(arrays, tmp_path / "a")
    tree = io.load(tmp_path / "a")
    kinds = {name: (type(x) is np.ndarray, x.dtype.name) for name, x in tree.items()}
    assert kinds == {
        "small": (False, "int32"), "large": (True, "int64"), "none": (False, "int32"),
        "unsigned": (False, "uint32"), "too": (True, "uint64"), "double": (True, "float64"),
    }  # fmt: skip
    for name, array in arrays.items():
        assert np.array_equal(np.asarray(tree[name]).astype(array.dtype), array)
    like = {"small": jnp.zeros(2, "int32")}
    assert io.load(tmp_path / "a", like=like, select="small")["small"].tolist() == [-(2**31), 2**31 - 1]


def test_a_torch_module_fits_a_template(tmp_path):
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    sttorch.save_file(module.state_dict(), tmp_path / "m")
    tree = io.load(tmp_path / "m")
    assert set(fnet.names(tree)) == set(module.state_dict())
    assert tree["1"]["num_batches_tracked"].dtype == jnp.int32
    like = jax.tree.map(jnp.zeros_like, tree)
    assert not fnet.diff(io.load(tmp_path / "m", like=like), tree)


def test_odd_names_survive_in_both_directions(tmp_path):
    tree = {"__metadata__": np.ones(1), "a.b": {"": np.ones(2), "~": np.ones(3)}, "é\n\"'": np.ones(4)}
    io.save(tmp_path / "a", tree)
    with st.safe_open(tmp_path / "a", "np") as file:
        assert set(file.keys()) == {"~__metadata__", "a~1b.", "a~1b.~0", "é\n\"'"}
    assert list(io.load(tmp_path / "a")) == list(tree)
    stnumpy.save_file({"a~1": np.ones(1, "f4"), "..": np.ones(2, "f4"), "": np.ones(3, "f4")}, tmp_path / "b")
    with pytest.raises(io.FileError, match="cannot nest"):
        io.load(tmp_path / "b")
    stnumpy.save_file({"a~1": np.ones(1, "f4"), "b..": np.ones(2, "f4"), "": np.ones(3, "f4")}, tmp_path / "b")
    assert jax.tree.map(len, io.load(tmp_path / "b")) == {"a~1": 1, "b": {"": {"": 2}}, "": 3}


def test_the_package_accepts_every_header_of_ours(tmp_path):
    tree = {"k": jax.random.key(0), "i4": jnp.ones(3, "int4"), "c": np.ones(2, complex), "s": np.float32(2), "e": ()}
    io.save(tmp_path / "a", tree, metadata={"x": 1})
    with st.safe_open(tmp_path / "a", "np") as file:
        assert set(file.keys()) == {"k", "i4", "c", "s"} and file.metadata()["format"] == "fnet"
        assert file.get_tensor("k").dtype == np.uint32
