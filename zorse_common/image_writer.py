"""Encodes images as files for every stage."""

from __future__ import annotations

import io
import struct
from typing import Literal, get_args

from PIL import Image as Pillow

from zorse_common.images import MODES, ImageError, Pixels, to_mode
from zorse_common.png import encode_png

FileFormat = Literal["png", "jpeg", "webp"]
"""The formats that are written."""
MEDIA_TYPES: dict[FileFormat, str] = {name: f"image/{name}" for name in get_args(FileFormat)}
_JPEG_QUALITY = 92
_LONGEST = {"jpeg": 65_500, "webp": 16_383}
"""The most pixels that a side of an image of a format may have."""
_LONGEST_COMMENT = 65_000
_COMMENT = "Comment"
"""The keyword of a comment in a PNG file (ISO/IEC 15948, section 11.3.4.2)."""


def encode(image: Pixels, file_format: FileFormat = "png", comment: str = "") -> bytes:
    """Encode an image, uint8 [height, width, 1, 3 or 4], as a file: equal pixels give equal bytes.

    PNG and WebP keep every pixel. JPEG has no alpha channel: the image is composited on white. `comment`, in ASCII,
    becomes the text `Comment` of a PNG, and the tag UserComment in the EXIF block of a JPEG or WebP. One that is longer
    than the EXIF block of a JPEG may be is left out.

    Raises:
        ImageError: the array has another shape, or a side is longer than the format allows.
    """
    longest = _LONGEST.get(file_format)
    if longest is not None and max(image.shape) > longest:
        raise ImageError(f"a {file_format.upper()} has at most {longest} pixels a side: write a PNG, or fewer images")
    if image.ndim != 3 or image.shape[2] not in MODES:
        raise ImageError(f"an array of shape {list(image.shape)} cannot be written as {file_format}")
    if len(comment) > _LONGEST_COMMENT:
        comment = ""
    if file_format == "png":
        return encode_png(image, {_COMMENT: comment} if comment else {})
    picture = Pillow.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
    stream = io.BytesIO()
    exif = _exif_comment(comment) if comment else b""
    if file_format == "jpeg":
        picture = to_mode(picture, "L" if picture.mode == "L" else "RGB")
        picture.save(stream, "JPEG", quality=_JPEG_QUALITY, exif=exif)
    else:  # of all settings the fastest one, also among those that change pixels
        picture.save(stream, "WEBP", lossless=True, method=0, quality=0, exif=exif)
    return stream.getvalue()


def _exif_comment(text: str) -> bytes:
    """Return an EXIF block whose only tag is UserComment (EXIF 2.3, section 4.6.5)."""
    exif_ifd, user_comment, long, undefined = 0x8769, 0x9286, 4, 7
    value = b"ASCII\0\0\0" + text.encode("ascii")
    # The header takes 8 bytes, and each directory of one entry 2 + 12 + 4.
    first = struct.pack("<HHHIII", 1, exif_ifd, long, 1, 26, 0)
    second = struct.pack("<HHHIII", 1, user_comment, undefined, len(value), 44, 0)
    return b"Exif\0\0II*\0" + struct.pack("<I", 8) + first + second + value
