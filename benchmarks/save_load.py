"""Saving and loading 500 MB beside the safetensors package, flax and orbax: speeds, ratios and memory, in one run.

The tree is a flat dict of 148 float32 arrays like those of a transformer. Files lie in memory (/dev/shm) unless
``--folder`` says otherwise, so that programs are compared and not disks: fnet and orbax sync to the disk, which the
others do not. Every save makes a new file.

Each measurement is the one load or save of a process of its own, as in programs that start or end: in a process that
has loaded before, what counts is whose memory the allocator had kept. A tiny file is saved or loaded first, for what
happens once. As much memory as the call may need is touched and freed right before, since the host of a virtual
machine may have taken it back. All contenders take turns, in another order each round; medians are printed, of the
growth of the process's peak memory too. At loading to JAX, "summed" is the time until each array was also summed, since
a mapped file is read when it is touched.

"Bare" is what the system needs: the bytes written by one thread (two are no faster, since the kernel locks a file that
is written), or read by two into new memory in huge pages, with nothing checked and nothing parsed.
"""

from __future__ import annotations

import argparse
import gc
import json
import mmap
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
import jax.numpy as jnp
import numpy as np

import fnet

Tree = dict[str, Any]


def shapes(megabytes: float) -> dict[str, tuple[int, ...]]:
    """Twelve leaves a block, in the sizes of a transformer's, and an embedding."""
    width = int((megabytes * 1e6 / 4 / (12 * 12.2)) ** 0.5)
    leaves = [(width, width)] * 4 + [(width, 4 * width), (4 * width, width)] + [(width,)] * 5 + [(4 * width,)]
    tree: dict[str, tuple[int, ...]] = {f"blocks.{i}.{j}": leaf for i in range(12) for j, leaf in enumerate(leaves)}
    left = int(megabytes * 1e6 / 4) - sum(int(np.prod(leaf)) for leaf in tree.values())
    return tree | {"embedding": (max(left, 1) // width + 1, width), "norm": (width,), "bias": (width,),
                   "head": (width, 10)}  # fmt: skip


def arrays(megabytes: float) -> Tree:
    rng = np.random.default_rng(0)
    return {name: rng.random(shape, np.float32) - 0.5 for name, shape in shapes(megabytes).items()}


def on_device(tree: Tree) -> Tree:
    return {name: jax.device_put(leaf) for name, leaf in tree.items()}


def abstract(megabytes: float) -> Tree:
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return {name: jax.ShapeDtypeStruct(shape, np.float32, sharding=here) for name, shape in shapes(megabytes).items()}


def msgpack_save(path: Path, tree: Tree) -> None:
    import flax.serialization

    path.write_bytes(flax.serialization.to_bytes(tree))


def msgpack_load(path: Path, like: Tree) -> Tree:
    import flax.serialization

    return jax.tree.map(jnp.asarray, flax.serialization.from_bytes(like, path.read_bytes()))


def safetensors_save(path: Path, tree: Tree) -> None:
    import safetensors.numpy

    safetensors.numpy.save_file(tree, path)


def safetensors_load(path: Path, like: Tree) -> Tree:
    import safetensors.numpy

    return safetensors.numpy.load_file(path)


def flax_load_file(path: Path, like: Tree) -> Tree:
    import safetensors.flax

    return safetensors.flax.load_file(path)


def flax_load_bytes(path: Path, like: Tree) -> Tree:
    import safetensors.flax

    return safetensors.flax.load(path.read_bytes())


def orbax_save(kind: str) -> Callable[[Path, Tree], None]:
    def save(path: Path, tree: Tree) -> None:
        import orbax.checkpoint as ocp

        if kind == "v1":
            return ocp.v1.save(path, tree)
        with getattr(ocp, kind)() as checkpointer:  # waits for the finished checkpoint
            checkpointer.save(path, tree)

    return save


def orbax_load(kind: str) -> Callable[[Path, Tree], Tree]:
    def load(path: Path, like: Tree) -> Tree:
        import orbax.checkpoint as ocp

        if kind == "v1":
            return ocp.v1.load(path, like)
        with ocp.StandardCheckpointer() as checkpointer:
            return checkpointer.restore(path, like)

    return load


def bare_save(path: Path, tree: Tree) -> None:
    with open(path, "wb", buffering=0) as file:
        for leaf in tree.values():
            file.write(leaf)


def bare_load(path: Path, like: Tree, part: int = 16 << 20) -> list[np.ndarray]:
    with open(path, "rb") as file, ThreadPoolExecutor(2) as pool:
        size = os.fstat(file.fileno()).st_size

        def read(start: int) -> np.ndarray:
            memory = mmap.mmap(-1, part, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            memory.madvise(mmap.MADV_HUGEPAGE)
            buffer = np.frombuffer(memory, np.uint8)[: size - start]
            os.preadv(file.fileno(), [buffer.data], start)
            return buffer

        return list(pool.map(read, range(0, size, part)))


SAVERS: dict[str, Callable[[Path, Tree], Any]] = {
    "fnet": lambda path, tree: fnet.save(path, tree),
    "fnet, from numpy": lambda path, tree: fnet.save(path, tree),
    "fnet, no checksums": lambda path, tree: fnet.save(path, tree, checksum=False),
    "safetensors": safetensors_save,
    "flax msgpack": msgpack_save,
    "orbax Standard": orbax_save("StandardCheckpointer"),
    "orbax PyTree": orbax_save("PyTreeCheckpointer"),
    "orbax v1": orbax_save("v1"),
    "bare": bare_save,
}
FROM_NUMPY = {"fnet, from numpy", "fnet, no checksums", "safetensors", "bare"}
LOADERS: dict[str, dict[str, tuple[str, Callable[[Path, Tree], Any]]]] = {  # name: (who saved it, load)
    "numpy": {
        "fnet": ("fnet, from numpy", lambda path, like: fnet.load(path)),
        "fnet, not verified": ("fnet, from numpy", lambda path, like: fnet.load(path, verify=False)),
        "safetensors": ("safetensors", safetensors_load),
        "bare": ("bare", bare_load),
    },
    "jax": {
        "fnet": ("fnet", lambda path, like: fnet.load(path)),
        "fnet, not verified": ("fnet", lambda path, like: fnet.load(path, verify=False)),
        "fnet, mmap": ("fnet", lambda path, like: fnet.load(path, mmap=True)),
        "fnet, mmap verified": ("fnet", lambda path, like: fnet.load(path, mmap=True, verify=True)),
        "safetensors.flax, file": ("safetensors", flax_load_file),
        "safetensors.flax, bytes": ("safetensors", flax_load_bytes),
        "flax msgpack": ("flax msgpack", msgpack_load),
        "orbax Standard": ("orbax Standard", orbax_load("Standard")),
        "orbax v1": ("orbax v1", orbax_load("v1")),
    },
}  # fmt: skip


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def resident(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(key))


def timed(call: Callable[[], Any]) -> tuple[float, float, Any]:
    """Seconds, the growth of the process's peak in MB, and the result."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak is now what there is
    before, begin = resident("VmRSS"), time.perf_counter()
    result = jax.block_until_ready(call())
    return time.perf_counter() - begin, resident("VmHWM") - before, result


def measure(part: str, name: str, folder: Path, megabytes: float) -> tuple[float, float, float]:
    """One save or load of this process: seconds, peak memory in MB, seconds until also summed."""
    tiny, real = folder / "tiny", folder / "real"
    if part == "saving":
        place = (lambda tree: tree) if name in FROM_NUMPY else on_device
        small, tree = place(arrays(0.1)), place(arrays(megabytes))
        for where in (tiny, real):
            remove(where / name)
        SAVERS[name](tiny / name, small)
        touch(2 * megabytes)
        return *timed(lambda: SAVERS[name](real / name, tree))[:2], 0.0
    saver, load = LOADERS[part][name]
    small, like = abstract(0.1), abstract(megabytes)
    jax.block_until_ready(load(tiny / saver, small))
    total = jax.jit(lambda tree: [jnp.sum(leaf) for leaf in tree.values()]).lower(like).compile()
    touch(3 * megabytes)
    taken, grown, tree = timed(lambda: load(real / saver, like))
    return taken, grown, taken + timed(lambda: total(tree))[0] if part == "jax" else 0.0


def touch(megabytes: float) -> None:
    np.ones(int(megabytes * 1e6), np.uint8)


def race(part: str, rounds: int, folder: Path, megabytes: float, size: float) -> None:
    contenders = list(SAVERS if part == "saving" else LOADERS[part])
    found: dict[str, list[list[float]]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name in random.sample(contenders, len(contenders)):
            more = [f"--one={part}:{name}", f"--folder={folder}", f"--megabytes={megabytes}"]
            done = subprocess.run([sys.executable, __file__, *more], check=True, capture_output=True, text=True)
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
    medians = {name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in found.items()}
    what = "saving" if part == "saving" else f"loading to {part}"
    print(f"\n{what}, medians of {rounds} rounds; × is how many times as fast as this fnet is", flush=True)
    for name, (taken, grown, summed) in medians.items():
        ratio, best, worst = taken / medians["fnet"][0], min(found[name])[0], max(found[name])[0]
        line = f"  {name:24}{taken * 1e3:6.0f} ms ({best * 1e3:.0f} – {worst * 1e3:.0f}){size / taken:7.0f} MB/s"
        line += f"{ratio:7.2f} ×   peak {grown:5.0f} MB"
        print(line + (f"   summed {summed * 1e3:5.0f} ms" if part == "jax" else ""), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=500)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--parts", nargs="+", choices=["saving", *LOADERS], default=["saving", *LOADERS])
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm") if os.path.isdir("/dev/shm") else None)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        part, name = args.one.split(":")
        print(json.dumps(measure(part, name, args.folder, args.megabytes)))
        return
    with tempfile.TemporaryDirectory(dir=args.folder) as place:
        folder, tree = Path(place), arrays(args.megabytes)
        size = sum(leaf.nbytes for leaf in tree.values()) / 1e6
        print(f"{size:.0f} MB in {len(tree)} float32 arrays, in {folder.parent}; jax {jax.__version__}")
        needed = {saver for part in args.parts if part != "saving" for saver, _ in LOADERS[part].values()}
        for where, here in {"tiny": arrays(0.1), "real": tree}.items():
            (folder / where).mkdir()
            for name in needed:
                SAVERS[name](folder / where / name, here if name in FROM_NUMPY else on_device(here))
        del tree
        for part in args.parts:
            race(part, args.rounds, folder, args.megabytes, size)


if __name__ == "__main__":
    main()
