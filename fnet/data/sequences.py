"""Sequences of tokens: windows of one long text, several sequences packed into one row, and padding to few lengths."""

from __future__ import annotations

import bisect
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .memmaps import by_reference, opened
from .reading import check_dataset, check_index, check_indices
from .structure import as_leaf, collate, entries, fix, is_container, like, signature


class TokenWindows:
    """Windows of a long row of tokens for language modelling: sample i is (x, y), with y one token ahead of x.

    Both are int32 arrays of `length` tokens, from token i * stride on; the incomplete window at the end is left out. A
    memory map stays on disk, and pickles as a reference to its file.

    Args:
        tokens: 1-d integers, for example `np.memmap("train.bin", np.uint16, "r")`.
        length: tokens in a window.
        stride: from one window to the next; None for `length`, so that each token is predicted once an epoch. With 1,
            any place can be a window's beginning, and an epoch has nearly as many windows as there are tokens.

    Raises:
        TypeError, ValueError: the tokens are not a row of integers, or too few for one window.

    >>> windows = TokenWindows(np.arange(10, dtype=np.uint16), length=4)
    >>> len(windows), windows[1]
    (2, (array([4, 5, 6, 7], dtype=int32), array([5, 6, 7, 8], dtype=int32)))
    """

    def __init__(self, tokens: Any, length: int, stride: int | None = None) -> None:
        if isinstance(tokens, (str, bytes, os.PathLike)):
            raise TypeError(
                f'TokenWindows takes tokens, got {tokens!r}: np.memmap(path, np.uint16, "r") opens a file of them, and '
                "a tokenizer makes them of a text"
            )
        self.tokens = tokens if isinstance(tokens, np.memmap) else np.asarray(tokens)
        self.length, self.stride = length, length if stride is None else stride
        if self.tokens.ndim != 1 or self.tokens.dtype.kind not in "iu":
            raise TypeError(f"TokenWindows: tokens must be a row of integers, got {signature(self.tokens)}")
        if self.length < 1 or self.stride < 1:
            raise ValueError(f"TokenWindows: length and stride must be at least 1, got {self.length}, {self.stride}")
        if len(self.tokens) <= self.length:
            raise ValueError(
                f"TokenWindows: a window of {length} and the token after it need {length + 1} tokens, and there are "
                f"{len(self.tokens)}"
            )

    def __len__(self) -> int:
        return (len(self.tokens) - self.length - 1) // self.stride + 1

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        start = check_index(index, len(self)) * self.stride
        window = np.asarray(self.tokens[start : start + self.length + 1])
        return _int32(window[:-1]), _int32(window[1:])

    def get_batch(self, indices: Any) -> tuple[np.ndarray, np.ndarray]:
        """Read windows, int32 (len(indices), length) each, with one index into the tokens."""
        starts = check_indices(indices, len(self)) * self.stride
        windows = np.asarray(self.tokens)[starts[:, None] + np.arange(self.length + 1)]
        return _int32(windows[:, :-1]), _int32(windows[:, 1:])

    @property
    def instant(self) -> bool:
        """Whether a batch is a copy in memory, not worth a thread; DataLoader asks."""
        return not isinstance(self.tokens, np.memmap)

    def __repr__(self) -> str:
        return f"TokenWindows({len(self)} windows of {self.length} from {len(self.tokens):,} tokens)"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "tokens": by_reference(self.tokens)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({**state, "tokens": opened(state["tokens"])})


class Packed:
    """Several sequences in each row of a fixed length, so that next to nothing is padded.

    Sample i is a dict of three int32 arrays (length,): `tokens`; `segment_ids`, 1, 2, … for the sequences in the row
    and 0 for what is filled up, so that attention can be kept inside of a sequence; and `positions`, which count from
    0 in each. Rows are filled once, here, by "best fit decreasing": the longest sequence first, each into the fullest
    row that has room. `rows[i]` lists the numbers of the sequences in sample i.

    Args:
        dataset: sequences of tokens, 1-d integers.
        length: of a row.
        lengths: of the sequences, if known; None reads all of them once, here.
        fill: the token after the last sequence of a row.

    Raises:
        ValueError: a sequence is longer than a row or empty, or is not as long as `lengths` says; it is named.

    >>> packed = Packed([[5, 6, 7], [8], [9, 9]], length=4)
    >>> len(packed), packed.rows
    (2, [[0, 1], [2]])
    >>> packed[0]["tokens"], packed[0]["segment_ids"], packed[0]["positions"].tolist()
    (array([5, 6, 7, 8], dtype=int32), array([1, 1, 1, 2], dtype=int32), [0, 1, 2, 0])
    """

    def __init__(self, dataset: Any, length: int, lengths: Any = None, fill: int = 0) -> None:
        n = check_dataset(dataset, "Packed")
        self.dataset, self.length, self.fill = dataset, length, fill
        self.lengths = np.array([len(dataset[i]) for i in range(n)] if lengths is None else lengths, np.int64)
        if self.lengths.shape != (n,):
            raise ValueError(f"Packed: {n} sequences need as many lengths, got {signature(self.lengths)}")
        wrong = np.flatnonzero((self.lengths < 1) | (self.lengths > length))
        if wrong.size:
            raise ValueError(
                f"Packed: sequence {wrong[0]} has {self.lengths[wrong[0]]} tokens, and a row holds 1 to {length}; "
                f"cut or leave out such sequences first ({wrong.size} of {n})"
            )
        self.rows = _best_fit(self.lengths, length)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        tokens = np.full(self.length, self.fill, np.int32)
        segment_ids, positions = np.zeros(self.length, np.int32), np.zeros(self.length, np.int32)
        start = 0
        for segment, number in enumerate(self.rows[check_index(index, len(self))], 1):
            sequence = np.asarray(self.dataset[number])
            if sequence.shape != (self.lengths[number],) or sequence.dtype.kind not in "iu":
                raise ValueError(
                    f"Packed: sequence {number} is {signature(sequence)}, expected {self.lengths[number]} integers"
                )
            stop = start + len(sequence)
            tokens[start:stop] = sequence
            segment_ids[start:stop] = segment
            positions[start:stop] = np.arange(len(sequence))
            start = stop
        return {"tokens": tokens, "segment_ids": segment_ids, "positions": positions}

    def __repr__(self) -> str:
        used = self.lengths.sum() / max(1, len(self.rows) * self.length)
        return f"Packed({len(self.lengths)} sequences in {len(self.rows)} rows of {self.length}, {used:.1%} used)"


def _best_fit(lengths: np.ndarray, length: int) -> list[list[int]]:
    rows: list[list[int]] = []
    open_rows: list[tuple[int, int]] = []  # (room, row), sorted
    for number in np.argsort(-lengths, kind="stable").tolist():
        size = int(lengths[number])
        place = bisect.bisect_left(open_rows, (size, -1))
        if place < len(open_rows):
            room, row = open_rows.pop(place)
        else:
            room, row = length, len(rows)
            rows.append([])
        rows[row].append(number)
        if room > size:
            bisect.insort(open_rows, (room - size, row))
    return rows


@dataclass(frozen=True)
class PadTo:
    """Stack samples of different lengths, padded to the smallest of a few lengths that holds the longest of a batch.

    Few lengths mean few shapes, and so few compilations. Every array with an axis is padded along its first one; the
    batch gets the true lengths as int32 (batch,): at the end of a tuple or list, under the key "lengths" of a dict, as
    (batch, lengths) for a bare array. Arrays of one sample have equal lengths.

    Args:
        lengths: increasing; all batches have one of them.
        value: what to pad with.

    Raises:
        ValueError: a sample is longer than the last length; its arrays differ in length.

    >>> batch, lengths = PadTo([2, 4])([np.array([1, 2, 3]), np.array([4])])
    >>> batch
    array([[1, 2, 3, 0],
           [4, 0, 0, 0]])
    >>> lengths
    array([3, 1], dtype=int32)
    """

    lengths: Sequence[int]
    value: float = 0

    def __post_init__(self) -> None:
        if isinstance(self.lengths, int):
            raise TypeError(f"PadTo takes a list of lengths: PadTo([{self.lengths}])")
        lengths = tuple(self.lengths)
        if not lengths or lengths[0] < 1 or list(lengths) != sorted(set(lengths)):
            raise ValueError(f"PadTo: lengths must be increasing numbers of at least 1, got {self.lengths}")
        fix(self, lengths=lengths)

    def __call__(self, samples: list[Any]) -> Any:
        true = [_length_of(sample, number) for number, sample in enumerate(samples)]
        place = bisect.bisect_left(self.lengths, max(true))
        if place == len(self.lengths):
            raise ValueError(
                f"PadTo: sample {int(np.argmax(true))} of the batch has length {max(true)}, and the last of the "
                f"lengths is {self.lengths[-1]}; cut it, or add a length"
            )
        batch = collate([self._padded(sample, self.lengths[place]) for sample in samples])
        lengths = np.array(true, np.int32)
        if isinstance(batch, dict):
            return {**batch, "lengths": lengths}
        if isinstance(batch, list):
            return [*batch, lengths]
        return (*batch, lengths) if isinstance(batch, tuple) else (batch, lengths)

    def _padded(self, tree: Any, length: int) -> Any:
        if is_container(tree):
            return like(tree, [self._padded(child, length) for _, child in entries(tree)])
        if np.ndim(tree) == 0:
            return tree
        array = np.asarray(tree)
        padded = np.full((length, *array.shape[1:]), self.value, array.dtype)
        padded[: len(array)] = array
        return padded


def _length_of(sample: Any, number: int) -> int:
    found: set[int] = set()

    def look(tree: Any) -> None:
        if is_container(tree):
            for child in tree.values() if isinstance(tree, Mapping) else tree:
                look(child)
        elif not isinstance(tree, (str, bytes)) and as_leaf(tree, number, "").ndim:
            found.add(len(tree))

    look(sample)
    if len(found) != 1:
        what = f"arrays of lengths {sorted(found)}" if found else "no array with an axis"
        fix = "pad the others in the dataset, or write a collate function" if found else "a list needs np.asarray(...)"
        raise ValueError(f"PadTo: sample {number} of the batch has {what}; it needs arrays of one length: {fix}")
    return found.pop()


def _int32(tokens: np.ndarray) -> np.ndarray:
    return np.array(tokens, np.int32)  # a copy, also of what is int32
