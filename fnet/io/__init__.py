"""Files: any pytree in one safe file, a folder of checkpoints from which a run always goes on, models without code.

`save` and `load` write and read the safetensors format; `metadata` reads the note in a file's header; `Checkpoints`
keeps the states of a run; `from_torch` and `to_torch` take and give PyTorch's weights; `export` writes a model that
`load_exported` runs without its code; `FileError` is the one exception for a file that cannot be loaded.

What has to do with PyTorch is loaded when it is asked for: it needs the layers, which loading a file does not.
"""

import importlib
from typing import TYPE_CHECKING, Any

from fnet.io.checkpoints import Checkpoints
from fnet.io.exporting import Exported, export, load_exported
from fnet.io.safetensors import FileError
from fnet.io.saveload import load, metadata, save

if TYPE_CHECKING:
    from fnet.io.pytorch import Parity, compare_with_torch, from_torch, read_torch, to_torch

__all__ = [
    "Checkpoints", "Exported", "FileError", "Parity", "compare_with_torch", "export", "from_torch", "load",
    "load_exported", "metadata", "read_torch", "save", "to_torch",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("fnet.io.pytorch"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
