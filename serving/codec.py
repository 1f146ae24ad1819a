"""Image bytes ⇄ uint8 arrays; limits are enforced before anything is decoded."""

from __future__ import annotations

import io
import math
import warnings
import zipfile
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from serving.config import Limits
from serving.errors import ImageError, TooLargeError, UnsupportedError

ImageFormat = Literal["png", "jpeg"]
MEDIA_TYPES: dict[ImageFormat, str] = {name: f"image/{name}" for name in get_args(ImageFormat)}

_READABLE = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_JPEG_QUALITY = 92


def decode(data: bytes, channels: int, limits: Limits) -> NDArray[np.uint8]:
    """One image of `channels` (1 grey, 3 RGB, 4 RGBA) as uint8 [h, w, channels], upright.

    Transparency is laid over white where the model takes no alpha; 16-bit greys keep their high byte.

    Raises:
        TooLargeError: more bytes or pixels than `limits`; nothing was decoded.
        ImageError: not a whole image in a known format.
        UnsupportedError: no image file has that many channels.
    """
    if channels not in _MODES:
        raise UnsupportedError(f"the model takes {channels} channels, which no image file has: use infer")
    if len(data) > limits.bytes:
        raise TooLargeError(f"the image has {len(data)} bytes and the limit is {limits.bytes}")
    if not data:
        raise ImageError("the image is empty: send the bytes of an image file")
    try:
        with warnings.catch_warnings():
            # The limit below is the one that counts; Pillow's own only warns.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=_READABLE) as image:
                if image.width * image.height > limits.pixels:
                    raise TooLargeError(
                        f"the image has {image.width}×{image.height} pixels and the limit is {limits.pixels}"
                    )
                image.load()
                upright = ImageOps.exif_transpose(image)
                pixels = np.asarray(_convert(upright, _MODES[channels]), dtype=np.uint8)
    except TooLargeError:
        raise
    except Image.DecompressionBombError as error:
        raise TooLargeError(f"the image is too large: {error}") from error
    except Exception as error:  # what broken bytes make Pillow raise has no common base
        raise ImageError(
            f"the image cannot be read ({_first_line(error)}): send a whole {', '.join(_READABLE)} file"
        ) from error
    return pixels[:, :, None] if channels == 1 else pixels


def _convert(image: Image.Image, mode: str) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        # Pillow would clip 16-bit greys at 255 instead of scaling them.
        levels = np.clip(np.asarray(image, dtype=np.float64), 0, 65535).astype(np.uint16)
        image = Image.fromarray((levels >> 8).astype(np.uint8))
    if mode != "RGBA" and image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image if image.mode == mode else image.convert(mode)


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    # Pillow names the in-memory buffer by its address, which tells a user nothing.
    return lines[0].split("<_io", maxsplit=1)[0].strip() if lines else type(error).__name__


def encode(image: NDArray[np.uint8], image_format: ImageFormat) -> bytes:
    """The file bytes of `image`, uint8 [h, w, c]; JPEG has no alpha, which is laid over white.

    Raises:
        UnsupportedError: `image` has neither 1, 3 nor 4 channels.
    """
    channels = image.shape[2]
    if channels not in _MODES:
        raise UnsupportedError(f"an image of {channels} channels cannot be written as {image_format}: use infer")
    picture = Image.fromarray(image[:, :, 0] if channels == 1 else image)
    if image_format == "jpeg" and picture.mode == "RGBA":
        picture = _convert(picture, "RGB")
    buffer = io.BytesIO()
    # Level 1 is four times as fast as Pillow's 6 for a file a tenth larger.
    options = {"quality": _JPEG_QUALITY} if image_format == "jpeg" else {"compress_level": 1}
    picture.save(buffer, image_format.upper(), **options)
    return buffer.getvalue()


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
