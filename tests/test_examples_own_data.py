"""Examples with data of one's own: what does not fit is said before training, and no run goes on from another's.

They are run in this process until they stop, before anything is compiled.
"""

from __future__ import annotations

import argparse
import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fnet
from fnet import io

EXAMPLES = Path(__file__).parent.parent / "examples"
RESUMED = sorted(path.stem for path in EXAMPLES.glob("[!_]*.py") if path.stem != "quickstart")
Stopped = Callable[..., str]


@pytest.fixture(autouse=True)
def packages(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib", reason="examples draw pictures: pip install fnet[plot]")
    pytest.importorskip("PIL", reason="examples read pictures: pip install fnet[image]")
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setattr(fnet, "keep_memory", lambda: False)  # which is for the whole process


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Stopped:
    """Run an example with these arguments until it stops: what it says."""

    def run(name: str, *arguments: Any) -> str:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
        return str(end.value)

    return run


def pictures(folder: Path, classes: tuple[str, ...] = ("cat", "dog"), count: int = 5) -> Path:
    from PIL import Image

    for name in classes:
        (folder / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (16, 16), (number, 0, 0)).save(folder / name / f"{number}.png")
    return folder


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


def made(folder: Path, **settings: Any) -> None:
    """A folder of checkpoints made for this."""
    ckpt = io.Checkpoints(folder, metadata={"made_for": settings}, background=False)
    ckpt.save({"w": np.ones(3)}, step=1)


# --- folders of other runs --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RESUMED)
def test_a_run_does_not_go_on_from_the_checkpoints_of_another(name: str, tmp_path: Path, stopped: Stopped) -> None:
    own = {
        "char_gpt": ["--text", write(tmp_path / "a.txt", "to be or not to be\n" * 60)],
        "lstm_lm": ["--text", tmp_path / "a.txt", "--batch", 4],
        "folder": [pictures(tmp_path / "photos")],
        "cifar10": ["--data", tmp_path / "split"],
    }
    if name == "cifar10":
        pictures(tmp_path / "split" / "train"), pictures(tmp_path / "split" / "test")
    made(tmp_path / "old" / "latent20", seed=12, color="red")
    message = stopped(name, "--short", "--out", "old", *own.get(name, []))
    assert message.startswith("old") and "holds the checkpoints of another run:" in message
    assert "  color: 'red' there, None asked for" in message and "  short: None there, True asked for" in message
    assert message.endswith("give another --out, or delete old/latent20")
    text = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")
    assert "metadata=made)" in text, "its checkpoints do not say for what they were made"


def test_what_may_change_is_free_and_the_rest_is_not(tmp_path: Path) -> None:
    from _made_for import made_for

    first = argparse.Namespace(out=tmp_path, data=Path("a.csv"), epochs=3, widths=[8, 8], rate=0.1)
    metadata = made_for(tmp_path, first, "epochs", "data", rows="100, checksum 0a")
    assert metadata == {"made_for": {"widths": [8, 8], "rate": 0.1, "rows": "100, checksum 0a"}}
    made(tmp_path, **metadata["made_for"])
    later = argparse.Namespace(**vars(first) | {"out": Path("moved"), "data": Path("else/a.csv"), "epochs": 4})
    assert made_for(tmp_path, later, "epochs", "data", rows="100, checksum 0a") == metadata
    with pytest.raises(SystemExit, match=r"rows: '100, checksum 0a' there, '100, checksum 0b' asked for\n") as end:
        made_for(tmp_path, later, "epochs", "data", rows="100, checksum 0b")
    assert "widths" not in str(end.value)
    assert "rate" in made_for(tmp_path, later, "epochs", "data", "rows", rows="of no matter")["made_for"]

    path = next(tmp_path.glob("step-*"))  # a damaged one is left to `restore`, which takes the one before
    path.write_bytes(path.read_bytes()[:40])
    assert made_for(tmp_path, argparse.Namespace(rate=0.2)) == {"made_for": {"rate": 0.2}}
    io.Checkpoints(tmp_path / "old", background=False).save({"w": np.ones(3)}, step=1)
    with pytest.raises(SystemExit, match="does not say for what it was made; give another --out, or delete"):
        made_for(tmp_path, argparse.Namespace(rate=0.2))


def test_checksums_tell_texts_arrays_and_files_apart(tmp_path: Path) -> None:
    from _made_for import checksum, of_files

    assert checksum("ab", np.arange(3)) == checksum("ab", np.arange(3)) != checksum("ab", np.arange(1, 4))
    folder = pictures(tmp_path / "photos")
    paths = sorted(folder.rglob("*.png"))
    before = of_files(folder, paths)
    assert before.startswith("10 files, ") and of_files(folder, paths[1:]) != before == of_files(folder, paths)
    paths[0].write_bytes(b"another picture")
    assert of_files(folder, paths) != before


def test_prediction_needs_the_size_and_the_classes_of_the_training_alone(tmp_path: Path, stopped: Stopped) -> None:
    folder = pictures(tmp_path / "photos")
    made(tmp_path / "old", size=32, classes=["cat", "dog"], seed=1, short=False, files="of another day")
    message = stopped("folder", folder, "--predict", "a.png", "--out", "old")
    assert "size: 32 there, 64 asked for" in message and message.count(" there, ") == 1
    pictures(folder, ("cow",))
    message = stopped("folder", folder, "--predict", "a.png", "--out", "old", "--size", "32")
    assert "classes: ['cat', 'dog'] there, ['cat', 'cow', 'dog'] asked for" in message


def test_photographs_in_two_folders_need_the_same_classes(tmp_path: Path, stopped: Stopped) -> None:
    pictures(tmp_path / "split" / "train", ("cat", "cow", "dog")), pictures(tmp_path / "split" / "test", ("cat", "dog"))
    assert "must have the same classes; only one of them has cow" in stopped("cifar10", "--data", "split")


def test_photographs_are_of_one_size(tmp_path: Path, stopped: Stopped) -> None:
    from PIL import Image

    pictures(tmp_path / "split" / "train"), pictures(tmp_path / "split" / "test")
    odd = Path("split/test/cat/0.png")
    Image.new("RGB", (20, 10)).save(tmp_path / odd)
    message = stopped("cifar10", "--data", "split")
    assert f"must be of one size, and are of 2: split/train/cat/0.png 16 × 16, {odd} 20 × 10;" in message
    write(tmp_path / odd, "no picture")
    assert stopped("cifar10", "--data", "split").startswith(f"{odd} is no photograph: ")


def test_few_pictures_and_a_single_class(tmp_path: Path, stopped: Stopped) -> None:
    message = stopped("folder", pictures(tmp_path / "photos", count=2))
    assert message == f"{tmp_path / 'photos'} has 4 pictures; at least 10 are needed, of which a fifth is held out"
    assert "one class only, cat" in stopped("folder", pictures(tmp_path / "cats", ("cat",)))


# --- texts ------------------------------------------------------------------------------------------------------------

TEXTS = ["char_gpt", "lstm_lm"]


@pytest.mark.parametrize("name", TEXTS)
def test_a_prompt_is_checked_before_training(name: str, tmp_path: Path, stopped: Stopped) -> None:
    path = write(tmp_path / "own.txt", "to be or not to be\n" * 200)
    for prompt, lacks in (("ROMEO:\n", "':EMOR'"), ("", "''")):
        message = stopped(name, "--short", "--text", path, "--prompt", prompt)
        assert message.startswith(f"--prompt {prompt!r} must be") and message.endswith(lacks)
    begin = runpy.run_path(str(EXAMPLES / "_text.py"))["first_characters"]
    given = ((None, path), (None, None), ("not", path))
    begins = [begin(*one, "to be or not to be", "to be rnROME:\n") for one in given]
    assert begins == ["to be or not to ", "ROMEO:\n", "not"]


@pytest.mark.parametrize("name", TEXTS)
def test_a_text_of_another_encoding_is_named(name: str, tmp_path: Path, stopped: Stopped) -> None:
    path = write(tmp_path / "own.txt", "Ach, wär' ich früher aufgestanden!\r\n" * 200, "latin-1")
    message = stopped(name, "--short", "--text", path)
    assert message.startswith(f"{path}: line 1 is not utf-8: byte 0xe4 at position 6") and "latin-1" in message
    message = stopped(name, "--short", "--text", path, "--encoding", "latin-1", "--prompt", "\r")
    assert message.endswith(r"lacks '\r'"), "line ends are not those of every platform"
    assert "unknown encoding: latin-0" in stopped(name, "--short", "--text", path, "--encoding", "latin-0")


@pytest.mark.parametrize(
    ("name", "says"),
    [("char_gpt", "tenth has 40 .* 65; .* lower --block than 64"), ("lstm_lm", "2049 .*lower --batch")],
)
def test_a_text_that_is_too_short_is_named_with_what_to_lower(
    name: str, says: str, tmp_path: Path, stopped: Stopped
) -> None:
    message = stopped(name, "--text", write(tmp_path / "own.txt", "wisdom " * 56))
    assert message.startswith("the text is too short: ")
    assert re.search(says, message), message


# --- tables -----------------------------------------------------------------------------------------------------------


def table(path: Path, rows: int = 20, **columns: Callable[[int], Any]) -> Path:
    lines = [",".join(columns), *(",".join(str(value(row)) for value in columns.values()) for row in range(rows))]
    return write(path, "\n".join(lines) + "\n")


def test_a_table_with_semicolons_needs_its_delimiter(tmp_path: Path, stopped: Stopped) -> None:
    path = write(tmp_path / "own.csv", "größe;y\n" + "1.5;2\n" * 3, "latin-1")
    assert "--encoding" in stopped("tabular", "--data", path)
    assert "with delimiter=';' each line has 2" in stopped("tabular", "--data", path, "--encoding", "latin-1")
    message = stopped("tabular", "--data", path, "--encoding", "latin-1", "--delimiter", ";")
    assert "at least 10 rows" in message
    path = write(tmp_path / "own.csv", "x\ty\n" + "1.5\t2\n" * 3)
    assert "at least 10 rows" in stopped("tabular", "--data", path, "--delimiter", "\\t")


def test_columns_from_which_nothing_can_be_learnt_are_named(tmp_path: Path, stopped: Stopped) -> None:
    columns = {"day": lambda row: f"May {row}", "empty": lambda row: "", "city": lambda row: "AB"[row % 2]}
    path = table(tmp_path / "own.csv", **columns, y=lambda row: row)
    message = stopped("tabular", "--data", path)
    assert "'empty' has no value in any row" in message and "'city'" not in message
    assert "'day' is text, with 20 different ones in 20 rows, such as 'May 0'" in message
    assert message.endswith("leave them out: --drop 'empty' 'day'")
    assert "no column 'dya'; its columns are day, empty, city, y" in stopped("tabular", "--data", path, "--drop", "dya")
    assert "no column 'z' to predict; columns: day," in stopped("tabular", "--data", path, "--target", "z")
    assert "no column 'y' to predict" in stopped("tabular", "--data", path, "--target", "y", "--drop", "y")
    mixed = table(
        tmp_path / "mixed.csv", 9, x=lambda row: row, code=lambda row: row if row < 5 else "A", y=lambda row: row
    )
    assert "column 'code': line 7: 'A' is text" in (message := stopped("tabular", "--data", mixed))
    assert "--drop" in message and "at least 10 rows" in stopped("tabular", "--data", mixed, "--drop", "code")
    assert "the target 'city' must be" in stopped("tabular", "--data", path, "--target", "city")
    assert "the target 'empty' must be" in stopped("tabular", "--data", path, "--target", "empty")


def test_rows_without_a_text_are_left_out_as_those_without_a_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    columns = {"x": lambda row: row if row else "", "city": lambda row: "AB"[row % 2] if row > 1 else ""}
    path = table(tmp_path / "own.csv", **columns, note=lambda row: "", y=lambda row: 2 * row)
    args = argparse.Namespace(data=path, target=None, drop=["note"], delimiter=",", encoding="utf-8")
    x, y, names = runpy.run_path(str(EXAMPLES / "tabular.py"))["read_table"](args)
    assert names == ["x", "city=A", "city=B"] and args.target == "y"
    assert y.tolist() == [2 * row for row in range(2, 20)] and x[:2].tolist() == [[2, 1, 0], [3, 0, 1]]
    assert "2 rows with missing values are left out (missing in x 1, city 2)" in capsys.readouterr().out
