from __future__ import annotations

import io
import struct
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from serving import codec
from serving.config import Limits
from serving.errors import ImageError, TooLargeError, UnsupportedError

LIMITS = Limits()
RNG = np.random.default_rng(0)
# Turned by 90°, and "hello" is its horizontal resolution: Pillow raises a TypeError.
EXIF_WITH_A_WORD_FOR_A_NUMBER = (
    b"Exif\0\0MM\0*\0\0\0\x08\0\x02\x01\x1a\0\x02\0\0\0\x06\0\0\0&\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0hello\0"
)


def file_of(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_png_round_trip_is_exact(channels: int) -> None:
    image = RNG.integers(0, 256, (7, 5, channels), dtype=np.uint8)
    np.testing.assert_array_equal(codec.decode(codec.encode(image, "png"), channels, LIMITS), image)


def test_jpeg_is_a_jpeg_near_the_image_and_lays_alpha_over_white() -> None:
    image = np.zeros((16, 16, 4), dtype=np.uint8)
    data = codec.encode(image, "jpeg")
    assert Image.open(io.BytesIO(data)).format == "JPEG"
    assert codec.decode(data, 3, LIMITS).min() >= 250


@pytest.mark.parametrize(
    ("image", "kind"),
    [
        (Image.new("CMYK", (4, 3), (0, 255, 255, 0)), "JPEG"),
        (Image.new("P", (4, 3), 1), "PNG"),
        (Image.new("P", (4, 3), 1), "GIF"),
        (Image.new("L", (4, 3), 77), "BMP"),
        (Image.new("1", (4, 3), 1), "PNG"),
        (Image.new("LA", (4, 3), (10, 128)), "PNG"),
        (Image.new("RGBA", (4, 3), (10, 20, 30, 128)), "WEBP"),
        (Image.new("I;16", (4, 3), 40000), "PNG"),
    ],
)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_decode_converts_every_mode_to_the_models_channels(image: Image.Image, kind: str, channels: int) -> None:
    decoded = codec.decode(file_of(image, kind), channels, LIMITS)
    assert decoded.shape == (3, 4, channels)
    assert decoded.dtype == np.uint8


def test_decode_keeps_the_colour_of_cmyk() -> None:
    red = codec.decode(file_of(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"), 3, LIMITS)
    assert np.abs(red.astype(int) - [255, 0, 0]).max() <= 8


def test_decode_scales_sixteen_bit_greys() -> None:
    ramp = Image.fromarray(np.array([[0, 256, 40000, 65535]], dtype=np.uint16))
    assert codec.decode(file_of(ramp), 1, LIMITS)[0, :, 0].tolist() == [0, 1, 156, 255]


def test_decode_lays_transparency_over_white() -> None:
    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    palette.putpixel((1, 0), 1)
    decoded = codec.decode(file_of(palette, transparency=0), 3, LIMITS)
    assert decoded[0].tolist() == [[255, 255, 255], [255, 0, 0]]
    half = Image.new("RGBA", (1, 1), (0, 0, 0, 0))
    assert codec.decode(file_of(half), 1, LIMITS)[0, 0, 0] == 255


def test_decode_applies_the_exif_orientation() -> None:
    image = Image.new("RGB", (6, 4))
    exif = Image.Exif()
    exif[0x0112] = 6
    assert codec.decode(file_of(image, "JPEG", exif=exif), 3, LIMITS).shape == (6, 4, 3)


def test_decode_refuses_too_many_bytes() -> None:
    with pytest.raises(TooLargeError, match="11 bytes and the limit is 10"):
        codec.decode(b"x" * 11, 3, Limits(bytes=10))


def test_decode_refuses_too_many_pixels_from_the_header() -> None:
    # The header claims 5000 × 5000 and nothing follows: decoding it would fail in another way.
    header = struct.pack(">IIBBBBB", 5000, 5000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    data += struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    with pytest.raises(TooLargeError, match="5000×5000 pixels"):
        codec.decode(data, 3, LIMITS)


def test_decode_refuses_a_decompression_bomb() -> None:
    bomb = file_of(Image.new("1", (20000, 20000)))
    assert len(bomb) < 100_000
    with pytest.raises(TooLargeError):
        codec.decode(bomb, 3, LIMITS)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF"])
def test_decode_reports_every_truncation_in_one_line(kind: str) -> None:
    noise = Image.fromarray(RNG.integers(0, 256, (24, 24, 3), dtype=np.uint8))
    data = file_of(noise, kind)
    for stop in range(0, len(data) - 40, 37):
        with pytest.raises(ImageError) as caught:
            codec.decode(data[:stop], 3, LIMITS)
        assert "\n" not in str(caught.value)


def test_decode_accepts_exif_that_pillow_cannot_write() -> None:
    photo = file_of(Image.new("RGB", (6, 4)), "JPEG", exif=EXIF_WITH_A_WORD_FOR_A_NUMBER)
    assert codec.decode(photo, 3, LIMITS).shape == (6, 4, 3)
    cut_off = file_of(Image.new("RGB", (6, 4)), "PNG", exif=b"Exif\0\0II*\0")
    assert codec.decode(cut_off, 3, LIMITS).shape == (4, 6, 3)


@pytest.mark.parametrize("data", [b"", b"hello", b"<svg/>", b"%PDF-1.7", b"II*\x00" + b"\0" * 50])
def test_decode_refuses_other_files(data: bytes) -> None:
    with pytest.raises(ImageError):
        codec.decode(data, 3, LIMITS)


def test_codec_refuses_channels_that_no_file_has() -> None:
    with pytest.raises(UnsupportedError, match="2 channels"):
        codec.decode(b"x", 2, LIMITS)
    with pytest.raises(UnsupportedError, match=r"\[1, 1, 2\] cannot be written as png"):
        codec.encode(np.zeros((1, 1, 2), dtype=np.uint8), "png")


@pytest.mark.parametrize(("n", "rows", "columns"), [(1, 1, 1), (2, 1, 2), (3, 2, 2), (5, 2, 3), (16, 4, 4), (17, 4, 5)])
def test_grid_is_as_square_as_possible(n: int, rows: int, columns: int) -> None:
    images = np.arange(1, n + 1, dtype=np.uint8)[:, None, None, None] * np.ones((n, 2, 3, 1), dtype=np.uint8)
    tiled = codec.grid(images)
    assert tiled.shape == (rows * 2, columns * 3, 1)
    places = tiled[::2, ::3, 0].ravel()
    assert places.tolist() == [*range(1, n + 1), *[0] * (rows * columns - n)]


def test_archive_contains_the_files_and_is_reproducible() -> None:
    files = [("a.png", b"one"), ("b.png", b"two")]
    data, media_type = codec.archive(files, "made by hand")
    assert (data, media_type) == codec.archive(files, "made by hand")
    with zipfile.ZipFile(io.BytesIO(data)) as bundle:
        assert [(name, bundle.read(name)) for name in bundle.namelist()] == files
        assert bundle.comment == b"made by hand"
