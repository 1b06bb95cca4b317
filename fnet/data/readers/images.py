"""Datasets of image files: by folder, and from a CSV. They need Pillow (the `image` extra)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..reading import check_index
from ..rng import Rng
from ..transforms.compose import OnSample
from ..transforms.pillow import from_pil, pil
from .tables import read_csv

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp", ".gif")


def read_image(path: str | Path, mode: str = "RGB") -> np.ndarray:
    """Read an image file as uint8 (height, width, channels).

    Args:
        path: the file, of any format that Pillow reads.
        mode: "RGB" for 3 channels, "L" for 1 (grey), "RGBA" for 4: what the image is converted to.

    Pixels are as they are stored: a camera's note of how it was held (EXIF orientation) is not followed, and "RGB" of
    a transparent pixel is the colour beneath.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no image, is damaged, or has values of 16 or 32 bits that are not whole numbers of 0 to
            255: only you know how to scale them. It names the file.

    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Image.new("RGB", (3, 2), (255, 0, 0)).save(Path(folder) / "red.png")
    ...     read_image(Path(folder) / "red.png").shape
    (2, 3, 3)
    """
    Image = pil("reading images")
    try:
        with Image.open(path) as picture:
            deep = np.asarray(picture) if picture.mode.startswith(("I", "F")) else np.zeros(0)
            array = from_pil(picture.convert(mode))
    except FileNotFoundError:
        raise
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, ValueError, …
        raise ValueError(f"{path}: cannot be read as an image, it may be damaged ({error})") from error
    if not np.array_equal(deep, np.clip(deep, 0, 255).round()):
        raise ValueError(
            f"{path}: its values, {deep.dtype} from {deep.min()} to {deep.max()}, do not fit into bytes: read it with "
            "np.asarray(PIL.Image.open(path)) and scale them in a dataset of your own"
        )
    return array


class _Images:
    """Image files with labels: samples are (image, label), through the transforms.

    `get(i, rng)` reads a sample with its own random numbers, which is what DataLoader calls; `dataset[i]` is the sample
    of seed 0 and epoch 0, always the same.
    """

    def __init__(self, paths: list[Path], labels: np.ndarray, transform: Any, target_transform: Any, mode: str) -> None:
        self.paths = paths
        self.labels = labels
        self.mode = mode
        self._change = OnSample(transform, target_transform)

    @property
    def random(self) -> bool:
        """Whether a transform draws random numbers; DataLoader asks."""
        return self._change.random

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        i = check_index(index, len(self))
        return self.get(i, Rng(0, 0, i) if self.random else None)

    def get(self, index: int, rng: Any) -> tuple[Any, Any]:
        """Read one sample, its transforms drawing from rng."""
        i = check_index(index, len(self))
        try:
            return self._change((read_image(self.paths[i], self.mode), self.labels[i]), rng)
        except Exception as error:
            error.add_note(f"in the image {self.paths[i]}")
            raise

    def __repr__(self) -> str:
        about = f"{len(self)} images"
        if getattr(self, "classes", None):
            about += f" of {len(self.classes)} classes"  # type: ignore[attr-defined]
        return f"{type(self).__name__}({about})"


class ImageFolder(_Images):
    """Images in one folder a class: root/cat/1.jpg, root/cat/more/2.png, root/dog/3.jpg, …

    The class names are the folders', sorted, and label k is `classes[k]`; files are sorted by path, so the order is the
    same on every machine. Samples are (uint8 image (height, width, 3), int32 label).

    Args:
        root: the folder of the classes.
        transform: of the image, called as transform(image, rng), or any function of the image.
        target_transform: of the label, likewise.
        mode: what images are converted to: "RGB", or "L" for one grey channel.
        extensions: of the files to take, in any case; others are left aside, hidden files too.

    Attributes:
        classes: the class names; paths: the files; labels: int32 (n,).

    Raises:
        FileNotFoundError: there is no such folder, or a class in it has no image.
        ValueError: a damaged image, when it is read; the message names the file.

    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("dog/1.png", "cat/2.png"):
    ...         (Path(folder) / name).parent.mkdir()
    ...         Image.new("RGB", (4, 4)).save(Path(folder) / name)
    ...     dataset = ImageFolder(folder)
    ...     dataset, dataset.classes, dataset[1][1]
    (ImageFolder(2 images of 2 classes), ('cat', 'dog'), np.int32(1))
    """

    def __init__(
        self,
        root: str | Path,
        transform: Callable[..., Any] | None = None,
        target_transform: Callable[..., Any] | None = None,
        *,
        mode: str = "RGB",
        extensions: Sequence[str] = EXTENSIONS,
    ) -> None:
        root = Path(root).expanduser()
        if not root.is_dir():
            raise FileNotFoundError(f"ImageFolder: {root} is no folder")
        folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
        if not folders:
            raise FileNotFoundError(f"ImageFolder: {root} has no folders; it needs one for each class, with its images")
        endings = tuple(ending.lower() for ending in extensions)
        found = [
            sorted(p for p in folder.rglob("*") if p.suffix.lower() in endings and not p.name.startswith("."))
            for folder in folders
        ]
        empty = [folder.name for folder, paths in zip(folders, found, strict=True) if not paths]
        if empty:
            raise FileNotFoundError(
                f"ImageFolder: no image in the class folder {', '.join(empty)} of {root}; looked for "
                f"{', '.join(endings)}"
            )
        labels = np.repeat(np.arange(len(folders), dtype=np.int32), [len(paths) for paths in found])
        super().__init__([path for paths in found for path in paths], labels, transform, target_transform, mode)
        self.root = root
        self.classes = tuple(folder.name for folder in folders)


class ImageCSV(_Images):
    """Images named in a CSV file with their labels: PyTorch's CustomImageDataset.

    Samples are (uint8 image (height, width, 3), label). Integer labels are int32, floats float32; labels that are text
    become numbers, and `classes` holds the texts, sorted.

    Args:
        annotations: the CSV: a path, with one line of headings (see `header`).
        folder: where the images are; the CSV has paths within it.
        transform: of the image, called as transform(image, rng), or any function of the image.
        target_transform: of the label, likewise.
        image, label: headings of the two columns; by default the first and the second.
        header: whether the first line holds headings.
        mode: what images are converted to: "RGB", or "L" for one grey channel.

    Attributes:
        paths: the files; labels: an array (n,); classes: None unless labels are text.

    Raises:
        FileNotFoundError: the CSV, or the first image that it names, is not there.
        ValueError: the CSV is malformed or lacks a column; a damaged image, when it is read, by name.

    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Image.new("RGB", (4, 4)).save(Path(folder) / "1.png")
    ...     _ = (Path(folder) / "labels.csv").write_text("file,label\\n1.png,9\\n")
    ...     dataset = ImageCSV(Path(folder) / "labels.csv", folder)
    ...     image, label = dataset[0]
    >>> image.shape, label
    ((4, 4, 3), np.int32(9))
    """

    def __init__(
        self,
        annotations: str | Path,
        folder: str | Path,
        transform: Callable[..., Any] | None = None,
        target_transform: Callable[..., Any] | None = None,
        *,
        image: str | None = None,
        label: str | None = None,
        header: bool = True,
        mode: str = "RGB",
    ) -> None:
        folder = Path(folder).expanduser()
        table = read_csv(annotations, header=header, types={image if image is not None else 0: "str"})
        names = list(table)
        if len(names) < 2:
            raise ValueError(f"{annotations}: needs a column of image files and one of labels, has {names}")
        image, label = names[0] if image is None else image, names[1] if label is None else label
        for name in (image, label):
            if name not in table:
                raise ValueError(f"{annotations}: has no column {name!r}; its columns are {', '.join(names)}")
        labels, self.classes = table[label], None
        if labels.dtype == object:
            self.classes = tuple(sorted(set(labels)))
            labels = np.searchsorted(np.array(self.classes), labels.astype(str)).astype(np.int32)
        elif labels.dtype.kind in "if":
            labels = labels.astype(np.int32 if labels.dtype.kind == "i" else np.float32)
        paths = [folder / name for name in table[image]]
        if not paths:
            raise ValueError(f"{annotations}: names no images")
        if not paths[0].is_file():
            raise FileNotFoundError(f"{annotations} names {table[image][0]}, but there is no file {paths[0]}")
        super().__init__(paths, labels, transform, target_transform, mode)
