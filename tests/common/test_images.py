"""The decoder's values, each against arithmetic of its own."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from tests.common.image_files import colours, good
from zorse_common.images import (
    FORMATS,
    SNIFFED_BYTES,
    ImageError,
    ImageTooLargeError,
    decode,
    encode,
    image_format,
    read_header,
)


def _file(values: NDArray[np.generic], kind: str = "PNG", **keys: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, kind, **keys)
    return stream.getvalue()


@pytest.mark.parametrize(("dtype", "top"), [("uint16", 65535), ("int32", 2**31 - 1)])
def test_integers_are_mapped_to_the_nearest_grey_level(dtype: str, top: int) -> None:
    values = np.linspace(0, top, 64).astype(dtype).reshape(8, 8)
    expected = np.floor(values.astype(np.float64) * 255 / top + 0.5)
    np.testing.assert_array_equal(decode(_file(values, "TIFF"))[..., 0], expected)


def test_a_stated_value_range_is_black_and_white_and_cuts_the_rest() -> None:
    values = np.array([[0, 99, 100, 1100, 2100, 2101, 65535]], dtype=np.uint16)
    assert decode(_file(values), value_range=(100, 2100))[0, :, 0].tolist() == [0, 0, 0, 128, 255, 255, 255]
    assert (
        decode(_file((values >> 8).astype(np.uint8)), value_range=(100, 2100)).max() == 255
    )  # 8 bits stay as they are


def test_floating_point_values_need_a_value_range() -> None:
    values = np.array([[-1.0, 0.0, 0.5, 1.0]], dtype=np.float32)
    with pytest.raises(ImageError, match="state its value range"):
        decode(_file(values, "TIFF"))
    assert decode(_file(values, "TIFF"), value_range=(-1, 1))[0, :, 0].tolist() == [0, 128, 191, 255]
    with pytest.raises(ImageError, match="not finite"):
        decode(_file(np.full((2, 2), np.nan, np.float32), "TIFF"), value_range=(0, 1))


def test_white_may_be_zero_in_a_tiff() -> None:
    values = np.array([[0, 65535]], dtype=np.uint16)
    content = bytearray(_file(values, "TIFF"))
    tag = content.index(struct.pack("<HHI", 262, 3, 1))
    content[tag + 8 : tag + 10] = struct.pack("<H", 0)
    assert decode(bytes(content))[0, :, 0].tolist() == [255, 0]


@pytest.mark.parametrize("turn", range(1, 9))
def test_orientation_is_that_of_the_exif_standard(turn: int) -> None:
    exif = Image.Exif()
    exif[0x112] = turn
    photo = _file(colours()[:20], "JPEG", exif=exif)
    with Image.open(io.BytesIO(photo)) as opened:
        np.testing.assert_array_equal(decode(photo), np.asarray(ImageOps.exif_transpose(opened)))


def test_transparency_is_mixed_with_white() -> None:
    rgba = np.dstack([colours(), np.tile(np.arange(32, dtype=np.uint8) * 8, (32, 1))])
    alpha = rgba[..., 3:] / 255
    expected = rgba[..., :3] * alpha + 255 * (1 - alpha)
    assert np.abs(decode(_file(rgba)) - expected).max() <= 1
    np.testing.assert_array_equal(decode(_file(rgba), 4), rgba)


def test_a_transparent_value_of_a_16_bit_grey_is_white() -> None:
    values = np.array([[0, 30000, 65535]], dtype=np.uint16)
    assert decode(_file(values, transparency=0))[0, :, 0].tolist() == [255, 117, 255]


def test_formats_are_known_by_their_first_bytes() -> None:
    found = {name: image_format(content[:SNIFFED_BYTES]) for name, content in good().items()}
    assert set(found.values()) == set(FORMATS)
    assert (found["without_ending"], found["wrong_ending.png"]) == ("JPEG", "JPEG")
    for start in (b"", b"not an image at all", b"%!PS-Adobe-3.0 EPSF", b"P7 pam", b"\0" * 18, b"{}", b"PK\3\4" * 6):
        assert image_format(start) is None


def test_a_header_is_read_without_its_pixels() -> None:
    whole = _file(np.zeros((7, 5), np.uint16))
    header = read_header(whole[:60])
    assert (header.format, header.width, header.height, header.bits, header.channels) == ("PNG", 5, 7, 16, 1)
    with pytest.raises(ImageTooLargeError, match="5×7 pixels and the limit is 34"):
        decode(whole[:60], max_pixels=34)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_png_gives_back_the_pixels_and_always_the_same_bytes(channels: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (9, 7, channels), dtype=np.uint8)
    content = encode(image)
    np.testing.assert_array_equal(decode(content, channels), image)
    assert content == encode(image.copy())


def test_an_array_that_is_no_image_is_not_encoded() -> None:
    for shape in ((4, 4), (4, 4, 2), (1, 4, 4, 3)):
        with pytest.raises(ImageError, match="cannot be written as png"):
            encode(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("kind", [b"P5", b"P2"])
def test_a_value_range_is_in_the_values_of_a_pgm_whatever_its_maximum(kind: bytes) -> None:
    values = [0, 1024, 2048, 4095]
    numbers = np.array(values, ">u2").tobytes() if kind == b"P5" else " ".join(map(str, values)).encode()
    file = kind + b"\n4 1\n4095\n" + numbers
    assert decode(file)[0, :, 0].tolist() == [0, 64, 128, 255]
    assert decode(file, value_range=(0, 4095))[0, :, 0].tolist() == [0, 64, 128, 255]
    assert decode(file, value_range=(1024, 2048))[0, :, 0].tolist() == [0, 0, 255, 255]


def _png(kind: int, bits: int, row: bytes, transparent: bytes, width: int) -> bytes:
    """A PNG file of one row, written by hand as Pillow cannot write it."""
    header = struct.pack(">IIBBBBB", width, 1, bits, kind, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"tRNS", transparent), (b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b""))
    parts = (struct.pack(">I", len(d)) + name + d + struct.pack(">I", zlib.crc32(name + d)) for name, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_a_transparent_value_has_the_depth_of_the_file() -> None:
    colours16 = np.repeat([0, 16384, 32768, 65520], 3).astype(">u2").tobytes()
    file = _png(2, 16, colours16, struct.pack(">HHH", 16384, 16384, 16384), 4)
    assert decode(file, 3)[0, :, 0].tolist() == [0, 255, 128, 255]
    assert decode(_png(0, 4, bytes([0x05, 0xAF]), struct.pack(">H", 10), 4), 1)[0, :, 0].tolist() == [0, 85, 255, 255]
    assert decode(_png(0, 2, bytes([0b00011011]), struct.pack(">H", 1), 4), 1)[0, :, 0].tolist() == [0, 255, 170, 255]
