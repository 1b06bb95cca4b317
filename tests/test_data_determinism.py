"""The same (seed, step) gives the same bytes, whatever reads it; and the bytes that runs were saved with."""

from __future__ import annotations

import hashlib
import os

import numpy as np
import pytest
from _datasets import Noisy, Squares, add_noise

from fnet.data import ArrayDataset, Concat, DataLoader, Map, MapBatch, Rng, Subset, Zip
from fnet.data.structure import leaves

N, BATCH, STEPS = 50, 12, 9  # two epochs of 4 or 5 batches, and some


def digest(batches):
    """Hash names, dtypes, shapes and little-endian bytes."""
    h = hashlib.sha256()
    for batch in batches:
        for name, leaf in leaves(batch):
            h.update(f"{name} {leaf.dtype.name} {leaf.shape}".encode())
            h.update(leaf.astype(leaf.dtype.newbyteorder("<")).tobytes())
    return h.hexdigest()[:16]


def arrays():
    x = (np.arange(N * 6, dtype=np.float32) / 7).reshape(N, 2, 3)
    return ArrayDataset(x, np.arange(N, dtype=np.int32) % 3)


DATASETS = {
    "arrays": (arrays, "05262be82c07d0ce"),
    "samples": (lambda: Squares(N), "d16a71766d9cfc18"),
    "random samples": (lambda: Noisy(N), "cc0953dc7d5abaf3"),
    "random batches": (lambda: MapBatch(arrays(), add_noise), "c65689501b259d50"),
}


def loader(dataset, **settings):
    return DataLoader(dataset, BATCH, shuffle=True, seed=11, last="pad", **settings)


@pytest.mark.parametrize("name", DATASETS)
def test_threads_hosts_and_resuming_change_no_byte(name):
    make, golden = DATASETS[name]
    whole = [loader(make()).batch(step) for step in range(STEPS)]
    assert digest(whole) == golden, "runs that were saved would resume on other batches"
    for threads in (0, 1, 2, 5):
        stream = loader(make(), threads=threads).stream()
        assert digest(next(stream) for _ in range(STEPS)) == golden
        stream.close()
        resumed = loader(make(), threads=threads).stream(start=4)
        assert digest([*whole[:4], *(next(resumed) for _ in range(4, STEPS))]) == golden
        resumed.close()
    for hosts in (2, 4):
        parts = [loader(make(), shard=(host, hosts)) for host in range(hosts)]
        assert all(len(part.batch(0)[0]) == BATCH // hosts for part in parts)
        glued = [
            tuple(np.concatenate(columns) for columns in zip(*(part.batch(step) for part in parts), strict=True))
            for step in range(STEPS)
        ]
        assert digest(glued) == golden


@pytest.mark.skipif(os.name == "nt", reason="worker processes need Linux or macOS")
def test_processes_change_no_byte():
    for name, processes in (("random samples", 1), ("random samples", 2), ("random batches", 1)):
        make, golden = DATASETS[name]
        stream = loader(make(), processes=processes).stream()
        assert digest(next(stream) for _ in range(STEPS)) == golden
        stream.close()


def test_a_sample_s_numbers_depend_on_seed_epoch_and_index_alone():
    def batch_of(seed, epoch, size, index):
        loader = DataLoader(Noisy(N), size, seed=seed)
        return loader.batch(epoch * len(loader) + index // size)[0][index % size]

    one = batch_of(0, 1, 4, 7)
    assert np.array_equal(one, batch_of(0, 1, 10, 7))
    others = [batch_of(0, 2, 4, 7), batch_of(1, 1, 4, 7), batch_of(1, 0, 4, 7), batch_of(0, 1, 4, 8) - 1]
    assert all(not np.array_equal(one, other) for other in others)
    assert np.array_equal(one - 7, Rng(0, 1, 7).random((2, 3)).astype(np.float32) + np.float32(7) - 7)


def test_reading_by_sample_and_by_batch_gives_the_same_bytes():
    base = arrays()
    random = MapBatch(base, add_noise)
    views = {
        "subset": lambda d: Subset(d, np.arange(N)[::-1]),
        "concat": lambda d: Concat(Subset(d, range(20)), d),
        "zip": lambda d: Zip(d, base),
        "twice": lambda d: MapBatch(d, add_noise),
        "over samples": lambda d: MapBatch(Map(d, lambda sample: sample), add_noise),
    }
    for name, view in views.items():
        for dataset in (view(base), view(random)):
            together = DataLoader(dataset, 8, shuffle=True, seed=5)
            apart = DataLoader(Map(dataset, lambda sample: sample), 8, shuffle=True, seed=5)
            assert digest([together.batch(9)]) == digest([apart.batch(9)]), name
            small = DataLoader(dataset, 2, shuffle=True, seed=5)
            pieces = [leaves(small.batch(step)) for step in range(4)]  # the first batch of 8 in four
            for (_, leaf), *columns in zip(leaves(together.batch(0)), *pieces, strict=True):
                assert np.array_equal(leaf, np.concatenate([part for _, part in columns])), name
    once = DataLoader(random, 8, seed=5).batch(0)[0]
    twice = DataLoader(MapBatch(random, add_noise), 8, seed=5).batch(0)[0]
    added = [once - base.arrays[0][:8], twice - once]
    assert np.abs(added[0] - added[1]).min() > 1e-6  # each draws its own numbers


def test_order_settings_and_seed_reach_the_batches():
    dataset = arrays()
    plain = digest([DataLoader(dataset, BATCH).batch(1)])
    assert plain == digest([DataLoader(dataset, BATCH, seed=3).batch(1)])
    shuffles = [DataLoader(dataset, BATCH, shuffle=True, seed=seed) for seed in (0, 1)]
    assert len({digest([shuffle.batch(step)]) for shuffle in shuffles for step in (1, 6)} | {plain}) == 5
