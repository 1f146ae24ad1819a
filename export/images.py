"""Real images for proofs and calibration, from a folder or a zip file."""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from export.errors import ImageSetError
from export.manifest import Tensor
from export.sizes import SizeLimits

_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"})
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def load_images(
    place: str, port: Tensor, limits: SizeLimits, edge: int, domain: str = "", count: int = 8
) -> list[NDArray[Any]]:
    """Up to `count` images below the folder or inside the zip `place`, evenly spaced by name.

    Each is [height, width, channels]. Where there are folders of the `domain` (for A: "A", "testA" or "trainA"), only
    the images of the first of those are taken.

    Where `port` takes bytes of 1, 3 or 4 channels they are image files, each scaled until its longer side is `edge`
    pixels, then to the nearest legal height and width above. Else they are NumPy files (`.npy`, of the port's dtype and
    value range), cut to a legal size from the top left.

    Raises:
        ImageSetError: there are none, or one cannot be read, decoded or used.
    """
    channels = int(port.shape[-1])
    arrays = port.dtype != "uint8" or channels not in _MODES
    suffixes = frozenset({".npy"}) if arrays else _SUFFIXES
    with _opened(Path(place)) as (files, read):
        names = sorted(name for name in files if _is_shown(PurePosixPath(name), suffixes))
        if not names:
            raise ImageSetError(f"{place} holds no images ({', '.join(sorted(suffixes))})")
        for folder in (domain, f"test{domain}", f"train{domain}") if domain else ():
            if inside := [name for name in names if folder in PurePosixPath(name).parts[:-1]]:
                names = inside
                break
        chosen = [names[index * len(names) // min(count, len(names))] for index in range(min(count, len(names)))]
        if arrays:
            return [_array(f"{place}/{name}", read(name), port, limits) for name in chosen]
        return [_decode(f"{place}/{name}", name, read, _MODES[channels], limits, edge) for name in chosen]


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


def _is_shown(name: PurePosixPath, suffixes: Collection[str]) -> bool:
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in name.parts)
    return name.suffix.lower() in suffixes and not hidden


def _array(where: str, content: bytes, port: Tensor, limits: SizeLimits) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ImageSetError(f"{where} cannot be read ({error}): take it away or write it with numpy.save") from error
    if array.ndim != 3 or array.shape[-1] != port.shape[-1] or array.dtype != port.dtype:
        raise ImageSetError(
            f"{where} is {array.dtype} {list(array.shape)} and must be {port.dtype} [height, width, {port.shape[-1]}]"
        )
    assert port.value_range is not None
    if array.size and not (port.value_range[0] <= array.min() and array.max() <= port.value_range[1]):
        raise ImageSetError(f"{where} has values outside {list(port.value_range)}: give the right --value-range")
    height, width = (
        min(edge, axis.maximum) // axis.multiple * axis.multiple
        for edge, axis in zip(array.shape, (limits.height, limits.width), strict=False)
    )
    if height < limits.height.minimum or width < limits.width.minimum:
        raise ImageSetError(f"{where} is {array.shape[1]}×{array.shape[0]} pixels, too small for the network")
    return array[:height, :width]


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
    width, height = (round(side * scale) for side in image.size)
    height, width = limits.legal(height, width)
    pixels = np.array(image.resize((width, height), Image.Resampling.BICUBIC), dtype=np.uint8)
    return pixels.reshape(height, width, -1)
