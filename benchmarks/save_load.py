"""Saving and loading 500 MB beside the safetensors package, flax and orbax: speeds, ratios and memory, in one run.

The tree is a flat dict of 148 float32 arrays like those of a transformer. Files lie in memory (/dev/shm) unless
``--folder`` says otherwise, so that programs are compared and not disks: fnet and orbax sync to the disk, which the
others do not. All contenders take turns, in another order each round; medians are printed. Saving makes a new file each
time. "Bare" is what the system needs: the bytes written by one thread (two are no faster, since the kernel locks a file
that is written), or read by two into new memory, with nothing checked and nothing parsed. Memory is the growth of the
process's peak, measured in a process of its own for each.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np

import fnet

FILES = {"fnet from jax": "jax", "fnet, no checksums": "plain", "flax msgpack": "flax"}  # not named like their savers


def arrays(megabytes: float) -> dict[str, np.ndarray]:
    """Twelve leaves a block, in the sizes of a transformer's, and an embedding."""
    rng = np.random.default_rng(0)
    width = int((megabytes * 1e6 / 4 / (12 * 12.2)) ** 0.5)
    shapes = [(width, width)] * 4 + [(width, 4 * width), (4 * width, width)] + [(width,)] * 5 + [(4 * width,)]
    tree = {f"blocks.{i}.{j}": shape for i in range(12) for j, shape in enumerate(shapes)}
    left = int(megabytes * 1e6 / 4) - sum(int(np.prod(shape)) for shape in tree.values())
    tree |= {"embedding": (max(left, 1) // width + 1, width), "norm": (width,), "bias": (width,), "head": (width, 10)}
    return {name: rng.standard_normal(shape, np.float32) for name, shape in tree.items()}


def savers(folder: Path, tree: dict[str, np.ndarray], device: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    import flax.serialization
    import orbax.checkpoint as ocp
    import safetensors.numpy

    def orbax() -> None:
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(folder / "orbax", device)

    def msgpack() -> None:
        (folder / "flax").write_bytes(flax.serialization.to_bytes(device))

    return {
        "fnet": lambda: fnet.save(folder / "fnet", tree),
        "fnet from jax": lambda: fnet.save(folder / "jax", device),
        "fnet, no checksums": lambda: fnet.save(folder / "plain", tree, checksum=False),
        "safetensors": lambda: safetensors.numpy.save_file(tree, folder / "safetensors"),
        "flax msgpack": msgpack,
        "orbax": orbax,
        "bare": lambda: bare_write(folder / "bare", tree),
    }


def to_numpy(folder: Path) -> dict[str, Callable[[], Any]]:
    import safetensors.numpy

    return {
        "fnet": lambda: fnet.load(folder / "fnet"),
        "fnet, not verified": lambda: fnet.load(folder / "fnet", verify=False),
        "safetensors": lambda: safetensors.numpy.load_file(folder / "safetensors"),
        "bare": lambda: bare_read(folder / "bare"),
    }


def to_jax(folder: Path, device: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    import flax.serialization
    import orbax.checkpoint as ocp
    import safetensors.flax

    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), device)

    def orbax() -> Any:
        with ocp.StandardCheckpointer() as checkpointer:
            return checkpointer.restore(folder / "orbax", abstract)

    def msgpack() -> Any:
        restored = flax.serialization.from_bytes(abstract, (folder / "flax").read_bytes())
        return jax.tree.map(jax.numpy.asarray, restored)

    return {
        "fnet": lambda: fnet.load(folder / "jax"),
        "fnet, not verified": lambda: fnet.load(folder / "jax", verify=False),
        "safetensors.flax": lambda: safetensors.flax.load_file(folder / "safetensors"),
        "flax msgpack": msgpack,
        "orbax": orbax,
        "bare": lambda: bare_read(folder / "bare"),
    }


def bare_write(path: Path, tree: dict[str, np.ndarray]) -> None:
    with open(path, "wb", buffering=0) as file:
        for leaf in tree.values():
            file.write(leaf)  # type: ignore[arg-type]


def bare_read(path: Path, part: int = 16 << 20) -> list[np.ndarray]:
    with open(path, "rb") as file, ThreadPoolExecutor(2) as pool:
        size = os.fstat(file.fileno()).st_size

        def read(start: int) -> np.ndarray:
            buffer = np.empty(min(part, size - start), np.uint8)
            os.preadv(file.fileno(), [buffer], start)
            return buffer

        return list(pool.map(read, range(0, size, part)))


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def seconds(call: Callable[[], Any]) -> float:
    gc.collect()
    begin = time.perf_counter()
    result = jax.block_until_ready(call())
    taken = time.perf_counter() - begin
    del result
    return taken


def race(
    title: str, contenders: dict[str, Callable[[], Any]], rounds: int, megabytes: float, files: dict[str, Path]
) -> None:
    """``files``: what to remove before a contender's turn."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name in random.sample(list(contenders), len(contenders)):
            if name in files:
                remove(files[name])
            taken = seconds(contenders[name])
            if number:
                times[name].append(taken)
    ours = statistics.median(times["fnet"])
    print(f"\n{title}, medians of {rounds} rounds")
    for name, taken in times.items():
        median = statistics.median(taken)
        speed = megabytes / median
        print(f"  {name:20} {median * 1e3:7.0f} ms {speed:7.0f} MB/s   fnet is {median / ours:5.2f}× as fast")


def peak(call: Callable[[], Any]) -> float:
    """The growth of this process's peak while a call runs, in MB; its result is still held at the end."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak is now what there is

    def resident(key: str) -> float:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 * 1.048576 for line in lines if line.startswith(key))

    before = resident("VmRSS")
    result = jax.block_until_ready(call())
    grown = resident("VmHWM") - before
    del result
    return grown


def measure_memory(folder: Path, megabytes: float, what: str) -> None:
    part, name = what.split(":")
    if part == "save":
        tree = arrays(megabytes)
        device = {key: jax.device_put(leaf) for key, leaf in tree.items()} if name != "fnet" else {}
        call = savers(folder, tree, device)[name]
        remove(folder / FILES.get(name, name))
    elif part == "numpy":
        call = to_numpy(folder)[name]
    else:
        device = {key: jax.device_put(leaf) for key, leaf in arrays(megabytes).items()} if name != "fnet" else {}
        call = to_jax(folder, device)[name]
    jax.devices()
    print(f"  {what:28} {peak(call):7.0f} MB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=500)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm") if os.path.isdir("/dev/shm") else None)
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory:
        return measure_memory(args.folder, args.megabytes, args.memory)
    with tempfile.TemporaryDirectory(dir=args.folder) as place:
        folder = Path(place)
        tree = arrays(args.megabytes)
        size = sum(leaf.nbytes for leaf in tree.values()) / 1e6
        device = {name: jax.device_put(leaf) for name, leaf in tree.items()}
        print(f"{size:.0f} MB in {len(tree)} float32 arrays, in {folder.parent}; jax {jax.__version__}")
        contenders = savers(folder, tree, device)
        places = {name: folder / FILES.get(name, name) for name in contenders}
        race("saving", contenders, args.rounds, size, places)
        race("loading to numpy", to_numpy(folder), args.rounds, size, {})
        race("loading to jax", to_jax(folder, device), args.rounds, size, {})
        del tree, device
        print(f"\nmemory beside the tree at saving, and all of it at loading a tree of {size:.0f} MB", flush=True)
        whats = ["save:fnet", "save:fnet from jax", "save:orbax", "numpy:fnet", "numpy:safetensors", "jax:fnet",
                 "jax:safetensors.flax", "jax:orbax"]  # fmt: skip
        for what in whats:
            more = [f"--memory={what}", f"--folder={folder}", f"--megabytes={args.megabytes}"]
            subprocess.run([sys.executable, __file__, *more], check=True)


if __name__ == "__main__":
    main()
