"""Files and arrays: images are decoded within limits; images, grids, animations and archives are encoded."""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageSequence

from serving.config import Limits
from serving.errors import ImageError, TooLargeError, UnsupportedError
from zorse_common import image_writer, images
from zorse_common.image_writer import FileFormat
from zorse_common.images import MODES, Pixels

GIF, NPY, ZIP, JSON = "image/gif", "application/x-npy", "application/zip", "application/json"
MEDIA_TYPES = (*image_writer.MEDIA_TYPES.values(), GIF, NPY, ZIP, JSON)
"""The media types of files that a verb may answer with."""
_FRAME_MS = 80
_LONGEST_ZIP_COMMENT = 65_535


@dataclass(frozen=True)
class File:
    """The bytes of a file, and one of `MEDIA_TYPES`.

    `facts` say how its content was made, and `headers` are those of the HTTP answer beside the media type.
    """

    content: bytes
    media_type: str
    facts: dict[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)

    def value(self) -> Any:
        """Return the content of the file as an array or a JSON value.

        PNG, JPEG and WebP give uint8 [h, w, c], GIF uint8 [n, h, w, c], NPY its array, and JSON its value. A ZIP gives
        an array [n, h, w, c], or a list if its images have different sizes. Bytes that are not of the media type make
        the format's reader raise its own exception.
        """
        if self.media_type == JSON:
            return json.loads(self.content)
        if self.media_type == NPY:
            return np.load(io.BytesIO(self.content), allow_pickle=False)
        if self.media_type == ZIP:
            with zipfile.ZipFile(io.BytesIO(self.content)) as bundle:
                images = [_member(name, bundle.read(name)) for name in bundle.namelist()]
            return np.stack(images) if len({image.shape for image in images}) == 1 else images
        if self.media_type == GIF:
            with Pillow.open(io.BytesIO(self.content), formats=["GIF"]) as animation:
                frames = ImageSequence.Iterator(animation)
                return np.stack([np.array(frame.convert("RGB"), dtype=np.uint8) for frame in frames])
        return _pixels(self.content)


def check_file(data: bytes, limits: Limits) -> tuple[int, int]:
    """Return the width and height of an image file; nothing is decoded.

    Raises:
        TooLargeError: more bytes or pixels than `limits`.
        ImageError: not an image in a known format.
    """
    _check_bytes(data, limits)
    try:
        width, height = images.read_size(data)
        images.check_pixels(width, height, limits.pixels)
    except images.ImageTooLargeError as error:
        raise TooLargeError(str(error)) from error
    except images.ImageError as error:
        raise ImageError(str(error)) from error
    return width, height


def decode(
    data: bytes,
    channels: int,
    limits: Limits,
    value_range: tuple[float, float] | None = None,
    size: tuple[int, int] | None = None,
) -> NDArray[np.uint8]:
    """Decode one image file to uint8 [h, w, channels], as `zorse_common.images.decode` does.

    Raises:
        TooLargeError: more bytes or pixels than `limits`; nothing was decoded.
        ImageError: not a whole image in a known format.
        UnsupportedError: no image file has that many channels.
    """
    if channels not in MODES:
        raise UnsupportedError(f"the model takes {channels} channels, which no image file has: use infer")
    _check_bytes(data, limits)
    try:
        return images.decode(data, channels, value_range=value_range, max_pixels=limits.pixels, size=size)
    except images.ImageTooLargeError as error:
        raise TooLargeError(str(error)) from error
    except images.ImageError as error:
        raise ImageError(str(error)) from error


def _check_bytes(data: bytes, limits: Limits) -> None:
    if len(data) > limits.bytes:
        raise TooLargeError(f"the image has {len(data)} bytes and the limit is {limits.bytes}")


def encode(image: NDArray[Any], file_format: str, comment: str = "") -> bytes:
    """Return one image [h, w, c] as a file of a format of `image_writer`, or any array as NPY.

    `comment` is as in `image_writer.encode`; NPY has none.

    Raises:
        UnsupportedError: the image is not uint8, or has neither 1, 3 nor 4 channels.
    """
    if file_format == "npy":
        return npy(image)
    if image.dtype != np.uint8:
        raise UnsupportedError(
            f"the images of the model are {image.dtype}, which no image file has: use the format npy, or infer"
        )
    try:
        return image_writer.encode(image, cast(FileFormat, file_format), comment)
    except images.ImageError as error:
        raise UnsupportedError(f"{error}: use the format npy, or infer") from error


def npy(array: NDArray[Any]) -> bytes:
    """Return an array as a NPY file."""
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


def animation(frames: NDArray[Any], comment: str = "") -> bytes:
    """Encode uint8 [n, h, w, 1, 3 or 4] as an endless GIF with 80 ms a frame; alpha is laid over white.

    A frame equal to the one before it prolongs that one.

    Raises:
        UnsupportedError: the images are not uint8, or have neither 1, 3 nor 4 channels.
    """
    first, *others = (images.decode_image(encode(frame, "png"), min(frame.shape[-1], 3)) for frame in frames)
    stream = io.BytesIO()
    first.save(stream, "GIF", save_all=True, append_images=others, duration=_FRAME_MS, loop=0, comment=comment.encode())
    return stream.getvalue()


def grid(images: NDArray[Any], columns: int | None = None) -> NDArray[Any]:
    """Tile images [n, h, w, c] row by row to one image; empty places are black.

    Without `columns` the grid has as many rows as columns, or one row fewer.
    """
    n, height, width, channels = images.shape
    columns = columns or math.isqrt(n - 1) + 1
    rows = -(-n // columns)
    tiles = np.zeros((rows * columns, height, width, channels), dtype=images.dtype)
    tiles[:n] = images
    rowwise = tiles.reshape(rows, columns, height, width, channels).transpose(0, 2, 1, 3, 4)
    return rowwise.reshape(rows * height, columns * width, channels)


def archive(files: Sequence[tuple[str, bytes]], comment: str = "") -> tuple[bytes, str]:
    """Return a ZIP of files of (name, bytes), and its media type. Image files do not shrink again: it is uncompressed.

    A comment that is longer than a ZIP allows is left out.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as bundle:
        bundle.comment = comment.encode() if len(comment) < _LONGEST_ZIP_COMMENT else b""
        for name, content in files:
            # A fixed date, so that equal images give equal bytes.
            bundle.writestr(zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0)), content)
    return buffer.getvalue(), ZIP


def _member(name: str, content: bytes) -> NDArray[Any]:
    return np.load(io.BytesIO(content), allow_pickle=False) if name.endswith(".npy") else _pixels(content)


def _pixels(content: bytes) -> Pixels:
    return images.decode(content, images.read_header(content).channels)
