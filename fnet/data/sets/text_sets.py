"""Texts for language models."""

from __future__ import annotations

import os
from pathlib import Path

from ..download import fetch
from ..readers import read_text
from .places import download_folder, not_found, places

_URLS = (
    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
    "https://raw.githubusercontent.com/jcjohnson/torch-rnn/master/data/tiny-shakespeare.txt",
)
_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
_NAMES = ("tinyshakespeare.txt", "tiny-shakespeare.txt", "input.txt")


def tiny_shakespeare(root: str | Path | None = None, download: bool = False) -> tuple[str, str]:
    """Read 1,115,394 characters of Shakespeare: the first 90 % for training, the rest for testing, as nanoGPT has it.

    The file (tinyshakespeare.txt, tiny-shakespeare.txt or input.txt) is taken from `root` or its subfolder
    tiny_shakespeare if root is given; else from $FNET_DATA or its subfolder tiny_shakespeare, then from the cache
    folder ~/.cache/fnet/tiny_shakespeare.

    Args:
        root: a folder to look in, and with download to write to.
        download: fetch the file (1 MB, checked) into root, or into the cache folder.

    Returns:
        (train, test): two texts of 1,003,854 and 111,540 characters.

    Raises:
        FileNotFoundError: the file is in none of the folders; it lists them.
        DownloadError: it could not be downloaded.

    Source: A. Karpathy, char-rnn, 2015; the plays are in the public domain.

    >>> train, test = tiny_shakespeare(download=True)  # doctest: +SKIP
    >>> train[:14]  # doctest: +SKIP
    'First Citizen:'
    """
    name = "tiny_shakespeare"
    folders = places(name, name, root)
    if root is None and os.environ.get("FNET_DATA"):
        folders.insert(0, Path(os.environ["FNET_DATA"]).expanduser())
    candidates = [folder / file for folder in folders for file in _NAMES]
    path = next((path for path in candidates if path.is_file()), None)
    if path is None and download:
        path = fetch(_URLS, download_folder(name, root) / _NAMES[0], _SHA256)
    if path is None:
        raise not_found(name, folders, " or ".join(_NAMES))
    text = read_text(path)
    cut = int(0.9 * len(text))
    return text[:cut], text[cut:]
