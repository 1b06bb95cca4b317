"""`io.export`: a file that gives the model's outputs at any batch size, without the model's code."""

import json
import os
import random
import subprocess
import sys
import textwrap
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnet
from fnet import functional as F
from fnet import io, nn

pytest.importorskip("flatbuffers", reason="exported models need the export extra: pip install fnet[export]")

MODEL = nn.Sequential(fc1=nn.Linear(8), act=F.relu, drop=nn.Dropout(0.5), fc2=nn.Linear(3))
X = np.random.default_rng(0).normal(size=(4, 5)).astype("float32")


@pytest.fixture(scope="module")
def weights():
    return MODEL.init(jax.random.key(0), X)


@pytest.fixture(scope="module")
def path(tmp_path_factory, weights):
    path = tmp_path_factory.mktemp("export") / "model.fnet"
    io.export(path, MODEL, *weights, X, note={"classes": ["a", "b", "c"]})
    return path


def test_every_batch_size_gives_the_model_s_outputs(path, weights):
    again = io.load_exported(path)
    for size in (1, 2, 4, 7):
        x = np.resize(X, (size, 5))
        np.testing.assert_allclose(again(x), MODEL(weights[0], x), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(jax.jit(again)(X), again(X), rtol=1e-6)


def test_the_signature_and_what_is_kept_with_it(path):
    again = io.load_exported(path)
    assert repr(again) == "<Exported: (0 float32[batch, 5]) -> (float32[batch, 3]) on cpu, cuda, tpu>"
    assert again.note == {"classes": ["a", "b", "c"]} and again.platforms == ("cpu", "cuda", "tpu")
    assert again.inputs == ({"name": "0", "shape": ["batch", 5], "dtype": "float32"},)
    about = io.metadata(path)["exported"]
    assert about["jax"] == jax.__version__ and "Linear(8)" in about["model"] and json.dumps(about)


def test_the_weights_stay_readable(path, weights):
    assert not fnet.diff(fnet.load(path, select="params.*")["params"], weights[0])
    safetensors = pytest.importorskip("safetensors.numpy", reason="the oracle extra: pip install fnet[oracle]")
    assert {"params.fc1.weight", "program"} <= safetensors.load_file(path).keys()


def test_a_process_without_the_model_s_code(path, weights):
    """Only `fnet.io` is imported: nn, functional's layers and the model stay out."""
    code = """
        import sys, numpy as np
        from fnet.io import load_exported
        out = load_exported(sys.argv[1])(np.load(sys.argv[2]))
        assert not [name for name in sys.modules if name.startswith(("fnet.nn", "fnet.functional", "fnet.train"))]
        np.save(sys.argv[3], out)
    """
    x, out = path.parent / "x.npy", path.parent / "out.npy"
    np.save(x, X)
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code), path, x, out], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(np.load(out), MODEL(weights[0], X), rtol=1e-6, atol=1e-6)


def test_several_inputs_trees_and_outputs(tmp_path):
    def forward(batch, scale, fc):
        hidden = fc(batch["a"]) * scale
        return {"sum": hidden + batch["b"], "key": (hidden.mean(-1), jnp.int32(3))}

    model = nn.Model(forward, fc=nn.Linear(2))
    inputs = {"a": X, "b": np.ones((4, 2), "float32")}, np.float32(2)
    params, state = model.init(jax.random.key(0), *inputs)
    io.export(tmp_path / "m", model, params, state, *inputs)
    again = io.load_exported(tmp_path / "m")
    small = jax.tree.map(lambda x: x[:3], inputs[0]), np.float32(2)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), again(*small), model(params, *small))
    with pytest.raises(ValueError, match=r"input '0.b' is float32\[2, 2\], expected float32\[batch, 2\] .batch is 4"):
        again({"a": X, "b": np.ones((2, 2), "float32")}, np.float32(2))
    with pytest.raises(TypeError, match="the exported model takes PyTreeDef.*got PyTreeDef"):
        again(X)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (np.ones((4, 6), "float32"), r"input '0' is float32\[4, 6\], expected float32\[batch, 5\]"),
        (np.ones(5, "float32"), r"is float32\[5\], expected"),
        (np.ones((4, 5), "int32"), r"is int32\[4, 5\], expected float32"),
        (np.ones((0, 5), "float32"), "has no rows; it needs at least one"),
    ],
)
def test_inputs_are_checked(path, x, words):
    with pytest.raises(ValueError, match=words):
        io.load_exported(path)(x)


def test_a_model_that_needs_to_know_the_batch_size_is_told_what_to_do(tmp_path):
    model = nn.Model(lambda x, fc: fc(x.reshape(len(x), -1)), fc=nn.Linear(2))
    params, state = model.init(jax.random.key(0), X)
    with pytest.raises(ValueError, match=r"(?s)does not run on a batch of unknown size.*len\(x\).*any_batch=False"):
        io.export(tmp_path / "m", model, params, state, X)
    assert not os.listdir(tmp_path)
    io.export(tmp_path / "m", model, params, state, X, any_batch=False)
    again = io.load_exported(tmp_path / "m")
    assert again(X).shape == (4, 2)
    with pytest.raises(ValueError, match=r"is float32\[3, 5\], expected float32\[4, 5\]"):
        again(X[:3])


def test_what_is_wrong_with_the_model_itself_is_said_first(tmp_path, weights):
    with pytest.raises(ValueError, match="the last axis must have the 5 in-features"):
        io.export(tmp_path / "m", MODEL, *weights, X[:, :4])
    with pytest.raises(TypeError, match="export needs an example"):
        io.export(tmp_path / "m", MODEL, *weights)


class Output(NamedTuple):
    y: object


def test_state_that_changes_and_classes_in_outputs_are_refused(tmp_path):
    class Counter(nn.Layer):
        def spec(self, x):
            return {"count": nn.Param((), fnet.init.zeros, trainable=False)}

        def apply(self, params, state, x, key=None, train=False):
            return x, {"count": state["count"] + 1}

    params, state = Counter().init(jax.random.key(0), X)
    with pytest.raises(ValueError, match=r"changes its state when it runs \(count\)"):
        io.export(tmp_path / "m", Counter(), params, state, X)
    with pytest.raises(ValueError, match="classes of yours, which a file cannot name; use dicts"):
        io.export(tmp_path / "m", nn.Model(lambda x: Output(x)), {}, {}, X)


def test_a_damaged_file_is_an_error_and_never_reaches_the_parser(path, tmp_path, monkeypatch):
    """The parser of programs crashes the process on some damaged bytes, so each flip must be found before."""
    data, rng, bad = path.read_bytes(), random.Random(0), tmp_path / "bad.fnet"

    def never(program):
        raise AssertionError("it was asked to parse damaged bytes")

    monkeypatch.setattr(jax.export, "deserialize", never)
    for _ in range(300):
        changed = bytearray(data)
        changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        bad.write_bytes(changed[: rng.randrange(len(data))] if rng.random() < 0.3 else changed)
        with pytest.raises(io.FileError) as error:
            io.load_exported(bad)
        assert str(error.value).startswith(str(bad))


def test_other_files_and_other_versions(path, tmp_path):
    fnet.save(tmp_path / "w", {"a": 1})
    with pytest.raises(io.FileError, match="no exported model, but other tensors; fnet.load reads it"):
        io.load_exported(tmp_path / "w")
    about = io.metadata(path)
    fnet.save(tmp_path / "v", {"a": 1}, metadata=about | {"exported": about["exported"] | {"version": 2}})
    with pytest.raises(io.FileError, match="exported in version 2; this fnet reads 1"):
        io.load_exported(tmp_path / "v")
    fnet.save(tmp_path / "p", {"program": np.zeros(100, np.uint8)}, metadata=about)
    with pytest.raises(io.FileError, match=r"cannot read the program, which jax .* wrote .*export it again"):
        io.load_exported(tmp_path / "p")


def test_without_the_extra(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    for call in (lambda: io.load_exported(path), lambda: io.export("m", MODEL, {}, {}, X)):
        with pytest.raises(ImportError, match=r"exported models need flatbuffers: pip install 'fnet\[export\]'"):
            call()
