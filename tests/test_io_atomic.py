"""A save that fails or is killed leaves the file that was there, and no other."""

import errno
import os
import subprocess
import sys
import textwrap

import jax.numpy as jnp
import numpy as np
import pytest

from fnet import io


@pytest.fixture
def path(tmp_path):
    io.save(tmp_path / "a.safetensors", {"old": jnp.ones(3)})
    return tmp_path / "a.safetensors"


def is_untouched(path) -> bool:
    return list(io.load(path)) == ["old"] and os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("when", ["open", "write", "second write", "fsync", "replace"])
def test_a_failure_at_any_step_leaves_the_old_file(path, monkeypatch, when):
    name = when.split()[-1]
    real, calls = getattr(os, name), []

    def failing(*args):
        calls.append(args)
        if when == "second write" and len(calls) == 1:
            return real(*args)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, name, failing)
    words = r"cannot save .*a\.safetensors: No space left on device; the file .* untouched"
    with pytest.raises(OSError, match=words) as error:
        io.save(path, {"new": np.ones(100), "more": np.ones(100)})
    monkeypatch.undo()
    assert error.value.errno == errno.ENOSPC and is_untouched(path)


def test_only_a_file_that_replaces_another_waits_for_the_disk(path, monkeypatch):
    real, calls = os.fsync, []
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append(fd), real(fd)))
    io.save(path.with_name("new.safetensors"), {"a": np.ones(3)})
    assert not calls
    io.save(path, {"a": np.ones(3)})
    assert len(calls) == 2  # the file and its folder
    with io.Checkpoints(path.parent / "run") as checkpoints:
        checkpoints.save({"a": np.ones(3)}, step=1)
    assert len(calls) > 2


def test_an_interrupt_leaves_the_old_file(path, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "write", interrupt)
    with pytest.raises(KeyboardInterrupt):
        io.save(path, {"new": np.ones(100)})
    monkeypatch.undo()
    assert is_untouched(path)


def test_short_writes_are_continued(path, monkeypatch):
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:7]))
    io.save(path, {"new": np.arange(100)})
    monkeypatch.undo()
    assert io.load(path)["new"].tolist() == list(range(100))


def run(code: str, *args) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True)


def test_a_full_disk(path):
    """The limit on a file's size stands in for the end of the disk."""
    resource = pytest.importorskip("resource", reason="a limit on the size of files needs Unix")
    assert resource
    done = run(
        """
        import resource, sys, numpy as np
        from fnet import io
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        try:
            io.save(sys.argv[1], {"new": np.ones(1 << 20)})
        except OSError as error:
            print(error)
        """,
        path,
    )
    assert "cannot save" in done.stdout and "File too large; the file that was there is untouched" in done.stdout, done
    assert is_untouched(path)


def test_killed_in_the_middle(path):
    done = run(
        """
        import os, signal, sys, numpy as np
        from fnet import io
        real, calls = os.write, []
        def write(fd, data):
            calls.append(1)
            if len(calls) == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(fd, data)
        os.write = write
        io.save(sys.argv[1], {str(i): np.ones(1 << 20) for i in range(4)})
        """,
        path,
    )
    assert done.returncode == -9 and list(io.load(path)) == ["old"]


def test_the_file_has_the_usual_permissions_and_links_stay_links(tmp_path):
    (tmp_path / "plain").write_text("x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder" / "real")
    io.save(tmp_path / "link", {"a": 1})
    io.save(str(tmp_path / "saved"), {"a": 1})
    assert (tmp_path / "link").is_symlink() and io.load(tmp_path / "folder" / "real") == {"a": 1}
    assert (tmp_path / "saved").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_relative_path_and_a_long_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    io.save("a", {"a": 1})
    io.save("n" * 250, {"a": 2})
    assert io.load("a") == {"a": 1} and io.load("n" * 250) == {"a": 2}


def test_where_no_file_can_be(tmp_path):
    with pytest.raises(FileNotFoundError, match="the folder .*none does not exist"):
        io.save(tmp_path / "none" / "a", {})
    with pytest.raises(IsADirectoryError, match="it is a folder"):
        io.save(tmp_path, {})
    assert os.listdir(tmp_path) == []
