"""Real images for proofs, from a folder or a zip file."""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from export.errors import ImageSetError
from export.manifest import SizeLimits

_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"})
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def load_images(place: str, channels: int, limits: SizeLimits, edge: int, count: int = 8) -> list[NDArray[np.uint8]]:
    """The first `count` images by name below the folder or inside the zip `place`: uint8 [height, width, channels].

    Each is scaled until its longer side is `edge` pixels, then to the nearest legal height and width above.

    Raises:
        ImageSetError: there are none, one cannot be read or decoded, or `channels` is not 1, 3 or 4.
    """
    if channels not in _MODES:
        raise ImageSetError(f"{place}: image files have 1, 3 or 4 channels and the network takes {channels}")
    with _opened(Path(place)) as (files, read):
        names = sorted(name for name in files if _is_image(PurePosixPath(name)))
        if not names:
            raise ImageSetError(f"{place} holds no images ({', '.join(sorted(_SUFFIXES))})")
        return [_decode(f"{place}/{name}", name, read, _MODES[channels], limits, edge) for name in names[:count]]


@contextmanager
def _opened(path: Path) -> Iterator[tuple[list[str], Callable[[str], bytes]]]:
    """The names of the files in a folder or zip, and what reads one of them."""
    if path.is_dir():
        names = [file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()]
        yield names, lambda name: (path / name).read_bytes()
    elif path.is_file() and zipfile.is_zipfile(path):
        with _archive(path) as archive:
            yield [entry.filename for entry in archive.infolist() if not entry.is_dir()], archive.read
    else:
        raise ImageSetError(f"{path} is neither a folder nor a zip file: give a place with real images for the proof")


def _archive(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except Exception as error:
        raise ImageSetError(f"{path} is a zip file that cannot be read ({error}): make it again") from error


def _is_image(name: PurePosixPath) -> bool:
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in name.parts)
    return name.suffix.lower() in _SUFFIXES and not hidden


def _decode(
    where: str, name: str, read: Callable[[str], bytes], mode: str, limits: SizeLimits, edge: int
) -> NDArray[np.uint8]:
    """The file `name` as uint8 [height, width, channels]."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = ImageOps.exif_transpose(Image.open(io.BytesIO(read(name)))).convert(mode)
    except Exception as error:  # what broken bytes make Pillow and zipfile raise has no common base
        raise ImageSetError(f"{where} cannot be decoded ({error}): take it away or repair it") from error
    scale = edge / max(image.size)
    width, height = (limits.legal(round(side * scale)) for side in image.size)
    pixels = np.array(image.resize((width, height), Image.Resampling.BICUBIC), dtype=np.uint8)
    return pixels.reshape(height, width, -1)
