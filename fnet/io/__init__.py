"""Files: any pytree in one safe file, a folder of checkpoints from which a run always goes on, models without code.

`save` and `load` write and read the safetensors format; `metadata` reads the note in a file's header; `Checkpoints`
keeps the states of a run; `from_torch` and `to_torch` take and give PyTorch's weights; `export` writes a model that
`load_exported` runs without its code; `FileError` is the one exception for a file that cannot be loaded.
"""

from fnet.io.checkpoints import Checkpoints
from fnet.io.exporting import Exported, export, load_exported
from fnet.io.pytorch import Parity, compare_with_torch, from_torch, read_torch, to_torch
from fnet.io.safetensors import FileError
from fnet.io.saveload import load, metadata, save

__all__ = [
    "Checkpoints", "Exported", "FileError", "Parity", "compare_with_torch", "export", "from_torch", "load",
    "load_exported", "metadata", "read_torch", "save", "to_torch",
]  # fmt: skip
