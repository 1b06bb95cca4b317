"""Every example runs in its short form, goes on when it was killed, and says what it needs when its data is absent."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("[!_]*.py"))
NEED_DATA = [  # from the folder that FNET_DATA names
    "char_gpt", "cifar10", "diffusion", "distillation", "finetune", "gan", "lstm_lm", "mnist", "vae",
]  # fmt: skip


def run(example: Path, *arguments: str, cwd: Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess:
    command = [sys.executable, str(example), *arguments]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=300)


@pytest.fixture(autouse=True)
def packages() -> None:
    pytest.importorskip("matplotlib", reason="examples draw pictures: pip install fnet[plot]")


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_example(example: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if example.stem in NEED_DATA:
        request.getfixturevalue("data_dir")
    done = run(example, "--short", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Warning" not in done.stderr, done.stderr
    assert list(tmp_path.rglob("*.png")) or example.stem == "resume", "no picture was saved"


@pytest.mark.parametrize("name", NEED_DATA)
def test_without_its_data_an_example_says_what_it_needs(name: str, tmp_path: Path) -> None:
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    env.pop("FNET_DATA", None)
    done = run(ROOT / "examples" / f"{name}.py", "--short", cwd=tmp_path, env=env)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "FNET_DATA" in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_a_killed_example_goes_on_and_ends_as_one_that_was_not(tmp_path: Path) -> None:
    example, options = ROOT / "examples" / "tabular.py", ["--epochs", "60", "--members", "2"]
    process = subprocess.Popen(
        [sys.executable, str(example), *options, "--out", "killed"],
        cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    until = time.monotonic() + 120
    while not list(tmp_path.glob("killed/checkpoints/step-*.safetensors")) and time.monotonic() < until:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it was over before it could be killed"
    again = run(example, *options, "--out", "killed", cwd=tmp_path)
    whole = run(example, *options, "--out", "whole", cwd=tmp_path)
    assert re.search(r"goes on from step [1-9]\d* of 1500", again.stdout), again.stdout + again.stderr
    numbers = [re.search(r"RMSE .* interval", done.stdout) for done in (again, whole)]
    assert numbers[0] and numbers[1] and numbers[0][0] == numbers[1][0], again.stdout + whole.stdout


def test_notebooks_are_made_from_their_sources_and_run() -> None:
    for package in ("flatbuffers", "ipykernel", "ipywidgets", "jupytext", "matplotlib", "nbclient", "PIL"):
        needed = "notebooks run in a kernel of their own: pip install fnet[export,image,notebook,plot]"
        pytest.importorskip(package, reason=needed)
    command = [sys.executable, str(ROOT / "notebooks" / "execute.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
