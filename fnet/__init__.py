"""fnet: a functional deep learning framework on JAX.

Models, parameters, optimizers and training runs are plain values; what acts on them are pure functions. This front
door holds what is used daily and loads it on first use, so that `import fnet` itself imports nothing.
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # isort: off
    from fnet import autograd, creation, data, functional, init, inspect, io, lora, metrics, models, nn
    from fnet import optim, parallel, plot, reparam, train, tree
    from fnet.creation import (
        arange, devices, eye, from_numpy, from_torch, full, full_like, linspace, normal, ones, ones_like, permutation,
        rand, rand_like, randint, randn, randn_like, randperm, tensor, to, to_numpy, to_torch, uniform, zeros,
        zeros_like,
    )  # fmt: skip
    from fnet.inspect.layers import summary
    from fnet.io import load, save
    from fnet.memory import keep_memory
    from fnet.train import TrainState
    from fnet.tree import (
        cast, count, diff, get, map_named, merge, named, names, nbytes, optional, overlay, select, split,
    )  # fmt: skip
    # isort: on

__version__ = "0.1.0"

__all__ = [
    "TrainState", "arange", "autograd", "cast", "count", "creation", "data", "devices", "diff", "eye", "from_numpy",
    "from_torch", "full", "full_like", "functional", "get", "init", "inspect", "io", "keep_memory", "linspace",
    "load", "lora", "map_named", "merge", "metrics", "models", "named", "names", "nbytes", "nn", "normal", "ones",
    "ones_like", "optim", "optional", "overlay", "parallel", "permutation", "plot", "rand", "rand_like", "randint",
    "randn", "randn_like", "randperm", "reparam", "save", "select", "split", "summary", "tensor", "to", "to_numpy",
    "to_torch", "train", "tree", "uniform", "zeros", "zeros_like",
]  # fmt: skip

# Where each name is found. No module may have a function's name: importing the module would take its place here.
_HOMES = {
    "creation": "arange devices eye from_numpy from_torch full full_like linspace normal ones ones_like permutation "
                "rand rand_like randint randn randn_like randperm tensor to to_numpy to_torch uniform zeros zeros_like",
    "inspect": "summary",
    "io": "load save",
    "memory": "keep_memory",
    "train": "TrainState",
    "tree": "cast count diff get map_named merge named names nbytes optional overlay select split",
}  # fmt: skip
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names.split()}


# What has another name in PyTorch.
_PYTORCH = {
    "Tensor": "jax.Array", "cat": "jax.numpy.concatenate", "concat": "jax.numpy.concatenate",
    "stack": "jax.numpy.stack", "matmul": "x @ y", "device": "fnet.to(x, device)", "cuda": "fnet.devices()",
    "manual_seed": "key = jax.random.key(seed), given to what is random",
    "no_grad": "nothing: no graph is kept unless jax.grad asks", "compile": "jax.jit", "utils": "fnet.data",
    "float32": "jax.numpy.float32", "int64": "jax.numpy.int32, as JAX has 32 bits unless it is told otherwise",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in __all__:
        instead = f"; in its place is {_PYTORCH[name]}" if name in _PYTORCH else ""
        raise AttributeError(f"module 'fnet' has no attribute {name!r}{instead}", name=name, obj=sys.modules[__name__])
    if name in _HOME_OF:
        value = getattr(importlib.import_module(f"fnet.{_HOME_OF[name]}"), name)
    else:
        value = importlib.import_module(f"fnet.{name}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
