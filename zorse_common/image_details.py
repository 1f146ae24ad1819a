"""Reads facts of image files that only reports need: the values of deep greys, and whether an image is turned."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from zorse_common.image_depths import deep_values, file_scale, stated_range
from zorse_common.images import MAX_PIXELS, ImageError, check_pixels, image_errors, open_image, orientation


@dataclass(frozen=True)
class GreyValues:
    """The least and the greatest finite value in a grey file of more than 8 bits, in the file's own numbers.

    `black` and `white` are the values that the file states, or the limits of its integers. They are None if the values
    are floating-point numbers.
    """

    least: float
    most: float
    black: float | None
    white: float | None


def is_turned(content: bytes) -> bool:
    """Return whether the EXIF orientation exchanges the width and the height that `read_header` returns.

    Raises:
        ImageError: as `read_header`.
    """
    with open_image(content) as image:
        # Pillow's TIFF headers are upright. It decodes a PNG to look for EXIF blocks after the pixels.
        if image.format == "TIFF" or (image.format == "PNG" and "exif" not in image.info):
            return False
        return orientation(image) in (5, 6, 7, 8)


def grey_values(content: bytes, max_pixels: int = MAX_PIXELS) -> GreyValues | None:
    """Return the limits of the values in a grey file of more than 8 bits; None for other files.

    Raises:
        ImageError: as `decode_image`.
    """
    with open_image(content) as image:
        check_pixels(image.width, image.height, max_pixels)
        if not image.mode.startswith(("I", "F")):
            return None
        scale = file_scale(image)
        with image_errors():
            values = deep_values(image)
            values = values[np.isfinite(values)]
            if not values.size:
                raise ImageError("the image has no finite value: write it again")
            stated = stated_range(image)
            black, white = (None, None) if stated is None else (scale * value for value in stated)
            return GreyValues(scale * float(values.min()), scale * float(values.max()), black, white)
