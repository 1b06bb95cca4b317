"""A run that is killed again and again ends with the bits of one that was never interrupted."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parent.parent / "examples" / "resume.py"
KILLS = 6


def begin(out: Path, cache: Path) -> subprocess.Popen:
    env = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    command = [sys.executable, str(EXAMPLE), "--epochs=20", "--every=7", f"--out={out}"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)


def finish(process: subprocess.Popen) -> str:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert not err, err
    return out.strip().splitlines()[-1]


def saved(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("step-*")}


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is of Unix")
def test_killed_at_random_moments_the_run_ends_bit_identical(tmp_path: Path) -> None:
    expected = finish(begin(tmp_path / "unbroken", tmp_path / "cache"))
    assert finish(begin(tmp_path / "unbroken", tmp_path / "cache")) == expected, "a finished run started again"
    rng, broken, begun = random.Random(1), tmp_path / "broken", []
    for kill in range(KILLS):
        process = begin(broken, tmp_path / "cache")
        begun.append(int(process.stdout.readline().split()[2]))
        before = saved(broken)
        while kill % 3 and saved(broken) == before and process.poll() is None:
            time.sleep(0.002)  # two of three get somewhere first, however slow the machine is
        while not list(broken.glob(".step-*.tmp")) and rng.random() < 0.999 and process.poll() is None:
            time.sleep(0.002)  # most kills in the middle of a save, some of them a little later
        time.sleep(rng.choice([0, 0, 0.01, 0.1]))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "it ended before it was killed: make it longer"
    end = begin(broken, tmp_path / "cache")
    begun.append(int(end.stdout.readline().split()[2]))
    assert finish(end) == expected
    assert begun == sorted(begun) and len(set(begun)) > KILLS // 2, begun
    assert (broken / "final.safetensors").read_bytes() == (tmp_path / "unbroken" / "final.safetensors").read_bytes()
