"""What becomes of the memory that a step on CPU frees."""

from __future__ import annotations

import ctypes
import os

__all__ = ["keep_memory"]

# Of glibc's malloc.h, with the values that mallopt(3) gives for "never" and "none".
_SETTINGS = {"M_TRIM_THRESHOLD": (-1, -1), "M_MMAP_MAX": (-4, 0), "M_ARENA_MAX": (-8, 1)}


def keep_memory() -> bool:
    """Have this process keep the memory that it frees, for its next step; whether that could be arranged.

    XLA on CPU takes what a step needs in between as one piece, and frees it after the step. glibc gives large pieces
    back to the system, so each step gets its memory anew, page by page, zeroed: a fifth to a third of the time of a
    step that needs much. With this it is kept until the process ends, as on GPU, and steps of the same size find it.

    To be called once, at the start of a program, before JAX makes its first array: JAX starts threads then, and each
    thread that allocates first has a pool of its own, which this does not reach. It sets `mallopt(3)` for the whole
    process, other libraries included. Nothing takes more memory, but the process stays as large as it once was. Only
    glibc (most of Linux) can be told: elsewhere False is returned, and nothing changes. Memory of a GPU is not meant.

    >>> import fnet
    >>> fnet.keep_memory() in (True, False)
    True
    """
    if os.name != "posix":
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return False
    return all(libc.mallopt(which, value) for which, value in _SETTINGS.values())
