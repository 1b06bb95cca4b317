"""PyTorch's files read without PyTorch: every dtype and layout that torch.save writes, and files that mean harm."""

from __future__ import annotations

import collections
import json
import pickle
import random
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fnet
from fnet import io
from fnet.io.pytorch.weights import as_numpy

ORACLE = "files are written by PyTorch, of the oracle extra: pip install fnet[oracle]"


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason=ORACLE)


def test_every_dtype_and_layout_comes_back(torch, tmp_path):
    base = torch.arange(24).reshape(2, 3, 4)
    names = "float16 bfloat16 float32 float64 int8 int16 int32 int64 uint8 bool complex64 float8_e4m3fn float8_e5m2"
    tensors = {name: base.to(getattr(torch, name)) for name in names.split()}
    tensors |= {
        "transposed": base.mT.float(), "sliced": base[:, 1:, ::2].float(), "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(3.5), "expanded": torch.ones(1).expand(5), "parameter": torch.nn.Parameter(base.float()),
    }  # fmt: skip
    path = tmp_path / "a.pth"
    torch.save({"model": collections.OrderedDict(tensors), "epoch": 3, "size": torch.Size([2, 3]), "lr": [0.1]}, path)
    found = io.read_torch(path)
    assert (found["epoch"], found["size"], found["lr"]) == (3, (2, 3), [0.1])
    assert list(found["model"]) == list(tensors)
    for name, tensor in tensors.items():
        array = found["model"][name]
        expected = as_numpy(tensor) if "float8" not in name else as_numpy(tensor.float())
        assert array.shape == tuple(tensor.shape) and array.dtype.name == str(tensor.dtype).removeprefix("torch.")
        np.testing.assert_array_equal(array.astype(expected.dtype), expected)


def test_a_module_and_its_files_are_one_source(torch, tmp_path):
    from fnet import nn

    module, x = torch.nn.Linear(3, 2), np.ones((1, 3), "float32")
    torch.save(module.state_dict(), tmp_path / "a.pth")
    safetensors = pytest.importorskip("safetensors.torch", reason=ORACLE)
    safetensors.save_file(module.state_dict(), tmp_path / "a.safetensors")
    expected = io.from_torch(nn.Linear(2), module, x)[0]
    for source in (tmp_path / "a.pth", str(tmp_path / "a.safetensors"), module.state_dict()):
        params = io.from_torch(nn.Linear(2), source, x)[0]
        np.testing.assert_array_equal(params["weight"], expected["weight"])
    half = io.from_torch(nn.Linear(2), module.to(torch.bfloat16), x)[0]
    np.testing.assert_allclose(half["weight"], expected["weight"], rtol=1e-2)


def test_an_index_is_of_files_beside_it(tmp_path):
    from fnet import nn

    index, x = tmp_path / "a.index.json", np.ones((1, 3), "float32")
    fnet.save(tmp_path / "a-1.safetensors", {"weight": np.ones((2, 3), "float32")})
    fnet.save(tmp_path / "a-2.safetensors", {"bias": np.ones(2, "float32")})
    files = {"weight": "a-1.safetensors", "bias": "a-2.safetensors"}
    index.write_text(json.dumps({"weight_map": files}))
    params, _ = io.from_torch(nn.Linear(2), index, x)
    assert (params["weight"] == 1).all() and (params["bias"] == 1).all()
    for wrong, message in [
        ({"weight_map": files | {"bias": "a-1.safetensors"}}, "'bias' is not in a-1.safetensors"),
        ({"weight_map": files | {"bias": "../a-2.safetensors"}}, "names '../a-2.safetensors', expected a file beside"),
        ({"metadata": {}}, "an index has a weight_map"),
    ]:
        index.write_text(json.dumps(wrong))
        with pytest.raises(io.FileError, match=message):
            io.from_torch(nn.Linear(2), index, x)


def archive(path: Path, tree: Any, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/data.pkl", tree if isinstance(tree, bytes) else pickle.dumps(tree, 2))
        for name, content in members.items():
            file.writestr(f"a/{name}", content)
    return path


class Harm:
    def __reduce__(self) -> Any:
        return (eval, ("open('/tmp/fnet-was-here', 'w')",))


def test_no_code_in_a_file_is_run(tmp_path):
    with pytest.raises(io.FileError, match=r"asks for \w+\.eval, which does not rebuild tensors.*state_dict\(\)"):
        io.read_torch(archive(tmp_path / "a.pth", {"x": Harm()}))
    assert not Path("/tmp/fnet-was-here").exists()
    for module, name in (("os", "system"), ("torch", "load"), ("torch._utils", "_import_dotted_name")):
        with pytest.raises(io.FileError, match="runs no code"):
            io.read_torch(archive(tmp_path / "a.pth", b"\x80\x02c" + f"{module}\n{name}\n".encode() + b"."))


def test_a_whole_model_is_refused_with_the_fix(torch, tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "a.pth")
    with pytest.raises(io.FileError, match=r"torch\.nn\.modules\.linear\.Linear.*state_dict\(\), path"):
        io.read_torch(tmp_path / "a.pth")
    torch.save({"a": torch.ones(2)}, tmp_path / "b.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(io.FileError, match="before 1.6"):
        io.read_torch(tmp_path / "b.pth")
    (tmp_path / "c.pth").write_bytes(b"hello")
    with pytest.raises(io.FileError, match="no zip archive"):
        io.read_torch(tmp_path / "c.pth")
    with zipfile.ZipFile(tmp_path / "d.pth", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a/data.pkl", pickle.dumps({}) * 10)
    with pytest.raises(io.FileError, match="compressed"):
        io.read_torch(tmp_path / "d.pth")
    with zipfile.ZipFile(tmp_path / "e.pth", "w") as file:
        file.writestr("a/other", b"")
    with pytest.raises(io.FileError, match="0 members data.pkl"):
        io.read_torch(tmp_path / "e.pth")


def test_damaged_files_are_errors_or_right(torch, tmp_path):
    """Bits flipped and ends cut off: a FileError, or the same arrays but for what zip's own checksum cannot see."""
    path = tmp_path / "a.pth"
    tensors = {"a": torch.arange(64.0).reshape(8, 8).T, "b": torch.arange(6)}
    torch.save(tensors, path)
    whole, draw = path.read_bytes(), random.Random(0)
    refused = 0
    for trial in range(400):
        data = bytearray(whole)
        if trial % 4 == 0:
            data = data[: draw.randrange(len(data))]
        else:
            for _ in range(draw.choice((1, 1, 4))):
                data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        path.write_bytes(data)
        try:
            found = io.read_torch(path)
        except io.FileError:
            refused += 1
            continue
        for name, value in found.items() if isinstance(found, dict) else ():
            assert not isinstance(value, np.ndarray) or name not in tensors or (value == tensors[name].numpy()).all()
    assert refused > 200


def test_the_other_byte_order_is_turned(torch, tmp_path):
    torch.save({"a": torch.tensor([1.5, 2.0]), "c": torch.tensor([1 + 2j])}, tmp_path / "a.pth")
    with zipfile.ZipFile(tmp_path / "a.pth") as old, zipfile.ZipFile(tmp_path / "b.pth", "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if "/data/" in name:
                content = np.frombuffer(content, "<f4").astype(">f4").tobytes()
            new.writestr(name, b"big" if name.endswith("byteorder") else content)
    found = io.read_torch(tmp_path / "b.pth")
    assert found["a"].tolist() == [1.5, 2.0] and found["c"].tolist() == [1 + 2j]
