"""What `import fnet` costs beside `import jax`, each in a fresh process, in turn; medians and their ratio.

`import fnet` loads nothing until a name is used; "fnet in use" imports the parts of a training program too.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

PROGRAMS = {
    "import jax": "import jax",
    "import jax, fnet": "import jax, fnet",
    "import fnet": "import fnet",
    "fnet in use": "import jax; from fnet import data, functional, io, nn, optim, train",
}


def main() -> None:
    times: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    for round_number in range(12):
        for name, code in PROGRAMS.items():
            begin = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True)
            if round_number:  # the first fills the caches of the disk
                times[name].append(time.perf_counter() - begin)
    base = times["import jax"]
    for name, values in times.items():
        ratio = statistics.median(a / b for a, b in zip(values, base, strict=True))
        print(f"{name:18} {statistics.median(values):6.3f} s   {ratio:5.3f} of import jax")


if __name__ == "__main__":
    main()
