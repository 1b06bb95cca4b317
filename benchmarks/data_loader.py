"""fnet's DataLoader beside PyTorch's (no workers, 2), Grain's, and plain numpy, on the same data in one run.

    memory   60,000 images of 28 x 28 bytes, in memory, shuffled, batches of 128
    python   one sample at a time, normalised in Python
    jpeg     32 x 32 JPEG files decoded by Pillow, cropped and flipped at random (needs FNET_DATA with the CIFAR-10 tar)
    first    seconds to the first batch from two processes that are not forked

Contenders take turns; each turn reads some batches untimed, so that no start-up is in the rates, and then many. Printed
are medians over the rounds, and of each round's ratio to fnet's rate (first: of the times).
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from _data_cases import Augmented, Jpegs, Normalised, augment

from fnet import data

BATCH = 128
Contenders = dict[str, Callable[[], Iterable[Any]]]


def by_take(images: np.ndarray, labels: np.ndarray) -> Iterator[Any]:
    """What memory allows: the rows of a random order, and nothing else."""
    order = np.random.permutation(len(images))
    for start in itertools.count(0, BATCH):
        rows = order[start : start + BATCH]
        yield images.take(rows, axis=0), labels.take(rows, axis=0)


def by_loop(dataset: Any) -> Iterator[Any]:
    """What anybody would write."""
    order = np.random.permutation(len(dataset))
    for start in itertools.count(0, BATCH):
        samples = [dataset[index] for index in order[start : start + BATCH].tolist()]
        yield np.stack([image for image, _ in samples]), np.array([label for _, label in samples], np.int32)


def torch_loader(dataset: Any, workers: int, **settings: Any) -> Any:
    from torch.utils.data import DataLoader

    return DataLoader(dataset, BATCH, shuffle=True, num_workers=workers, **settings)


def grain_loader(dataset: Any, threads: int) -> Iterator[Any]:
    import grain

    source = grain.MapDataset.source(dataset).shuffle(seed=0)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * BATCH)
    return iter(source.to_iter_dataset(options).batch(BATCH))


def fnet_loader(dataset: Any, **settings: Any) -> Any:
    return data.DataLoader(dataset, BATCH, shuffle=True, **settings)


def memory() -> Contenders:
    import torch

    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (60_000, 28, 28), np.uint8), rng.integers(0, 10, 60_000).astype(np.int32)
    arrays = data.ArrayDataset(images, labels)
    tensors = torch.utils.data.TensorDataset(torch.from_numpy(images), torch.from_numpy(labels))
    return {
        "fnet": lambda: fnet_loader(arrays).stream(),
        "numpy take": lambda: by_take(images, labels),
        "torch, 0 workers": lambda: torch_loader(tensors, 0),
        "torch, 2 workers": lambda: torch_loader(tensors, 2),
        "grain": lambda: grain_loader(arrays, 0),
    }


def python() -> Contenders:
    rng = np.random.default_rng(0)
    dataset = Normalised(rng.integers(0, 256, (60_000, 28, 28), np.uint8), rng.integers(0, 10, 60_000))
    return {
        "fnet": lambda: fnet_loader(dataset).stream(),
        "fnet, no thread": lambda: fnet_loader(dataset, threads=0).stream(),
        "plain loop": lambda: by_loop(dataset),
        "torch, 0 workers": lambda: torch_loader(dataset, 0),
        "torch, 2 workers": lambda: torch_loader(dataset, 2),
        "grain": lambda: grain_loader(dataset, 0),
    }


def jpeg(folder: Path) -> Contenders:
    batched, one_by_one = data.MapBatch(Jpegs(folder), augment), Augmented(folder)
    return {
        "fnet, 2 processes": lambda: fnet_loader(batched, processes=2).stream(),
        "fnet": lambda: fnet_loader(batched, threads=0).stream(),
        "torch, 0 workers": lambda: torch_loader(one_by_one, 0),
        "torch, 2 workers": lambda: torch_loader(one_by_one, 2),
        "grain": lambda: grain_loader(one_by_one, 0),
    }


def first(folder: Path) -> Contenders:
    batched, one_by_one = data.MapBatch(Jpegs(folder), augment), Augmented(folder)
    return {
        "fnet, 2 processes": lambda: fnet_loader(batched, processes=2).stream(),
        "torch, 2 spawned": lambda: torch_loader(one_by_one, 2, multiprocessing_context="spawn"),
    }


def rate(make: Callable[[], Iterable[Any]], warm: int, timed: int) -> float:
    """Samples a second, over `timed` batches after `warm` others."""
    batches = iter(make())
    for _ in itertools.islice(batches, warm):
        pass
    begin = time.perf_counter()
    for _ in itertools.islice(batches, timed):
        pass
    return timed * BATCH / (time.perf_counter() - begin)


def until_first(make: Callable[[], Iterable[Any]]) -> float:
    begin = time.perf_counter()
    batches = iter(make())
    next(batches)
    return time.perf_counter() - begin


def race(name: str, contenders: Contenders, rounds: int, measure: Callable[[Any], float], unit: str) -> None:
    results: dict[str, list[float]] = {contender: [] for contender in contenders}
    for number in range(rounds):
        for contender in sorted(contenders, reverse=bool(number % 2)):
            results[contender].append(measure(contenders[contender]))
    ours = next(iter(results.values()))
    print(f"\n{name}: medians of {rounds} rounds, {unit}")
    for contender, values in results.items():
        ratio = statistics.median(value / our for value, our in zip(values, ours, strict=True))
        print(f"  {contender:20} {statistics.median(values):14,.2f} {ratio:8.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cases", nargs="*", default=["memory", "python", "jpeg", "first"])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if {"jpeg", "first"} & set(args.cases):
            tar = Path(os.environ.get("FNET_DATA", "")) / "cifar10-jpeg-subset.tar"
            if tar.is_file():
                with tarfile.open(tar) as archive:
                    archive.extractall(folder, filter="data")
            else:
                print(f"no {tar.name} in FNET_DATA: without the cases jpeg and first")
                args.cases = [case for case in args.cases if case in ("memory", "python")]
        files = Path(folder)
        cases = {"memory": memory, "python": python, "jpeg": lambda: jpeg(files), "first": lambda: first(files)}
        for case in args.cases:
            if case == "first":
                race(case, cases[case](), max(1, args.rounds // 2), until_first, "seconds")
                continue
            timed = {"memory": 300, "python": 100, "jpeg": 40}[case]
            race(case, cases[case](), args.rounds, lambda make, timed=timed: rate(make, 8, timed), "samples a second")


if __name__ == "__main__":
    main()
