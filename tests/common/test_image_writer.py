"""Files that are written: their pixels, sizes and comments, read back with Pillow."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from zorse_common.image_writer import FileFormat, encode
from zorse_common.images import ImageError, decode

RNG = np.random.default_rng(0)
COMMENT = '{"model": "digits", "seed": 3}'


def drawing(height: int, width: int, channels: int) -> np.ndarray:
    """Return an image of a few equal rectangles."""
    image = np.zeros((height, width, channels), np.uint8)
    image[height // 4 : height // 2, width // 3 :] = 200
    return image


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_png_round_trip_keeps_pixels_and_bytes(channels: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (9, 7, channels), dtype=np.uint8)
    content = encode(image)
    np.testing.assert_array_equal(decode(content, channels), image)
    assert content == encode(image.copy())


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 9, 1), (9, 1, 4), (64, 48, 3)])
def test_png_of_drawings_and_photographs_is_read_by_pillow(shape: tuple[int, int, int]) -> None:
    for image in (drawing(*shape), RNG.integers(0, 256, shape, dtype=np.uint8), RNG.integers(0, 256, shape[::-1]).T):
        pixels = image.astype(np.uint8)
        with Image.open(io.BytesIO(encode(pixels))) as opened:
            opened.verify()
        np.testing.assert_array_equal(decode(encode(pixels), shape[2]), pixels)


def test_png_of_a_drawing_is_small() -> None:
    image = np.tile(drawing(32, 32, 3), (4, 4, 1))
    assert len(encode(image)) < image.size / 50


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_webp_keeps_every_pixel(channels: int) -> None:
    image = RNG.integers(0, 256, (9, 7, channels), dtype=np.uint8)
    image[..., 3:] = 255  # WebP does not keep the colour of transparent pixels
    np.testing.assert_array_equal(decode(encode(image, "webp"), channels), image)


def test_comments_are_read_by_pillow() -> None:
    image = drawing(8, 8, 3)
    assert Image.open(io.BytesIO(encode(image, "png", COMMENT))).text == {"Comment": COMMENT}  # type: ignore[attr-defined]
    formats: tuple[FileFormat, ...] = ("jpeg", "webp")
    for file_format in formats:
        content = encode(image, file_format, COMMENT)
        exif = Image.open(io.BytesIO(content)).getexif().get_ifd(0x8769)
        assert exif == {0x9286: b"ASCII\0\0\0" + COMMENT.encode()}
        np.testing.assert_array_equal(decode(content), decode(encode(image, file_format)))
        assert encode(image, file_format, "x" * 65_001) == encode(image, file_format)
    assert not Image.open(io.BytesIO(encode(image, "jpeg"))).getexif()


def test_encode_refuses_arrays_of_other_shapes() -> None:
    for shape in ((4, 4), (4, 4, 2), (1, 4, 4, 3)):
        with pytest.raises(ImageError, match="cannot be written as png"):
            encode(np.zeros(shape, np.uint8))


def test_encode_refuses_a_jpeg_that_is_too_wide() -> None:
    strip = np.zeros((1, 65_501, 1), np.uint8)
    assert encode(strip)[:4] == b"\x89PNG"
    with pytest.raises(ImageError, match="a JPEG has at most 65500 pixels a side"):
        encode(strip, "jpeg")
    with pytest.raises(ImageError, match="a WEBP has at most 16383 pixels a side"):
        encode(strip, "webp")
