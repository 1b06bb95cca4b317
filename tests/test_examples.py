"""Every example runs in its short form, goes on when it was killed, and says what it needs when its data is absent."""

from __future__ import annotations

import os
import re
import runpy
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


KILLED = ["finetune", "lstm_lm"]  # in their short forms; all examples keep their runs in the same way, see below


@pytest.fixture(scope="session")
def quick(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Compiling is most of what a short form does: here it is not optimised, and done once for all of them."""
    return {
        **os.environ,
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("compiled")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


def run(example: Path, *arguments: str, cwd: Path, env: dict[str, str]) -> subprocess.CompletedProcess:
    command = [sys.executable, str(example), *arguments]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=300)


def kill(example: Path, *arguments: str, cwd: Path, env: dict[str, str]) -> None:
    """Start an example and kill it when it has written its first checkpoint."""
    process = subprocess.Popen(
        [sys.executable, str(example), *arguments], cwd=cwd, env=env, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    until = time.monotonic() + 120
    while not list(cwd.rglob("step-*.safetensors")) and time.monotonic() < until:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it was over before it could be killed"


@pytest.fixture(autouse=True)
def packages() -> None:
    pytest.importorskip("matplotlib", reason="examples draw pictures: pip install fnet[plot]")


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_example(example: Path, tmp_path: Path, quick: dict[str, str], request: pytest.FixtureRequest) -> None:
    options = ["--short"]
    if example.stem == "char_gpt":  # with a text of one's own, a small one
        (tmp_path / "own.txt").write_text("Es war einmal ein König, der hatte 7 Töchter.\n" * 117, encoding="utf-8")
        options += ["--text", "own.txt"]
    elif example.stem in NEED_DATA:
        request.getfixturevalue("data_dir")
    if example.stem in KILLED:
        kill(example, *options, cwd=tmp_path, env=quick)
    done = run(example, *options, cwd=tmp_path, env=quick)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Warning" not in done.stderr, done.stderr
    assert list(tmp_path.rglob("*.png")) or example.stem == "resume", "no picture was saved"
    folders = [path.name for path in (tmp_path / "runs").iterdir() if path.is_dir()]
    assert len(folders) == 1 and folders[0].endswith("-short"), "a try must not be in the way of a real run"
    assert example.stem not in KILLED or re.search(r"go(es|ing) on from step [1-9]", done.stdout), done.stdout


@pytest.mark.parametrize("name", NEED_DATA)
def test_without_its_data_an_example_says_what_it_needs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    example = ROOT / "examples" / f"{name}.py"
    monkeypatch.delenv("FNET_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(example.parent))
    monkeypatch.setattr(sys, "argv", [str(example), "--short"])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(example), run_name="__main__")
    assert "FNET_DATA" in str(stopped.value)  # Python prints it, and the exit status is 1


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_keeps_its_run_and_takes_it_up_again(example: Path) -> None:
    text = example.read_text(encoding="utf-8")
    if example.stem == "quickstart":  # trains for seconds
        return
    assert "io.Checkpoints(" in text and "sigterm=True" in text
    assert re.search(r"callbacks=\[(ckpt|best)\]", text), "the checkpoints are not written in training"
    assert re.search(r"run = (ckpt|best)\.restore\(like=run\)", text), "the run is not taken up from its checkpoint"


def test_a_killed_example_goes_on_and_ends_as_one_that_was_not(tmp_path: Path, quick: dict[str, str]) -> None:
    example, options = ROOT / "examples" / "tabular.py", ["--epochs", "60", "--members", "2"]
    kill(example, *options, "--out", "killed", cwd=tmp_path, env=quick)
    again = run(example, *options, "--out", "killed", cwd=tmp_path, env=quick)
    whole = run(example, *options, "--out", "whole", cwd=tmp_path, env=quick)
    assert re.search(r"goes on from step [1-9]\d* of 1500", again.stdout), again.stdout + again.stderr
    numbers = [re.search(r"RMSE .* interval", done.stdout) for done in (again, whole)]
    assert numbers[0] and numbers[1] and numbers[0][0] == numbers[1][0], again.stdout + whole.stdout
    other = run(example, *options, "--seed", "1", "--out", "whole", cwd=tmp_path, env=quick)
    assert (
        other.returncode == 1 and "  seed: 0 there, 1 asked for\nask for the same, give another --out" in other.stderr
    )
    assert other.stderr.count(" there, ") == 1, "the folder was made for the same in all else"


def test_notebooks_are_made_from_their_sources_and_run() -> None:
    for package in ("flatbuffers", "ipykernel", "ipywidgets", "jupytext", "matplotlib", "nbclient", "PIL"):
        needed = "notebooks run in a kernel of their own: pip install fnet[export,image,notebook,plot]"
        pytest.importorskip(package, reason=needed)
    command = [sys.executable, str(ROOT / "notebooks" / "execute.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
