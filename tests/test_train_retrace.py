"""The recompile guard names what changed."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from fnet import data, nn, optim, train
from fnet import functional as F

KEY = jax.random.key(0)


@jax.tree_util.register_dataclass
@dataclass
class Batch:
    x: Any
    mode: str = field(metadata={"static": True}, default="a")


def loss(params: Any, state: Any, batch: Any, *, key: Any = None, train: bool = False) -> Any:
    numbers = [jnp.mean(leaf) for leaf in jax.tree.leaves(batch)]
    return params["w"] * sum(numbers), (state, {})


def setup(strict: bool = False) -> Any:
    opt = optim.sgd(0.1)
    params = {"w": jnp.float32(1)}
    run = train.TrainState(params, {}, opt.init(params), KEY, jnp.zeros((), "int32"))
    return train.make_step(loss, opt, strict=strict), run


X = np.ones((16, 6), "float32")
CHANGES = [
    ("a short batch", (X, 1), (X[:2], 1),
     'batch.0: float32[16, 6] → float32[2, 6]; batches of one size: last="drop" or "pad" in the loader'),
    ("a longer text", (X, 1), (X[:, :3], 1), "batch.0: float32[16, 6] → float32[16, 3]; batches of one shape: cut"),
    ("a Python scalar", {"scale": 1}, {"scale": 0.5},
     "batch.scale: int32[] (weakly typed, as a Python scalar) → float32[] (weakly typed, as a Python scalar)"),
    ("a weak type", {"scale": jnp.float32(1)}, {"scale": 1.0},
     "batch.scale: float32[] → float32[] (weakly typed, as a Python scalar); give it a dtype: jnp.asarray"),
    ("a dtype", {"x": X}, {"x": X.astype("int8")}, "batch.x: float32[16, 6] → int8[16, 6]"),
    ("a new leaf", {"x": X}, {"x": X, "mask": X[:, 0] > 0}, "batch.mask: new, bool[16]"),
    ("a leaf gone", {"x": X, "y": X}, {"x": X}, "batch.y: gone, it was float32[16, 6]"),
    ("a type of node", {"a": [X, (X,)]}, {"a": [X, [X]]}, "batch.a.1: tuple of 1 → list of 1; what is no array"),
    ("a static field", [Batch(X, "a")], [Batch(X, "b")], "batch.0: Batch with ('a',) → Batch with ('b',)"),
    ("a None more", (X,), (X, None), "batch: tuple of 1 → tuple of 2"),
]  # fmt: skip


@pytest.mark.parametrize(("before", "after", "message"), [c[1:] for c in CHANGES], ids=[c[0] for c in CHANGES])
def test_it_says_what_changed_from_what_to_what(before: Any, after: Any, message: str) -> None:
    step, run = setup()
    run, _ = step(run, before)
    with pytest.warns(train.Retraced, match=re.escape(message)) as said:
        step(run, after)
    assert len(said) == 1 and said[0].filename == __file__, "the warning points to the call"
    assert str(said[0].message).count("\n") == 1, "one line for the one change"
    step(run, before), step(run, after)  # compiled by now: an error if it warned


def test_the_run_is_guarded_as_well_and_strict_raises() -> None:
    step, run = setup(strict=True)
    weak = run._replace(params={"w": 1.0})
    new, _ = step(weak, X)
    with pytest.raises(train.Retraced, match=re.escape("run.params.w: float32[] (weakly typed, as a Python")):
        step(new, X)
    step, run = setup(strict=True)
    run, _ = step(run, {"x": X})
    for _ in range(2):
        with pytest.raises(train.Retraced, match=r"batch.x: float32\[16, 6\] → float32\[3, 6\]"):
            step(run, {"x": X[:3]})
    step(run, {"x": X})
    step(run._replace(opt_state=optim.set_hyper(run.opt_state, lr=0.01)), {"x": X + 1})


def test_each_shape_is_told_once_against_the_nearest_one() -> None:
    step, run = setup()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for rows in (16, 2, 16, 2, 3):
            run, _ = step(run, {"x": X[:rows], "y": X[:2]})
    assert [str(w.message).splitlines()[1].strip().split(";")[0] for w in said] == [
        "batch.x: float32[16, 6] → float32[2, 6]", "batch.x: float32[16, 6] → float32[3, 6]"]  # fmt: skip
    with warnings.catch_warnings(), jax.disable_jit():
        warnings.simplefilter("error")
        step(run, {"x": X[:7], "y": X})


def test_fit_tells_of_a_short_last_batch() -> None:
    model, opt = nn.Linear(3), optim.sgd(0.1)
    loader = data.DataLoader(data.ArrayDataset(X, np.zeros(16, "int32")), batch_size=6)
    step = train.make_step(train.supervised(model, F.cross_entropy), opt)
    run = train.start(model, opt, KEY, X)
    both = r"batch\.0: float32\[6, 6\] → float32\[4, 6\].*\n.*batch\.1: int32\[6\] → int32\[4\]"
    with pytest.warns(train.Retraced, match=both) as said:
        train.fit(step, run, loader, epochs=3, progress=False)
    assert len(said) == 1


def test_another_mesh_is_told_as_the_mesh() -> None:
    auto, explicit = (
        jax.make_mesh((1,), ("data",), axis_types=(kind,)) for kind in (AxisType.Auto, AxisType.Explicit)
    )
    step, run = setup()
    step(run, {"x": X})
    for mesh, told in ((auto, "data=1"), (explicit, "data=1 explicit")):
        placed = jax.device_put(run, NamedSharding(mesh, PartitionSpec()))
        message = f"run.params.w: float32[] on no mesh → on the mesh ({told})"
        with pytest.warns(train.Retraced, match=re.escape(message)):
            step(placed, {"x": X})
    batch = jax.device_put({"x": X}, NamedSharding(explicit, PartitionSpec("data")))
    with pytest.warns(train.Retraced, match=r"batch\.x: .* on no mesh → on the mesh .* split by P.*'data'"):
        step(placed, batch)
