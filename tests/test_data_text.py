"""Tokenizers: exact round trips, the rules of byte-pair encoding, files, wrong input."""

from __future__ import annotations

import json
import pickle
import re
import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fnet import data
from fnet.data import BPETokenizer, ByteTokenizer, CharTokenizer

PROSE = (
    "It's the question of questions: who'll answer 1,234 questions, and who's to ask them?\n\n"
    "Она спросила: «Кто?» — 你好，世界！ naïve façade 🙂🙂  tabs\tand   spaces   \n"
) * 5
BPE = BPETokenizer.train(PROSE, 340, special_tokens=["<|end|>", "<|end|>more"])
ANY_TEXT = st.text(st.characters(), max_size=200) | st.text(" \n\ta1_'é", max_size=60)  # lone surrogates among them


@settings(max_examples=60)
@given(ANY_TEXT)
def test_any_text_comes_back(text):
    for tokenizer in (BPE, ByteTokenizer(), CharTokenizer.of(text, "x")):
        ids = tokenizer.encode(text)
        assert ids.dtype == np.int32 and ids.ndim == 1 and (ids < tokenizer.vocab_size).all()
        assert tokenizer.decode(ids) == text == tokenizer.decode(ids.tolist())
    assert BPE.decode(BPE.encode(text, special=True)) == text


def slow_bpe(words, merges_wanted):
    """The algorithm of the paper with no shortcut: count all pairs, merge the most frequent, again."""
    words, merges = [(list(word.encode()), n) for word, n in words.items()], []
    for new in range(256, 256 + merges_wanted):
        counts = Counter()
        for ids, n in words:
            for pair in zip(ids, ids[1:], strict=False):
                counts[pair] += n
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        if counts[best] < 2:
            break
        merges.append(best)
        for ids, _ in words:
            k = 0
            while k < len(ids) - 1:
                if (ids[k], ids[k + 1]) == best:
                    ids[k : k + 2] = [new]
                k += 1
    return merges, words


def test_training_is_the_algorithm_of_the_paper():
    text = PROSE + "aaaa aaaaaa aaaaa banana bananas"
    words = Counter(re.findall(r"'(?:[sdmt]|ll|ve|re)| ?[^\W\d_]+| ?\d+| ?(?:[^\s\w]|_)+|\s+(?!\S)|\s+", text))
    merges, divided = slow_bpe(words, 120)
    tokenizer = BPETokenizer.train(text, 256 + 120)
    assert list(tokenizer.merges) == merges
    for word, (ids, _) in zip(words, divided, strict=True):  # encoding finds what training made
        assert tokenizer.encode(word).tolist() == ids
    assert BPETokenizer.train([text[:300], text[300:]], 300).vocab_size == 300
    assert BPETokenizer.train("ab", 1000).merges == ()  # nothing is there twice


def test_words_are_those_of_gpt2():
    from fnet.data.text import _WORDS

    # What the published pattern gives: 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
    for text, words in {
        "Hello world's 12 end_of": ["Hello", " world", "'s", " 12", " end", "_", "of"],
        "we'll   go\n\n now": ["we", "'ll", "  ", " go", "\n\n", " now"],
        "naïve\t你好!?": ["naïve", "\t", "你好", "!?"],
        "x  ": ["x", "  "],
    }.items():
        assert _WORDS.findall(text) == words
    assert max(map(len, _WORDS.findall("a" * 1000 + " " * 1000))) <= 65


def test_special_tokens_are_text_unless_asked_for():
    text = "a<|end|>b<|end|>more"
    assert BPE.special == {"<|end|>": 338, "<|end|>more": 339} and BPE.vocab_size == 340
    assert not set(BPE.encode(text).tolist()) & {338, 339}
    assert BPE.encode(text, special=True).tolist() == [97, 338, 98, 339]  # the longest one first
    assert BPE.decode([338, 97]) == "<|end|>a"


def test_bpe_of_a_megabyte_takes_seconds():
    rng = np.random.default_rng(0)
    words = ["".join(chr(97 + c) for c in rng.integers(0, 26, rng.integers(2, 9))) for _ in range(3000)]
    text = " ".join(words[k] for k in rng.zipf(1.3, 200_000) % 3000)
    begin = time.process_time()
    ids = BPETokenizer.train(text[:200_000], 600).encode(text)
    assert len(text) > 800_000 and len(ids) < len(text) and time.process_time() - begin < 10
    begin = time.process_time()
    assert BPE.decode(BPE.encode("ab" * 50_000)) == "ab" * 50_000 and time.process_time() - begin < 5


@pytest.mark.parametrize("tokenizer", [BPE, ByteTokenizer(), CharTokenizer("abc", "c")], ids=lambda t: repr(t)[:20])
def test_tokenizers_are_values_and_files(tokenizer, tmp_path):
    for copy in (pickle.loads(pickle.dumps(tokenizer)), tokenizer):
        path = tmp_path / "tokenizer.json"
        copy.save(path)
        again = type(tokenizer).load(path)
        assert again == tokenizer and hash(again) == hash(tokenizer)
        assert np.array_equal(again.encode("abc"), tokenizer.encode("abc"))
    assert [p.name for p in tmp_path.iterdir()] == ["tokenizer.json"]
    other = ByteTokenizer if isinstance(tokenizer, CharTokenizer) else CharTokenizer
    with pytest.raises(ValueError, match=rf"tokenizer.json: has a {type(tokenizer).__name__}; read it with fnet.data"):
        other.load(path)
    for contents in ("not json", "[]", json.dumps({"tokenizer": type(tokenizer).__name__, "other": 1})):
        path.write_text(contents)
        with pytest.raises(ValueError, match=f"tokenizer.json: not a file of {type(tokenizer).__name__}.save"):
            type(tokenizer).load(path)


def test_characters_without_a_place():
    tokenizer = CharTokenizer("abc")
    with pytest.raises(ValueError, match=r"character 'é' at position 2 is not in the vocabulary of 3"):
        tokenizer.encode("abé")
    assert CharTokenizer("abc", unknown="c").encode("xaz").tolist() == [2, 0, 2]
    assert tokenizer.encode("").tolist() == [] and tokenizer.decode([]) == ""
    assert CharTokenizer("").vocab_size == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: CharTokenizer("abca"), "'a' is in chars more than once"),
        (lambda: CharTokenizer("abc", unknown="x"), "unknown='x' is not one character of chars"),
        (lambda: ByteTokenizer().decode([1, 256]), "id 256 at position 1 is out of range, expected 0 to 255"),
        (lambda: BPE.decode([-1]), "id -1 at position 0"),
        (lambda: BPE.decode([1.5]), r"takes a list of ids, got float64\[1\]"),
        (lambda: BPETokenizer.train("abc", 255), "vocab_size=255 is below 256, its least"),
        (lambda: BPETokenizer([(97, 256)]), "merge 0 is of ids 97 and 256, expected 0 to 255"),
        (lambda: BPETokenizer([], ["<a>", "<a>"]), "different texts that are not empty"),
    ],
)
def test_wrong_input_is_named(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()
    assert ByteTokenizer().decode([195]) == "\ufffd"


def test_tiny_shakespeare(data_dir):
    train, test = data.tiny_shakespeare()
    assert (len(train), len(test)) == (1_003_854, 111_540) and train.startswith("First Citizen:")
    chars = CharTokenizer.of(train, test)
    assert chars.vocab_size == 65  # nanoGPT's README says the same
    assert chars.decode(chars.encode(test)) == test
    bpe = BPETokenizer.train(train[:200_000], 512)
    ids = bpe.encode(test)
    assert bpe.decode(ids) == test and len(ids) < 0.6 * len(test)
