"""Files: any pytree in one safe file, and back; a folder of checkpoints from which a run always goes on.

`save` and `load` write and read the safetensors format; `metadata` reads the note in a file's header; `Checkpoints`
keeps the states of a run; `FileError` is the one exception for a file that cannot be loaded.
"""

from fnet.io.checkpoints import Checkpoints
from fnet.io.safetensors import FileError
from fnet.io.saveload import load, metadata, save

__all__ = ["Checkpoints", "FileError", "load", "metadata", "save"]
