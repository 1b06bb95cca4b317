"""The README's program runs as printed and prints what the README says."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_the_first_program_prints_what_stands_below_it(tmp_path: Path):
    program = re.search(r"```python\n(.*?)```", README, re.DOTALL).group(1)
    printed = re.search(r"What it prints.*?```\n(.*?)```", README, re.DOTALL).group(1).splitlines()
    assert len([line for line in program.splitlines() if line.strip()]) <= 20, "a 20-line program"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[1:] == printed[1:]
    said, found = ast.literal_eval(printed[0]), ast.literal_eval(lines[0])
    assert said.keys() == found.keys()
    # Another processor may round otherwise, and 660 steps carry that on: four of the 359 images, no more.
    assert abs(said["accuracy"] - found["accuracy"]) < 4.5 / 359 and found["accuracy"] > 0.96
    assert (tmp_path / "run.safetensors").exists()


def test_the_other_snippets_run():
    names: dict = {}
    exec("import jax, fnet\nimport fnet.functional as F\nfrom fnet import init, nn, optim", names)
    exec('key = jax.random.key(0)\nx = jax.numpy.ones((1, 32))', names)
    for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL)[1:]:
        exec(compile(block, "README.md", "exec"), names)
    y, _ = names["RMSNorm"]().init(names["key"], names["x"])
    assert y["weight"].shape == (32,) and names["logits"].shape == (1, 10)


def test_nothing_is_left_to_fill_in():
    assert not re.search(r"^[A-Z]{5,}\.?$|: [A-Z]{5,}\.$|TODO|TBD", README, re.MULTILINE)
