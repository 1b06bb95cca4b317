"""Files: any pytree in one safe file, and back.

`save` and `load` write and read the safetensors format; `metadata` reads the note in a file's header; `FileError` is
the one exception for a file that cannot be loaded.
"""

from fnet.io.safetensors import FileError
from fnet.io.saveload import load, metadata, save

__all__ = ["FileError", "load", "metadata", "save"]
