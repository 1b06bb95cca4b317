"""Random numbers that belong to a sample: a stream of uniforms for each (seed, epoch, index), whoever draws them.

numpy's Generator takes 20 µs to make and its methods may change between versions; a sample's stream here is SplitMix64
(Steele, Lea and Flood, 2014) started at a hash, so a whole batch of streams is drawn in one vectorised call.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .orders import hash64

_MASK64 = (1 << 64) - 1
_GAMMA = 0x9E3779B97F4A7C15
_UNIT = 2.0**-53
_LOOP_BELOW = 24  # numbers, under which Python's integers are faster than numpy's calls


class Rng:
    """One stream of uniform numbers, started at a hash of integers: usually (seed, epoch, index).

    It has the one method of numpy's Generator that transforms use, so `np.random.default_rng(0)` serves in its place.
    Where others are needed, `np.random.default_rng(rng.key)` has them; their numbers may change between versions.

    >>> rng = Rng(0, 2, 7)                # seed 0, epoch 2, sample 7
    >>> rng.random(), rng.random(2).round(3)
    (0.881333694264527, array([0.294, 0.402]))
    >>> Rng(0, 2, 7).random()
    0.881333694264527
    """

    __slots__ = ("count", "key")

    def __init__(self, *words: int) -> None:
        self.key = int(hash64(*words)[0])
        self.count = 0  # numbers drawn so far

    @classmethod
    def from_key(cls, key: int, count: int = 0) -> Rng:
        """Make a stream from its 64-bit key, behind its first `count` numbers."""
        rng = cls.__new__(cls)
        rng.key, rng.count = key, count
        return rng

    def random(self, size: int | tuple[int, ...] | None = None) -> Any:
        """Draw floats of 0 <= u < 1 with 53 random bits: one float, or a float64 array of this size."""
        n = 1 if size is None else size if isinstance(size, int) else math.prod(size)
        first, self.count = self.count, self.count + n
        if n > _LOOP_BELOW:
            numbers = _uniforms(np.array([self.key], np.uint64), np.array([first], np.uint64), n)
            return numbers.reshape(size)  # type: ignore[arg-type]  # None means one number
        drawn = [_uniform(self.key, first + k) for k in range(n)]
        return drawn[0] if size is None else np.array(drawn).reshape(size)

    def __getattr__(self, name: str) -> Any:
        fix = f": use np.random.default_rng(rng.key).{name}" if hasattr(np.random.Generator, name) else ""
        raise AttributeError(f"fnet.data.Rng has random() and no {name}{fix}", name=name, obj=self)

    def __repr__(self) -> str:
        return f"Rng(key=0x{self.key:016x}, {self.count} drawn)"


class Rngs:
    """The streams of a batch of samples: row i draws what `Rng(seed, epoch, indices[i])` would.

    >>> rngs = Rngs(0, 2, np.array([7, 8]))
    >>> rngs.random(1)[0, 0] == Rng(0, 2, 7).random()
    np.True_
    >>> len(rngs), rngs[1].random() == rngs.random(1)[1, 0]
    (2, np.True_)
    """

    __slots__ = ("counts", "keys")

    def __init__(self, *words: Any) -> None:
        self.keys = hash64(*words)
        self.counts = np.zeros(self.keys.shape, np.uint64)

    @classmethod
    def of(cls, rng: Any, n: int) -> Rngs:
        """Take the streams of n samples as they are, or derive them from a single stream (Rng or numpy Generator)."""
        if isinstance(rng, Rngs):
            if len(rng) != n:
                raise ValueError(f"got the random streams of {len(rng)} samples for a batch of {n}")
            return rng
        return cls(int(rng.random() * 2**53), np.arange(n))

    def random(self, size: int | tuple[int, ...] = 1) -> np.ndarray:
        """Draw float64 uniforms of shape (samples, *size)."""
        shape = (size,) if isinstance(size, int) else size
        n = math.prod(shape)
        numbers = _uniforms(self.keys, self.counts, n)
        self.counts = self.counts + np.uint64(n)
        return numbers.reshape(len(self.keys), *shape)

    def rows(self, which: np.ndarray) -> Rngs:
        """Give the streams of some samples, by a mask or by numbers; `put` brings back how far they were drawn."""
        part = Rngs.__new__(Rngs)
        part.keys, part.counts = self.keys[which], self.counts[which]
        return part

    def put(self, which: np.ndarray, part: Rngs) -> None:
        """Go on behind what `part`, which came from `rows(which)`, has drawn."""
        self.counts[which] = part.counts

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, row: int) -> Rng:
        return Rng.from_key(int(self.keys[row]), int(self.counts[row]))

    def __repr__(self) -> str:
        return f"Rngs({len(self)} samples)"


def _uniform(key: int, number: int) -> float:
    x = (key + (number + 1) * _GAMMA) & _MASK64
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK64
    return ((x ^ (x >> 31)) >> 11) * _UNIT


def _uniforms(keys: np.ndarray, counts: np.ndarray, n: int) -> np.ndarray:
    """Number counts[i] and the following ones of each stream, as float64 (len(keys), n)."""
    numbers = counts[:, None] + np.arange(1, n + 1, dtype=np.uint64)
    x = keys[:, None] + numbers * np.uint64(_GAMMA)
    x ^= x >> np.uint64(30)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return (x >> np.uint64(11)) * _UNIT
