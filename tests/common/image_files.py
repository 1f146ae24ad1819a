"""Makes image files of all kinds for tests: good, unusual, damaged and hostile.

Good ones have 32 × 32 pixels, so that no stage resizes them.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

SIDE = 32


def colours() -> NDArray[np.uint8]:
    """Return smooth colours with some noise: uint8 [32, 32, 3]."""
    y, x = np.mgrid[:SIDE, :SIDE]
    noise = np.random.default_rng(0).integers(0, 40, (SIDE, SIDE, 3))
    return (np.stack([x * 6, y * 6, (x + y) * 3], -1) + noise).astype(np.uint8)


def _bytes(image: Image.Image, kind: str, **keys: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **keys)
    return stream.getvalue()


def _greys(top: int, dtype: str) -> Image.Image:
    """Return a grey image of values from 0 to `top`."""
    grey = np.asarray(Image.fromarray(colours()).convert("L"), dtype=np.float64)
    return Image.fromarray(np.rint((grey - grey.min()) / np.ptp(grey) * top).astype(dtype))


def _exif(*tags: tuple[int, object]) -> Image.Exif:
    exif = Image.Exif()
    for tag, value in tags:
        exif[tag] = value
    return exif


def _odd_exif(tag: int, kind: int, value: bytes) -> bytes:
    """Return an EXIF block with orientation 6 and a tag that Pillow reads but cannot write again."""
    entries = struct.pack("<HHII", 0x112, 3, 1, 6)
    inline = len(value) <= 4
    entries += struct.pack("<HHI", tag, kind, 1) + (value.ljust(4, b"\0") if inline else struct.pack("<I", 38))
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + entries + b"\0\0\0\0" + (b"" if inline else value)


GREY, RGB = 0, 2
"""Colour types of PNG."""


def raw_png(
    width: int, height: int, bits: int, colour_type: int, rows: Iterable[bytes], transparent: bytes = b""
) -> bytes:
    """Return a PNG file of `rows` of packed big-endian samples, for depths that Pillow does not write.

    `transparent` is the content of the chunk tRNS: the transparent grey or colour in 16-bit samples.
    """
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    unfiltered = b"".join(b"\0" + row for row in rows)  # filter 0: the samples themselves
    chunks = [(b"IHDR", header), (b"tRNS", transparent), (b"IDAT", zlib.compress(unfiltered)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in chunks
        if content or name != b"tRNS"
    )


def _hidden_colour() -> Image.Image:
    """Return colours whose alpha is 0 in the upper part and 128 in the middle."""
    rgba = np.dstack([colours(), np.full((SIDE, SIDE), 255, np.uint8)])
    rgba[:8] = (0, 255, 0, 0)
    rgba[8:16, :, 3] = 128
    return Image.fromarray(rgba)


def _lab(image: Image.Image) -> Image.Image:
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    converted = ImageCms.applyTransform(image, ImageCms.buildTransform(*profiles, "RGB", "LAB"))
    assert converted is not None
    return converted


def good() -> dict[str, bytes]:
    """Return files that can be read: name → content."""
    rgb = Image.fromarray(colours())
    grey = rgb.convert("L")
    files = {f"png_{mode}.png": _bytes(rgb.convert(mode), "PNG") for mode in ("1", "L", "LA", "P", "RGB", "RGBA")}
    files |= {f"jpeg_{mode}.jpg": _bytes(rgb.convert(mode), "JPEG") for mode in ("L", "RGB", "CMYK")}
    files |= {
        f"tiff_{mode}.tif": _bytes(rgb.convert(mode), "TIFF") for mode in ("1", "P", "RGB", "RGBA", "CMYK", "YCbCr")
    }
    files |= {f"gif_{mode}.gif": _bytes(rgb.convert(mode), "GIF") for mode in ("L", "P")}
    files |= {f"bmp_{mode}.bmp": _bytes(rgb.convert(mode), "BMP") for mode in ("1", "L", "RGB")}
    files |= {f"ppm_{mode}.ppm": _bytes(rgb.convert(mode), "PPM") for mode in ("1", "L", "RGB")}
    files |= {f"tga_{mode}.tga": _bytes(rgb.convert(mode), "TGA") for mode in ("L", "P", "RGB", "RGBA")}
    palette = rgb.convert("P")
    files |= {
        "webp.webp": _bytes(rgb, "WEBP", lossless=True),
        "webp_alpha.webp": _bytes(_hidden_colour(), "WEBP", lossless=True, exact=True),
        "tiff_lab.tif": _bytes(_lab(rgb), "TIFF"),
        "grey_16.png": _bytes(_greys(65535, "uint16"), "PNG"),
        "grey_16_big_endian.tif": _bytes(_greys(65535, ">u2"), "TIFF"),
        "grey_16_transparent.png": _bytes(_greys(65535, "uint16"), "PNG", transparency=65535),
        "grey_16.pgm": _bytes(_greys(65535, "uint16").convert("I"), "PPM"),
        "grey_12_stated.tif": _bytes(_greys(4095, "uint16"), "TIFF", tiffinfo={280: 0, 281: 4095}),
        "grey_32.tif": _bytes(_greys(2**31 - 1, "int32"), "TIFF"),
        "hidden_colour.png": _bytes(_hidden_colour(), "PNG"),
        "palette_transparent.png": _bytes(palette, "PNG", transparency=palette.getpixel((0, 0))),
        "colour_transparent.png": _bytes(rgb, "PNG", transparency=rgb.getpixel((0, 0))),
        "animated.gif": _bytes(grey, "GIF", save_all=True, append_images=[grey.rotate(90)]),
        "without_ending": _bytes(rgb, "JPEG"),
        "wrong_ending.png": _bytes(rgb, "JPEG"),
    }
    files |= {f"turned_{turn}.jpg": _bytes(rgb, "JPEG", exif=_exif((0x112, turn))) for turn in range(2, 9)}
    odd = {"rational": (0x11A, 5, struct.pack("<iI", -1, 0)), "signed": (0x100, 9, struct.pack("<i", -5))}
    return files | {f"exif_{name}.jpg": _bytes(rgb, "JPEG", exif=_odd_exif(*tag)) for name, tag in odd.items()}


def bad() -> dict[str, bytes]:
    """Return files that cannot be read: name → content."""
    whole = _bytes(Image.fromarray(colours()), "PNG")
    return {
        "empty.png": b"",
        "text.jpg": b"not an image",
        "postscript.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\nshowpage\n",
        "drawing.png": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "torn.png": whole[: len(whole) // 2],
        "header_only.png": whole[:40],
        "bomb.png": raw_png(60000, 60000, 8, RGB, rows=()),
        "float.tif": _bytes(_greys(1, "float32"), "TIFF"),
    }


def every() -> Iterator[tuple[str, bytes, bool]]:
    """Yield name, content and whether the file can be read."""
    for name, content in good().items():
        yield name, content, True
    for name, content in bad().items():
        yield name, content, False
