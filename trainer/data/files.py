"""Image files below a folder or inside a zip."""

from __future__ import annotations

import io
import struct
import threading
import warnings
import zipfile
import zlib
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image as Pillow
from PIL import ImageOps

from trainer.data.base import Image
from trainer.errors import DataError
from zorse_common.storage import Storage

_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif"})
# No others, whatever a file is named: Pillow would start Ghostscript for PostScript.
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
# What zipfile and Pillow raise for torn, encrypted, odd and too large files.
_UNREADABLE = (
    OSError,
    EOFError,
    RuntimeError,
    SyntaxError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
    Pillow.DecompressionBombWarning,
    Pillow.DecompressionBombError,
)


class _FetchError(RuntimeError):
    """A network failed, which says nothing of the image: the worker fails and is replaced."""


class ImageFiles:
    """The image files below a folder or inside a zip, sorted by name; hidden ones are left out.

    Folder and zip may lie on a local disk or at any URI that pyarrow opens, such as `s3://bucket/images.zip`.
    """

    def __init__(self, root: str) -> None:
        """List the files.

        Raises:
            DataError: `root` is missing or damaged, or is a file that is not a zip.
        """
        self.root = root
        self.unreadable: dict[str, str] = {}
        """Why each file that was opened in vain cannot be read."""
        self._local = threading.local()
        # For the whole process: warnings.catch_warnings is not safe in threads.
        warnings.filterwarnings("error", category=Pillow.DecompressionBombWarning)
        self._place = Storage(root)
        try:
            names = _names(self._place)
            self._is_zip = self._place.kind() == "file"
        except _UNREADABLE as error:
            raise DataError(f"{root} cannot be opened ({_reason(error)})") from error
        self.names = sorted(name for name in names if _is_image(PurePosixPath(name)))

    @property
    def skipped(self) -> list[str]:
        """One line for each file that was opened in vain, in the order they were met."""
        # Copied in one go, because threads that decode add to it.
        return [f"skipped {name}: {reason}" for name, reason in self.unreadable.copy().items()]

    def under(self, folder: str) -> list[str]:
        """Names with `folder` among their parents, wherever it lies (a zip may wrap all in one folder)."""
        return [name for name in self.names if folder in PurePosixPath(name).parts[:-1]]

    def open(self, name: str) -> Pillow.Image | None:
        """Decode one image, upright (EXIF), to 8-bit grey (mode L) or colour (RGB); None if that cannot be done.

        16-bit greys keep their high byte, and transparency is laid over white.
        """
        if name in self.unreadable:
            return None
        try:
            content = self._read(name)
            return _to_grey_or_rgb(ImageOps.exif_transpose(Pillow.open(io.BytesIO(content), formats=_FORMATS)))
        except _FetchError:
            raise
        except _UNREADABLE as error:
            self.unreadable[name] = _reason(error)
            return None

    def _read(self, name: str) -> bytes:
        try:
            return self._archive().read(name) if self._is_zip else self._place.read(name)
        except OSError as error:
            if "://" in self.root:
                raise _FetchError(f"{self.root}: {name} cannot be fetched ({_reason(error)})") from error
            raise

    def _archive(self) -> zipfile.ZipFile:
        # A handle per thread: a ZipFile seeks, so two threads must not share one.
        if not hasattr(self._local, "archive"):
            self._local.archive = zipfile.ZipFile(self._place.local or self._place.open_file())
        archive: zipfile.ZipFile = self._local.archive
        return archive


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
        image = files.open(name)
        if image is None:
            raise DataError(f"{root}: {name} cannot be read ({files.unreadable[name]})")
        images[name] = to_array(image, 1 if image.mode == "L" else 3)
    return images


def write_image(path: Path, image: Image) -> None:
    """Write `image`, uint8 [h, w, 1 or 3], as a PNG file; missing folders are made.

    Raises:
        DataError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        Pillow.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(path, "PNG")
    except OSError as error:
        raise DataError(f"{path} cannot be written ({error.strerror or error})") from error


def to_array(image: Pillow.Image, channels: int) -> Image:
    """uint8 [h, w, channels] of an image brought to grey (1) or RGB (3)."""
    array = np.asarray(image.convert("L" if channels == 1 else "RGB"), dtype=np.uint8)
    return array[..., None] if channels == 1 else array


def _names(place: Storage) -> list[str]:
    """The files below the folder or in the zip at `place`."""
    kind = place.kind()
    if kind == "folder":
        return list(place.tree().sizes)
    if kind == "nothing":
        raise DataError(f"{place.uri} does not exist: give the path or URI of a folder or zip of images")
    with place.open_file() as file:
        if file.read(2) != b"PK":
            raise DataError(f"{place.uri} is neither a folder nor a zip file")
        with zipfile.ZipFile(file) as archive:
            return sorted({info.filename for info in archive.infolist() if not info.is_dir()})


def _is_image(name: PurePosixPath) -> bool:
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in name.parts)
    return name.suffix.lower() in _SUFFIXES and not hidden


def _to_grey_or_rgb(image: Pillow.Image) -> Pillow.Image:
    if image.mode == "F":
        raise ValueError("the range of floating-point pixels is unknown")
    if image.mode.startswith("I"):
        # Pillow would clip 16-bit greys at 255 instead of scaling them.
        return Pillow.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
    mode = "L" if image.mode in ("1", "L", "LA") else "RGB"
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Pillow.alpha_composite(Pillow.new("RGBA", rgba.size, "white"), rgba)
    return image.convert(mode)


def _reason(error: Exception) -> str:
    """One line; without the address by which Pillow names a buffer in memory."""
    return " ".join(str(error).split("<_io")[0].split()) or type(error).__name__
