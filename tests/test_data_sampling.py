"""Orders with a purpose: permutations where they promise one, the right frequencies, the same on every machine."""

from __future__ import annotations

import itertools
import math
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fnet.data import (
    ArrayDataset,
    BlockShuffle,
    ClassBalanced,
    Concat,
    DataLoader,
    LengthBuckets,
    Mixture,
    PadTo,
    Weighted,
    WindowShuffle,
)
from fnet.data.orders import Shuffle, hash64


def chi_square_z(observed, expected):
    """Standardise a chi-square statistic with Wilson and Hilferty's cube root: about standard normal if even."""
    observed, freedom = np.asarray(observed, float), np.size(observed) - 1
    statistic = float(((observed - expected) ** 2 / expected).sum())
    return ((statistic / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / math.sqrt(2 / (9 * freedom))


def whole(order, epoch=0):
    return order(epoch, np.arange(order.n))


@settings(max_examples=15)
@given(n=st.integers(1, 300), size=st.integers(1, 70), seed=st.integers(0, 2**64 - 1), epoch=st.integers(0, 99))
def test_permutations_are_permutations_and_any_part_is_the_whole_s(n, size, seed, epoch):
    lengths = hash64(3, np.arange(n)).astype(np.int64) % 50 + 1
    for order in (
        BlockShuffle(n, size, seed),
        WindowShuffle(n, size, seed),
        LengthBuckets(lengths, [10, 20, 35], size, seed),
        Weighted(lengths, replacement=False, seed=seed),
    ):
        indices = whole(order, epoch)
        assert np.array_equal(np.sort(indices), np.arange(n)) and indices.dtype == np.int64
        part = np.arange(n // 3, n)
        assert np.array_equal(order(epoch, part), indices[part])
        assert np.array_equal(pickle.loads(pickle.dumps(order))(epoch, part), indices[part])


@pytest.mark.parametrize("n", range(1, 5))
def test_few_samples_come_in_all_orders_alike(n):
    runs = 2000
    codes = {p: i for i, p in enumerate(itertools.permutations(range(n)))}
    for make in (
        lambda seed: BlockShuffle(n, n, seed),
        lambda seed: BlockShuffle(n, 1, seed),
        lambda seed: Weighted(np.ones(n), replacement=False, seed=seed),
    ):
        counts = np.zeros(len(codes))
        for run in range(runs):
            counts[codes[tuple(make(run % 50)(run // 50, np.arange(n)).tolist())]] += 1
        assert n == 1 or chi_square_z(counts, runs / len(codes)) < 4.5


@pytest.mark.parametrize("n", [6, 7, 8, 9, 10])
def test_few_samples_are_at_every_place_and_beside_every_other_alike(n):
    runs = 8000
    landed, followed = np.zeros((n, n)), np.zeros((n, n))
    for run in range(runs):
        index = Shuffle(n, run % 80)(run // 80, np.arange(n))
        landed[np.arange(n), index] += 1
        followed[index[:-1], index[1:]] += 1
    assert chi_square_z(landed, runs / n) < 4.5
    others = followed[~np.eye(n, dtype=bool)]
    assert chi_square_z(others, runs / n) < 4.5 and np.diag(followed).sum() == 0


def test_blocks_stay_together_and_windows_bound_the_way():
    blocks = whole(BlockShuffle(103, 10, seed=1)).reshape(-1)
    firsts = [set((blocks[k : k + 10] // 10).tolist()) for k in range(0, 100, 10)]
    assert all(len(first) == 1 for first in firsts) and sorted(first.pop() for first in firsts) == list(range(10))
    assert sorted(blocks[100:]) == [100, 101, 102]
    moved = np.array([whole(WindowShuffle(1000, 10, seed=1), epoch) for epoch in range(40)]) - np.arange(1000)
    assert np.abs(moved).max() < 10 and np.abs(moved).mean() > 2
    crossed = [(whole(WindowShuffle(20, 10, seed=1), e)[:10] >= 10).any() for e in range(40)]
    assert any(crossed) and not all(crossed)  # borders move


def test_orders_too_long_for_memory():
    n = 10**12
    for order in (BlockShuffle(n, 1000), WindowShuffle(n, 1000), Mixture([n, 5], [1, 1], n), Mixture([2**62, 2**61])):
        positions = np.array([0, 1, 12_345, order.n // 2, order.n - 1])
        indices = order(10**9, positions)
        assert len(set(indices.tolist())) == 5 and indices.min() >= 0
        loader_like = order(10**9, positions[::-1])
        assert np.array_equal(loader_like[::-1], indices)


def test_weights_with_replacement():
    weights = np.array([0, 1, 2, 0, 5, 0.5, 0])
    order = Weighted(weights, n=200_000, seed=2)
    counts = np.bincount(whole(order, 3), minlength=7)
    assert counts[weights == 0].sum() == 0
    assert chi_square_z(counts[weights > 0], 200_000 * weights[weights > 0] / weights.sum()) < 4.5
    pairs = np.bincount(whole(order)[:-1] * 7 + whole(order)[1:], minlength=49).reshape(7, 7)[1:3, 1:3]
    share = weights[1:3] / weights.sum()
    assert np.abs(pairs / 200_000 - np.outer(share, share)).max() < 0.003  # draws do not depend on each other
    tiny = Weighted(np.full(3_000_000, 1e-300), n=1000)  # where float32 sums would stop growing, and 2**24 is passed
    assert whole(tiny).max() > 2**21 and len(set(whole(tiny).tolist())) > 990


def test_weights_without_replacement_follow_the_sequential_draws():
    """Two draws of four: the probability of (a, b) is w_a / W * w_b / (W - w_a)."""
    weights = np.array([1.0, 2.0, 3.0, 4.0])
    runs, counts = 6000, np.zeros((4, 4))
    for run in range(runs):
        a, b = Weighted(weights, n=2, replacement=False, seed=run % 100)(run // 100, np.arange(2))
        counts[a, b] += 1
    expected = np.array([[a / 10 * b / (10 - a) for b in weights] for a in weights]) * runs
    off = ~np.eye(4, dtype=bool)
    assert np.diag(counts).sum() == 0 and chi_square_z(counts[off], expected[off]) < 4.5
    assert sorted(whole(Weighted([0, 1, 0, 1], replacement=False)).tolist()) == [1, 3]


def test_a_mixture_keeps_its_proportions_and_goes_through_every_source():
    order = Mixture([10, 4, 100], weights=[1, 1, 2], n=40, seed=3)
    assert order.counts == (10, 10, 20)
    seen = np.concatenate([whole(order, epoch) for epoch in range(20)])  # 200, 200, 400 of the three
    counts = np.bincount(seen, minlength=114)
    assert (counts[:10] == 20).all() and (counts[10:14] == 50).all() and (counts[14:] == 4).all()
    first = whole(order)
    assert len(set((first < 10).tolist()[:20])) == 2  # mixed, and not one source after another
    dataset = Concat(np.arange(10).tolist(), [100] * 4, list(range(200, 300)))
    batch = DataLoader(dataset, 40, order=order).batch(0)
    assert sorted(np.digitize(batch, [100, 200]).tolist()) == [0] * 10 + [1] * 10 + [2] * 20
    assert Mixture([3, 1]).counts == (3, 1) and Mixture([5, 5], [1, 0], 7).counts == (7, 0)


def test_classes_are_balanced():
    labels = np.array([7] * 90 + [-2] * 9 + [3])
    order = ClassBalanced(labels, n=300, seed=1)
    for epoch in range(3):
        drawn = labels[whole(order, epoch)]
        assert [(drawn == label).sum() for label in (7, -2, 3)] == [100, 100, 100]
    seen = np.concatenate([whole(order, epoch) for epoch in range(9)])  # 900 of the largest class: 10 times each
    assert (np.bincount(seen, minlength=100)[:90] == 10).all()


def test_buckets_have_like_lengths_and_padding_has_few_shapes():
    lengths = hash64(9, np.arange(1000)).astype(np.int64) % 64 + 1
    dataset = [np.full(length, length, np.int32) for length in lengths]
    bounds = [16, 32, 64]
    order = LengthBuckets(lengths, bounds, 16, seed=2)
    loader = DataLoader(dataset, 16, order=order, collate=PadTo(bounds))
    shapes, real, spread, seen = set(), 0, [], 0
    for batch, true in loader.epoch(1):
        shapes.add(batch.shape[1])
        real += int(true.sum())
        seen += len(true)
        spread.append(len(set(np.searchsorted(bounds, true).tolist())) > 1)
        assert ((batch != 0).sum(1) == true).all() and (batch.max(1) == true).all()
    assert shapes == {16, 32, 64} and real == lengths.sum() and seen == 1000 and sum(spread) <= 3
    batches = whole(order, 0)[:992].reshape(-1, 16)
    assert len(set(np.searchsorted(bounds, lengths[batches[:20, 0]]).tolist())) == 3  # buckets come mixed


def test_golden_orders():
    """These numbers must never change: runs that were saved would resume on other batches."""
    assert whole(BlockShuffle(12, 3, seed=5), 1).tolist() == [7, 6, 8, 9, 11, 10, 2, 1, 0, 4, 3, 5]
    assert whole(WindowShuffle(12, 4, seed=5), 1).tolist() == [2, 3, 0, 1, 5, 6, 4, 7, 8, 11, 10, 9]
    assert whole(Weighted([1, 2, 3], n=10, seed=5), 1).tolist() == [1, 1, 2, 0, 1, 1, 1, 2, 1, 1]
    assert whole(Weighted([1, 2, 3, 4], replacement=False, seed=5), 1).tolist() == [2, 1, 3, 0]
    assert whole(Mixture([5, 3], [1, 2], 9, seed=5), 1).tolist() == [4, 0, 6, 6, 7, 5, 5, 2, 7]
    assert whole(ClassBalanced([0, 0, 0, 1], n=6, seed=5), 1).tolist() == [3, 0, 3, 2, 3, 1]
    assert whole(LengthBuckets([1, 9, 2, 8, 3, 7], [4, 9], 2, seed=5), 1).tolist() == [0, 1, 2, 4, 5, 3]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: BlockShuffle(5, 0), ValueError, "block must be at least 1, got 0"),
        (lambda: WindowShuffle(5, 0), ValueError, "window must be at least 1, got 0"),
        (lambda: Weighted([1, -1]), ValueError, "weight 1 is -1.0"),
        (lambda: Weighted([1, float("nan")]), ValueError, "weight 1 is nan"),
        (lambda: Weighted([[1]]), ValueError, "1-d array"),
        (lambda: Weighted([0, 0]), ValueError, "all weights are 0"),
        (lambda: Weighted([0, 1], n=2, replacement=False), ValueError, "cannot draw n=2 .* 1 weights are more than 0"),
        (lambda: Weighted([1])(0, np.array([1])), IndexError, "got 1 to 1"),
        (lambda: Mixture([3, 0]), ValueError, r"not empty, got \[3, 0\]"),
        (lambda: Mixture([3, 1], [1]), ValueError, r"2 sources need as many weights .* got \[1\]"),
        (lambda: Mixture([3, 1], [0, 0]), ValueError, "weights of 0 or more"),
        (lambda: ClassBalanced([0.5]), ValueError, "1-d array of integers, got float64"),
        (lambda: LengthBuckets([1], [2, 2], 1), ValueError, r"increasing numbers, got \[2, 2\]"),
        (lambda: LengthBuckets([1.5], [2], 1), ValueError, "integers, got float64"),
        (lambda: LengthBuckets([1], [2], 0), ValueError, "batch_size must be at least 1"),
        (lambda: DataLoader([1, 2], order=[1, 0]), TypeError, r"order must be a function .*Subset\(dataset"),
        (lambda: DataLoader([1, 2], order=Shuffle(2), shuffle=True), ValueError, "two orders"),
        (lambda: DataLoader([1, 2, 3], order=Weighted([1, 1])), ValueError, "Weighted was made for 2 .* has 3"),
        (lambda: DataLoader([1, 2, 3], order=ClassBalanced([0, 1])), ValueError, r"labels\[subset.indices\]"),
        (lambda: DataLoader([1, 2, 3], order=Mixture([1, 1])), ValueError, "Mixture was made for 2 samples"),
        (lambda: DataLoader([1, 2, 3], 2, order=LengthBuckets([1, 1], [1], 2)), ValueError, "LengthBuckets was made"),
        (lambda: DataLoader([1, 2], 1, order=LengthBuckets([1, 1], [1], 2)), ValueError, "of 2, .* cuts batches of 1"),
        (lambda: DataLoader([1, 2], order=Shuffle(3)).epoch(0).__next__(), IndexError, "gave index 2 .* has 2 samples"),
    ],
)
def test_messages(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_an_order_of_one_s_own():
    class Odd:
        n = 3

        def __call__(self, epoch, positions):
            return positions.astype(np.int64) * 2 + 1

    loader = DataLoader(ArrayDataset(np.arange(6)), 2, order=Odd())
    assert [batch.tolist() for batch in loader.epoch(0)] == [[1, 3], [5]]

    class Wrong(Odd):
        def __call__(self, epoch, positions):
            return positions / 2

    with pytest.raises(TypeError, match=r"gave float64\[3\] for 3 positions"):
        DataLoader(ArrayDataset(np.arange(6)), 2, order=Wrong()).batch(0)
