"""Tokenizers: plain values that turn text into int32 ids and back, exactly."""

from __future__ import annotations

import heapq
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from .structure import fix

T = TypeVar("T", bound="_Saved")


class _Saved:
    """Tokenizers as JSON files."""

    def save(self, path: str | Path) -> None:
        """Write the tokenizer as JSON; the file is replaced in one step."""
        path = Path(path)
        part = path.with_name(path.name + ".part")
        contents = {"tokenizer": type(self).__name__, **asdict(self)}  # type: ignore[call-overload]
        part.write_text(json.dumps({k: v for k, v in contents.items() if not k.startswith("_")}), encoding="utf-8")
        os.replace(part, path)

    @classmethod
    def load(cls: type[T], path: str | Path) -> T:
        """Read what `save` wrote; ValueError names the file if it is not that."""
        try:
            contents = json.loads(Path(path).read_text(encoding="utf-8"))
            kind = contents.pop("tokenizer")
            if kind == cls.__name__:
                return cls(**contents)
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise ValueError(f"{path}: not a file of {cls.__name__}.save ({error!r})") from error
        raise ValueError(f"{path}: has a {kind}; read it with fnet.data.{kind}.load")


@dataclass(frozen=True)
class CharTokenizer(_Saved):
    """One id for each character, in the order of `chars`.

    Args:
        chars: the vocabulary, each character once; `CharTokenizer.of(text)` takes all that a text has, sorted.
        unknown: the character of the vocabulary to read in place of any other; None makes others an error.

    >>> tokenizer = CharTokenizer.of("hello")
    >>> tokenizer.chars, tokenizer.vocab_size
    ('ehlo', 4)
    >>> tokenizer.encode("hole"), tokenizer.decode([1, 3, 2, 0])
    (array([1, 3, 2, 0], dtype=int32), 'hole')
    """

    chars: str
    unknown: str | None = None

    def __post_init__(self) -> None:
        if len(set(self.chars)) != len(self.chars):
            twice = next(c for c, n in Counter(self.chars).items() if n > 1)
            raise ValueError(f"CharTokenizer: {twice!r} is in chars more than once")
        if self.unknown is not None and (len(self.unknown) != 1 or self.unknown not in self.chars):
            raise ValueError(f"CharTokenizer: unknown={self.unknown!r} is not one character of chars")

    @classmethod
    def of(cls, *texts: str) -> CharTokenizer:
        """Make the vocabulary of all characters in some texts, sorted."""
        return cls("".join(sorted(set().union(*texts))))

    @property
    def vocab_size(self) -> int:
        return len(self.chars)

    def encode(self, text: str) -> np.ndarray:
        """Give the ids of a text as int32; ValueError names a character that is not in the vocabulary."""
        codes, known = _codepoints(text), _codepoints(self.chars)
        order = np.argsort(known)
        places = np.searchsorted(known[order], codes)
        places[places == len(known)] = 0
        ids = order[places].astype(np.int32) if len(known) else np.zeros(len(codes), np.int32)
        wrong = known[ids] != codes if len(known) else np.ones(len(codes), bool)
        if wrong.any():
            if self.unknown is None:
                at = int(wrong.argmax())
                raise ValueError(
                    f"character {text[at]!r} at position {at} is not in the vocabulary of {len(known)}; make it with "
                    "CharTokenizer.of(all texts), or give unknown="
                )
            ids[wrong] = self.chars.index(self.unknown)
        return ids

    def decode(self, ids: Any) -> str:
        """Give the text of some ids."""
        return "".join(map(self.chars.__getitem__, _check_ids(ids, self.vocab_size)))


@dataclass(frozen=True)
class ByteTokenizer(_Saved):
    """The bytes of UTF-8: 256 ids, any text, no training.

    >>> ByteTokenizer().encode("né")
    array([110, 195, 169], dtype=int32)
    >>> ByteTokenizer().decode([110, 195, 169])
    'né'
    """

    @property
    def vocab_size(self) -> int:
        return 256

    def encode(self, text: str) -> np.ndarray:
        """Give the ids of a text as int32."""
        return np.frombuffer(_to_bytes(text), np.uint8).astype(np.int32)

    def decode(self, ids: Any) -> str:
        """Give the text of some ids; bytes that are no UTF-8 become the replacement character."""
        return _to_text(bytes(_check_ids(ids, 256)))


# GPT-2's division into words, written without classes of Unicode properties: contractions, then letters, digits or
# signs with the space before them, then space. No piece has more than 64 characters, which bounds the work on it.
_WORDS = re.compile(
    r"'(?:[sdmt]|ll|ve|re)| ?[^\W\d_]{1,64}| ?\d{1,64}| ?(?:[^\s\w]|_){1,64}|\s{1,64}(?!\S)|\s{1,64}"
)
_CACHED_WORDS = 1 << 16


@dataclass(frozen=True)
class BPETokenizer(_Saved):
    """Byte-pair encoding of UTF-8, as in GPT-2: any text, and back exactly (Sennrich et al. 2016, arXiv:1508.07909).

    Ids 0 to 255 are the bytes, the following ones the merges in their order, the last ones the special tokens.

    Args:
        merges: pairs of ids; pair k becomes id 256 + k. `BPETokenizer.train` finds them.
        special_tokens: texts that are one id each, where `encode(text, special=True)` is asked to read them.

    >>> tokenizer = BPETokenizer.train(["low lower lowest low low"], vocab_size=260)
    >>> tokenizer.encode("low lower").tolist()
    [257, 259, 114]
    >>> [tokenizer.decode([i]) for i in range(256, 260)]
    ['lo', 'low', ' low', ' lowe']
    """

    merges: Sequence[tuple[int, int]]
    special_tokens: Sequence[str] = ()
    _ranks: dict[tuple[int, int], int] = field(init=False, repr=False, compare=False)
    _pieces: list[bytes] = field(init=False, repr=False, compare=False)
    _cache: dict[str, list[int]] = field(init=False, repr=False, compare=False)  # what words became

    def __post_init__(self) -> None:
        merges = tuple((int(a), int(b)) for a, b in self.merges)
        pieces = [bytes([k]) for k in range(256)]
        for k, (a, b) in enumerate(merges):
            if not (0 <= a < 256 + k and 0 <= b < 256 + k):
                raise ValueError(f"BPETokenizer: merge {k} is of ids {a} and {b}, expected 0 to {255 + k}")
            pieces.append(pieces[a] + pieces[b])
        special = tuple(self.special_tokens)
        if len(set(special)) != len(special) or "" in special:
            raise ValueError(f"BPETokenizer: special tokens are different texts that are not empty, got {special}")
        ranks = {pair: 256 + k for k, pair in enumerate(merges)}
        fix(self, merges=merges, special_tokens=special, _pieces=pieces, _cache={}, _ranks=ranks)

    @classmethod
    def train(cls, texts: str | Iterable[str], vocab_size: int, special_tokens: Sequence[str] = ()) -> BPETokenizer:
        """Merge the most frequent pair of neighbours, again and again; of equally frequent ones, the smaller ids.

        Args:
            texts: one text or several.
            vocab_size: 256 bytes + merges + special tokens. There are fewer if no pair occurs twice any more.
            special_tokens: texts that get an id each.
        """
        merges_wanted = vocab_size - 256 - len(special_tokens)
        if merges_wanted < 0:
            raise ValueError(f"BPETokenizer: vocab_size={vocab_size} is below {256 + len(special_tokens)}, its least")
        words: Counter[str] = Counter()
        for text in [texts] if isinstance(texts, str) else texts:
            words.update(_WORDS.findall(text))
        return cls(_merges([(list(_to_bytes(word)), n) for word, n in words.items()], merges_wanted), special_tokens)

    @property
    def vocab_size(self) -> int:
        return 256 + len(self.merges) + len(self.special_tokens)

    @property
    def special(self) -> dict[str, int]:
        """The id of each special token."""
        return {token: 256 + len(self.merges) + k for k, token in enumerate(self.special_tokens)}

    def encode(self, text: str, special: bool = False) -> np.ndarray:
        """Give the ids of a text as int32; special tokens in it are ordinary text unless special=True."""
        parts = [text]
        if special and self.special_tokens:
            longest_first = sorted(self.special_tokens, key=len, reverse=True)
            parts = re.split("(" + "|".join(map(re.escape, longest_first)) + ")", text)
        ids: list[int] = []
        for number, part in enumerate(parts):
            if number % 2:
                ids.append(self.special[part])
                continue
            for word in _WORDS.findall(part):
                known = self._cache.get(word)
                if known is None:
                    if len(self._cache) >= _CACHED_WORDS:
                        self._cache.clear()
                    known = self._cache[word] = self._merge(list(_to_bytes(word)))
                ids += known
        return np.array(ids, np.int32)

    def decode(self, ids: Any) -> str:
        """Give the text of some ids; bytes that are no UTF-8 become the replacement character."""
        pieces = self._pieces + [token.encode("utf-8", "surrogatepass") for token in self.special_tokens]
        return _to_text(b"".join(map(pieces.__getitem__, _check_ids(ids, self.vocab_size))))

    def _merge(self, ids: list[int]) -> list[int]:
        """Apply the earliest merge that a word allows, until it allows none."""
        ranks, none = self._ranks, 1 << 62
        while len(ids) > 1:
            rank, pair = min((ranks.get(pair, none), pair) for pair in zip(ids, ids[1:], strict=False))
            if rank == none:
                break
            ids = _replaced(ids, pair, rank)
        return ids

    def __reduce__(self) -> tuple:
        return BPETokenizer, (self.merges, self.special_tokens)


def _merges(words: list[tuple[list[int], int]], wanted: int) -> list[tuple[int, int]]:
    """Find the merges of words with their counts; only words that have the merged pair are visited again."""
    counts: Counter[tuple[int, int]] = Counter()
    where: dict[tuple[int, int], set[int]] = {}
    for number, (ids, n) in enumerate(words):
        for pair in zip(ids, ids[1:], strict=False):
            counts[pair] += n
            where.setdefault(pair, set()).add(number)
    heap = [(-n, pair) for pair, n in counts.items()]
    heapq.heapify(heap)
    merges: list[tuple[int, int]] = []
    while heap and len(merges) < wanted:
        n, best = heapq.heappop(heap)
        if -n != counts[best]:  # it has changed since it was put here
            if counts[best] > 1:
                heapq.heappush(heap, (-counts[best], best))
            continue
        if -n < 2:
            break
        new = 256 + len(merges)
        merges.append(best)
        changed: set[tuple[int, int]] = set()
        for number in where.pop(best):
            ids, times = words[number]
            merged = _replaced(ids, best, new)
            for sign, sequence in ((-times, ids), (times, merged)):
                for pair in zip(sequence, sequence[1:], strict=False):
                    counts[pair] += sign
            for pair in zip(merged, merged[1:], strict=False):
                if new in pair:
                    where.setdefault(pair, set()).add(number)
                    changed.add(pair)
            words[number] = (merged, times)
        for pair in changed:
            heapq.heappush(heap, (-counts[pair], pair))
    return merges


def _replaced(ids: list[int], pair: tuple[int, int], new: int) -> list[int]:
    out, k, last = [], 0, len(ids) - 1
    while k <= last:
        if k < last and ids[k] == pair[0] and ids[k + 1] == pair[1]:
            out.append(new)
            k += 2
        else:
            out.append(ids[k])
            k += 1
    return out


def _codepoints(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def _to_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")  # a str may have lone surrogates, and they come back


def _to_text(contents: bytes) -> str:
    try:
        return contents.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return contents.decode("utf-8", "replace")


def _check_ids(ids: Any, size: int) -> list[int]:
    array = np.asarray(ids)
    if array.size == 0:
        return []
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise TypeError(f"decode takes a list of ids, got {array.dtype}{list(array.shape)}")
    wrong = (array < 0) | (array >= size)
    if wrong.any():
        at = int(wrong.argmax())
        raise ValueError(f"id {array[at]} at position {at} is out of range, expected 0 to {size - 1}")
    return array.tolist()
