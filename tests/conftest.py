"""Fixtures for every test, and how hypothesis draws."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import hypothesis
import jax
import pytest

# No deadline, since the first example of a test compiles; and the same examples each run, so that a verdict repeats.
hypothesis.settings.register_profile("fnet", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("fnet")

# Files that take long and say little more about another version of jax than the others do: left out with --quick.
LONG = {
    "test_data_processes", "test_functional_augment", "test_io_damage", "test_io_kill", "test_loss_fused",
    "test_loss_pytorch", "test_loss_sequence", "test_models", "test_nn_transforms", "test_optim_averaging",
    "test_optim_elementwise", "test_optim_every_rule", "test_optim_layers", "test_optim_matrix",
    "test_optim_precision", "test_optim_rules", "test_optim_whole_tree", "test_optim_wrappers", "test_resume",
    "test_train_kill",
}  # fmt: skip


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--quick", action="store_true", help="leave out the longest files, and all but one case of each test"
    )


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # in the background; tests of Ctrl-C would inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.getoption("--quick"):
        hypothesis.settings.register_profile("quick", hypothesis.settings.get_profile("fnet"), max_examples=5)
        hypothesis.settings.load_profile("quick")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    return True if config.getoption("--quick") and collection_path.stem in LONG else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With --quick each test function runs, with its first case."""
    if not config.getoption("--quick"):
        return
    seen: set[str] = set()
    kept, left_out = [], []
    for item in items:
        function = item.nodeid.partition("[")[0]
        (left_out if function in seen else kept).append(item)
        seen.add(function)
    config.hook.pytest_deselected(items=left_out)
    items[:] = kept


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[Any]:
    """A test that comes to a transform which needs Pillow is skipped where Pillow is not installed."""
    try:
        return (yield)
    except ImportError as error:
        if find_spec("PIL") is None and "needs Pillow" in str(error):
            pytest.skip(str(error))
        raise


@pytest.fixture
def x64() -> Iterator[None]:
    """JAX's 64-bit mode for the length of one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data that FNET_DATA names."""
    folder = os.environ.get("FNET_DATA")
    if not folder:
        pytest.skip("needs real data: set FNET_DATA to a folder with mnist/ in it")
    if not Path(folder).is_dir():
        pytest.fail(f"FNET_DATA is {folder!r}, which is no folder")
    return Path(folder)


@pytest.fixture
def no_shared_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No real data, and an empty cache of named sets, whose folder this is."""
    monkeypatch.delenv("FNET_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "fnet"
