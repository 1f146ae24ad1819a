"""A file in memory for Pillow that limits what a hostile image file can make it do."""

from __future__ import annotations

import io
import struct

_HEADER_READS = 4096
_BYTES_A_READ = 512
"""An image file has fewer reads for its pixels than one for so many of its bytes, and `_LEAST_READS` more."""
_LEAST_READS = 2**16


_MAX_STRIPS = 2**16
_STRIP_TAGS = (273, 324)  # StripOffsets and TileOffsets of TIFF 6.0


class ImageReader(io.BytesIO):
    """The bytes of an image file, of which Pillow may read only so often as it must for a file that makes sense.

    Pillow reads the parts of a header one by one: the segments of a JPEG, the tags of a TIFF, the bytes of a PPM's
    comments. A file of a few MB can have a million of them.
    """

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self._size = len(content)
        self._reads = _HEADER_READS

    def end_header(self) -> None:
        """Allow the reads of the pixels."""
        self._reads = _LEAST_READS + self._size // _BYTES_A_READ

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next `size` bytes. Raises ValueError if there were too many reads."""
        self._reads -= 1
        if self._reads < 0:
            raise ValueError("it has too many parts")
        return super().read(size)


def check_strips(content: bytes) -> None:
    """Refuse a TIFF of more than `_MAX_STRIPS` strips or tiles, for each of which Pillow makes an object.

    Raises:
        ValueError: it has more.
        struct.error: the file ends in its list of tags.
    """
    order = "<" if content[:2] == b"II" else ">"
    is_big = b"+" in content[2:4]  # BigTIFF
    (start,) = struct.unpack_from(order + ("Q" if is_big else "I"), content, 8 if is_big else 4)
    count_form, entry_form = (order + "Q", order + "HHQQ") if is_big else (order + "H", order + "HHII")
    (count,) = struct.unpack_from(count_form, content, start)
    start += struct.calcsize(count_form)
    for number in range(min(count, _HEADER_READS)):  # Pillow reads no more tags
        tag, _, length, _ = struct.unpack_from(entry_form, content, start + number * struct.calcsize(entry_form))
        if tag in _STRIP_TAGS and length > _MAX_STRIPS:
            raise ValueError(f"it has more than {_MAX_STRIPS} strips")
