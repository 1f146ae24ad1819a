"""Image files below a folder or inside a zip."""

from __future__ import annotations

import io
import threading
import zipfile
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image as Pillow
from PIL import ImageOps, UnidentifiedImageError

from trainer.data.base import Image
from trainer.errors import DataError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif"})
UNREADABLE = (
    OSError,
    UnidentifiedImageError,
    SyntaxError,
    ValueError,
    zipfile.BadZipFile,
    Pillow.DecompressionBombError,
)


class ImageFiles:
    """The image files below a folder or inside a zip, sorted by name."""

    def __init__(self, root: str) -> None:
        """List the files.

        Raises:
            DataError: `root` is missing, or is a file that is not a zip.
        """
        self.root = root
        path = Path(root)
        self._local = threading.local()
        if path.is_dir():
            self._zip = False
            names = [file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()]
        elif path.is_file() and zipfile.is_zipfile(path):
            self._zip = True
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
        elif path.exists():
            raise DataError(f"data.root {root} is neither a folder nor a zip file")
        else:
            raise DataError(f"data.root {root} does not exist: give the path of a folder or zip of images")
        hidden = ("__MACOSX/", ".")
        self.names = sorted(
            name for name in names if PurePosixPath(name).suffix.lower() in SUFFIXES and not name.startswith(hidden)
        )

    def under(self, folder: str) -> list[str]:
        """Names with `folder` among their parents, wherever it lies (a zip may wrap all in one folder)."""
        return [name for name in self.names if folder in PurePosixPath(name).parts[:-1]]

    def open(self, name: str) -> Pillow.Image:
        """Decode one image, upright (EXIF).

        Raises:
            any of `UNREADABLE`: the file cannot be decoded.
        """
        content = self._archive().read(name) if self._zip else (Path(self.root) / name).read_bytes()
        image = Pillow.open(io.BytesIO(content))
        image.load()
        return ImageOps.exif_transpose(image)

    def _archive(self) -> zipfile.ZipFile:
        # A handle per thread: a ZipFile seeks, so two threads must not share one.
        if not hasattr(self._local, "archive"):
            self._local.archive = zipfile.ZipFile(self.root)
        archive: zipfile.ZipFile = self._local.archive
        return archive

    def __getstate__(self) -> dict[str, object]:
        return {key: value for key, value in self.__dict__.items() if key != "_local"}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state, _local=threading.local())


def read_images(root: str) -> dict[str, Image]:
    """Every image of a folder or zip by name: uint8 [h, w, 1] of grey files, [h, w, 3] of others.

    Raises:
        DataError: nothing there, or a file cannot be decoded; the message names it.
    """
    files = ImageFiles(root)
    if not files.names:
        raise DataError(f"{root} holds no images")
    images = {}
    for name in files.names:
        try:
            image = files.open(name)
        except UNREADABLE as error:
            raise DataError(f"{root}: {name} cannot be read ({error})") from error
        images[name] = to_array(image, 1 if image.mode in ("1", "L") else 3)
    return images


def to_array(image: Pillow.Image, channels: int) -> Image:
    """uint8 [h, w, channels] of an image brought to grey (1) or RGB (3)."""
    array = np.asarray(image.convert("L" if channels == 1 else "RGB"), dtype=np.uint8)
    return array[..., None] if channels == 1 else array
