"""`Checkpoints`: the states of a run in a folder, from which it always goes on."""

from __future__ import annotations

import math
import operator
import os
import signal
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from types import FrameType
from typing import Any

import jax
import numpy as np

from fnet.io import folder as on_disk
from fnet.io.background import Background
from fnet.io.folder import Record
from fnet.io.safetensors import FileError, Misfit
from fnet.io.saveload import Prepared, holds, load, prepare, snapshot
from fnet.io.writing import write_file
from fnet.selectors import near

LOWER, HIGHER = ("loss", "error", "perplexity", "rmse", "mae", "mse"), ("acc", "auc", "f1", "precision", "recall")


class Checkpoints:
    """A folder of checkpoints, each a file ``step-….safetensors`` that `fnet.load` reads too.

    A checkpoint appears under its name when it is complete and on the disk, or not at all, and is never overwritten in
    silence. ``checkpoints.json`` beside them says for people which there are, with their metrics and dates. Arrays are
    stored whole, by name: a run saved on eight devices is restored on two, or on the shardings of a template.

        ckpt = io.Checkpoints("runs/a", keep=3, best="eval_loss")
        if ckpt.steps():
            run = ckpt.restore(like=run)
        run, history = train.fit(step, run, loader, epochs=10, callbacks=[ckpt])
        ckpt.close()

    As a callback of `fnet.train.fit` it saves after every ``every`` steps and whenever ``minutes`` have passed, or,
    with neither, each time that fit calls its callbacks. In a loop of your own: ``if ckpt.due(n): ckpt.save(run)``.

    Args:
        folder: is made at the first save. What killed processes left in it is removed now.
        keep: how many of the latest steps stay; None for all.
        best: the metric by which, besides, the best ``keep_best`` steps stay, among those saved with it.
        mode: "min" or "max", what is better; needed where the name does not tell (loss, error, accuracy, …).
        every: steps between saves. minutes: time between saves.
        sigterm: True catches SIGTERM, by which clusters announce the end: the next step is saved, then the process
            ends as it would have. A second SIGTERM ends it at once. Needs the main thread; `close` lets go of it.
        background: write in a thread. The arrays are on the host when `save` returns, so the run may be donated. One
            save at a time: the next one waits, and raises what went wrong in the one before.
        timeout: seconds that a save waits for the one before, at most.
        metadata: anything in JSON, kept with every checkpoint: the settings of the run, say, for `io.metadata` to read.
        migrations: functions that bring old checkpoints up to date when your tree changes. The first turns the leaves
            by dotted name of version 1 into those of version 2, and so on; a checkpoint knows its version.

    Raises:
        ValueError, TypeError: a setting is wrong.

    >>> import tempfile, jax, jax.numpy as jnp
    >>> from fnet import io, nn, optim, train
    >>> run = train.start(nn.Linear(3), optim.sgd(0.1), jax.random.key(0), jnp.ones((8, 5)))
    >>> with io.Checkpoints(tempfile.mkdtemp(), keep=2) as ckpt:
    ...     for step in (10, 20, 30):
    ...         run = run._replace(step=jnp.int32(step))
    ...         ckpt.save(run, {"loss": 1 / step})
    >>> ckpt.steps(), int(ckpt.restore(like=run).step)
    ([20, 30], 30)
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        keep: int | None = 3,
        best: str | None = None,
        mode: str | None = None,
        keep_best: int = 1,
        every: int | None = None,
        minutes: float | None = None,
        sigterm: bool = False,
        background: bool = True,
        timeout: float = 600.0,
        metadata: Mapping[str, Any] | None = None,
        migrations: Sequence[Callable[[dict[str, Any]], Mapping[str, Any]]] = (),
    ) -> None:
        for name, value in {"keep": keep, "every": every}.items():
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ValueError(f"Checkpoints: {name} is an integer of at least 1, or None, got {value!r}")
        if minutes is not None and not minutes > 0:
            raise ValueError(f"Checkpoints: minutes is a number above 0, or None, got {minutes!r}")
        if isinstance(keep_best, bool) or not isinstance(keep_best, int) or keep_best < 1:
            raise ValueError(f"Checkpoints: keep_best is an integer of at least 1, got {keep_best!r}")
        self.folder = os.fspath(folder)
        self.keep, self.best, self.keep_best = keep, best, keep_best
        self.every, self.minutes, self.background, self.timeout = every, minutes, background, timeout
        self.metadata, self.migrations = dict(metadata or {}), tuple(migrations)
        self.sign = 1 if best is None else better("Checkpoints", best, mode)
        self._writer = Background()
        self._last_save = time.monotonic()
        self._asked_to_end = False
        self._before: Any = None  # what SIGTERM did before
        on_disk.remove_stale(self.folder)
        if sigterm:
            self._before = signal.signal(signal.SIGTERM, self._on_sigterm) or signal.SIG_DFL

    def save(
        self,
        run: Any,
        metrics: Mapping[str, Any] | None = None,
        *,
        step: int | None = None,
        metadata: dict[str, Any] | None = None,
        overwrite: bool = False,
    ) -> None:
        """Save a run (any pytree) as the checkpoint of its step.

        The same tree again under its step is no change and no error. A damaged checkpoint is replaced, with a warning.

        Args:
            run: what to save; ``run.step`` is its step.
            metrics: scalars by name, kept with it.
            step: for a tree that has no ``step``.
            metadata: anything in JSON, kept with it, beside that of all checkpoints.
            overwrite: replace another checkpoint of this step.

        Raises:
            FileExistsError: there is another checkpoint of this step.
            OSError, TimeoutError: also those of the save before. The checkpoints that were there stay.
            TypeError, ValueError: something cannot be saved; the message names it.

        >>> import tempfile, jax.numpy as jnp
        >>> from fnet import io
        >>> ckpt = io.Checkpoints(tempfile.mkdtemp(), best="loss")
        >>> ckpt.save({"w": jnp.ones(3)}, {"loss": 0.5}, step=1)
        >>> ckpt.wait()
        >>> ckpt
        <Checkpoints: steps 1; best loss at step 1>
        """
        self.wait()
        number = self._step_of(run, step)
        scores = {name: _score(name, value) for name, value in (metrics or {}).items()}
        if self.best is not None and scores and self.best not in scores:
            there = ", ".join(near(self.best, scores, 3) or scores)
            raise ValueError(f"the metrics lack {self.best!r}, by which the best are kept; they have {there}")
        both = self.metadata | (metadata or {})
        self._write(run, Record(number, scores, _now(), len(self.migrations) + 1, both), overwrite)

    def _write(self, run: Any, record: Record, overwrite: bool) -> None:
        ready = prepare(run, record.to_json())
        arrays = snapshot(ready)
        path = on_disk.path_of(self.folder, record.step)
        if not (os.path.exists(path) and not overwrite and _is_there(path, ready, arrays, record.step)):
            os.makedirs(self.folder, exist_ok=True)

            def work() -> None:
                try:
                    write_file(path, ready.tensors, (arrays[name] for name in ready.tensors), ready.metadata, True)
                except OSError as error:
                    error.strerror = f"{error.strerror}; the checkpoints of steps {self.steps()} stay"
                    raise
                records = on_disk.records(self.folder)
                for step in records.keys() - self._kept(records) - {record.step}:
                    os.unlink(on_disk.path_of(self.folder, step))
                    del records[step]
                on_disk.write_index(self.folder, records)

            if self.background:
                self._writer.start(work, f"the save of step {record.step} in {self.folder}")
            else:
                work()
        self._last_save = time.monotonic()
        if self._asked_to_end:
            self.close()

    def restore(self, like: Any = None, *, step: int | str | None = None, types: Sequence[type] = ()) -> Any:
        """The newest checkpoint that is whole, or that of a step.

        Checksums are verified. A damaged newest checkpoint gives a warning, and the one before is taken.

        Args:
            like: a template, as in `fnet.load`, which also places the arrays on its shardings. fnet's own TrainState
                and dicts, lists and tuples need none.
            step: this one, or "best". It is not replaced by another if it is damaged.
            types: your classes, as in `fnet.load`.

        Raises:
            FileNotFoundError: there is no such checkpoint.
            FileError: all are damaged, or the checkpoint does not fit the template; the message lists everything.

        >>> import tempfile, jax.numpy as jnp
        >>> from fnet import io
        >>> ckpt = io.Checkpoints(tempfile.mkdtemp(), background=False)
        >>> ckpt.save({"w": jnp.ones(2)}, step=7)
        >>> ckpt.restore()
        {'w': Array([1., 1.], dtype=float32)}
        """
        self.wait()
        if step is not None:
            return self._load(self.best_step() if step == "best" else operator.index(step), like, types)  # type: ignore
        damaged: list[str] = []
        for number in reversed(self.steps()):
            try:
                tree = self._load(number, like, types)
            except Misfit:
                raise
            except (FileError, OSError) as error:
                damaged.append(str(error))
                continue
            if damaged:
                lost = "\n  ".join(damaged)
                warnings.warn(
                    f"DAMAGED CHECKPOINTS in {self.folder}; restored step {number} in their place:\n  {lost}",
                    RuntimeWarning,
                    stacklevel=2,
                )
            return tree
        if damaged:
            raise FileError("\n  ".join([f"{self.folder}: every checkpoint is damaged:", *damaged]))
        raise FileNotFoundError(f"no checkpoint in {self.folder} yet; `if ckpt.steps():` tells whether there is one")

    def _load(self, step: int, like: Any, types: Sequence[type]) -> Any:
        path = self.path(step)
        version = on_disk.read_record(path, step).version
        newest = len(self.migrations) + 1
        if version > newest:
            raise Misfit(f"{path}: of version {version} of your tree, but migrations= leads to {newest} only")
        if version == newest:
            return load(path, like=like, types=types)
        return on_disk.load_migrated(path, self.migrations[version - 1 :], like)

    def steps(self) -> list[int]:
        """The steps of which there is a checkpoint, in order (one that is being written is not there yet).

        >>> import tempfile
        >>> from fnet import io
        >>> io.Checkpoints(tempfile.mkdtemp()).steps()
        []
        """
        return on_disk.steps(self.folder)

    def path(self, step: int) -> str:
        """The file of a step, for `fnet.load` and `io.metadata`; raises FileNotFoundError."""
        path = on_disk.path_of(self.folder, step)
        if not os.path.exists(path):
            there = ", ".join(map(str, self.steps())) or "none"
            raise FileNotFoundError(f"no checkpoint of step {step} in {self.folder}; there are {there}")
        return path

    def best_step(self) -> int:
        """The step with the best metric; raises FileNotFoundError where none has it."""
        if self.best is None:
            raise ValueError('say by which metric: Checkpoints(folder, best="loss")')
        records = on_disk.records(self.folder)
        ranked = self._ranked(records)
        if not ranked:
            known = sorted({name for record in records.values() for name in record.metrics})
            words = f"they have {', '.join(known)}" if known else "they have no metrics"
            raise FileNotFoundError(f"no checkpoint in {self.folder} has the metric {self.best!r}; {words}")
        return ranked[0]

    def due(self, step: int) -> bool:
        """Whether the step is one to save: by ``every``, ``minutes`` or a SIGTERM. Costs nothing; `fit` asks it.

        >>> import tempfile
        >>> from fnet import io
        >>> ckpt = io.Checkpoints(tempfile.mkdtemp(), every=100)
        >>> ckpt.due(100), ckpt.due(101)
        (True, False)
        """
        if self._asked_to_end or (self.every is not None and step % self.every == 0):
            return True
        return self.minutes is not None and time.monotonic() - self._last_save >= 60 * self.minutes

    def __call__(self, run: Any, metrics: Mapping[str, Any]) -> None:
        """As a callback of `fnet.train.fit`: save where it is due."""
        if (self.every is None and self.minutes is None) or self.due(self._step_of(run, None)):
            self.save(run, metrics if self.best is None or self.best in metrics else None)

    def wait(self, timeout: float | None = None) -> None:
        """Until the last save is on the disk; raises its error, or TimeoutError after so many seconds (``timeout``)."""
        self._writer.wait(self.timeout if timeout is None else timeout)

    def close(self) -> None:
        """Wait for the last save, and let go of SIGTERM, which then does what was held back; ends a ``with``."""
        try:
            self.wait()
        finally:
            if self._before is not None:
                signal.signal(signal.SIGTERM, self._before)
                self._before = None
        if self._asked_to_end:
            self._asked_to_end = False
            signal.raise_signal(signal.SIGTERM)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        records = on_disk.records(self.folder)
        ranked = self._ranked(records)
        best = f"; best {self.best} at step {ranked[0]}" if ranked else ""
        return f"<Checkpoints: steps {', '.join(map(str, records)) or 'none'}{best}>"

    def _ranked(self, records: Mapping[int, Record]) -> list[int]:
        """The steps with the metric, from the best on; of equals the latest first."""
        scored = [(record.metrics.get(self.best or "", math.nan), step) for step, record in records.items()]
        return [-step for _, step in sorted((self.sign * score, -step) for score, step in scored if score == score)]

    def _kept(self, records: Mapping[int, Record]) -> set[int]:
        if self.keep is None:
            return set(records)
        return set(sorted(records)[-self.keep :]) | set(self._ranked(records)[: self.keep_best])

    def _step_of(self, run: Any, step: int | None) -> int:
        given = getattr(run, "step", None) if step is None else step
        if given is None:
            raise TypeError(f"a {type(run).__name__} has no step: ckpt.save(tree, step=…)")
        number = operator.index(given) if not isinstance(given, jax.Array) else int(given)
        if not 0 <= number < on_disk.MAX_STEP:
            raise ValueError(f"a step is an integer from 0 to {on_disk.MAX_STEP - 1}, got {number}")
        return number

    def _on_sigterm(self, number: int, frame: FrameType | None) -> None:
        if not self._asked_to_end:
            self._asked_to_end = True
            return
        self._asked_to_end = False
        signal.signal(signal.SIGTERM, self._before)
        signal.raise_signal(signal.SIGTERM)


def _is_there(path: str, ready: Prepared, arrays: dict[str, np.ndarray], step: int) -> bool:
    """Whether the file holds this tree already; raises FileExistsError where it holds another."""
    try:
        on_disk.read_record(path, step)
        if holds(path, ready, arrays):
            return True
    except Misfit:
        raise
    except FileError as error:
        warnings.warn(f"the damaged checkpoint of step {step} is replaced: {error}", RuntimeWarning, stacklevel=4)
        return False
    raise FileExistsError(
        f"{path} is there, and holds another tree; overwrite=True replaces it, another folder keeps both"
    )


def better(owner: str, name: str, mode: str | None) -> int:
    """1 where a lower value of the metric is better, and -1 where a higher one is; by ``mode``, or else by its name."""
    if mode is None:
        mode = "min" if any(word in name for word in LOWER) else "max" if any(word in name for word in HIGHER) else None
    if mode not in ("min", "max"):
        raise ValueError(f'{owner}: which {name!r} is better? Say mode="min" or mode="max"')
    return 1 if mode == "min" else -1


def _score(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"the metric {name!r} must be a scalar, got {value!r}") from None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
