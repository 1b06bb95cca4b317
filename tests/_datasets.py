"""Datasets for tests, in a module that other processes import in no time."""

from __future__ import annotations

import io
import os
import signal
import sys
import time
from typing import Any

import numpy as np


class Squares:
    """Sample by sample, in the style of PyTorch; `bad` maps numbers to an exception to raise, or to another sample."""

    def __init__(self, n: int = 10, bad: dict[int, Any] | None = None) -> None:
        self.n, self.bad = n, bad or {}

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> Any:
        bad = self.bad.get(index)
        if isinstance(bad, type):
            raise bad("this", "that")
        if isinstance(bad, BaseException):
            raise bad
        return (np.full((2, 3), index, np.float32), index * index) if bad is None else bad


class Noisy(Squares):
    """Random samples, one at a time."""

    def get(self, index: int, rng: Any) -> Any:
        x, y = self[index]
        return x + rng.random((2, 3)).astype(np.float32), y


class Jpegs(Squares):
    """Encoded images that Pillow decodes; those in `bad` are cut short."""

    def __getitem__(self, index: int) -> Any:
        from PIL import Image

        file = io.BytesIO()
        Image.fromarray(np.full((16, 16, 3), index, np.uint8)).save(file, "jpeg")
        content = file.getvalue()
        return np.asarray(Image.open(io.BytesIO(content[: 300 if index in self.bad else None])))


class Dying(Squares):
    """Kills its own process in the samples in `bad`: by that signal, or with that exit code where it is negative."""

    def __getitem__(self, index: int) -> Any:
        number = self.bad.get(index)
        if number is not None and number > 0:
            os.kill(os.getpid(), number)
            time.sleep(60)
        elif number is not None:
            os._exit(-number)
        return index


class Talking(Squares):
    """Prints, and says which modules its process has."""

    def __getitem__(self, index: int) -> Any:
        print("to standard output, which carries answers")
        return "jax" in sys.modules, os.getppid(), os.getpid()


class TwoArguments(Exception):
    """Can be pickled, and not unpickled."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} and {two}")


def add_noise(batch: Any, rng: Any) -> Any:
    x, y = batch
    return x + rng.random((2, 3)).astype(np.float32), y


KILLED = signal.SIGKILL
