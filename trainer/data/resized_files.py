"""Image files decoded and resized to one size, as datasets read them."""

from __future__ import annotations

from collections.abc import Callable

from PIL import Image as Pillow

from trainer.data.base import Image
from zorse_common.files import ImageFiles
from zorse_common.images import to_array

Resize = Callable[[Pillow.Image], Pillow.Image]
"""Makes a Pillow image of a fixed size from a decoded one. It draws nothing: equal images give equal results."""


class ResizedFiles:
    """Reads image files as arrays of the size that `resize` makes."""

    def __init__(self, files: ImageFiles, resize: Resize) -> None:
        self.root, self.unreadable = files.root, files.unreadable
        self._files, self._resize = files, resize

    def read(self, name: str, channels: int) -> Image | None:
        """Return the file `name` decoded and resized: uint8 [height, width, channels], read-only.

        Returns None if the file cannot be read; `unreadable` then maps its name to the reason.

        Raises:
            zorse_common.errors.FetchError: the object store failed.
        """
        decoded = self._files.open(name, channels)
        if decoded is None:
            return None
        image = to_array(self._resize(decoded))
        image.flags.writeable = False
        return image


def squash(image: Pillow.Image, size: int) -> Pillow.Image:
    """Resize both sides to `size` (bicubic), whatever the aspect ratio."""
    return image.resize((size, size), Pillow.Resampling.BICUBIC)


def crop_centre(image: Pillow.Image, size: int) -> Pillow.Image:
    """Resize the shorter side to `size` (bicubic), keep the aspect ratio, and crop the centre: [size, size]."""
    scale = size / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    left, top = (width - size) // 2, (height - size) // 2
    resized = image.resize((width, height), Pillow.Resampling.BICUBIC)
    return resized.crop((left, top, left + size, top + size))
