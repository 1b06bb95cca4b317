"""A fit that is killed and begun again continues as if nothing had happened: numbers, history, callbacks, bar."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROGRAM = r"""
import os, signal, sys
import jax, numpy as np
import fnet
from fnet import data, functional as F, io, nn, optim, train

folder, kill_step, kill_in = sys.argv[1], int(sys.argv[2]), sys.argv[3]

def kill(step, where):
    if step == kill_step and where == kill_in:
        os.kill(os.getpid(), signal.SIGKILL)

rng = np.random.default_rng(0)
x = rng.normal(size=(64, 6)).astype("float32")
y = rng.integers(3, size=64).astype("int32")
loader = data.DataLoader(data.ArrayDataset(x[:48], y[:48]), batch_size=8, shuffle=True, seed=3)
held_out = [(x[48:], y[48:])]
model = nn.Sequential(nn.Linear(16), F.relu, nn.Dropout(0.5), nn.Linear(3))
opt = optim.ema(optim.adamw(0.05), decay=0.9)
loss = train.supervised(model, F.cross_entropy)
step = train.make_step(loss, opt)
run = train.start(model, opt, jax.random.key(0), x)

def evaluate(run):
    kill(int(run.step), "evaluation")
    return train.evaluate(loss, train.averaged(opt, run), held_out)

history = train.History(train.JSONLines(folder + "/history.jsonl"), train.CSV(folder + "/history.csv"))
with io.Checkpoints(folder + "/ckpt", keep=None, every=4, best="eval_loss", background=False) as ckpt:
    if ckpt.steps():
        run = ckpt.restore(like=run)
    print("from", int(run.step), flush=True)
    run, history = train.fit(step, run, loader, epochs=20, every=6, evaluate=evaluate, history=history, callbacks=[
        ckpt,
        train.every(1, lambda run, latest: kill(int(run.step), "step")),
        train.early_stopping(history, "eval_loss", patience=9),
        train.reduce_on_plateau(history, "eval_loss", factor=0.5, patience=1),
        train.stop_on_nan(history),
        lambda run, latest: kill(int(run.step), "callback"),
    ])
fnet.save(folder + "/final.safetensors", run)
print("ended", int(run.step), float(optim.get_hyper(run.opt_state, "lr")), len(history["eval_loss"]), flush=True)
"""
# In the middle of an epoch, before the first checkpoint, within an evaluation, between a reduction of the learning rate
# and the checkpoint of that step.
MOMENTS = [(2, "step"), (11, "step"), (24, "evaluation"), (36, "callback"), (36, "step"), (48, "callback")]


def program(folder: Path, step: int = -1, where: str = "", cache: Path | None = None) -> subprocess.CompletedProcess:
    env = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    folder.mkdir(exist_ok=True)
    return subprocess.run([sys.executable, "-W", "error", "-c", PROGRAM, str(folder), str(step), where],
                          capture_output=True, text=True, env=env, timeout=120)  # fmt: skip


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is of Unix")
def test_killed_and_resumed_as_if_nothing_had_happened(tmp_path: Path) -> None:
    whole, broken, cache = tmp_path / "whole", tmp_path / "broken", tmp_path / "cache"
    expected = program(whole, cache=cache)
    assert expected.returncode == 0, expected.stderr
    ended = expected.stdout.splitlines()[-1]
    assert 48 < int(ended.split()[1]) < 120, "it is stopped early, and after the last kill"
    assert float(ended.split()[2]) < 0.02, "the learning rate was lowered more than once"

    for moment in MOMENTS:
        killed = program(broken, *moment, cache=cache)
        assert killed.returncode == -signal.SIGKILL, (moment, killed.stdout, killed.stderr)
    resumed = program(broken, cache=cache)
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout.splitlines() == ["from 44", ended]
    for file in ("final.safetensors", "history.jsonl", "history.csv"):
        assert (broken / file).read_bytes() == (whole / file).read_bytes(), file
    assert sorted(os.listdir(broken / "ckpt")) == sorted(os.listdir(whole / "ckpt"))
    bar = resumed.stderr.replace("\r", "\n")
    assert "| 44/120 " in bar and f"| {ended.split()[1]}/120 " in bar and "epoch 8/20" in bar
    aside = [json.loads(line) for line in (broken / "history.jsonl.dropped.jsonl").read_text().splitlines()]
    assert {row["step"] for row in aside} >= {9, 10, 11}, "what was measured twice is kept aside"

    again = program(whole, cache=cache)
    assert again.stdout.splitlines()[-1] == ended, "a run that had stopped early is not trained on"


@pytest.mark.skipif(os.name != "posix", reason="SIGINT is of Unix")
def test_ctrl_c_ends_after_the_step_at_hand_even_where_the_run_is_donated(tmp_path: Path) -> None:
    code = (
        "import jax, numpy as np\n"
        "from fnet import data, functional as F, nn, optim, train\n"
        "x = np.ones((64, 512), 'float32'); y = np.zeros(64, 'int32')\n"
        "loader = data.DataLoader(data.ArrayDataset(x, y), batch_size=32)\n"
        "model, opt = nn.Linear(3), optim.adam(0.1)\n"
        "step = train.make_step(train.supervised(model, F.cross_entropy), opt, donate=True)\n"
        "run = train.start(model, opt, jax.random.key(0), x)\n"
        "go = train.every(50, lambda run, latest: print('go', flush=True))\n"
        "run, history = train.fit(step, run, loader, steps=10**7, every=10**7, callbacks=[go], progress=False)\n"
        "assert np.isfinite(run.params['weight']).all() and len(history) == int(run.step)\n"
        "import signal; assert signal.getsignal(signal.SIGINT) is signal.default_int_handler\n"
        "print('ended')"
    )
    for delay in (0.0, 0.01):
        process = subprocess.Popen([sys.executable, "-W", "error", "-c", code], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None and process.stdout.readline() == "go\n"
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        out = process.communicate(timeout=60)[0]
        assert process.returncode == 0 and out.splitlines()[-1] == "ended"
