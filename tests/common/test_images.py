"""The pixels of the image decoder, compared with independent arithmetic."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from tests.common.image_files import GREY, RGB, colours, good, raw_png
from zorse_common.image_formats import FORMATS, SNIFFED_BYTES, image_format
from zorse_common.image_writer import encode
from zorse_common.images import (
    ImageError,
    ImageTooLargeError,
    decode,
    decode_image,
    read_header,
    read_size,
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


def test_value_range_maps_to_black_and_white_and_clips_the_rest() -> None:
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


def test_tiff_may_define_zero_as_white() -> None:
    values = np.array([[0, 65535]], dtype=np.uint16)
    content = bytearray(_file(values, "TIFF"))
    tag = content.index(struct.pack("<HHI", 262, 3, 1))
    content[tag + 8 : tag + 10] = struct.pack("<H", 0)
    assert decode(bytes(content))[0, :, 0].tolist() == [255, 0]


@pytest.mark.parametrize("turn", range(1, 9))
def test_orientation_follows_the_exif_standard(turn: int) -> None:
    exif = Image.Exif()
    exif[0x112] = turn
    photo = _file(colours()[:20], "JPEG", exif=exif)
    with Image.open(io.BytesIO(photo)) as opened:
        np.testing.assert_array_equal(decode(photo), np.asarray(ImageOps.exif_transpose(opened)))


def test_transparency_is_composited_on_white() -> None:
    rgba = np.dstack([colours(), np.tile(np.arange(32, dtype=np.uint8) * 8, (32, 1))])
    alpha = rgba[..., 3:] / 255
    expected = rgba[..., :3] * alpha + 255 * (1 - alpha)
    assert np.abs(decode(_file(rgba)) - expected).max() <= 1
    np.testing.assert_array_equal(decode(_file(rgba), 4), rgba)


def test_transparent_value_of_a_16_bit_grey_is_white() -> None:
    values = np.array([[0, 30000, 65535]], dtype=np.uint16)
    assert decode(_file(values, transparency=0))[0, :, 0].tolist() == [255, 117, 255]


def test_formats_are_recognised_by_their_first_bytes() -> None:
    formats = {name: image_format(content[:SNIFFED_BYTES]) for name, content in good().items()}
    assert set(formats.values()) == set(FORMATS)
    assert (formats["without_ending"], formats["wrong_ending.png"]) == ("JPEG", "JPEG")
    for start in (b"", b"not an image at all", b"%!PS-Adobe-3.0 EPSF", b"P7 pam", b"\0" * 18, b"{}", b"PK\3\4" * 6):
        assert image_format(start) is None


def test_header_is_read_without_pixels() -> None:
    whole = _file(np.zeros((7, 5), np.uint16))
    header = read_header(whole[:60])
    assert (header.format, header.width, header.height, header.bits, header.channels) == ("PNG", 5, 7, 16, 1)
    assert read_size(whole[:60]) == (5, 7)
    with pytest.raises(ImageTooLargeError, match="5×7 pixels and the limit is 34"):
        decode(whole[:60], max_pixels=34)


@pytest.mark.parametrize("kind", [b"P5", b"P2"])
def test_value_range_of_a_pgm_is_in_the_values_of_the_file(kind: bytes) -> None:
    values = [0, 1024, 2048, 4095]
    numbers = np.array(values, ">u2").tobytes() if kind == b"P5" else " ".join(map(str, values)).encode()
    file = kind + b"\n4 1\n4095\n" + numbers
    assert decode(file)[0, :, 0].tolist() == [0, 64, 128, 255]
    assert decode(file, value_range=(0, 4095))[0, :, 0].tolist() == [0, 64, 128, 255]
    assert decode(file, value_range=(1024, 2048))[0, :, 0].tolist() == [0, 0, 255, 255]


def test_transparent_value_has_the_depth_of_the_file() -> None:
    colours16 = np.repeat([0, 16384, 32768, 65520], 3).astype(">u2").tobytes()
    colour_file = raw_png(4, 1, 16, RGB, [colours16], struct.pack(">HHH", 16384, 16384, 16384))
    assert decode(colour_file, 3)[0, :, 0].tolist() == [0, 255, 128, 255]
    four_bits = raw_png(4, 1, 4, GREY, [bytes([0x05, 0xAF])], struct.pack(">H", 10))
    assert decode(four_bits, 1)[0, :, 0].tolist() == [0, 85, 255, 255]
    two_bits = raw_png(4, 1, 2, GREY, [bytes([0b00011011])], struct.pack(">H", 1))
    assert decode(two_bits, 1)[0, :, 0].tolist() == [0, 255, 170, 255]


def _photo(width: int, height: int, mode: str = "RGB", orientation: int = 1) -> bytes:
    """Return a JPEG of a smooth picture with some noise, its pixels stored in `orientation`."""
    picture = Image.fromarray(colours()).resize((width, height), Image.Resampling.BICUBIC)
    noise = np.random.default_rng(0).normal(0, 4, (height, width, 3))
    noisy = Image.fromarray((np.asarray(picture) + noise).clip(0, 255).astype(np.uint8))
    exif = Image.Exif()
    exif[0x112] = orientation
    stream = io.BytesIO()
    noisy.convert(mode).save(stream, "JPEG", quality=92, exif=exif)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("size", "decoded"),
    [
        ((512, 256), (256, 128)),
        ((520, 300), (260, 150)),
        ((1000, 601), (250, 151)),
        ((2048, 1024), (256, 128)),
        ((2048, 2048), (256, 256)),
        ((5000, 1024), (625, 128)),
    ],
)
def test_large_jpeg_is_decoded_at_a_fraction_that_leaves_the_least_side(
    size: tuple[int, int], decoded: tuple[int, int]
) -> None:
    photo = _photo(*size)
    small = decode_image(photo, 3, least_side=128)
    assert small.size == decoded
    assert min(small.size) >= 128
    whole = decode_image(photo, 3).resize(decoded, Image.Resampling.BOX)
    difference = np.abs(np.asarray(whole).astype(int) - np.asarray(small))
    # The fraction averages blocks of pixels, save for the rounding of its integer cosine transform and the colour
    # channels, which are stored at half the size.
    assert difference.mean() < 1.5
    assert np.quantile(difference, 0.999) <= 8


@pytest.mark.parametrize("size", [(255, 255), (255, 1000), (200, 130), (128, 128), (64, 64)])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpeg_under_twice_the_least_side_is_decoded_to_the_same_bits(size: tuple[int, int], mode: str) -> None:
    photo = _photo(*size, mode=mode)
    np.testing.assert_array_equal(decode_image(photo, 3, least_side=128), decode_image(photo, 3))


@pytest.mark.parametrize("name", good())
def test_small_files_of_all_kinds_are_decoded_to_the_same_bits_with_a_least_side(name: str) -> None:
    content = good()[name]
    np.testing.assert_array_equal(decode_image(content, 3, least_side=17), decode_image(content, 3))


def test_png_is_decoded_whole_whatever_the_least_side() -> None:
    content = encode(np.zeros((64, 64, 3), np.uint8))
    assert decode_image(content, 3, least_side=8).size == (64, 64)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_jpeg_decoded_at_a_fraction_is_upright_in_every_mode(mode: str, orientation: int) -> None:
    small = decode_image(_photo(512, 300, mode, orientation), least_side=128)
    assert small.size == ((150, 256) if orientation == 6 else (256, 150))
    assert small.mode == ("L" if mode == "L" else "RGB")


def test_pixel_limit_is_that_of_the_whole_file_whatever_is_decoded() -> None:
    with pytest.raises(ImageTooLargeError, match="512×512 pixels and the limit is 10000"):
        decode_image(_photo(512, 512), 3, max_pixels=10_000, least_side=64)


@pytest.mark.parametrize("name", good())
def test_size_is_that_of_the_header(name: str) -> None:
    header = read_header(good()[name])
    assert read_size(good()[name]) == (header.width, header.height)


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0"])
def test_size_of_what_is_no_image_is_refused(content: bytes) -> None:
    with pytest.raises(ImageError):
        read_size(content)
