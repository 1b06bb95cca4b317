"""Make each notebook from its plain-text source (percent format), run it in a clean kernel, write it with outputs.

python notebooks/execute.py            all of them
python notebooks/execute.py --check    run them without writing; fails where a notebook and its source differ
"""

from __future__ import annotations

import argparse
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent


def execute(source: Path) -> nbformat.NotebookNode:
    """The notebook of a source file, with the outputs of a run from top to bottom."""
    notebook = jupytext.read(source)
    for index, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{index}"  # jupytext draws ids at random, which would change the file each time
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(HERE)}}).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of day
    return notebook


def texts(notebook: nbformat.NotebookNode) -> list[tuple[str, str]]:
    """What a person reads and runs, without outputs."""
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    for source in sorted(HERE.glob("[0-9]*.py")):
        path = source.with_suffix(".ipynb")
        if args.check and texts(jupytext.read(path)) != texts(jupytext.read(source)):
            raise SystemExit(
                f"{path.name} is not made from {source.name} as it is now; run python notebooks/execute.py"
            )
        notebook = execute(source)
        if not args.check:
            nbformat.write(notebook, path)
        print(f"{path.name}: {len(notebook.cells)} cells ran")


if __name__ == "__main__":
    main()
