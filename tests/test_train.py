"""The run as one pytree, the step, the loop, evaluation, resume."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from layers import Counter

import fnet
from fnet import data, metrics, nn, optim, train
from fnet import functional as F

pytestmark = pytest.mark.filterwarnings("ignore::fnet.train.Retraced")  # the last batch is short, on purpose
KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(50, 6)).astype("float32")
Y = (X @ RNG.normal(size=(6, 3))).argmax(1).astype("int32")


def make(dropout: float = 0.5) -> nn.Sequential:
    return nn.Sequential(nn.Linear(16), jnp.tanh, nn.Dropout(dropout), Counter(), nn.Linear(3))


def setup(dropout: float = 0.5, **loader: Any) -> tuple[Any, Any, Any, Any, Any]:
    model = nn.Sequential(nn.Linear(16), jnp.tanh, nn.Dropout(dropout), head=nn.Linear(3))
    opt = optim.adamw(optim.warmup(optim.cosine(0.05, 40), 5), weight_decay=0.1)
    loss = train.supervised(model, F.cross_entropy, metrics={"accuracy": metrics.accuracy})
    batches = data.DataLoader(data.ArrayDataset(X, Y), **{"batch_size": 16, "shuffle": True, "seed": 3, **loader})
    return model, loss, train.make_step(loss, opt), batches, train.start(model, opt, KEY, X)


def same_bits(a: Any, b: Any) -> bool:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    return not fnet.diff(a, b)


def test_the_run_is_one_pytree_and_the_step_is_pure():
    model, _, step, batches, run = setup()
    before = jax.tree.map(np.asarray, jax.tree.leaves(run._replace(key=jax.random.key_data(run.key))))
    once, scores = step(run, batches.batch(0))
    twice, _ = step(run, batches.batch(0))
    assert same_bits(once, twice) and int(once.step) == 1 and set(scores) == {"loss", "accuracy"}
    after = jax.tree.leaves(run._replace(key=jax.random.key_data(run.key)))
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    assert same_bits(run.params, model.init(KEY, X)[0]), "start draws what init draws"
    assert fnet.names(run)[:2] == ["params.0.bias", "params.0.weight"] and fnet.names(run)[-1] == "step"


def test_each_step_has_a_key_of_its_own():
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(1, bias=False))
    loss = train.supervised(model, lambda outputs, y: jnp.mean(outputs * y))
    opt = optim.sgd(0.0)
    run = train.start(model, opt, KEY, jnp.ones((2, 64)))
    step = train.make_step(loss, opt)
    losses = []
    for _ in range(5):
        run, scores = step(run, (jnp.ones((2, 64)), jnp.ones((2, 1))))
        losses.append(float(scores["loss"]))
    assert len(set(losses)) == 5


def test_state_threads_through_the_step():
    model, opt = make(), optim.sgd(0.1)
    step = train.make_step(train.supervised(model, F.cross_entropy), opt)
    run = train.start(model, opt, KEY, X)
    for _ in range(3):
        run, _ = step(run, (X, Y))
    assert int(run.state["3"]["count"]) == 3


def test_resumed_after_any_step_ends_bit_identical(tmp_path: Any):
    _, _, step, batches, start = setup()
    runs = [start]
    for batch, _ in zip(batches.stream(start=0), range(12), strict=False):
        runs.append(step(runs[-1], batch)[0])
    for at in range(12):
        fnet.save(tmp_path / "run.safetensors", runs[at])
        run = fnet.load(tmp_path / "run.safetensors")
        assert type(run) is train.TrainState
        for batch, _ in zip(batches.stream(start=int(run.step)), range(12 - at), strict=False):
            run, _ = step(run, batch)
        assert same_bits(run, runs[12]), f"resumed at {at}"


def test_fit_counts_in_all_and_resumes():
    _, loss, step, batches, start = setup()
    whole, history = train.fit(step, start, batches, epochs=3, progress=False)
    assert int(whole.step) == 12 and len(history["loss"]) == 12 and list(history.steps("loss")) == list(range(1, 13))
    part, _ = train.fit(step, start, batches, steps=5, progress=False)
    resumed, rest = train.fit(step, part, batches, epochs=3, progress=False)
    assert same_bits(resumed, whole) and list(rest.steps("loss")) == list(range(6, 13))
    np.testing.assert_array_equal(rest["loss"], history["loss"][5:])
    with pytest.warns(UserWarning, match="nothing to do: the run is at step 12"):
        done, empty = train.fit(step, whole, batches, epochs=3, progress=False)
    assert done is whole and empty.names == []
    assert history["loss"][-4:].mean() < history["loss"][:4].mean()


def test_fit_equals_the_loop_written_out():
    _, _, step, batches, start = setup()
    run = start
    for epoch in range(2):
        for batch in batches.epoch(epoch):
            run, _ = step(run, batch)
    fitted, _ = train.fit(step, start, batches, epochs=2, progress=False)
    assert same_bits(fitted, run)


def test_fit_evaluates_calls_back_and_stops(capsys: Any):
    _, loss, step, batches, start = setup()
    seen: list[tuple[int, set[str]]] = []

    def callback(run: Any, latest: dict[str, float]) -> Any:
        seen.append((int(run.step), set(latest)))
        if len(seen) == 2:
            return run._replace(params=jax.tree.map(jnp.zeros_like, run.params))
        if len(seen) == 3:
            assert float(jnp.abs(run.params["head"]["weight"]).max()) < 1, "the run that the callback gave goes on"
            raise train.Stop

    run, history = train.fit(
        step, start, batches, epochs=10, evaluate=lambda run: train.evaluate(loss, run, batches), callbacks=[callback]
    )
    names = {"loss", "accuracy", "eval_loss", "eval_accuracy"}
    assert seen == [(4, names), (8, names), (12, names)] and int(run.step) == 12
    assert list(history.steps("eval_loss")) == [4, 8, 12] and len(history["loss"]) == 12
    assert "epoch 1/10" in capsys.readouterr().err
    _, often = train.fit(step, start, batches, steps=7, every=3, evaluate=lambda run: {"n": run.step}, progress=False)
    assert list(often.steps("eval_n")) == [3, 6, 7] and list(often["eval_n"]) == [3, 6, 7]


def test_fit_errors():
    _, _, step, batches, run = setup()
    for bad in ({}, {"epochs": 1, "steps": 1}):
        with pytest.raises(ValueError, match="either epochs or steps"):
            train.fit(step, run, batches, **bad)
    for bad in (-1, 1.5):
        with pytest.raises(ValueError, match="whole number"):
            train.fit(step, run, batches, steps=bad)
    with pytest.raises(ValueError, match="every is a number"):
        train.fit(step, run, batches, steps=1, every=0)
    with pytest.raises(TypeError, match=r"lambda run: train\.evaluate"):
        train.fit(step, run, batches, steps=1, evaluate=batches)
    with pytest.raises(TypeError, match="returned float, expected a run"):
        train.fit(step, run, batches, steps=1, callbacks=[lambda run, latest: latest["loss"]], progress=False)
    with pytest.raises(ValueError, match="of step 0 at step 1"):
        train.fit(step, run, batches, steps=1, callbacks=[lambda now, latest: run], progress=False)
    with pytest.raises(TypeError, match="metric 'eval_x' is a scalar|metric 'x' is a scalar"):
        train.fit(step, run, batches, steps=1, evaluate=lambda run: {"x": None}, progress=False)
    with pytest.raises(TypeError, match=r"evaluate must return \{name: value\}.*got float"):
        train.fit(step, run, batches, steps=1, evaluate=lambda run: 0.5, progress=False)
    with pytest.raises(TypeError, match=r"a list of functions of \(run, latest\)"):
        train.fit(step, run, batches, steps=1, callbacks=train.time_limit(hours=1), progress=False)
    with pytest.raises(TypeError, match="a callback is a function .* got 3"):
        train.fit(step, run, batches, steps=1, callbacks=[3], progress=False)
    with pytest.raises(TypeError, match=r"data\.DataLoader"):
        train.fit(step, run, [(X, Y)], epochs=1)


def test_ctrl_c_ends_with_the_run_so_far():
    _, _, step, batches, run = setup()

    def interrupt(run: Any, latest: Any) -> None:
        raise KeyboardInterrupt

    run, history = train.fit(step, run, batches, steps=9, every=3, callbacks=[interrupt], progress=False)
    assert int(run.step) == 3 and len(history["loss"]) == 3


def test_metrics_are_read_one_step_late():
    order: list[str] = []

    class Value:
        def __init__(self, number: int):
            self.number = number

        def __float__(self) -> float:
            order.append(f"read {self.number}")
            return 0.0

    def step(run: Any, batch: Any) -> Any:
        order.append(f"step {int(run.step) + 1}")
        return run._replace(step=run.step + 1), {"loss": Value(int(run.step) + 1)}

    _, _, _, batches, run = setup()
    train.fit(step, run, batches, steps=3, progress=False)
    assert order == ["step 1", "step 2", "read 1", "step 3", "read 2", "read 3"]


def test_evaluate_is_exact_over_uneven_and_padded_batches():
    model, loss, _, _, run = setup()
    logits = model.apply(run.params, run.state, X)[0]
    expected = {"loss": F.cross_entropy(logits, Y), "accuracy": np.mean(np.argmax(logits, -1) == Y)}
    dataset = data.ArrayDataset(X, Y)
    for last in ("keep", "pad"):
        for size in (7, 16, 50, 64):
            scores = train.evaluate(loss, run, data.DataLoader(dataset, batch_size=size, last=last))
            for name, value in expected.items():
                assert scores[name] == pytest.approx(float(value), rel=1e-5), (last, size)
                assert type(scores[name]) is float
    assert train.evaluate(loss, run, [(X, Y)])["loss"] == pytest.approx(float(expected["loss"]), rel=1e-5)
    nothing = (X, Y, np.zeros(len(X), bool))
    assert train.evaluate(loss, run, [nothing, (X, Y, np.ones(len(X), bool))])["loss"] == train.evaluate(
        loss, run, [(X, Y, np.ones(len(X), bool))]
    )["loss"]
    with pytest.raises(ValueError, match="the masks of all batches are False everywhere"):
        train.evaluate(loss, run, [nothing, nothing])
    with pytest.raises(ValueError, match="no batches"):
        train.evaluate(loss, run, [])


def test_what_is_given_for_another_thing_is_named():
    model, loss, step, loader, run = setup()
    for call, message in (
        (lambda: step(run.params, (X, Y)), "step takes the whole run, as train.start gives it, got dict"),
        (lambda: train.evaluate(loss, run, loader.dataset), r"got ArrayDataset; .* data.DataLoader\(dataset"),
        (lambda: train.predict(model, run, loader), r"arrays, got DataLoader; .* for x, \*_ in loader.epoch\(0\)"),
        (lambda: train.predict(model, run, loader.dataset), r"arrays, got ArrayDataset; .* in loader.epoch"),
        (lambda: train.supervised(F.cross_entropy, model), r"a model and then a loss.*got function and Sequential"),
        (lambda: optim.set_hyper(run, lr=0.1), "set_hyper takes the state of .*got TrainState.*run.opt_state"),
        (lambda: train.make_step(F.cross_entropy, optim.sgd()), "takes a loss.*cross_entropy cannot be called so"),
        (lambda: train.evaluate(lambda params, state, batch: 0.0, run, loader), "cannot be called so: .*keyword"),
        (lambda: F.cross_entropy(model.apply(run.params, run.state, X), Y), "output, state = model.apply"),
        (lambda: optim.get_hyper(run, "lr"), "get_hyper takes the state of an optimizer"),
    ):
        with pytest.raises(TypeError, match=message):
            call()


def test_a_label_is_not_taken_for_a_mask():
    x, y = np.zeros((50, 6), "float32"), np.arange(50) < 10
    run = train.start(nn.Linear(1), optim.sgd(0.1), KEY, x)

    def loss(params: Any, state: Any, batch: Any, **_: Any) -> Any:
        return jnp.float32(0), (state, {"positive": jnp.mean(batch[1])})

    loader = data.DataLoader(data.ArrayDataset(x, y), batch_size=16)
    assert train.evaluate(loss, run, loader)["positive"] == pytest.approx(0.2)


def test_predict_refuses_outputs_that_have_no_batch_axis():
    model = nn.Ensemble(nn.Linear(3), 5)
    run = train.start(model, optim.sgd(0.1), KEY, X)
    with pytest.raises(ValueError, match=r"on the first axis, but of 16 examples the model made .* \(5, 16, 3\)"):
        train.predict(model, run, X, batch_size=16)


def test_equal_losses_are_compiled_once():
    traces = []

    def counted(outputs: Any, y: Any) -> Any:
        traces.append(1)
        return F.cross_entropy(outputs, y)

    model, _, _, _, run = setup()
    for _ in range(3):
        train.evaluate(train.supervised(model, counted, {"accuracy": metrics.accuracy}), run, [(X, Y)])
    assert len(traces) == 1


def test_predict_is_apply_in_batches():
    model, _, _, _, run = setup()
    expected = model.apply(run.params, run.state, X)[0]
    for size in (1, 7, 50, 256):
        np.testing.assert_allclose(train.predict(model, run, X, batch_size=size), expected, rtol=1e-5, atol=1e-6)
    assert train.predict(model, run, X[:0]).shape == (0, 3)
    with pytest.raises(ValueError, match="first axis of one length"):
        train.predict(model, run, (X, X[:3]))


def test_only_trainable_leaves_are_differentiated():
    model, loss, _, batches, _ = setup(dropout=0.0)
    opt = optim.groups({"0.*": None, "*": optim.sgd(0.1)})
    run = train.start(model, opt, KEY, X)
    step = train.make_step(loss, opt)
    new, _ = step(run, batches.batch(0))
    assert same_bits(new.params["0"], run.params["0"]) and not same_bits(new.params["head"], run.params["head"])
    full = train.make_step(loss, optim.sgd(0.1))
    flops = [s.lower(r, batches.batch(0)).compile().cost_analysis()["flops"] for s, r in
             ((step, run), (full, train.start(model, optim.sgd(0.1), KEY, X)))]  # fmt: skip
    saved = 2 * 16 * 16 * 6 + 2 * 16 * 16 * 3  # dW of the frozen layer, and the dX that only it needs
    assert flops[1] - flops[0] >= saved


def test_loss_scale_changes_nothing_but_the_range():
    class Scaled(optim.Wrapper):
        def loss_scale(self, opt_state: Any) -> Any:
            return jnp.float32(1024.0)

        def update(self, *args: Any, **kwargs: Any) -> Any:
            return self.inner.update(*args, **kwargs)

    model, loss, _, batches, _ = setup()
    plain, scaled = optim.sgd(0.1), Scaled(optim.sgd(0.1))
    a, scores = train.make_step(loss, plain)(train.start(model, plain, KEY, X), batches.batch(0))
    b, scaled_scores = train.make_step(loss, scaled)(train.start(model, scaled, KEY, X), batches.batch(0))
    assert not fnet.diff(a.params, b.params, rtol=1e-5, atol=1e-7)
    assert float(scores["loss"]) == pytest.approx(float(scaled_scores["loss"]), rel=1e-6)


def test_value_and_grad_reaches_the_rule():
    found = {}

    class Look(optim.Wrapper):
        def update(self, grads: Any, opt_state: Any, params: Any, *, value_and_grad: Any = None, **kwargs: Any) -> Any:
            value, again = value_and_grad(params)
            found.update(loss=kwargs["loss"], value=value, key=kwargs["key"])
            return self.inner.update(again, opt_state, params)

    model, loss, _, batches, _ = setup()
    look, plain = Look(optim.sgd(0.1)), optim.sgd(0.1)
    with jax.disable_jit():
        a, _ = train.make_step(loss, look)(train.start(model, look, KEY, X), batches.batch(0))
        b, _ = train.make_step(loss, plain)(train.start(model, plain, KEY, X), batches.batch(0))
    assert not fnet.diff(a.params, b.params, rtol=1e-5) and float(found["loss"]) == float(found["value"])
    assert jnp.issubdtype(found["key"].dtype, jax.dtypes.prng_key)


def test_donation_is_explicit_and_consumes_the_run():
    model, loss, step, batches, run = setup()
    kept, _ = step(run, batches.batch(0))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(run))
    donating = train.make_step(
        loss, optim.adamw(optim.warmup(optim.cosine(0.05, 40), 5), weight_decay=0.1), donate=True
    )
    consumed = jax.tree.map(jnp.copy, run)
    out, _ = donating(consumed, batches.batch(0))
    assert same_bits(out, kept) and all(leaf.is_deleted() for leaf in jax.tree.leaves(consumed.params))


def test_no_retrace_over_steps_and_hyperparameters():
    traces = []

    def loss(params: Any, state: Any, batch: Any, *, key: Any = None, train: bool = False) -> Any:
        traces.append(1)
        return jnp.mean((batch @ params["w"]) ** 2), (state, {})

    opt = optim.adam(0.1)
    params = {"w": jnp.ones(6)}
    run = train.TrainState(params, {}, opt.init(params), KEY, jnp.zeros((), "int32"))
    step = train.make_step(loss, opt)
    for _ in range(3):
        run, _ = step(run, X)
    run = run._replace(opt_state=optim.set_hyper(run.opt_state, lr=0.01))
    step(run, X)
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (
            lambda *a, **k: jnp.float32(1.0),
            r"must return \(scalar, \(new state, \{metric: value\}\)\), got float32\[\]",
        ),
        (lambda *a, **k: (jnp.ones(3), ({}, {})), r"must be a floating scalar, got float32\[3\]; take its mean"),
        (lambda *a, **k: (jnp.int32(1), ({}, {})), "must be a floating scalar"),
        (lambda *a, **k: (jnp.float32(1), {}), "must return"),
        (lambda *a, **k: (jnp.float32(1), ({}, {"loss": 0.0})), "give that metric another name"),
    ],
)
def test_a_loss_of_the_wrong_form_is_refused(bad: Any, message: str):
    model, _, _, batches, run = setup()
    with pytest.raises((TypeError, ValueError), match=message):
        train.make_step(bad, optim.adamw(optim.warmup(optim.cosine(0.05, 40), 5), weight_decay=0.1))(
            run, batches.batch(0)
        )


def test_supervised_names_a_batch_that_it_cannot_take():
    model, loss, step, _, run = setup()
    with pytest.raises(TypeError, match=r"\(x, y\) or \(x, y, mask\), got \{'image': float32\[50, 6\]\}"):
        step(run, {"image": X})


def test_a_loss_that_becomes_nan_is_said_once():
    _, _, step, _, run = setup()
    bad = data.DataLoader(data.ArrayDataset(X, np.full(50, 7, "int32")), batch_size=25)
    with pytest.warns(RuntimeWarning, match="the loss of step 1 is NaN; labels out of range") as said:
        train.fit(step, run, bad, epochs=2, progress=False)
    assert len(said) == 1


def test_mistaken_arguments_are_named():
    model, loss, step, batches, run = setup()
    opt = optim.sgd(0.1)
    for call in (lambda: train.make_step(model, opt), lambda: train.evaluate(model, run, batches)):
        with pytest.raises(TypeError, match="takes a loss, got a model"):
            call()
    for call in (lambda: train.evaluate(loss, run.params, batches), lambda: train.predict(model, run.params, X)):
        with pytest.raises(TypeError, match="takes the whole run"):
            call()
    with pytest.raises(TypeError, match=r"fit takes \(step, run, loader\)"):
        train.fit(run, step, batches, epochs=1)
    own = train.supervised(model, F.cross_entropy, metrics={"mine": lambda outputs, y: jnp.float32(0)})
    padded = data.DataLoader(data.ArrayDataset(X, Y), batch_size=16, last="pad")
    with pytest.raises(TypeError, match="has a mask, and the metric 'mine' takes none"):
        train.evaluate(own, run, padded)
    assert repr(run).startswith("<TrainState: step 0, 163 parameters")
