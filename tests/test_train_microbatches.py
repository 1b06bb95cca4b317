"""Micro-batches inside the step: the numbers of the large batch from the memory of a slice."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from layers import Counter

import fnet
from fnet import functional as F
from fnet import metrics, nn, optim, train

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 6)).astype("float32")
Y = (X @ RNG.normal(size=(6, 3))).argmax(1).astype("int32")
MODEL = nn.Sequential(nn.Linear(8), jnp.tanh, nn.Linear(3))
LOSS = train.supervised(MODEL, F.cross_entropy, metrics={"accuracy": metrics.accuracy})


@pytest.mark.parametrize("k", [1, 2, 3, 12])
def test_equals_the_large_batch(k: int):
    opt = optim.adamw(0.05)
    run = small = train.start(MODEL, opt, KEY, X)
    whole, sliced = train.make_step(LOSS, opt), train.make_step(LOSS, opt, microbatches=k)
    for _ in range(3):
        (run, expected), (small, scores) = whole(run, (X, Y)), sliced(small, (X, Y))
        assert set(scores) == set(expected) == {"loss", "accuracy"}
        for name in scores:
            assert scores[name].shape == () and float(scores[name]) == pytest.approx(float(expected[name]), rel=1e-5)
    assert not fnet.diff(small.params, run.params, rtol=1e-3, atol=1e-5)
    assert int(small.step) == int(small.opt_state["step"]) == 3
    assert jax.tree.map(jnp.result_type, small.params) == jax.tree.map(jnp.result_type, run.params)


def test_slices_are_consecutive_and_the_state_goes_from_one_to_the_next():
    seen = []

    def loss(params: Any, state: Any, batch: Any, *, key: Any = None, train: bool = False) -> Any:
        jax.debug.callback(lambda *row: seen.append(row), batch["x"][:, 0], state["n"], jax.random.key_data(key))
        scores = {"rows": batch["x"].shape[0], "n": state["n"]}
        return jnp.mean(batch["x"] @ params["w"]), ({"n": state["n"] + 1}, scores)

    params = {"w": jnp.ones(2)}
    opt = optim.sgd(0.1)
    run = train.TrainState(params, {"n": jnp.int32(5)}, opt.init(params), KEY, jnp.zeros((), "int32"))
    batch = {"x": jnp.arange(12.0).reshape(6, 2)}
    run, scores = train.make_step(loss, opt, microbatches=3)(run, batch)
    jax.effects_barrier()
    seen.sort(key=lambda row: int(row[1]))
    assert [list(map(float, rows)) for rows, _, _ in seen] == [[0, 2], [4, 6], [8, 10]]
    assert [int(n) for _, n, _ in seen] == [5, 6, 7] and int(run.state["n"]) == 8
    assert len({tuple(map(int, key)) for _, _, key in seen}) == 3, "each slice has a key of its own"
    assert float(scores["rows"]) == 2.0 and float(scores["n"]) == 6.0


def test_a_layer_counts_slices():
    model = nn.Sequential(nn.Linear(3), Counter(), nn.Dropout(0.5))
    opt = optim.sgd(0.1)
    run = train.start(model, opt, KEY, X)
    step = train.make_step(train.supervised(model, F.cross_entropy), opt, microbatches=4)
    run, _ = step(run, (X, Y))
    run, _ = step(run, (X, Y))
    assert int(run.state["1"]["count"]) == 8


def test_one_slice_is_in_memory_and_the_update_runs_once():
    wide = jnp.asarray(RNG.normal(size=(512, 64)), "float32")
    labels = jnp.zeros(512, "int32")
    model = nn.Sequential(nn.Linear(512), jnp.tanh, nn.Linear(512), jnp.tanh, nn.Linear(3))
    loss, opt = train.supervised(model, F.cross_entropy), optim.adamw(0.1)
    run = train.start(model, opt, KEY, wide)
    whole, sliced = (
        train.make_step(loss, opt, microbatches=k).lower(run, (wide, labels)).compile() for k in (1, 16)
    )
    temporary = [step.memory_analysis().temp_size_in_bytes for step in (whole, sliced)]
    assert temporary[1] < 0.8 * temporary[0], temporary
    text = sliced.as_text()
    assert "while(" in text
    assert sum(line.count(" sqrt(") + line.count(" rsqrt(") for line in text.splitlines()) == sum(
        line.count(" sqrt(") + line.count(" rsqrt(") for line in whole.as_text().splitlines()
    ), "as many square roots as without slices: Adam's are outside the loop"


def test_other_points_see_the_whole_batch():
    found = {}

    class Look(optim.Wrapper):
        def update(self, grads: Any, opt_state: Any, params: Any, *, value_and_grad: Any = None, **more: Any) -> Any:
            value, again = value_and_grad(params)
            found.update(value=value, loss=more["loss"])
            return self.inner.update(again, opt_state, params)

    opt = Look(optim.sgd(0.1))
    with jax.disable_jit():
        run, _ = train.make_step(LOSS, opt, microbatches=3)(train.start(MODEL, opt, KEY, X), (X, Y))
        plain, _ = train.make_step(LOSS, optim.sgd(0.1))(train.start(MODEL, optim.sgd(0.1), KEY, X), (X, Y))
    assert float(found["value"]) == float(found["loss"]) and not fnet.diff(run.params, plain.params, 1e-5, 1e-6)


def test_scaled_bfloat16_and_frozen():
    opt = optim.dynamic_loss_scale(optim.groups({"0.*": None, "*": optim.sgd(0.5)}), initial=8.0)
    run = train.start(MODEL, opt, KEY, X)
    params = fnet.cast(run.params, "bfloat16")
    run = run._replace(params=params, opt_state=opt.init(params))
    new, _ = train.make_step(LOSS, opt, microbatches=4)(run, (X, Y))
    assert not fnet.diff(new.params["0"], params["0"]) and fnet.diff(new.params["2"], params["2"])
    assert new.params["2"]["weight"].dtype == jnp.bfloat16
    once, _ = train.make_step(LOSS, opt)(run, (X, Y))
    assert not fnet.diff(new.params["2"], once.params["2"], rtol=0.02, atol=0.01)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ((X[:10], Y[:10]), "the batch's leaf '0' has 10 rows, which 4 does not divide"),
        ((X, Y[:9]), "the batch's leaf '1' has 9 rows, which 4 does not divide"),
        ((X, jnp.float32(1)), "the batch's leaf '1' is a scalar"),
    ],
)
def test_uneven_batches_are_named(batch: Any, message: str):
    opt = optim.sgd(0.1)
    step = train.make_step(LOSS, opt, microbatches=4)
    with pytest.raises(ValueError) as error:
        step(train.start(MODEL, opt, KEY, X), batch)
    assert message in str(error.value) and "microbatches=4" in str(error.value)


@pytest.mark.parametrize("k", [0, -1, 2.0, True])
def test_bad_counts_are_named(k: Any):
    with pytest.raises(ValueError, match=f"microbatches must be an integer of at least 1, got {k!r}"):
        train.make_step(LOSS, optim.sgd(0.1), microbatches=k)
