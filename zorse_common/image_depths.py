"""Tells the depth of the pixels in a file that Pillow has opened, and the values of greys of more than 8 bits."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

# Tags of TIFF 6.0, sections 8 and 19: PhotometricInterpretation, BitsPerSample, SampleFormat, MinSampleValue and
# MaxSampleValue.
_PHOTOMETRIC, _BITS, _SAMPLE_FORMAT, _LEAST, _MOST = 262, 258, 339, 280, 281


def bits_of(image: Pillow.Image) -> int:
    """Return the bits of one channel in the file. Pillow's mode does not give them for 16-bit colours."""
    if image.mode in ("I", "F"):
        return 16 if image.format == "PPM" or _tag(image, _BITS, 32) == 16 else 32
    # BGR;16 has 16 bits for all three channels.
    layout = rawmode(image)
    return 16 if image.mode.startswith("I;") or ("16" in layout and layout != "BGR;16") else 8


def rawmode(image: Pillow.Image) -> str:
    """Return Pillow's name of the layout of the file's pixels, such as "RGB;16B", or "" if there is none."""
    arguments = _tile_arguments(image)
    return str((arguments[0] if isinstance(arguments, tuple) else arguments) or "")


def file_scale(image: Pillow.Image) -> float:
    """Return the factor from decoded values to those of the file: Pillow maps a deep PGM to 0..65535."""
    arguments = _tile_arguments(image)
    if image.format != "PPM" or image.mode != "I" or not isinstance(arguments, tuple):
        return 1.0
    return float(arguments[-1]) / 65535 if isinstance(arguments[-1], int) else 1.0


def deep_values(image: Pillow.Image) -> NDArray[Any]:
    """Return the decoded integers or floating-point values: [height, width]."""
    values = np.asarray(image)
    if image.mode == "I" and image.format == "TIFF" and _tag(image, _SAMPLE_FORMAT, 1) == 1:
        return values.view(np.uint32)
    return values


def stated_range(image: Pillow.Image) -> tuple[float, float] | None:
    """Return the values of black and white that the file states, or else the limits of its integers.

    Floating-point values have no limits: None is returned.
    """
    if image.mode == "F":
        return None
    if image.format != "TIFF":
        return 0, 65535
    bits, signed = _tag(image, _BITS, 16), _tag(image, _SAMPLE_FORMAT, 1) == 2
    high = 2 ** (bits - 1) - 1 if signed else 2**bits - 1
    least, most = _tag(image, _LEAST, 0), _tag(image, _MOST, high)
    return (least, most) if least < most <= high else (0, high)


def zero_is_white(image: Pillow.Image) -> bool:
    """Return whether black and white are exchanged in a TIFF; Pillow applies this to 8-bit files only."""
    return _tag(image, _PHOTOMETRIC, 1) == 0


def _tile_arguments(image: Pillow.Image) -> Any:
    """Return the arguments that Pillow will pass to the decoder of an image that is not loaded yet, or None."""
    return next((tile[3] for tile in getattr(image, "tile", [])), None)


def _tag(image: Pillow.Image, number: int, default: int) -> int:
    """Return the first value of a TIFF tag, or `default` if the file lacks it or is no TIFF."""
    value = getattr(image, "tag_v2", {}).get(number, default)
    return int(value[0] if isinstance(value, tuple) else value)
