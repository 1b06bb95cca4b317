"""Every example runs in its short form, and every notebook from a clean kernel."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NEED_DATA = ["char_gpt", "diffusion", "gan", "lstm_lm", "vae"]  # from the folder that FNET_DATA names
EXAMPLES = sorted((ROOT / "examples").glob("[!_]*.py"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_example(example: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    pytest.importorskip("matplotlib", reason="examples draw pictures: pip install fnet[plot]")
    if example.stem in NEED_DATA:
        request.getfixturevalue("data_dir")
    command = [sys.executable, str(example), "--short"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Warning" not in done.stderr, done.stderr


@pytest.mark.parametrize("name", NEED_DATA)
def test_without_its_data_an_example_says_what_it_needs(name: str, tmp_path: Path) -> None:
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    env.pop("FNET_DATA", None)
    command = [sys.executable, str(ROOT / "examples" / f"{name}.py"), "--short"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "FNET_DATA" in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_notebooks_are_made_from_their_sources_and_run() -> None:
    for package in ("flatbuffers", "ipykernel", "ipywidgets", "jupytext", "matplotlib", "nbclient", "PIL"):
        needed = "notebooks run in a kernel of their own: pip install fnet[export,image,notebook,plot]"
        pytest.importorskip(package, reason=needed)
    command = [sys.executable, str(ROOT / "notebooks" / "execute.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
