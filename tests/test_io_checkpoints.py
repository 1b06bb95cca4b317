"""What `io.Checkpoints` keeps, refuses, restores and says."""

import errno
import json
import os
import threading
import time
import warnings
from collections import OrderedDict
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnet
from fnet import data, io, nn, optim, train
from fnet import functional as F


def tree(step, value=None):
    return {"w": jnp.full(4, step if value is None else value, jnp.float32), "n": np.arange(step), "name": "a"}


def filled(folder, steps, **settings):
    ckpt = io.Checkpoints(folder, **settings)
    for step in steps:
        ckpt.save(tree(step), {"loss": abs(step - 3.0)}, step=step)
    ckpt.wait()
    return ckpt


def damage(path, place=-3):
    raw = bytearray(Path(path).read_bytes())
    raw[place] ^= 1
    Path(path).write_bytes(raw)


@pytest.fixture(scope="module")
def run():
    return train.start(nn.Linear(3), optim.adamw(0.1), jax.random.key(0), jnp.ones((8, 5)))


@pytest.mark.parametrize("background", [True, False])
def test_the_last_and_the_best_are_kept(tmp_path, background):
    ckpt = filled(tmp_path, range(1, 9), keep=2, best="loss", background=background)
    assert ckpt.steps() == [3, 7, 8] and ckpt.best_step() == 3
    assert not fnet.diff(ckpt.restore(), tree(8)) and not fnet.diff(ckpt.restore(step="best"), tree(3))
    assert not fnet.diff(ckpt.restore(step=7), tree(7)) and not fnet.diff(fnet.load(ckpt.path(7)), tree(7))
    assert repr(ckpt) == "<Checkpoints: steps 3, 7, 8; best loss at step 3>"
    assert sorted(os.listdir(tmp_path)) == ["checkpoints.json", *(f"step-0000000{n}.safetensors" for n in (3, 7, 8))]
    assert filled(tmp_path / "all", range(6), keep=None).steps() == list(range(6))
    best = filled(tmp_path / "two", range(1, 9), keep=1, best="loss", keep_best=3, mode="max")
    assert best.steps() == [6, 7, 8] and best.best_step() == 8


def test_a_run_knows_its_step_and_comes_back_with_and_without_a_template(tmp_path, run):
    run = run._replace(step=jnp.int32(12))
    with io.Checkpoints(tmp_path) as ckpt:
        ckpt.save(run, {"loss": jnp.float32(0.5), "accuracy": float("nan")}, metadata={"note": "é"})
        for again in (ckpt.restore(like=run), ckpt.restore(), ckpt.restore(like=jax.eval_shape(lambda: run))):
            assert type(again) is train.TrainState and not fnet.diff(again, run) and int(again.step) == 12
    listed = json.loads((tmp_path / "checkpoints.json").read_text())["checkpoints"]
    assert listed[0]["metrics"] == {"loss": 0.5, "accuracy": "nan"} and listed[0]["note"] == "é"
    assert listed[0]["step"] == 12 and listed[0]["saved"].endswith("+00:00") and listed[0]["version"] == 1


def test_metadata_of_the_run_is_kept_with_every_checkpoint(tmp_path, run):
    ckpt = io.Checkpoints(tmp_path, metadata={"seed": 7, "note": "all"})
    ckpt(run._replace(step=jnp.int32(1)), {"loss": 0.5})  # as train.fit calls it
    ckpt.save(run._replace(step=jnp.int32(2)), metadata={"note": "this"})
    ckpt.wait()
    first, second = (io.metadata(ckpt.path(step)) for step in (1, 2))
    assert (first["seed"], first["note"]) == (7, "all") and (second["seed"], second["note"]) == (7, "this")


def test_a_donated_run_is_saved_as_it_was(tmp_path):
    step = jax.jit(lambda w: w * 0 - 1, donate_argnums=0)
    ckpt = io.Checkpoints(tmp_path)
    for number in range(20):
        w, n = jnp.full((256, 1024), number, jnp.float32), np.full(1000, number)
        ckpt.save({"w": w, "n": n}, step=number)
        step(w).block_until_ready()
        n[:] = -1
        again = ckpt.restore(like={"w": w, "n": n})
        assert np.all(again["w"] == number) and np.all(again["n"] == number)


def test_a_step_is_never_overwritten_in_silence(tmp_path):
    ckpt = filled(tmp_path, [1, 2])
    ckpt.save(tree(2), step=2)  # the same tree: nothing to lose
    with pytest.raises(FileExistsError, match=r"step-00000002.safetensors is there, and holds another tree; overwrite"):
        ckpt.save(tree(2, value=5), step=2)
    with pytest.raises(FileExistsError):
        ckpt.save(tree(2) | {"name": "b"}, step=2)
    assert not fnet.diff(ckpt.restore(), tree(2))
    ckpt.save(dict(reversed(tree(2).items())), step=2)  # as a template may give them: the order says nothing
    ckpt.save(tree(2, value=5), step=2, overwrite=True)
    assert not fnet.diff(ckpt.restore(), tree(2, value=5)) and ckpt.steps() == [1, 2]


def test_a_finished_run_may_be_saved_again(tmp_path):
    """The template's dicts are in the order of the code, those of a jitted step are sorted."""
    opt, batch = optim.sgd(0.1), (jnp.ones((8, 5)), jnp.zeros(8, "int32"))
    model = nn.Linear(3)
    step = train.make_step(train.supervised(model, F.cross_entropy), opt)
    fresh = train.start(model, opt, jax.random.key(0), batch[0])
    ckpt = io.Checkpoints(tmp_path)
    ckpt.save(step(fresh, batch)[0])
    again = ckpt.restore(like=fresh)
    assert list(again.params) != list(ckpt.restore().params)
    ckpt.save(again)


def test_equal_values_of_another_kind_or_order_are_another_tree(tmp_path):
    ckpt = io.Checkpoints(tmp_path)
    saved = {"flag": True, "pair": OrderedDict(a=1, b=2), "list": [1, 2]}
    ckpt.save(saved, step=1)
    ckpt.save(dict(saved), step=1)
    others = [{"flag": 1}, {"pair": OrderedDict(b=2, a=1)}, {"pair": {"a": 1, "b": 2}}, {"list": [1]}, {"list": (1, 2)}]
    for other in others:
        with pytest.raises(FileExistsError):
            ckpt.save(saved | other, step=1)


@pytest.mark.parametrize("how", ["data", "header", "cut", "empty", "not ours"])
def test_a_damaged_newest_gives_way_to_the_one_before_loudly(tmp_path, how):
    ckpt = filled(tmp_path, [1, 2, 3])
    path = ckpt.path(3)
    match how:
        case "data" | "header":
            damage(path, -3 if how == "data" else 100)
        case "cut" | "empty":
            os.truncate(path, 0 if how == "empty" else os.path.getsize(path) - 1)
        case "not ours":
            fnet.save(path, tree(3))
    with pytest.warns(RuntimeWarning, match="DAMAGED CHECKPOINTS in .*; restored step 2 in their place") as caught:
        assert not fnet.diff(ckpt.restore(), tree(2))
    assert caught[0].filename == __file__
    with pytest.raises(io.FileError, match="step-00000003"):
        ckpt.restore(step=3)
    with pytest.warns(RuntimeWarning, match="the damaged checkpoint of step 3 is replaced"):
        ckpt.save(tree(3), step=3)
    assert not fnet.diff(ckpt.restore(), tree(3))


def test_all_damaged_or_none_there(tmp_path):
    ckpt = filled(tmp_path, [1, 2])
    for step in (1, 2):
        damage(ckpt.path(step))
    with pytest.raises(io.FileError, match=r"(?s)every checkpoint is damaged:.*step-00000002.*step-00000001"):
        ckpt.restore()
    with pytest.raises(FileNotFoundError, match=r"no checkpoint in .*none yet; `if ckpt.steps\(\):`"):
        io.Checkpoints(tmp_path / "none").restore()
    with pytest.raises(FileNotFoundError, match="no checkpoint of step 9 in .*; there are 1, 2"):
        ckpt.restore(step=9)


def test_what_does_not_fit_is_an_error_and_no_damage(tmp_path):
    ckpt = filled(tmp_path, [1, 2])
    with pytest.raises(io.FileError, match=r"(?s)step-00000002.safetensors does not fit.*w: file float32\[4\], tree"):
        ckpt.restore(like=tree(2) | {"w": jnp.zeros(5)})


def test_a_renamed_file_is_noticed(tmp_path):
    ckpt = filled(tmp_path, [1])
    os.rename(ckpt.path(1), tmp_path / "step-00000005.safetensors")
    with pytest.raises(io.FileError, match="was saved as step 1: somebody gave it another name"):
        ckpt.restore()


def test_metrics_and_the_best(tmp_path):
    ckpt = io.Checkpoints(tmp_path, best="accuracy", keep=1)
    ckpt.save(tree(1), {"accuracy": 0.5, "loss": 1}, step=1)
    ckpt.save(tree(2), {"accuracy": float("nan")}, step=2)
    ckpt.save(tree(3), step=3)
    ckpt.save(tree(4), {"accuracy": 0.4}, step=4)
    ckpt.wait()
    assert ckpt.steps() == [1, 4] and ckpt.best_step() == 1
    with pytest.raises(ValueError, match="the metrics lack 'accuracy'.*they have acuracy"):
        ckpt.save(tree(5), {"acuracy": 1.0}, step=5)
    with pytest.raises(TypeError, match="the metric 'accuracy' must be a scalar, got"):
        ckpt.save(tree(5), {"accuracy": jnp.ones(3)}, step=5)
    with pytest.raises(FileNotFoundError, match="has the metric 'eval_loss'; they have accuracy, loss"):
        io.Checkpoints(tmp_path, best="eval_loss").best_step()
    with pytest.raises(ValueError, match='which \'score\' is better. Say mode="min" or mode="max"'):
        io.Checkpoints(tmp_path, best="score")
    with pytest.raises(ValueError, match="say by which metric"):
        io.Checkpoints(tmp_path).restore(step="best")


@pytest.mark.parametrize(
    "wrong", [{"keep": 0}, {"keep": True}, {"every": -1}, {"every": 1.5}, {"minutes": 0}, {"keep_best": 0}]
)
def test_wrong_settings(tmp_path, wrong):
    with pytest.raises(ValueError, match=f"Checkpoints: {next(iter(wrong))} is"):
        io.Checkpoints(tmp_path, **wrong)


def test_a_tree_without_a_step_and_steps_out_of_range(tmp_path):
    ckpt = io.Checkpoints(tmp_path)
    with pytest.raises(TypeError, match=r"a dict has no step: ckpt.save\(tree, step=…\)"):
        ckpt.save({"w": 1})
    with pytest.raises(ValueError, match="a step is an integer from 0"):
        ckpt.save({"w": 1}, step=-1)
    assert not os.listdir(tmp_path)


def test_a_save_waits_for_the_one_before_but_not_for_ever(tmp_path, monkeypatch):
    gate, real = threading.Event(), os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (gate.wait(), real(fd)))
    ckpt = io.Checkpoints(tmp_path, timeout=0.05)
    ckpt.save(tree(1), step=1)
    assert ckpt.steps() == []  # it is being written
    with pytest.raises(TimeoutError, match="the save of step 1 in .* has not finished after 0.05 s"):
        ckpt.save(tree(2), step=2)
    gate.set()
    ckpt.wait(10)
    assert ckpt.steps() == [1] and not any(thread.daemon for thread in threading.enumerate() if "save" in thread.name)


@pytest.mark.parametrize("where", ["save", "wait", "close", "restore"])
def test_an_error_in_the_background_is_raised_at_the_next_call(tmp_path, monkeypatch, where):
    ckpt = filled(tmp_path, [1])

    def full(fd, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    ckpt.save(tree(2), step=2)
    call = {"save": lambda: ckpt.save(tree(3), step=3), "wait": ckpt.wait, "close": ckpt.close, "restore": ckpt.restore}
    with pytest.raises(OSError, match="cannot save .*step-00000002.safetensors: No space left on device"):
        call[where]()
    monkeypatch.undo()
    assert ckpt.steps() == [1] and not fnet.diff(ckpt.restore(), tree(1))
    assert sorted(os.listdir(tmp_path)) == ["checkpoints.json", "step-00000001.safetensors"]


def test_only_what_nobody_writes_is_removed_at_the_start(tmp_path, monkeypatch):
    ckpt = filled(tmp_path, [1])
    stale = [".step-00000009.safetensors.123-0123abcd.tmp", ".checkpoints.json.9-0123abcd.tmp"]
    other = [".other.safetensors.123-0123abcd.tmp", "step-9.txt", "notes.tmp"]
    for name in stale + other:
        (tmp_path / name).write_text("x")
    gate, real = threading.Event(), os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (gate.wait(), real(fd)))
    ckpt.save(tree(2), step=2)
    while not any("00000002" in name for name in os.listdir(tmp_path)):
        time.sleep(0.001)
    again = io.Checkpoints(tmp_path)
    gate.set()
    ckpt.wait()
    there = set(os.listdir(tmp_path))
    assert again.steps() == [1, 2] and not set(stale) & there and set(other) <= there


def test_migrations_bring_old_checkpoints_up_to_date(tmp_path):
    filled(tmp_path, [1])
    like = {"weight": jnp.zeros(4), "n": np.zeros(1, int), "scale": 0.0}

    def renamed(leaves):
        assert isinstance(leaves["w"], jax.Array) and leaves.pop("name") == "a"
        leaves["weight"] = leaves.pop("w")
        return leaves

    newer = io.Checkpoints(tmp_path, migrations=[renamed, lambda leaves: leaves | {"scale": 2.0}])
    assert not fnet.diff(newer.restore(like=like), {"weight": jnp.ones(4), "n": np.arange(1), "scale": 2.0})
    newer.save(like, step=2)
    newer.wait()
    assert json.loads((tmp_path / "checkpoints.json").read_text())["checkpoints"][1]["version"] == 3
    assert newer.restore(like=like)["scale"] == 0
    with pytest.raises(io.FileError, match="of version 3 of your tree, but migrations= leads to 1 only"):
        io.Checkpoints(tmp_path).restore()
    with pytest.raises(ValueError, match=r"older version of your tree: restore\(like=run\)"):
        newer.restore(step=1)
    with pytest.raises(io.FileError, match=r"(?s)migrated, does not fit.*missing from the file \(2\):\s*weight"):
        io.Checkpoints(tmp_path, migrations=[lambda leaves: leaves]).restore(like=like, step=1)
    with pytest.raises(TypeError, match="returned NoneType, expected a dict"):
        io.Checkpoints(tmp_path, migrations=[lambda leaves: None]).restore(like=like, step=1)


def test_due(tmp_path, monkeypatch):
    ckpt = io.Checkpoints(tmp_path, every=10, minutes=2)
    assert [step for step in range(31) if ckpt.due(step)] == [0, 10, 20, 30]
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 121)
    assert ckpt.due(3)
    ckpt.save(tree(1), step=1)
    assert not ckpt.due(3)
    assert not io.Checkpoints(tmp_path).due(5)


def test_fit_saves_by_epochs_or_by_steps(tmp_path):
    points = data.ArrayDataset(np.eye(4, dtype="float32"), np.arange(4))
    loader = data.DataLoader(points, batch_size=1, shuffle=True)
    model, opt = nn.Linear(4), optim.sgd(1.0)
    run = train.start(model, opt, jax.random.key(0), np.eye(4, dtype="float32"))
    loss = train.supervised(model, F.cross_entropy)
    step = train.make_step(loss, opt)
    settings = {"progress": False, "evaluate": lambda run: train.evaluate(loss, run, loader)}
    epochs, steps = (
        io.Checkpoints(tmp_path / "epochs", best="eval_loss", keep=None),
        io.Checkpoints(tmp_path / "steps", every=3, best="eval_loss", keep=None),
    )
    end, _ = train.fit(step, run, loader, epochs=3, callbacks=[epochs, steps], **settings)
    epochs.save(end)  # once more: no error
    epochs.close(), steps.close()
    assert epochs.steps() == [4, 8, 12] and steps.steps() == [3, 6, 9, 12]
    assert epochs.best_step() == 12 == steps.best_step()
    for ckpt, begin in ((epochs, 4), (steps, 9)):
        again, _ = train.fit(step, ckpt.restore(like=run, step=begin), loader, epochs=3, **settings)
        assert not fnet.diff(again, end)


def test_nothing_warns_when_all_is_well(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        filled(tmp_path, [1, 2]).restore()
