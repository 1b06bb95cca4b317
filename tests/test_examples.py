"""Every example runs in its short form, and every notebook from a clean kernel, in an empty folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("[!_]*.py"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_example(example: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="examples draw pictures: pip install fnet[plot]")
    command = [sys.executable, str(example), "--short"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Warning" not in done.stderr, done.stderr


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.filterwarnings("default")  # what Jupyter's own client warns of is not fnet's to mend
def test_notebook(notebook: Path, tmp_path: Path) -> None:
    reason = "notebooks run in a kernel of their own: pip install fnet[notebook,plot]"
    nbformat = pytest.importorskip("nbformat", reason=reason)
    nbclient = pytest.importorskip("nbclient", reason=reason)
    for package in ("ipykernel", "ipywidgets", "matplotlib"):
        pytest.importorskip(package, reason=reason)
    cells = nbformat.read(notebook, as_version=4)
    # A kernel started by nbclient knows "python3" as the interpreter that runs these tests.
    nbclient.NotebookClient(cells, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
