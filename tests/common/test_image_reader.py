"""Image files of too many parts are refused soon, and files of many parts that make sense are read."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from zorse_common.image_reader import ImageReader
from zorse_common.images import ImageError, decode, read_size

PHOTO = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def _file(kind: str, **keys: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(PHOTO).save(stream, kind, **keys)
    return stream.getvalue()


JPEG, PNG = _file("JPEG"), _file("PNG", compress_level=0)


def chunk(kind: bytes, content: bytes = b"") -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def tiff(*tags: tuple[int, int, int, int], after: bytes = b"", big: bool = False) -> bytes:
    """Return a TIFF of (tag, type, count, value), with what follows the tags."""
    entries = b"".join(struct.pack("<HHQQ" if big else "<HHII", *tag) for tag in tags)
    if big:
        return b"II+\0" + struct.pack("<HHQQ", 8, 0, 16, len(tags)) + entries + bytes(8) + after
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + after


def striped(count: int, big: bool = False) -> bytes:
    """Return a grey TIFF of `count` rows, each a strip of its own."""
    start = 16 + 8 + 9 * 20 + 8 if big else 8 + 2 + 9 * 12 + 4
    fields = ((256, 4), (257, count), (258, 8), (259, 1), (262, 1), (277, 1), (278, 1))
    tags = [(tag, 4, 1, value) for tag, value in fields]
    tags[5:5] = [(273, 4, count, start)]
    tags.append((279, 4, count, start + 4 * count))
    return tiff(*tags, after=struct.pack("<I", 4) * count * 2, big=big)


HOSTILE = {
    "JPEG with 100,000 segments": JPEG[:2] + b"\xff\xe1\x00\x02" * 100_000 + JPEG[2:],
    "JPEG with 1,000,000 bytes of padding": JPEG[:2] + b"\xff" * 10**6 + JPEG[2:],
    "PPM with 100,000 comments": b"P6\n" + b"#\n" * 100_000 + b"4 4\n255\n" + bytes(48),
    "PNG with 100,000 texts": PNG[:33] + chunk(b"tEXt") * 100_000 + PNG[33:],
    "PNG with 100,000 empty parts of its pixels": PNG[:33] + chunk(b"IDAT") * 100_000 + PNG[33:],
    "GIF with a comment of 100,000 blocks": b"GIF89a" + bytes(7) + b"!\xfe" + b"\x01a" * 100_000 + bytes(1),
    "TIFF with 60,000 tags": tiff(*((1000 + number, 4, 1, 16) for number in range(60_000))),
    "TIFF with 100,000 strips": striped(100_000),
    "BigTIFF with 100,000 strips": striped(100_000, big=True),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_file_with_too_many_parts_is_refused(name: str) -> None:
    with pytest.raises(ImageError, match=r"it has (too many parts|more than 65536 strips)"):
        decode(HOSTILE[name], 3)


@pytest.mark.parametrize("name", [name for name in HOSTILE if not name.startswith("PNG")])
def test_size_of_a_file_with_too_many_parts_is_refused(name: str) -> None:
    with pytest.raises(ImageError, match=r"it has (too many parts|more than 65536 strips)"):
        read_size(HOSTILE[name])


SOUND: dict[str, Callable[[], bytes]] = {
    "JPEG with 500 segments of 64 KiB": lambda: JPEG[:2] + (b"\xff\xe1\xff\xff" + bytes(65533)) * 500 + JPEG[2:],
    "PPM with a comment of 2,000 letters": lambda: b"P6\n#" + b"a" * 2000 + b"\n64 64\n255\n" + PHOTO.tobytes(),
    "PNG in parts of 8 KiB": lambda: _file("PNG", compress_level=0),
    "TIFF of 10,000 strips": lambda: striped(10_000),
    "BigTIFF of 10,000 strips": lambda: striped(10_000, big=True),
    "GIF": lambda: _file("GIF"),
    "WebP": lambda: _file("WEBP", lossless=True),
}


@pytest.mark.parametrize("name", SOUND)
def test_file_with_many_parts_that_make_sense_is_decoded(name: str) -> None:
    content = SOUND[name]()
    width, height = read_size(content)
    assert decode(content, 3).shape == (height, width, 3)


def test_reader_counts_the_reads_of_the_header_and_of_the_pixels() -> None:
    reader = ImageReader(bytes(2**20))
    for _ in range(4096):
        reader.read(1)
    with pytest.raises(ValueError, match="too many parts"):
        reader.read(1)
    reader.end_header()
    assert len(reader.read()) == 2**20 - 4096
