"""The shuffle: a bijection, even, independent of the block it is read in, and the same on every machine."""

from __future__ import annotations

import itertools
import math
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fnet.data import Sequential, Shuffle
from fnet.data.orders import BlockCache, _mix, feistel, hash64

FEISTEL_FROM = 4097  # the smallest n that is not sorted


def chi_square_z(observed: np.ndarray, expected: np.ndarray | float) -> float:
    """Standardise a chi-square statistic with Wilson and Hilferty's cube root: about standard normal if even."""
    statistic, freedom = float(((observed - expected) ** 2 / expected).sum()), observed.size - 1
    return ((statistic / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / math.sqrt(2 / (9 * freedom))


@pytest.mark.parametrize("n", [*range(1, 70), 255, 256, 257, 4095, 4096, 4097, 5000, 8192, 8193, 65_537])
def test_every_epoch_reads_every_sample_once(n):
    for seed, epoch in [(0, 0), (0, 1), (2**64 - 1, 3)]:
        assert np.array_equal(np.sort(Shuffle(n, seed)(epoch, np.arange(n))), np.arange(n))


@pytest.mark.parametrize("bits", range(2, 15))
def test_feistel_is_a_bijection_of_every_width(bits):
    for seed in range(5):
        for word in (np.uint32, np.uint64):
            out = feistel(np.arange(1 << bits, dtype=word), bits, hash64(seed, np.arange(8)))
            assert np.array_equal(np.sort(out), np.arange(1 << bits)) and out.dtype == word


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 20_000), seed=st.integers(0, 2**64 - 1), epoch=st.integers(0, 10**9), data=st.data())
def test_any_part_of_the_order_is_what_the_whole_has_there(n, seed, epoch, data):
    start = data.draw(st.integers(0, n - 1))
    stop = data.draw(st.integers(start + 1, n))
    order = Shuffle(n, seed)
    whole = order(epoch, np.arange(n))
    assert np.array_equal(order(epoch, np.arange(start, stop)), whole[start:stop])
    assert np.array_equal(BlockCache(order, n, n)(epoch, np.arange(start, stop)), whole[start:stop])


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_all_permutations_of_a_few_samples_are_equally_likely_over_seeds(n):
    runs = 12_000
    codes = {p: i for i, p in enumerate(itertools.permutations(range(n)))}
    counts = np.zeros(len(codes))
    for seed in range(runs):
        counts[codes[tuple(Shuffle(n, seed % 200)(seed // 200, np.arange(n)).tolist())]] += 1
    assert counts.sum() == runs
    if n > 1:
        assert chi_square_z(counts, runs / len(codes)) < 4.5


@pytest.mark.parametrize("n", [7, FEISTEL_FROM, 6000, 1_000_000])
def test_where_samples_land_and_which_follow_each_other_is_even(n):
    """Bins of (position, index) and of (index, next index) over several epochs, at sizes on both sides of the cut."""
    bins, epochs = min(n, 20), max(3, 60_000 // n)
    landed, followed = np.zeros((bins, bins)), np.zeros((bins, bins))
    size = np.bincount(np.arange(n) * bins // n, minlength=bins)
    for epoch in range(epochs):
        index = Shuffle(n, seed=11)(epoch, np.arange(n))
        place = index * bins // n
        np.add.at(landed, (np.arange(n) * bins // n, place), 1)
        np.add.at(followed, (place[:-1], place[1:]), 1)
    # Rows and columns have fixed sums, so the statistic is a little below chi-square: one-sided bounds hold.
    assert chi_square_z(landed, epochs * np.outer(size, size) / n) < 4.5
    if n > 100:  # a sample cannot follow itself, which only matters when there are few
        assert chi_square_z(followed, epochs * (n - 1) * np.outer(size, size) / n**2) < 4.5


def test_the_feistel_order_has_no_fixed_points_beyond_chance_and_no_serial_correlation():
    n = 100_003
    fixed, correlations = 0, []
    for epoch in range(20):
        index = Shuffle(n, seed=3)(epoch, np.arange(n))
        fixed += int((index == np.arange(n)).sum())
        correlations.append(np.corrcoef(index[:-1], index[1:])[0, 1] * math.sqrt(n))
    assert fixed <= 45  # Poisson of mean 20: beyond 45 has a probability of 1e-6
    assert abs(np.mean(correlations)) * math.sqrt(20) < 4.5


def test_seeds_and_epochs_are_hashed_and_not_added():
    positions = np.arange(1000)
    for n in (1000, 10_000):
        orders = {
            Shuffle(n, seed)(epoch, positions).tobytes() for seed in (0, 1, 2, 3, 2**64 - 1) for epoch in (0, 1, 2, 3)
        }
        assert len(orders) == 20
    assert len({int(h) for a, b in itertools.product(range(100), repeat=2) for h in hash64(a, b)}) == 10_000
    assert hash64(0) != hash64(0, 0)


def test_orders_too_long_for_memory():
    for n in (10**12, 2**62 + 1, 2**63):
        positions = np.array([0, 1, n // 2, n - 1], np.uint64)
        indices = Shuffle(n, seed=5)(7, positions)
        assert indices.dtype == np.int64 and indices.min() >= 0 and int(indices.max()) < n and len(set(indices)) == 4
        assert Sequential(n)(0, positions).tolist() == [int(p) for p in positions]


def test_golden_orders():
    """These numbers must never change: runs that were saved would resume on other batches."""
    assert [f"{int(h):016x}" for h in hash64(0, 1, np.arange(2))] == ["7eb73fe114635afe", "86c5ad757165e871"]
    assert Shuffle(10)(0, np.arange(10)).tolist() == [7, 2, 0, 8, 3, 9, 1, 6, 5, 4]
    golden = {
        (4096, 1, 2): "ee05c4eee1916303",
        (60_000, 0, 0): "cf94d68d02bef0d8",
        (60_000, 2**64 - 1, 9): "f9c1e631a4e018f2",
        (10**12, 4, 1): "11b4d92d7daa1197",
    }
    for (n, seed, epoch), expected in golden.items():
        indices = Shuffle(n, seed)(epoch, np.arange(4096, dtype=np.int64)).astype("<u8")
        digest = hash64(0)
        for index in np.array_split(indices, 64):  # our own hash, which the line above has checked
            digest = hash64(int(digest[0]), int(np.bitwise_xor.reduce(hash64(index, np.arange(len(index))))))
        assert f"{int(digest[0]):016x}" == expected


def test_block_cache_forgets_when_pickled_and_reads_across_blocks():
    order = Shuffle(50_000, seed=1)
    cache = BlockCache(order, 50_000, 50_000)
    wrapped = np.arange(32_000, 51_000) % 50_000  # as padding reads
    assert np.array_equal(cache(0, wrapped), order(0, wrapped))
    assert np.array_equal(cache(8, wrapped), order(8, wrapped))  # shares its slots with epoch 0
    assert len(pickle.dumps(cache)) < 1000
    assert np.array_equal(pickle.loads(pickle.dumps(cache))(0, wrapped), order(0, wrapped))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Shuffle(0), ValueError, "n=0"),
        (lambda: Shuffle(2**63 + 1), ValueError, "between 1 and 2\\*\\*63"),
        (lambda: Shuffle(3, seed=-1), ValueError, "seed must be between 0 and 2\\*\\*64 - 1, got -1"),
        (lambda: Shuffle(3, seed=0.5), TypeError, "seed must be an integer, got float 0.5"),  # type: ignore[arg-type]
        (lambda: Shuffle(3)(0, np.array([3])), IndexError, "between 0 and 2, got 3 to 3"),
        (lambda: Shuffle(3)(0, np.array([0.0])), TypeError, "integers, got dtype float64"),
        (lambda: Sequential(3)(0, np.array([-1])), IndexError, "got -1"),
    ],
)
def test_messages(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_mixing_is_splitmix64s_finaliser():
    """SplitMix64's published first outputs from seed 0 are the finaliser at multiples of the golden ratio."""
    multiples = np.arange(1, 4, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    assert [f"{int(h):016x}" for h in _mix(multiples)] == ["e220a8397b1dcdaf", "6e789e6aa1b965f4", "06c45d188009454f"]
