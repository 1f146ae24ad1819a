"""Lists the image file formats that zorse reads, and recognises a file's format by its first bytes."""

from __future__ import annotations

import struct

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "TGA")
"""The formats that zorse reads. Pillow reads more formats, but starts Ghostscript for PostScript."""
SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
    | {".ppm", ".pgm", ".pbm", ".pnm", ".tga"}
)
"""The usual suffixes of their file names, in lower case."""
SNIFFED_BYTES = 18
"""How many bytes of a file's start `image_format` needs."""
_MAGIC = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"BM": "BMP",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"II*\x00": "TIFF",
    b"MM\x00*": "TIFF",
    b"II+\x00": "TIFF",
    b"MM\x00+": "TIFF",
}


def image_format(start: bytes) -> str | None:
    """Return the format, one of `FORMATS`, of a file whose first `SNIFFED_BYTES` are `start`, or None."""
    for prefix, name in _MAGIC.items():
        if start.startswith(prefix):
            return name
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "WEBP"
    if start[:1] == b"P" and start[1:2] in b"123456" and start[2:3].isspace():
        return "PPM"
    return "TGA" if _is_tga(start) else None


def _is_tga(start: bytes) -> bool:
    """Return whether `start` is a plausible TGA header; the format has no magic number."""
    if len(start) < SNIFFED_BYTES:
        return False
    fields = struct.unpack("<BBBHHBHHHHBB", start[:SNIFFED_BYTES])
    _, has_palette, kind, _, palette_size, palette_bits, _, _, width, height, bits, _ = fields
    palette = palette_size > 0 and palette_bits in (15, 16, 24, 32) if has_palette else palette_size == 0
    known = has_palette in (0, 1) and kind in (1, 2, 3, 9, 10, 11) and bits in (8, 16, 24, 32)
    return known and palette and width > 0 and height > 0
