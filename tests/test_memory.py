"""fnet.keep_memory: what a step frees is there for the next, measured in pages that the system had to hand out."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import fnet
if sys.argv[1] == "keep":
    assert fnet.keep_memory()
import jax, jax.numpy as jnp

def step(x):  # 64 MB in between, which nothing fuses away
    return (x @ x.T) @ x

x, step = jnp.ones((4000, 4)), jax.jit(step)
for repeat in range(30):
    if repeat == 25:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    jax.block_until_ready(step(x))
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode: str) -> int:
    done = subprocess.run([sys.executable, "-c", PROGRAM, mode], check=True, stdout=subprocess.PIPE, text=True)
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone counts page faults so")
def test_a_step_finds_the_memory_that_the_last_one_freed():
    if not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"):
        pytest.skip("the C library is not glibc")
    # Five steps take 64 MB each: 80,000 pages of 4 kB, or 160 of 2 MB. The heap may still grow in one of them.
    assert faults("keep") < faults("as it comes") / 2
