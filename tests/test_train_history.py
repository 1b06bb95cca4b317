"""The history as a table, in files, and rewound; callbacks that read it; several steps in one call."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnet
from fnet import data, io, nn, optim, train
from fnet import functional as F

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(50, 6)).astype("float32")
Y = (X @ RNG.normal(size=(6, 3))).argmax(1).astype("int32")
MODEL = nn.Sequential(nn.Linear(16), jnp.tanh, nn.Dropout(0.5), head=nn.Linear(3))
LOADER = data.DataLoader(data.ArrayDataset(X, Y), batch_size=16, shuffle=True, seed=3, last="drop")  # 3 steps
SGD = optim.sgd(0.5)
LOSS = train.supervised(MODEL, F.cross_entropy)
STEP = train.make_step(LOSS, SGD)
RUN = train.start(MODEL, SGD, KEY, X)
ODD = 'a,"b\n'
ROWS = [(1, {"loss": 0.1}), (2, {"loss": math.nan, ODD: math.inf}), (3, {"loss": -math.inf}), (3, {"late": 1e-17})]


def filled(history: train.History) -> train.History:
    for step, values in ROWS:
        history.add(step, values)
    return history


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_a_file_gives_back_what_was_measured(tmp_path: Path, name: str) -> None:
    path, sink = tmp_path / "runs" / name, train.CSV if name.endswith("csv") else train.JSONLines
    with train.History(sink(path)) as history:
        for step, values in ROWS:
            history.add(step, values)
            history.flush()
    for again in (train.History.read(path), train.History(sink(path))):
        assert repr(again.to_dict()) == repr(filled(train.History()).to_dict())
    with path.open("a") as file:
        file.write('{"step": 4, "lo' if sink is train.JSONLines else "4,0.")  # killed while it wrote
    with train.History(sink(path)) as history:
        assert len(history) == 3
        history.add(4, {"loss": 0.5, "new": 2.0})
    assert train.History.read(path)["loss"][-1] == 0.5 and train.History.read(path)["new"] == [2.0]
    history.rewind(1)
    assert train.History.read(path).to_dict() == {"loss": {"step": [1], "value": [0.1]}} == history.to_dict()
    aside = Path(f"{path}.dropped.jsonl").read_text()
    assert aside.count("\n") == 5 and '"step": 4, "loss": 0.5, "new": 2.0' in aside
    path.write_text(path.read_text() + "nonsense\n")
    number = 2 if sink is train.JSONLines else 3
    with pytest.raises(ValueError, match=rf"{name}, line {number}, is no row .*'nonsense'"):
        train.History(sink(path))


def test_json_lines_are_json_and_a_row_is_a_line(tmp_path: Path) -> None:
    with train.History(train.JSONLines(tmp_path / "a.jsonl")) as history:
        history.add(1, {"loss": math.nan})
        history.add(1, {"eval_loss": math.inf})
        assert not (tmp_path / "a.jsonl").exists(), "rows wait for others"
    assert (tmp_path / "a.jsonl").read_text() == '{"step": 1, "loss": "NaN", "eval_loss": "Infinity"}\n'
    history = train.History(train.JSONLines(tmp_path / "b.jsonl"))
    history.add(1, {"loss": 0.5})
    history._flushed -= 2  # two seconds later
    history.add(2, {"loss": 0.25})
    assert (tmp_path / "b.jsonl").read_text() == '{"step": 1, "loss": 0.5}\n', "and not for long"


def test_the_scalars_of_a_step_go_in_as_they_are(tmp_path: Path) -> None:
    with train.History(train.JSONLines(tmp_path / "a.jsonl")) as history:
        history.add(1, {"loss": jnp.float32(0.5), "count": 2, "accuracy": np.float32(0.25)})
        with pytest.raises(TypeError, match="metric 'each' is a scalar"):
            history.add(2, {"each": jnp.ones(3)})
    assert (tmp_path / "a.jsonl").read_text() == '{"step": 1, "loss": 0.5, "count": 2.0, "accuracy": 0.25}\n'


def test_the_table_as_numbers_and_as_text() -> None:
    history = filled(train.History())
    table = history.to_numpy()
    assert list(table) == ["step", "loss", ODD, "late"] and list(table["step"]) == [1, 2, 3]
    np.testing.assert_array_equal(table["late"], [np.nan, np.nan, 1e-17])
    long = train.History()
    for step in range(1, 101):
        long.add(step, {"loss": 1 / step})
    lines = repr(long).splitlines()
    assert len(lines) == 11 and lines[0].split() == ["step", "loss"] and lines[-1].split() == ["100", "0.01"]
    assert "…" in lines[4] and repr(train.History()) == "<History: empty>"


def test_tensorboard_gets_the_scalars_and_names_the_extra(tmp_path: Path) -> None:
    tensorboard = pytest.importorskip("tensorboardX", reason="needs the tensorboard extra: fnet[tensorboard]")
    history = train.History(train.TensorBoard(tmp_path))
    history.add(1, {"loss": 0.5})
    history.add(2, {"loss": 0.25})
    history.rewind(1)
    history.add(2, {"loss": 0.125})
    history.close()
    found = []
    for file in sorted(tmp_path.iterdir(), key=lambda file: file.stat().st_mtime_ns):
        body, at = file.read_bytes(), 0
        while at < len(body):
            length = int.from_bytes(body[at : at + 8], "little")
            event = tensorboard.proto.event_pb2.Event.FromString(body[at + 12 : at + 12 + length])
            found += [(event.step, value.simple_value) for value in event.summary.value]
            found += [("from", event.step)] if event.HasField("session_log") else []
            at += 16 + length
    assert found == [(1, 0.5), (2, 0.25), ("from", 2), (2, 0.125)]
    code = "import sys; sys.modules['tensorboardX'] = None\nfrom fnet.train.sinks import TensorBoard\nTensorBoard('a')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "ImportError: train.TensorBoard needs tensorboardX: pip install 'fnet[tensorboard]'" in done.stderr


def test_a_mistaken_sink_or_history_is_named() -> None:
    with pytest.raises(TypeError, match=r"takes sinks, as train\.JSONLines\(path\), got 'a\.jsonl'"):
        train.History("a.jsonl")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"history is a train\.History"):
        train.fit(STEP, RUN, LOADER, steps=1, history="a.jsonl")  # type: ignore[arg-type]


def scripted(values: list[float]) -> Any:
    """An evaluation that gives these values, one after each step."""
    return lambda run: {"loss": values[int(run.step) - 1]}


def test_early_stopping_ends_where_it_should_and_stays_ended() -> None:
    values = [3.0, 2.0, math.nan, 1.9, 1.95, 2.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0]
    for patience, min_delta, last in ((2, 0.0, 6), (3, 0.0, 10), (2, 0.5, 4), (12, 0.0, 12)):
        history = train.History()
        stop = train.early_stopping(history, "eval_loss", patience, min_delta=min_delta)
        settings: Any = {"every": 1, "evaluate": scripted(values), "callbacks": [stop], "progress": False}
        run, _ = train.fit(STEP, RUN, LOADER, steps=12, history=history, **settings)
        assert int(run.step) == last == len(history)
        if last < 12:
            again, same = train.fit(STEP, run, LOADER, steps=12, history=history, **settings)
            assert again is run and same is history
    history = train.History()
    rising = train.early_stopping(history, "eval_accuracy", 1)
    history.add(1, {"eval_accuracy": 0.5})
    history.add(2, {"eval_accuracy": 0.6})
    assert not rising.over()
    for message, bad in {"patience must be an integer of at least 1": {"patience": 0}, "Say mode": {"name": "x"},
                         "min_delta must be finite": {"min_delta": -1.0}}.items():  # fmt: skip
        with pytest.raises(ValueError, match=message):
            train.early_stopping(**{"history": history, "name": "loss", **bad})
    with pytest.raises(KeyError, match="no 'eval_losses'; it has loss"):
        train.fit(STEP, RUN, LOADER, steps=1, history=history, progress=False,
                  callbacks=[train.early_stopping(history, "eval_losses")])  # fmt: skip


def test_a_history_that_fit_was_not_given_is_named() -> None:
    other = train.History()
    for callback in (train.early_stopping(other, "loss"), train.reduce_on_plateau(other, "loss"),
                     train.stop_on_nan(other)):  # fmt: skip
        with pytest.raises(ValueError, match="'loss' was measured, but not into this history; give it to fit"):
            train.fit(STEP, RUN, LOADER, steps=1, callbacks=[callback], progress=False)


def test_reduce_on_plateau_is_pytorch_s() -> None:
    torch = pytest.importorskip("torch", reason="parity tests need the oracle extra: pip install fnet[oracle]")
    rng = np.random.default_rng(1)
    for mode, patience, delta in (("min", 0, 0.0), ("min", 2, 0.3), ("max", 1, 0.1)):
        values = rng.normal(size=12).tolist()
        history = train.History()
        reduce = train.reduce_on_plateau(history, "eval_loss", 0.5, patience, mode=mode, min_delta=delta, min_lr=0.04)
        rates: list[float] = []
        note = partial(lambda rates, run, latest: rates.append(float(optim.get_hyper(run.opt_state, "lr"))), rates)
        train.fit(STEP, RUN, LOADER, steps=12, every=1, evaluate=scripted(values), history=history, progress=False,
                  callbacks=[reduce, note])  # fmt: skip
        theirs = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
            theirs, mode, 0.5, patience, threshold=delta, threshold_mode="abs", min_lr=0.04, eps=0
        )
        expected = []
        for value in values:
            schedule.step(value)
            expected.append(theirs.param_groups[0]["lr"])
        np.testing.assert_allclose(rates, expected, rtol=1e-6)
        assert len(set(rates)) > 2
    with pytest.raises(ValueError, match="factor must be between 0 and 1"):
        train.reduce_on_plateau(train.History(), "loss", 1.0)


def test_stop_on_nan_stops_one_step_later_and_saves_nothing(tmp_path: Path) -> None:
    history = train.History()

    def step(run: Any, batch: Any) -> Any:
        number = int(run.step) + 1
        return run._replace(step=run.step + 1), {"loss": math.inf if number == 4 else 1.0}

    with io.Checkpoints(tmp_path, every=1, keep=None) as ckpt:
        run, _ = train.fit(step, RUN, LOADER, steps=9, every=9, history=history, progress=False,
                           callbacks=[ckpt, train.stop_on_nan(history)])  # fmt: skip
    assert int(run.step) == 5 and ckpt.steps() == [1, 2, 3, 4] and history["loss"][3] == math.inf


def test_every_time_limit_and_samples(capsys: Any) -> None:
    seen: list[tuple[int, list[str]]] = []
    note = train.every(4, lambda run, latest: seen.append((int(run.step), sorted(latest))))
    show = train.print_samples(5, lambda run: f"sample {int(run.step)}")
    train.fit(STEP, RUN, LOADER, steps=9, callbacks=[note, show], evaluate=lambda run: {"x": 1.0}, progress=False)
    assert seen == [(4, ["loss"]), (8, ["loss"])] and capsys.readouterr().out == "sample 5\n"
    begin = time.monotonic()
    run, _ = train.fit(STEP, RUN, LOADER, steps=10**7, progress=False, callbacks=[train.time_limit(seconds=0.05)])
    assert 0 < int(run.step) and 0.05 <= time.monotonic() - begin < 30
    for bad in (lambda: train.time_limit(), lambda: train.every(0, print)):
        with pytest.raises(ValueError, match="more than 0|at least 1"):
            bad()
    with pytest.raises(TypeError, match="every takes a function"):
        train.every(3, None)  # type: ignore[arg-type]


def test_several_steps_in_one_call_are_the_same_steps() -> None:
    loader = data.DataLoader(data.ArrayDataset(X, Y), batch_size=12, shuffle=True, seed=3)  # 5 steps, the last of 2
    step = train.make_step(LOSS, SGD)
    results = []
    for k in (1, 4):
        seen: list[int] = []
        note = train.every(7, lambda run, latest, seen=seen: seen.append(int(run.step)))
        with pytest.warns(train.Retraced) if k == 1 else nullcontext():
            run, history = train.fit(step, RUN, loader, epochs=5, steps_per_call=k, progress=k > 1, callbacks=[note],
                                     evaluate=lambda run: {"at": run.step})  # fmt: skip
        assert seen == [7, 14, 21] and list(history["eval_at"]) == [5, 10, 15, 20, 25]
        assert list(history.steps("loss")) == list(range(1, 26))
        results.append((run, history["loss"]))
    (one, losses), (many, same) = results
    assert not fnet.diff(one, many, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(same, losses, rtol=1e-5)
    traced: list[int] = []
    train.fit(lambda run, batch: traced.append(1) or STEP(run, batch), RUN, LOADER, steps=12, every=12,
              steps_per_call=4, progress=False)  # fmt: skip
    assert len(traced) == 1, "three calls of four steps, traced once"
    with pytest.raises(ValueError, match="steps_per_call is a number of steps"):
        train.fit(STEP, RUN, LOADER, steps=1, steps_per_call=0)


def test_float16_with_a_loss_scale_trains_and_recovers_from_overflow() -> None:
    def half(params: Any, state: Any, batch: Any, **kwargs: Any) -> Any:
        return LOSS(fnet.cast(params, jnp.float16), state, batch, **kwargs)

    opt = optim.dynamic_loss_scale(SGD, initial=2.0**24, interval=8)
    run, history = train.fit(train.make_step(half, opt), train.start(MODEL, opt, KEY, X), LOADER, steps=60,
                             progress=False)  # fmt: skip
    scale, updates = float(opt.loss_scale(run.opt_state)), int(run.opt_state["step"])
    assert run.params["head"]["weight"].dtype == jnp.float32 and np.isfinite(history["loss"]).all()
    assert updates < 60 and 2.0 < scale < 2.0**24, "too large a scale overflowed: steps were left out and it fell"
    _, full = train.fit(STEP, RUN, LOADER, steps=60, progress=False)
    assert history["loss"][-10:].mean() < 0.75 * history["loss"][:5].mean()
    assert abs(history["loss"][-10:].mean() - full["loss"][-10:].mean()) < 0.15


def test_the_bar_tells_the_speed_and_what_waits(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")  # in a narrow terminal the bar is cut
    monkeypatch.setenv("LINES", "50")
    train.fit(STEP, RUN._replace(step=jnp.int32(4)), LOADER, epochs=4)
    bar = capsys.readouterr().err.replace("\r", "\n").splitlines()[-1]
    assert all(part in bar for part in ("epoch 4/4", "12/12", "loss=", "samples/s=", "input-bound="))
