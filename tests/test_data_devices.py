"""Batches on several devices and hosts: in processes of their own, since a process has its devices for life."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

SOURCE = str(Path(__file__).parents[1])
HEAD = """
import sys
import jax, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from fnet.data import ArrayDataset, DataLoader, to_device

dataset = ArrayDataset(np.arange(40, dtype=np.float32).reshape(20, 2), np.arange(20))
whole = DataLoader(dataset, 8, shuffle=True, last="pad")

def mesh():
    return Mesh(np.array(jax.devices()), ("data",))

def is_part_of(array, expected):
    assert array.shape == expected.shape, (array.shape, expected.shape)
    for shard in array.addressable_shards:
        np.testing.assert_array_equal(np.asarray(shard.data), expected[shard.index])

def message(batches, sharding):
    try:
        next(to_device(batches, sharding))
    except ValueError as error:
        return " ".join([str(error), *getattr(error, "__notes__", ())])
"""


def start(script, devices, *arguments):
    env = {**os.environ, "PYTHONPATH": SOURCE, "JAX_PLATFORMS": "cpu"}
    env["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
    command = [sys.executable, "-c", HEAD + textwrap.dedent(script), *map(str, arguments)]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(*processes):
    try:
        outputs = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert all(output.rstrip().endswith("done") for output in outputs), "\n".join(outputs)


def test_batches_are_divided_among_four_devices():
    script = """
    rows, everywhere = NamedSharding(mesh(), P("data")), NamedSharding(mesh(), P())
    for batch, expected in zip(to_device(whole.epoch(0), rows), whole.epoch(0), strict=True):
        for array, value in zip(batch, expected, strict=True):
            assert {shard.data.shape[0] for shard in array.addressable_shards} == {2}
            is_part_of(array, value)
    x, y, mask = next(to_device(whole.epoch(0), (rows, None, everywhere)))
    assert x.sharding == rows and y.devices() == {jax.devices()[0]} and mask.sharding == everywhere
    batch = next(to_device(DataLoader(ArrayDataset({"x": np.zeros((8, 2)), "y": np.arange(8)}), 4).epoch(0),
                           {"x": rows, "y": None}))
    assert batch["x"].sharding == rows and batch["y"].tolist() == [0, 1, 2, 3]
    assert "for a batch of 0: float32[8, 2], 1: int64[8], 2: bool[8]" in message(whole.epoch(0), (rows, rows))
    assert 'the last batch of an epoch needs last="drop"' in message(DataLoader(range(6), 6).epoch(0), rows)
    print("done")
    """
    finish(start(script, 4))


def test_two_hosts_get_one_global_batch_and_nothing_doubled():
    script = """
    jax.distributed.initialize(f"localhost:{sys.argv[1]}", 2, int(sys.argv[2]))
    rows, everywhere = NamedSharding(mesh(), P("data")), NamedSharding(mesh(), P())
    part = DataLoader(dataset, 8, shuffle=True, last="pad", shard=(jax.process_index(), jax.process_count()))
    for batch, expected in zip(to_device(part.epoch(0), rows), whole.epoch(0), strict=True):
        for array, value in zip(batch, expected, strict=True):
            is_part_of(array, value)
    is_part_of(next(to_device(whole.epoch(0), everywhere))[1], whole.batch(0)[1])
    assert "makes arrays of 16 rows of this host's 8" in message(whole.epoch(0), rows)  # each sample twice
    assert "makes arrays of 4 rows of this host's 4" in message(part.epoch(0), everywhere)  # copies that differ
    assert "reads a batch in 2 parts" in message(part.stream(), (everywhere, everywhere, everywhere))
    print("done")
    """
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    finish(*(start(script, 2, port, host) for host in range(2)))
