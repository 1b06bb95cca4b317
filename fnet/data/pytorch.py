"""What has another name here than in PyTorch, said where PyTorch's is used."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")

LOADER = {
    "num_workers": "processes=4 for datasets that compute in Python, or threads=4 for reading and decoding files",
    "pin_memory": "nothing: batches are numpy arrays, and fnet.data.to_device(loader.epoch(e)) transfers them ahead",
    "drop_last": 'last="drop"; "keep" and "pad" are the other choices',
    "collate_fn": "collate=",
    "sampler": "order=, as in order=fnet.data.Weighted(w), or fnet.data.Subset(dataset, indices)",
    "batch_sampler": "order=, as in order=fnet.data.LengthBuckets(lengths, batch_size)",
    "generator": "seed=",
    "worker_init_fn": "nothing: random numbers depend on (seed, epoch, index) and not on the worker",
    "persistent_workers": "nothing: loader.stream() keeps its workers over all epochs",
    "prefetch_factor": "prefetch=",
    "multiprocessing_context": "nothing: processes are always started anew, never forked",
}
NAMES = {
    "TensorDataset": "ArrayDataset(images, labels)",
    "ConcatDataset": "Concat(first, second)",
    "IterableDataset": "StreamLoader, or anything with __len__ and __getitem__(i) for a DataLoader",
    "WeightedRandomSampler": "DataLoader(…, order=data.Weighted(weights))",
    "DistributedSampler": "DataLoader(…, shard=(index, count))",
    "default_collate": "collate",
    "MNIST": "mnist(): both parts, (train, test)",
    "FashionMNIST": "fashion_mnist(): both parts, (train, test)",
    "KMNIST": "kmnist(): both parts, (train, test)",
    "CIFAR10": "cifar10(): both parts, (train, test)",
    "CIFAR100": "cifar100(): both parts, (train, test)",
}


def refuses(arguments: Mapping[str, str]) -> Callable[[type[T]], type[T]]:
    """Decorate a class so that an argument that PyTorch's has is refused with what stands for it here.

    >>> @refuses({"num_workers": "processes="})
    ... class Loader:
    ...     def __init__(self, dataset): ...
    >>> Loader([1, 2], num_workers=4)
    Traceback (most recent call last):
    TypeError: Loader has no num_workers; in its place is processes=
    """

    def decorate(cls: type[T]) -> type[T]:
        made = cls.__init__

        @functools.wraps(made)
        def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
            for name in kwargs:
                if name in arguments:
                    raise TypeError(f"{cls.__name__} has no {name}; in its place is {arguments[name]}")
            made(self, *args, **kwargs)

        cls.__init__ = __init__  # type: ignore[method-assign]
        return cls

    return decorate
