"""Decodes image files for every stage, so that training, export and serving see the same pixels.

A file's format is recognised by its first bytes, never by its name. Limits are checked by the header, before pixels are
decoded. Decoded images are 8-bit and upright.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import UnidentifiedImageError

from zorse_common.errors import ZorseError, one_line
from zorse_common.image_depths import bits_of, deep_values, file_scale, rawmode, stated_range, zero_is_white
from zorse_common.image_formats import FORMATS, SNIFFED_BYTES, image_format
from zorse_common.image_reader import ImageReader, check_strips

Pixels = NDArray[np.uint8]
"""One image: uint8 [height, width, channels]."""
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
"""Pillow's mode of an 8-bit image by its channels."""
MAX_PIXELS = 2**27
"""The default limit of pixels in one image: 134 million, which are 400 MB of decoded RGB."""
_ORIENTATION = 0x0112  # tag of EXIF 2.3
_TRANSPOSITIONS = {
    2: Pillow.Transpose.FLIP_LEFT_RIGHT,
    3: Pillow.Transpose.ROTATE_180,
    4: Pillow.Transpose.FLIP_TOP_BOTTOM,
    5: Pillow.Transpose.TRANSPOSE,
    6: Pillow.Transpose.ROTATE_270,
    7: Pillow.Transpose.TRANSVERSE,
    8: Pillow.Transpose.ROTATE_90,
}

# `decode_image` checks its own limit of pixels. Both settings hold for the whole process, because the alternative,
# `warnings.catch_warnings`, is not thread-safe.
Pillow.MAX_IMAGE_PIXELS = None
warnings.filterwarnings("ignore", category=UserWarning, module="PIL")


class ImageError(ZorseError):
    """The bytes are not a readable image."""


class ImageTooLargeError(ImageError):
    """The image has more pixels than the limit; nothing was decoded."""


@dataclass(frozen=True)
class Header:
    """The facts in an image file's header.

    Sizes are in pixels. `bits` is the depth of one channel: 8, 16 or 32. `mode` is Pillow's name of the kind of pixels,
    such as "RGB", "P" (palette), "CMYK", "I;16" (integers) or "F" (floating point).
    """

    format: str
    width: int
    height: int
    bits: int
    channels: int
    mode: str


def read_header(content: bytes) -> Header:
    """Read the header of an image file without decoding pixels.

    Raises:
        ImageError: the file is in none of `FORMATS`, or its header is broken.
    """
    with open_image(content) as image:
        channels = 1 if image.mode in ("1", "L", "F") or image.mode.startswith("I") else len(image.getbands())
        channels = 3 if image.mode in ("P", "PA") else channels
        return Header(str(image.format), *image.size, bits_of(image), channels, image.mode)


def read_size(content: bytes) -> tuple[int, int]:
    """Return the width and height that an image file states. The rest of a PNG's header is not looked at.

    Raises:
        ImageError: as `read_header`.
    """
    if content[:8] == b"\x89PNG\r\n\x1a\n" and content[12:16] == b"IHDR" and len(content) >= 24:
        return int.from_bytes(content[16:20]), int.from_bytes(content[20:24])
    with open_image(content) as image:
        return image.size


def check_pixels(width: int, height: int, max_pixels: int) -> None:
    """Refuse an image by its size.

    Raises:
        ImageTooLargeError: the image has more than `max_pixels` pixels.
    """
    if width * height > max_pixels:
        raise ImageTooLargeError(f"the image has {width}×{height} pixels and the limit is {max_pixels}: scale it down")


def decode(
    content: bytes,
    channels: int | None = None,
    *,
    value_range: tuple[float, float] | None = None,
    max_pixels: int = MAX_PIXELS,
    size: tuple[int, int] | None = None,
) -> Pixels:
    """Decode an image file to uint8 [height, width, channels].

    With `size` (height, width) the image is resized as for training: both sides, bicubic, whatever the aspect ratio.
    The other arguments and the errors are those of `decode_image`.
    """
    least_side = None if size is None else max(size)
    image = decode_image(content, channels, value_range=value_range, max_pixels=max_pixels, least_side=least_side)
    return to_array(image if size is None else image.resize(size[::-1], Pillow.Resampling.BICUBIC))


def decode_image(
    content: bytes,
    channels: int | None = None,
    *,
    value_range: tuple[float, float] | None = None,
    max_pixels: int = MAX_PIXELS,
    least_side: int | None = None,
) -> Pillow.Image:
    """Decode an image file to an upright 8-bit Pillow image of mode L, RGB or RGBA.

    Of several frames the first is decoded. `channels` is 1 (grey), 3 (RGB) or 4 (RGBA); None is 1 for grey files and 3
    for others. Transparent pixels are composited on white unless there are 4 channels. The EXIF orientation is applied.

    `least_side` is for callers that shrink the image afterwards: a JPEG is then decoded at 1/2, 1/4 or 1/8 of its width
    and height (rounded up), the smallest fraction that leaves both at least `least_side` pixels. That is faster, and
    the decoder averages over the pixels that it leaves out. A JPEG of which a side is under twice `least_side` is
    decoded at its full size, as all other formats are.

    Greys of more than 8 bits are mapped linearly from `value_range` (black, white) to 0..255, rounded and clipped.
    Without `value_range` the file's own statement counts (MinSampleValue and MaxSampleValue or 12-bit samples of a
    TIFF, the maximum of a PGM), or else the range from 0 to the largest integer of the file's depth. Colours of 16
    bits, and greys of 16 bits with alpha, are cut to their high byte, because Pillow reads no more; `value_range`
    applies neither to them nor to 8-bit files.

    Raises:
        ImageTooLargeError: the image has more than `max_pixels` pixels; nothing was decoded.
        ImageError: the file is damaged or in none of `FORMATS`, or has floating-point values without a `value_range`.
    """
    with open_image(content) as image:
        check_pixels(image.width, image.height, max_pixels)
        with image_errors():
            if value_range is not None:
                scale = file_scale(image)
                value_range = value_range[0] / scale, value_range[1] / scale
            _scale_transparency(image)
            if least_side is not None and min(image.size) >= 2 * least_side:
                image.draft(None, (least_side, least_side))
            image.load()
            upright = _upright(image, _to_8_bits(image, value_range))
            grey = upright.mode in ("1", "L", "LA", "La")
            return to_mode(upright, MODES[channels or (1 if grey else 3)])


def check_range(value_range: tuple[float, float] | None) -> tuple[float, float] | None:
    """Return `value_range`, the values of black and white, if it is None or two different finite numbers.

    Raises:
        ValueError: a number is not finite, or the two are equal.
    """
    if value_range is not None and (not all(map(math.isfinite, value_range)) or value_range[0] == value_range[1]):
        low, high = value_range
        raise ValueError(f"black {low:g} and white {high:g} are no value range: give two different finite numbers")
    return value_range


def to_array(image: Pillow.Image) -> Pixels:
    """Return a Pillow image of mode L, RGB or RGBA as uint8 [height, width, channels]."""
    array = np.array(image, dtype=np.uint8)
    return array[:, :, None] if array.ndim == 2 else array


@contextmanager
def image_errors() -> Iterator[None]:
    """Raise the errors of Pillow for broken bytes, which have no common base class, as `ImageError`."""
    try:
        yield
    except (ImageError, MemoryError):
        raise
    except Exception as error:
        raise ImageError(f"the image cannot be read ({one_line(error)}): make or copy the file again") from error


def open_image(content: bytes) -> Pillow.Image:
    """Parse the header and return the image without decoded pixels.

    Raises:
        ImageError: the bytes are empty, of an unknown format, or their header is broken or has too many parts.
    """
    if not content:
        raise ImageError("the image is empty: give the bytes of an image file")
    file_format = image_format(content[:SNIFFED_BYTES])
    if file_format is None:
        raise ImageError(f"the image is not a {', '.join(FORMATS)} file: convert it to one of these")
    reader = ImageReader(content)
    try:
        if file_format == "TIFF":
            check_strips(content)
        image = Pillow.open(reader, formats=(file_format,))
        reader.end_header()
        return image
    except MemoryError:
        raise
    except Exception as error:
        reason = "it is truncated or damaged" if isinstance(error, UnidentifiedImageError) else one_line(error)
        raise ImageError(f"the {file_format} image cannot be read ({reason}): make or copy the file again") from error


def _scale_transparency(image: Pillow.Image) -> None:
    """Convert the transparent value of a PNG from the depth of the file to the 8 bits of the decoded pixels."""
    value, layout = image.info.get("transparency"), rawmode(image)
    if image.format != "PNG" or value is None:
        return
    if isinstance(value, tuple) and layout == "RGB;16B":
        image.info["transparency"] = tuple(sample >> 8 for sample in value)
    elif isinstance(value, int) and layout in ("L;2", "L;4"):
        image.info["transparency"] = value * 255 // (2 ** int(layout[-1]) - 1)


def _to_8_bits(image: Pillow.Image, value_range: tuple[float, float] | None) -> Pillow.Image:
    """Map integers of more than 8 bits and floating-point values to 8-bit grey. Return other images unchanged."""
    if not image.mode.startswith(("I", "F")):
        return image
    values, used_range = deep_values(image), value_range or stated_range(image)
    if used_range is None:
        raise ImageError(
            "the image has floating-point values, whose black and white the file does not say: state its value range"
        )
    low, high = reversed(used_range) if zero_is_white(image) else used_range
    levels = (values.astype(np.float64) - low) * (255 / (high - low))
    if not np.isfinite(levels).all():
        raise ImageError("the image has values that are not finite: write it again without them")
    grey = Pillow.fromarray(np.rint(levels.clip(0, 255)).astype(np.uint8))
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey.putalpha(Pillow.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return grey


def _upright(file: Pillow.Image, image: Pillow.Image) -> Pillow.Image:
    """Apply the EXIF orientation of `file` to `image`. Pillow itself applies that of TIFF files and removes it."""
    method = _TRANSPOSITIONS.get(orientation(file))
    return image if method is None else image.transpose(method)


def orientation(image: Pillow.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 is upright."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # noqa: BLE001  (a broken EXIF block leaves the pixels readable)
        return 1


def to_mode(image: Pillow.Image, mode: str) -> Pillow.Image:
    """Convert to mode L, RGB or RGBA; transparent pixels are composited on white unless the mode is RGBA."""
    if image.mode == "La":
        image = image.convert("LA")
    if mode != "RGBA" and image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Pillow.alpha_composite(Pillow.new("RGBA", rgba.size, "white"), rgba)
    return image if image.mode == mode else image.convert(mode)
