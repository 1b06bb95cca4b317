"""Meshes and shardings by name: what each leaf is given on an abstract mesh, and training on eight devices."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh
from jax.sharding import PartitionSpec as P

import fnet
from fnet import nn, optim, parallel, train

MESH = AbstractMesh((4, 2), ("data", "model"))
MODEL = nn.Sequential(fc=nn.Linear(32), norm=nn.BatchNorm(), head=nn.Linear(8))
RULES = {"*.weight": P("data", "model"), "*": P()}


def run(opt):
    return jax.eval_shape(lambda key, x: train.start(MODEL, opt, key, x), jax.random.key(0), jnp.ones((4, 16)))


def specs(opt, rules=RULES):
    return {name: tuple(where.spec) for name, where in fnet.named(parallel.shardings(run(opt), MESH, rules))}


def test_a_rule_holds_for_a_parameter_and_its_slots():
    found = specs(optim.ema(optim.groups({"head.*": None, "*": optim.adam(1e-3)}), 0.9))
    divided = {name for name, spec in found.items() if spec == ("data", "model")}
    slots = {f"opt_state.{slot}.fc.weight" for slot in ("mu", "nu", "ema")}
    assert divided == {"params.fc.weight", "params.head.weight"} | slots
    assert all(spec == () for name, spec in found.items() if name not in divided)  # vectors and numbers lie whole
    own = specs(optim.sgd(0.1), {"fc.weight": P(None, ("data", "model")), "norm.running_mean": P("data"), "*": None})
    assert own["params.fc.weight"] == (None, ("data", "model")) and own["state.norm.running_mean"] == ("data",)


def test_a_slot_of_another_shape_keeps_the_axes_that_are_surely_the_parameters():
    found = specs(optim.adafactor(1e-3))
    assert found["opt_state.row.fc.weight"] == ("data",) and found["opt_state.col.fc.weight"] == ("model",)
    slots = {"row": {"w": jnp.ones(8)}, "left": {"w": jnp.ones((2, 3))}, "history": {"of": {"w": jnp.ones((5, 8, 8))}}}
    tree = {"params": {"w": jnp.ones((8, 8))}, "opt_state": slots}
    where = parallel.shardings(tree, MESH, {"w": P("data", "model")})["opt_state"]
    assert where["row"]["w"].spec == where["left"]["w"].spec == P()  # which of the two axes?
    assert where["history"]["of"]["w"].spec == P(None, "data", "model")
    text = parallel.explain(tree, MESH, {"w": P("data", "model")})
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "params.w (8, 8) -> (2, 4) P('data', 'model') the rule 'w'" in lines
    assert "opt_state.row.w (8,) -> (8,) P() whole: not surely axes of its parameter, (8, 8)" in lines


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"*.weigth": P("data"), "*": P()}, "did you mean 'fc.weight'"),
        ({"*.weight": P("data")}, "no rule matches 'fc.bias'; end with"),
        ({"*": P("dada")}, "the mesh has no axis 'dada'; did you mean 'data'?"),
        ({"*": P("data", "data")}, "divides two axes of an array along 'data'"),
        ({"*": "data"}, r"a PartitionSpec such as P\('data'\) is expected"),
        ({"*.bias": P("data", "model"), "*": P()}, "for 2 axes, .* nothing that it matches has as many"),
        ({"head.bias": P(("data", "model")), "fc.*": P("model"), "*": P("data")}, None),
        ({"*": P(None, "data")}, "no multiple of that; .* such as 'odd.weight': P.None, None"),
    ],
)
def test_rules_that_do_not_fit_are_refused(rules, message):
    params = {"fc": {"weight": jnp.ones((16, 32)), "bias": jnp.ones(32)}, "head": {"bias": jnp.ones(8)}}
    if message is None:
        parallel.shardings(params, MESH, rules)
        return
    if "odd" in message:
        params["odd"] = {"weight": jnp.ones((4, 6))}
    with pytest.raises((ValueError, TypeError), match=message):
        parallel.shardings(params, MESH, rules)


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({}, "needs named axes"),
        ({"data": 0}, "data is a number of devices"),
        ({"data": -1, "model": -1}, "one axis can take what remains"),
        ({"data": -1, "model": 3}, "does not fit 4 devices"),
        ({"data": 8}, "does not fit 4 devices"),
    ],
)
def test_meshes_that_do_not_fit_are_refused(axes, message):
    with pytest.raises(ValueError, match=message):
        parallel.mesh(jax.devices() * 4, **axes)


def test_one_device_has_nothing_to_divide():
    step, tree = object(), object()
    assert parallel.data_parallel(step, tree, AbstractMesh((1,), ("data",))) == (step, tree)


def test_eight_devices_train_as_one_does():
    script = """
    import jax, numpy as np
    from jax.sharding import NamedSharding, PartitionSpec as P
    import fnet
    from fnet import data, functional as F, nn, optim, parallel, train

    mesh = parallel.mesh(data=-1, model=2)
    assert dict(mesh.shape) == {"data": 4, "model": 2} and parallel.mesh(data=2).size == 2
    model = nn.Sequential(fc=nn.Linear(32), act=F.tanh, norm=nn.BatchNorm(), head=nn.Linear(8))
    x, y = np.random.default_rng(0).normal(size=(64, 16)).astype("float32"), np.arange(64) % 8
    opt = optim.sgd(0.1, momentum=0.9)
    loss, run = train.supervised(model, F.cross_entropy), train.start(model, opt, jax.random.key(0), x)
    where = parallel.shardings(run, mesh, {"*.weight": P("data", "model"), "*": P()})
    many = jax.device_put(run, where)
    step = jax.jit(train.make_step(loss, opt, strict=True), out_shardings=(where, None))
    one = train.make_step(loss, opt)
    for batch in data.to_device([(x, y)] * 3, NamedSharding(mesh, P("data"))):
        many, metrics = step(many, batch)
        run, expected = one(run, (x, y))
    assert many.params["fc"]["weight"].addressable_shards[0].data.shape == (4, 16)
    assert many.opt_state["momentum"]["fc"]["weight"].addressable_shards[0].data.shape == (4, 16)
    many, run = (tree._replace(key=0) for tree in (many, run))
    assert not fnet.diff(run, jax.device_get(many), rtol=1e-4, atol=1e-5), fnet.diff(run, many)
    assert abs(float(metrics["loss"] - expected["loss"])) < 1e-5

    loader = data.DataLoader(data.ArrayDataset(x, y), 16, shuffle=True)
    one, start = train.make_step(loss, opt), train.start(model, opt, jax.random.key(0), x)
    alone, history = train.fit(one, start, loader, epochs=2, progress=False)
    step, run = parallel.data_parallel(train.make_step(loss, opt, strict=True), start, parallel.mesh(data=-1))
    assert run.params["fc"]["weight"].sharding.is_fully_replicated and len(run.params["fc"]["weight"].devices()) == 8
    assert "f32[2,16]" in step.lower(run, (x[:16], y[:16])).compile().as_text()  # a device's part of the batch
    run, divided = train.fit(step, run, loader, epochs=2, progress=False)
    assert not fnet.diff(alone._replace(key=0), jax.device_get(run._replace(key=0)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(divided["loss"], history["loss"], rtol=1e-4)
    given = parallel.data_parallel(train.make_step(loss, opt), start, mesh, {"*.weight": P("data", "model"), "*": P()})
    taken = parallel.data_parallel(train.make_step(loss, opt), start, mesh, donate=True)
    assert given[1].params["fc"]["weight"].addressable_shards[0].data.shape == (4, 16)
    given[0](given[1], (x, y)), taken[0](taken[1], (x, y))
    assert taken[1].params["fc"]["weight"].is_deleted() and not given[1].params["head"]["weight"].is_deleted()
    """
    on_eight_devices(script)


def test_convolutions_of_few_channels_on_a_device_for_each_core():
    on_eight_devices("""
    import os
    import jax, numpy as np
    import fnet
    from fnet import functional as F, nn, optim, parallel, train

    sizes = []

    def cnn(x, few, more, strided, head):
        sizes.append(jax.typeof(x).sharding.mesh.size)
        return head(strided(F.relu(more(F.relu(few(x))))).mean((1, 2)))

    parts = {"few": nn.Conv2d(12, 5, padding=2), "more": nn.Conv2d(16, (3, 2)), "strided": nn.Conv2d(16, 3, stride=2)}
    model = nn.Model(cnn, **parts, head=nn.Linear(4))
    x, y = np.random.default_rng(0).normal(size=(16, 12, 11, 3)).astype("float32"), np.arange(16) % 4
    loss, opt = train.supervised(model, F.cross_entropy), optim.sgd(0.1)
    run = train.start(model, opt, jax.random.key(0), x)
    step, many = parallel.data_parallel(train.make_step(loss, opt), run, parallel.mesh(data=-1))
    alone, _ = train.make_step(loss, opt)(run, (x, y))
    text = step.lower(many, (x, y)).compile().as_text()
    assert sizes[-1] == 8 and "all-gather" not in text  # each device keeps to its part of the batch
    if os.cpu_count() <= 8:  # else a device is more than a core, and the form another
        assert "stride=1x4" in text and "stride=1x2" in text
    many, _ = step(many, (x, y))
    assert not fnet.diff(alone.params, jax.device_get(many.params), rtol=1e-5, atol=1e-6)
    """)


def on_eight_devices(script):
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    env = {**os.environ, **flags, "PYTHONPATH": str(Path(fnet.__file__).parents[1])}
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
