"""Memory, replay, the learning-rate test, noise, wrong labels, timing and graphs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnet import autograd, data, inspect, io, nn, optim, train
from fnet import functional as F

KEY = jax.random.key(0)
S = jax.ShapeDtypeStruct


def digits(count: int) -> tuple[Any, np.ndarray]:
    images, labels = data.DataLoader(data.digits()[0], batch_size=count).batch(0)
    return images.reshape(count, -1).astype("float32") / 255, labels


def trained(opt: Any = None, donate: bool = False) -> tuple[Any, Any, Any]:
    x, y = digits(64)
    model, opt = nn.Sequential(nn.Linear(16), F.relu, nn.Dropout(0.2), nn.Linear(10)), opt or optim.adamw(1e-3)
    loader = data.DataLoader(data.ArrayDataset(x, y), batch_size=16, shuffle=True, seed=1)
    step = train.make_step(train.supervised(model, F.cross_entropy), opt, donate=donate)
    return step, train.start(model, opt, KEY, x[:2]), loader


def same(a: Any, b: Any) -> None:
    keys = hasattr(a, "dtype") and jnp.issubdtype(a.dtype, jax.dtypes.prng_key)
    np.testing.assert_array_equal(*(map(jax.random.key_data, (a, b)) if keys else (a, b)))


def test_memory_adds_up_before_anything_is_allocated():
    width = 2**14
    model, opt = nn.Sequential(nn.Linear(width), F.gelu, nn.Linear(width)), optim.adamw(1e-3)
    x, y = S((64, width), "float32"), S((64,), "int32")
    run = jax.eval_shape(lambda key: train.start(model, opt, key, x), KEY)  # 2 GiB of parameters
    loss = train.supervised(model, F.cross_entropy)
    sizes = {d: inspect.memory(train.make_step(loss, opt, donate=d), run, (x, y)) for d in (False, True)}
    found = sizes[False]
    assert found.parameters == 4 * 2 * (width**2 + width) and 0 <= found.optimizer - 2 * found.parameters < 100
    assert found.batch == 64 * width * 4 + 64 * 4 and found.outputs >= found.parameters + found.optimizer
    assert found.activations >= 64 * width * 4
    assert sizes[True].outputs < 1000 and sizes[True].temporaries >= 64 * width * 4, "no outputs to work in"
    assert "2.0 GiB" in str(found) and "optimizer state" in str(found) and "4.0 GiB" in str(found)


def test_replay_gives_the_run_the_batch_and_the_key(tmp_path: Path):
    step, run, loader = trained()
    runs = [run]
    with io.Checkpoints(tmp_path / "a", keep=None) as ckpt:
        for n in range(6):
            if n in (0, 3):
                ckpt.save(runs[-1])
            runs.append(step(runs[-1], loader.batch(n))[0])
        for at in (2, 3, 5):
            again = inspect.replay(ckpt, loader, step, at)
            jax.tree.map(same, tuple(again), (runs[at], loader.batch(at), jax.random.fold_in(run.key, at)))
            jax.tree.map(same, step(again.run, again.batch)[0], runs[at + 1])
        assert int(inspect.replay(ckpt.path(3), loader, None).run.step) == 3
        with pytest.raises(ValueError, match="step 1 is before the checkpoint, of step 3"):
            inspect.replay(ckpt.path(3), loader, step, 1)
    with pytest.raises(TypeError, match="needs the step of make_step"):
        inspect.replay(run, loader, None, 2)
    with pytest.raises(TypeError, match="takes Checkpoints, the file of one, or a run, got int"):
        inspect.replay(3, loader, step, 2)
    with pytest.raises(TypeError, match=r"replay takes a loader with batch\(step\), got list"):
        inspect.replay(run, [], step, 2)


def test_lr_finder_stops_at_divergence_and_suggests_a_rate_that_learns():
    step, run, loader = trained(optim.sgd(0.1), donate=True)
    found = inspect.lr_finder(step, run, loader, lowest=1e-4, highest=1e5, steps=80)
    assert len(found.rates) < 80 and found.rates[0] == 1e-4 and found.smoothed[-1] > 4 * found.smoothed.min()
    assert found.suggestion is not None and 1e-2 < found.suggestion < 10 and "try" in repr(found)
    assert int(run.step) == 0 and not run.params["0"]["weight"].is_deleted()
    broken = run._replace(params=jax.tree.map(lambda p: p * jnp.nan, run.params))
    assert "NaN from the first step" in repr(inspect.lr_finder(step, broken, loader))
    with pytest.raises(TypeError, match=r"lr_finder takes a loader with batch\(step\), got list"):
        inspect.lr_finder(step, run, [])
    scheduled = trained(optim.sgd(optim.cosine(0.1, steps=9)))
    with pytest.raises(ValueError, match="follows a schedule"):
        inspect.lr_finder(*scheduled)
    with pytest.raises(ValueError, match="0 < lowest < highest"):
        inspect.lr_finder(step, run, loader, lowest=1.0, highest=0.1)


def test_noise_scale_is_that_of_the_covariance():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(24, 3)), rng.normal(size=24)
    params = {"w": jnp.asarray(rng.normal(size=3), jnp.float32), "frozen": jnp.ones(2)}

    def loss(params: Any, x: Any, y: Any) -> Any:
        return jnp.mean((x @ params["w"] - y) ** 2) * params["frozen"][0]

    each = 2 * (x @ np.asarray(params["w"], np.float64) - y)[:, None] * x
    noise, mean = np.trace(np.cov(each.T)), each.mean(0)
    signal = mean @ mean - noise / 24
    found = inspect.noise_scale(loss, params, x, y, select="w")
    np.testing.assert_allclose(found, (noise / signal if signal > 0 else np.inf, noise, signal), rtol=1e-4)
    pairs = each.reshape(12, 2, 3).mean(1)
    grouped = inspect.noise_scale(loss, params, x, y, select="w", size=2)
    np.testing.assert_allclose(grouped.noise, 2 * np.trace(np.cov(pairs.T)), rtol=1e-4)
    assert inspect.noise_scale(loss, params, np.stack([x[0], -x[0]]), np.stack([y[0], y[0]]), select="w").scale > 0
    with pytest.raises(ValueError, match="groups of 5 must divide the batch of 24"):
        inspect.noise_scale(loss, params, x, y, size=5)


def test_planted_wrong_labels_are_found():
    x, y = digits(600)
    rng = np.random.default_rng(0)
    flipped = rng.choice(600, 30, replace=False)
    wrong = y.copy()
    wrong[flipped] = (y[flipped] + rng.integers(1, 10, 30)) % 10

    def fitted(w: Any, x: Any, y: Any) -> Any:
        def descend(w: Any, _: Any) -> Any:
            g = jax.grad(lambda w: F.cross_entropy(x @ w, y) + 1e-3 * jnp.sum(w**2))(w)
            return w - 1.0 * g, None

        return jax.lax.scan(descend, w, None, length=200)[0]

    fit, fold = jax.jit(fitted), np.arange(600) % 3
    p = np.zeros((600, 10))
    for k in range(3):
        w = fit(jnp.zeros((64, 10)), x[fold != k], wrong[fold != k])
        p[fold == k] = F.softmax(x[fold == k] @ w)
    found = inspect.mislabelled(p, wrong)
    hits = np.isin(found.examples, flipped)
    assert hits.sum() >= 22 and hits.mean() >= 0.8 and hits[:20].mean() >= 0.9 and np.all(np.diff(found.scores) >= 0)
    right = found.suggested[hits] == y[found.examples[hits]]
    assert right.mean() > 0.85 and "likely to be wrong" in repr(found)
    with pytest.raises(ValueError, match="take F.softmax first"):
        inspect.mislabelled(np.log(p + 0.1), wrong)
    with pytest.raises(ValueError, match="labels are from 0 to 9"):
        inspect.mislabelled(p, wrong + 1)


def test_profile_times_steps_and_leaves_a_trace(tmp_path: Path):
    step, run, loader = trained(donate=True)
    found = inspect.profile(step, run, loader.batch(0), steps=3, folder=str(tmp_path))
    assert len(found.steps) == 3 and found.compile > 0 and found.trace > 0 and "ms a step" in str(found)
    assert list(tmp_path.rglob("*.xplane.pb")) and not run.params["0"]["weight"].is_deleted()
    with pytest.raises(ValueError, match="profile needs 1 step"):
        inspect.profile(step, run, loader.batch(0), steps=0)


def test_graph_of_an_mlp_and_its_gradient():
    model = nn.Sequential(fc1=nn.Linear(8), act=jnp.tanh, fc2=nn.Linear(2))
    params, _ = model.init(KEY, jnp.ones((4, 3)))

    def loss(params: Any, x: Any) -> Any:
        return jnp.mean(model(params, x) ** 2)

    found = autograd.graph(jax.value_and_grad(loss), params, S((4, 3), "float32"))
    products = [(node.kind, node.part) for node in found if node.label == "dot_general"]
    assert products == [("forward", "fc1"), ("forward", "fc2")] + [("backward", "fc2")] * 2 + [("backward", "fc1")]
    kinds = {"input", "forward", "backward", "output"}
    assert {node.kind for node in found} == kinds and all(i < n for n, node in enumerate(found) for i in node.inputs)
    inputs = [node.label for node in found if node.kind == "input"]
    assert inputs == ["fc1.bias", "fc1.weight", "fc2.bias", "fc2.weight", "1"]
    text = str(found)
    assert "fc1, backward" in text and "float32[4, 8]" in text and len(found) < 45
    dot = found.dot()
    assert dot.startswith("digraph {") and 'label="fc1"' in dot and dot.count("->") == sum(len(n.inputs) for n in found)
    printing = autograd.graph(lambda x: (jax.debug.print("{}", x), x + 1)[1], 1.0)
    assert [node.label for node in printing] == ["0", "add", "result"]
    loop = autograd.graph(lambda x: jax.lax.scan(lambda c, _: (c * 2, None), x, None, length=3)[0], 1.0)
    assert [node.label for node in loop] == ["0", "scan of 3 steps (1 operations)", "result"]
