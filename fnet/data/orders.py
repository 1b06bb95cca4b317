"""Orders: pure functions of (epoch, positions) that give the index of the sample read at each position.

Nothing here uses numpy's random module: its streams may change between versions, and an order must be the same
on every machine for as long as somebody wants to resume a run.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np


class Order(Protocol):
    """A function of (epoch, positions) that gives the index (int64) of the sample read at each position."""

    @property
    def n(self) -> int: ...  # positions in an epoch: 0 <= position < n

    def __call__(self, epoch: int, positions: np.ndarray, /) -> np.ndarray: ...


_MASK64 = (1 << 64) - 1
_SORTED_BELOW = 4096
_ROUNDS = 8


def hash64(*words: Any) -> np.ndarray:
    """Hash a tuple of integers, elementwise over arrays, to uint64.

    The words are absorbed one after another, so (1, 0) and (0, 1) have unrelated hashes; adding them instead would make
    seed 1 of epoch 0 the same as seed 0 of epoch 1. The mixing step is the finaliser of SplitMix64 (Steele, Lea and
    Flood, 2014, with the constants of Stafford's "Mix13").

    Args:
        words: Python integers (taken modulo 2**64) or integer arrays of any shapes that broadcast together.

    Returns:
        uint64 array of the broadcast shape, at least 1-d.

    >>> [hex(h) for h in hash64(0, 1, np.arange(2))]
    ['0x7eb73fe114635afe', '0x86c5ad757165e871']
    """
    state = np.full(1, 0x243F6A8885A308D3 ^ len(words), np.uint64)  # pi's first digits: zeros must not hash to zero
    for word in words:
        as_array = word if isinstance(word, np.ndarray) else np.array([operator.index(word) & _MASK64], np.uint64)
        state = _mix(state ^ as_array.astype(np.uint64))
    return state


def _mix(x: np.ndarray) -> np.ndarray:
    x = x.copy()
    _mix_in_place(x, np.empty_like(x))
    return x


def _mix_in_place(x: np.ndarray, spare: np.ndarray) -> None:
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        np.right_shift(x, np.uint64(shift), out=spare)
        x ^= spare
        x *= np.uint64(factor)
    np.right_shift(x, np.uint64(31), out=spare)
    x ^= spare


def _mix32_in_place(x: np.ndarray, spare: np.ndarray) -> None:
    """Mix 32 bits with the finaliser of MurmurHash3 (Appleby, 2011)."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        np.right_shift(x, np.uint32(shift), out=spare)
        x ^= spare
        x *= np.uint32(factor)
    np.right_shift(x, np.uint32(16), out=spare)
    x ^= spare


def feistel(positions: np.ndarray, bits: int, keys: np.ndarray) -> np.ndarray:
    """Permute the integers of a given number of bits, one round of a Feistel network for each key.

    The word is cut into two halves (as equal as can be), and by turns each is XORed with a hash of the other: every
    round can be undone, whatever the hash, so the whole is a bijection (Luby and Rackoff, 1988). Words of up to 32
    bits, which nearly all datasets have, are computed in 32 bits: it takes a third of the time.

    Args:
        positions: unsigned array of values below 2**bits, uint32 for up to 32 bits and uint64 for more.
        bits: 2 to 64.
        keys: uint64 array with one key a round.

    Returns:
        array like positions.

    >>> sorted(feistel(np.arange(8, dtype=np.uint32), 3, hash64(7, np.arange(8))).tolist())
    [0, 1, 2, 3, 4, 5, 6, 7]
    """
    word = positions.dtype.type
    low_bits = bits - bits // 2
    low_mask, high_mask = word((1 << low_bits) - 1), word((1 << (bits // 2)) - 1)
    high, low = positions >> word(low_bits), positions & low_mask
    mix = _mix32_in_place if word is np.uint32 else _mix_in_place
    keys = (keys >> np.uint64(32)).astype(np.uint32) if word is np.uint32 else keys
    mixed, spare = np.empty_like(low), np.empty_like(low)  # memory that is new in each operation costs half of the time
    for turn, key in enumerate(keys):
        source, target, mask = (low, high, high_mask) if turn % 2 == 0 else (high, low, low_mask)
        np.bitwise_xor(source, key, out=mixed)
        mix(mixed, spare)
        mixed &= mask
        target ^= mixed
    high <<= word(low_bits)
    high |= low
    return high


@dataclass(frozen=True)
class Sequential:
    """The order 0, 1, 2, …, n - 1, in every epoch.

    >>> Sequential(10)(0, np.array([3, 4])).tolist()
    [3, 4]
    """

    n: int

    def __post_init__(self) -> None:
        check_length(self.n)

    def __call__(self, epoch: int, positions: np.ndarray) -> np.ndarray:
        return check_positions(positions, self.n).astype(np.int64)


@dataclass(frozen=True)
class Shuffle:
    """A random order of n samples, another one each epoch, that takes no memory: n may be 2**63.

    Each position is sent through a Feistel network on the smallest power of two that holds n, again and again until it
    falls below n ("cycle walking": Black and Rogaway, 2002), so any part of the order is computed alone. A Feistel
    network is measurably uneven over very few samples (at n = 5, a chi-square test sees it with a million seeds), so
    up to 4,096 samples are sorted by their hashes instead, which is exactly as uniform as the hash.

    Args:
        n: number of samples, 1 to 2**63.
        seed: 0 to 2**64 - 1; equal seeds give equal orders on every machine.

    Calling it with an epoch and an integer array of positions (0 <= position < n) gives an int64 array of indices.

    >>> order = Shuffle(10, seed=0)
    >>> order(0, np.arange(10)).tolist()
    [7, 2, 0, 8, 3, 9, 1, 6, 5, 4]
    >>> Shuffle(2**63, seed=0)(0, np.array([123])).tolist()      # one index of 9.2e18
    [7610118380855353143]
    """

    n: int
    seed: int = 0

    def __post_init__(self) -> None:
        check_length(self.n)
        check_seed(self.seed)

    def __call__(self, epoch: int, positions: np.ndarray) -> np.ndarray:
        positions = check_positions(positions, self.n)
        if self.n <= _SORTED_BELOW:
            hashes = hash64(self.seed, epoch, self.n, np.arange(self.n))
            return np.argsort(hashes, kind="stable").astype(np.int64)[positions.astype(np.intp)]
        keys = hash64(self.seed, epoch, self.n, np.arange(_ROUNDS))
        bits = (self.n - 1).bit_length()
        word = np.uint32 if bits <= 32 else np.uint64
        indices = feistel(positions.ravel().astype(word), bits, keys)
        bound = np.uint64(self.n)
        outside = np.flatnonzero(indices >= bound)
        while outside.size:  # ends, because walking a cycle of a permutation comes back to where it began, below n
            walked = feistel(indices[outside], bits, keys)
            indices[outside] = walked
            outside = outside[walked >= bound]
        return indices.reshape(positions.shape).astype(np.int64)


class BlockCache:
    """An order read in aligned blocks, the last few of which are kept, so that a batch costs a slice.

    What it returns depends on nothing but the arguments. Threads may share it: an entry is replaced in one assignment.

    Args:
        order: the order.
        n: its number of positions.
        length: of the dataset; an index outside it is an IndexError.
    """

    block = 32_768  # indices: each block costs some hundred calls of numpy, whatever its size

    def __init__(self, order: Order, n: int, length: int) -> None:
        self.order, self.n, self.length = order, n, length
        self._entries: list[tuple[int, int, np.ndarray] | None] = [None] * 8

    def __call__(self, epoch: int, positions: np.ndarray) -> np.ndarray:
        """Give the indices (int64) at a 1-d array of positions; runs of positions are what it is fast for."""
        blocks = positions // self.block
        indices = np.empty(len(positions), np.int64)
        for number in np.unique(blocks):
            here = blocks == number
            indices[here] = self._read(epoch, int(number))[positions[here] % self.block]
        return indices

    def run(self, epoch: int, start: int, stop: int) -> np.ndarray:
        """Give the indices at positions start to stop - 1."""
        number, offset = divmod(start, self.block)
        if offset + stop - start <= self.block:
            return self._read(epoch, number)[offset : offset + stop - start].copy()
        return self(epoch, np.arange(start, stop))

    def _read(self, epoch: int, number: int) -> np.ndarray:
        slot = (epoch + number) % len(self._entries)
        entry = self._entries[slot]
        if entry is None or entry[:2] != (epoch, number):
            positions = np.arange(number * self.block, min((number + 1) * self.block, self.n), dtype=np.uint64)
            indices = np.asarray(self.order(epoch, positions))
            self._check(indices, positions)
            entry = self._entries[slot] = (epoch, number, indices.astype(np.int64, copy=False))
        return entry[2]

    def _check(self, indices: np.ndarray, positions: np.ndarray) -> None:
        if indices.shape != positions.shape or indices.dtype.kind not in "iu":
            raise TypeError(
                f"the order {self.order!r} gave {indices.dtype}{list(indices.shape)} for {len(positions)} positions; "
                "it must give one integer for each"
            )
        wrong = np.flatnonzero((indices < 0) | (indices >= self.length))
        if wrong.size:
            raise IndexError(
                f"the order {self.order!r} gave index {indices[wrong[0]]} at position {positions[wrong[0]]}, and the "
                f"dataset has {self.length} samples"
            )

    def __reduce__(self) -> tuple:
        return BlockCache, (self.order, self.n, self.length)  # entries are cheap to make again and need not travel


def check_seed(seed: int) -> int:
    """Return the seed as a Python int, or raise: it must be an integer of 0 to 2**64 - 1."""
    try:
        value = operator.index(seed)
    except TypeError:
        raise TypeError(f"seed must be an integer, got {type(seed).__name__} {seed!r}") from None
    if not 0 <= value <= _MASK64:
        raise ValueError(f"seed must be between 0 and 2**64 - 1, got {value}")
    return value


def check_length(n: int) -> None:
    """Raise unless n is a possible number of positions."""
    if not 1 <= operator.index(n) <= 2**63:
        raise ValueError(f"an order needs between 1 and 2**63 samples, got n={n}")


def check_positions(positions: np.ndarray, n: int) -> np.ndarray:
    """Return positions as uint64, or raise: they must be integers of 0 to n - 1."""
    positions = np.asarray(positions)
    if positions.dtype.kind not in "iu":
        raise TypeError(f"positions must be an array of integers, got dtype {positions.dtype}")
    if positions.size and (int(positions.min()) < 0 or int(positions.max()) >= n):
        raise IndexError(f"positions must be between 0 and {n - 1}, got {positions.min()} to {positions.max()}")
    return positions.astype(np.uint64)
