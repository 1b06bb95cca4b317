"""Pooling over windows of the axes between the batch and the channels.

Which axes: as many as a tuple of sizes has, with any axes before them; with a plain number all axes but the first and
the last, so `max_pool(x, 2)` takes (N, ..., C). An example without a batch axis, as `jax.vmap` hands it on, therefore
needs the tuple, or the name with a rank: `max_pool2d(x, 2)`.
"""

from fnet.functional.pooling.adaptive import (
    adaptive_avg_pool,
    adaptive_avg_pool1d,
    adaptive_avg_pool2d,
    adaptive_avg_pool3d,
    adaptive_max_pool,
    adaptive_max_pool1d,
    adaptive_max_pool2d,
    adaptive_max_pool3d,
)
from fnet.functional.pooling.fixed import (
    avg_pool,
    avg_pool1d,
    avg_pool2d,
    avg_pool3d,
    lp_pool,
    lp_pool1d,
    lp_pool2d,
    lp_pool3d,
    max_pool,
    max_pool1d,
    max_pool2d,
    max_pool3d,
)
from fnet.functional.pooling.unpool import max_unpool, max_unpool1d, max_unpool2d, max_unpool3d

__all__ = [
    "adaptive_avg_pool", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool",
    "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d", "avg_pool", "avg_pool1d", "avg_pool2d",
    "avg_pool3d", "lp_pool", "lp_pool1d", "lp_pool2d", "lp_pool3d", "max_pool", "max_pool1d", "max_pool2d",
    "max_pool3d", "max_unpool", "max_unpool1d", "max_unpool2d", "max_unpool3d",
]  # fmt: skip
