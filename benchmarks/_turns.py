"""Training steps of two programs, timed in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any


def print_in_turns(pytorch: Callable[[int], Any], fnet: Callable[[int], Any], steps: int) -> None:
    """Print the median time of a step of each, and fnet's ratio to PyTorch's, over 5 rounds of some steps of each.

    A function takes the number of the round, and returns when as many steps are done; round 0 compiles, and is not
    counted.
    """
    times: dict[str, list[float]] = {"PyTorch": [], "fnet": []}
    for number in range(6):
        for name, take in (("PyTorch", pytorch), ("fnet", fnet)):
            begin = time.perf_counter()
            take(number)
            if number:
                times[name].append((time.perf_counter() - begin) / steps * 1e3)
    for name, values in times.items():
        print(f"{name:8} {statistics.median(values):.1f} ms a step ({min(values):.1f} – {max(values):.1f})")
    ratios = [ours / theirs for ours, theirs in zip(times["fnet"], times["PyTorch"], strict=True)]
    print(f"fnet / PyTorch {statistics.median(ratios):.2f}")
