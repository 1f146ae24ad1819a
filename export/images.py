"""Real images for proofs, from a folder or a zip file."""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Callable
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
        ImageSetError: there are none, one cannot be decoded, or `channels` is not 1, 3 or 4.
    """
    if channels not in _MODES:
        raise ImageSetError(f"{place}: image files have 1, 3 or 4 channels and the network takes {channels}")
    names, read = _open(Path(place))
    names = sorted(name for name in names if _is_image(PurePosixPath(name)))
    if not names:
        raise ImageSetError(f"{place} holds no images ({', '.join(sorted(_SUFFIXES))})")
    return [_decode(f"{place}/{name}", read(name), _MODES[channels], limits, edge) for name in names[:count]]


def _open(path: Path) -> tuple[list[str], Callable[[str], bytes]]:
    if path.is_dir():
        return [file.relative_to(path).as_posix() for file in path.rglob("*")], lambda name: (path / name).read_bytes()
    if path.is_file() and zipfile.is_zipfile(path):
        archive = zipfile.ZipFile(io.BytesIO(path.read_bytes()))
        return archive.namelist(), archive.read
    raise ImageSetError(f"{path} is neither a folder nor a zip file: give a place with real images for the proof")


def _is_image(name: PurePosixPath) -> bool:
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in name.parts)
    return name.suffix.lower() in _SUFFIXES and not hidden


def _decode(where: str, content: bytes, mode: str, limits: SizeLimits, edge: int) -> NDArray[np.uint8]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert(mode)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ImageSetError(f"{where} cannot be decoded ({error}): take it away or repair it") from error
    scale = edge / max(image.size)
    width, height = (limits.legal(round(side * scale)) for side in image.size)
    pixels = np.array(image.resize((width, height), Image.Resampling.BICUBIC), dtype=np.uint8)
    return pixels.reshape(height, width, -1)
