"""Make each notebook from its plain-text source (percent format), run it in a clean kernel, write it with outputs.

python notebooks/execute.py            all of them
python notebooks/execute.py 03 05      those whose names begin so
python notebooks/execute.py --check    run them without writing; fails where a notebook and its source differ

The Python blocks of folded solutions run as well, behind the text that they stand in, and are not written as cells.
"""

from __future__ import annotations

import argparse
import re
import time
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent
WARNING = re.compile(r":\d+: \w+: ")  # file:line: category: message


def execute(source: Path) -> nbformat.NotebookNode:
    """The notebook of a source file, with the outputs of a run from top to bottom."""
    notebook = jupytext.read(source)
    cells = []
    for index, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{index}"  # jupytext draws ids at random, which would change the file each time
        cells += [cell, *solutions(cell)]
    options = {"timeout": 300, "coalesce_streams": True, "resources": {"metadata": {"path": str(HERE)}}}
    whole = nbformat.v4.new_notebook(cells=cells, metadata=notebook.metadata)
    NotebookClient(whole, **options).execute()
    for cell in whole.cells:
        cell.metadata.pop("execution", None)  # times of day
        for output in cell.get("outputs", ()):
            if output.get("name") == "stderr" and WARNING.search(output.text):
                raise SystemExit(f"{source.name} warns: {output.text}")
    return nbformat.v4.new_notebook(
        cells=[cell for cell in whole.cells if not cell.metadata.get("solution")], metadata=whole.metadata
    )


def solutions(cell: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """The Python of a text's folded solution, as cells to run."""
    if cell.cell_type != "markdown" or "<details>" not in cell.source:
        return []
    blocks = re.findall(r"```python\n(.*?)```", cell.source.split("<details>")[1], re.DOTALL)
    return [nbformat.v4.new_code_cell(block, metadata={"solution": True}) for block in blocks]


def texts(notebook: nbformat.NotebookNode) -> list[tuple[str, str]]:
    """What a person reads and runs, without outputs."""
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="how the names of the notebooks begin; all when there are none")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    sources = [path for path in sorted(HERE.glob("[0-9]*.py")) if path.name.startswith(tuple(args.names or ("",)))]
    if not sources:
        parser.error(f"no notebook's name begins with {', '.join(args.names)}")
    for source in sources:
        path = source.with_suffix(".ipynb")
        if args.check and texts(jupytext.read(path)) != texts(jupytext.read(source)):
            raise SystemExit(
                f"{path.name} is not made from {source.name} as it is now; run python notebooks/execute.py"
            )
        start = time.perf_counter()
        notebook = execute(source)
        if not args.check:
            nbformat.write(notebook, path)
        print(f"{path.name}: {len(notebook.cells)} cells ran, {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
