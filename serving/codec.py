"""Image bytes ⇄ uint8 arrays within a request's limits; grids and archives of images."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from serving.config import Limits
from serving.errors import ImageError, TooLargeError, UnsupportedError
from zorse_common import images
from zorse_common.images import MEDIA_TYPES, MODES, FileFormat

__all__ = ["MEDIA_TYPES", "archive", "decode", "encode", "grid"]


def decode(
    data: bytes, channels: int, limits: Limits, value_range: tuple[float, float] | None = None
) -> NDArray[np.uint8]:
    """Decode one image file to uint8 [h, w, channels], as `zorse_common.images.decode_image` does.

    Raises:
        TooLargeError: more bytes or pixels than `limits`; nothing was decoded.
        ImageError: not a whole image in a known format.
        UnsupportedError: no image file has that many channels.
    """
    if channels not in MODES:
        raise UnsupportedError(f"the model takes {channels} channels, which no image file has: use infer")
    if len(data) > limits.bytes:
        raise TooLargeError(f"the image has {len(data)} bytes and the limit is {limits.bytes}")
    try:
        return images.decode(data, channels, value_range=value_range, max_pixels=limits.pixels)
    except images.ImageTooLargeError as error:
        raise TooLargeError(str(error)) from error
    except images.ImageError as error:
        raise ImageError(str(error)) from error


def encode(image: NDArray[np.uint8], file_format: FileFormat) -> bytes:
    """Return the file bytes of `image`, uint8 [h, w, c], as `zorse_common.images.encode` does.

    Raises:
        UnsupportedError: `image` has neither 1, 3 nor 4 channels.
    """
    try:
        return images.encode(image, file_format)
    except images.ImageError as error:
        raise UnsupportedError(f"{error}: use infer") from error


def grid(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Tile uint8 [n, h, w, c] row by row to one image, as near to square as can be; empty places are black."""
    n, height, width, channels = images.shape
    columns = math.isqrt(n - 1) + 1
    rows = -(-n // columns)
    tiles = np.zeros((rows * columns, height, width, channels), dtype=np.uint8)
    tiles[:n] = images
    rowwise = tiles.reshape(rows, columns, height, width, channels).transpose(0, 2, 1, 3, 4)
    return rowwise.reshape(rows * height, columns * width, channels)


def archive(files: Sequence[tuple[str, bytes]]) -> bytes:
    """A ZIP of (name, bytes), stored: image files do not shrink again."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as bundle:
        for name, content in files:
            # A fixed date, so that equal images give equal bytes.
            bundle.writestr(zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0)), content)
    return buffer.getvalue()
