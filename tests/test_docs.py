"""The programs in docs/ run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"


def test_the_programs_of_training_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", (DOCS / "training.md").read_text(), re.DOTALL):
        exec(compile(block, "training.md", "exec"), names)
    assert (tmp_path / "runs" / "a" / "history.csv").exists()
    assert "batches of one size" in capsys.readouterr().out
    assert float(names["fitted"].step) == 44 and names["ckpt"].best_step() > 0
