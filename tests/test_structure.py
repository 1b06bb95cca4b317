"""What holds of the package as a whole: who imports whom, how long files are, what importing costs."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

import fnet

PACKAGE = Path(fnet.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

# What each part may import of fnet's others.
BASE = {"selectors", "creation", "tree", "init"}
CORE = BASE | {"functional", "nn"}
ALLOWED = {
    "selectors": set(),
    "creation": set(),
    "init": set(),
    "data": set(),
    "compare": set(),
    "memory": set(),
    "tree": {"selectors", "compare"},
    "functional": BASE,
    "nn": BASE | {"functional"},
    "models": CORE,
    "io": CORE,
    "optim": {"tree", "selectors"},
    "lora": {"tree", "selectors"},
    "reparam": {"tree", "selectors"},
    "metrics": BASE | {"functional"},
    "autograd": CORE,
    "parallel": {"tree", "selectors"},
    "train": CORE | {"optim", "data", "io", "metrics"},
}
USES_ANYTHING = {"inspect", "plot"}

# Imports against the direction that stand inside a function, and why.
LAZY = {
    ("io", "train"): "load gives a run back as fnet's own TrainState, with no template",
    ("io", "lora"): "and adapters as fnet's own Adapter",
}

FOREIGN = {"optax", "flax", "haiku", "equinox", "chex", "penzai", "orbax", "grain"}


def part_of(file: Path) -> str:
    return file.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(file: Path) -> Iterator[tuple[str, bool]]:
    """Every module that a file imports, by full dotted name, and whether that happens inside a function."""
    package = ["fnet", *file.relative_to(PACKAGE).parts[:-1]]

    def walk(node: ast.AST, lazy: bool) -> Iterator[tuple[str, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if isinstance(child, ast.Import):
                yield from ((alias.name, lazy) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                base = package[: len(package) - child.level + 1] if child.level else []
                source = ".".join([*base, *([child.module] if child.module else [])])
                yield from ((f"{source}.{alias.name}", lazy) for alias in child.names)
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from walk(child, lazy or inside)

    yield from walk(ast.parse(file.read_text()), False)


def modules() -> list[str]:
    return ["fnet", *(found.name for found in pkgutil.walk_packages([str(PACKAGE)], "fnet."))]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_run_one_way(file: Path) -> None:
    part = part_of(file)
    for name, lazy in imports(file):
        root, *rest = name.split(".")
        assert root not in FOREIGN, f"{file} imports {name}: fnet stands on jax and numpy alone"
        assert not name.startswith("jax._src"), f"{file} imports {name}: only JAX's public API"
        assert not (part == "data" and not lazy and root in ("jax", "jaxlib")), f"{file}: data imports without jax"
        if root != "fnet" or part == "__init__":
            continue
        assert rest, f"{file} imports the front door"
        other = rest[0]
        if other == part or part in USES_ANYTHING or (lazy and (part, other) in LAZY):
            continue
        assert part in ALLOWED, f"say in this test what fnet.{part} may import"
        assert other in ALLOWED[part], f"{file}: {part} may not import {other}"


def test_every_lazy_exception_is_used() -> None:
    found = {(part_of(file), name.split(".")[1]) for file in FILES for name, lazy in imports(file)
             if lazy and name.startswith("fnet.")}  # fmt: skip
    assert set(LAZY) <= found


def test_the_walk_sees_every_spelling_of_an_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path)
    (tmp_path / "nn").mkdir()
    file = tmp_path / "nn" / "a.py"
    file.write_text("import fnet.x as y\nfrom fnet import z\nfrom ..w import q\nfrom . import b\n"
                    "def f():\n    if 1:\n        from fnet.v import u\n")  # fmt: skip
    assert list(imports(file)) == [("fnet.x", False), ("fnet.z", False), ("fnet.w.q", False), ("fnet.nn.b", False),
                                   ("fnet.v.u", True)]  # fmt: skip


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_no_file_is_long(file: Path) -> None:
    assert len(file.read_text().splitlines()) <= 400


def python(code: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


BLOCK = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked}:
            raise ImportError(f"{{name}} is blocked")
sys.meta_path.insert(0, Block())
"""


def test_the_front_door_imports_nothing() -> None:
    code = "import sys; before = set(sys.modules); import fnet; fnet.__version__; dir(fnet);"
    code += "print(sorted({m.split('.')[0] for m in set(sys.modules) - before} - set(sys.stdlib_module_names)))"
    assert python(code) == "['fnet']"


def test_data_works_without_jax() -> None:
    code = BLOCK.format(blocked={"jax", "jaxlib", "torch"}) + (
        "from fnet import data\n"
        "train, _ = data.digits()\n"
        "images, labels = data.DataLoader(train, batch_size=4, shuffle=True, seed=0).batch(3)\n"
        "print(images.shape, 'jax' in sys.modules)"
    )
    assert python(code) == "(4, 8, 8, 1) False"


def test_every_module_imports_with_the_core_dependencies_alone() -> None:
    extras = {"matplotlib", "PIL", "torch", "scipy", "sklearn", "safetensors", "tensorboardX", "flatbuffers", "IPython"}
    # jax itself imports scipy, so only what fnet asks for is refused: after jax is there.
    code = "import jax, jax.numpy\n" + BLOCK.format(blocked=extras)
    code += f"import importlib\nfor name in {modules()!r}: importlib.import_module(name)\nprint('all')"
    assert python(code) == "all"


def test_importing_everything_takes_no_function_s_place() -> None:
    code = "\n".join(f"import {name}" for name in modules()) + (
        "\nfrom fnet import tensor, save, named, summary"
        "\nimport fnet, types"
        "\nfunctions = set(fnet._HOME_OF)"
        "\nprint([n for n in functions if isinstance(getattr(fnet, n), types.ModuleType)], callable(fnet.tensor))"
    )
    assert python(code) == "[] True"


def test_no_module_has_the_name_of_a_function_of_the_front_door() -> None:
    assert not {name.removeprefix("fnet.") for name in modules()} & set(fnet._HOME_OF)


def test_the_front_door_s_three_lists_agree() -> None:
    """The table that loads names, __all__, and what type checkers see."""
    source = ast.parse((PACKAGE / "__init__.py").read_text())
    seen: dict[str, str | None] = {}
    for node in ast.walk(source):
        if isinstance(node, ast.ImportFrom) and node.module:
            home = node.module.removeprefix("fnet").removeprefix(".").split(".")[0]
            seen |= {alias.name: home or None for alias in node.names if home or alias.name != "TYPE_CHECKING"}
    seen.pop("TYPE_CHECKING", None), seen.pop("Any", None)
    assert {name for name, home in seen.items() if home} == set(fnet._HOME_OF)
    assert {name: home for name, home in seen.items() if home} == fnet._HOME_OF
    assert sorted(seen) == sorted(fnet.__all__)


@pytest.mark.parametrize("name", fnet.__all__)
def test_the_front_door_opens(name: str) -> None:
    value = getattr(fnet, name)
    assert isinstance(value, types.ModuleType) == (name not in fnet._HOME_OF)
    assert name in dir(fnet)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'fnet' has no attribute 'tensr'"):
        _ = fnet.tensr  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match="no attribute 'cat'; in its place is jax.numpy.concatenate"):
        _ = fnet.cat  # type: ignore[attr-defined]


def public_functions() -> Iterator[tuple[str, types.FunctionType]]:
    for name in modules():
        module = importlib.import_module(name)
        for attribute in getattr(module, "__all__", ()):
            value = getattr(module, attribute)
            if inspect.isfunction(value) and value.__module__.startswith("fnet."):
                yield f"{name}.{attribute}", value


def test_public_functions_have_types_and_a_docstring_with_an_example() -> None:
    wrong = []
    for name, function in public_functions():
        signature = inspect.signature(function)
        untyped = [p.name for p in signature.parameters.values() if p.annotation is p.empty]
        if untyped or signature.return_annotation is signature.empty:
            wrong.append(f"{name}: no type for {untyped or 'what it returns'}")
        if not re.search(r"^\s*>>> ", function.__doc__ or "", re.MULTILINE):
            wrong.append(f"{name}: no example (>>>) in its docstring")
    assert not wrong, "\n".join(sorted(wrong))
