"""Image files decoded and resized to one size, as datasets read them."""

from __future__ import annotations

import threading
from collections.abc import Callable

from PIL import Image as Pillow

from trainer.data.base import Image
from zorse_common.files import ImageFiles
from zorse_common.images import to_array

Resize = Callable[[Pillow.Image, int], Pillow.Image]
"""Resizes a decoded image to [size, size] without random draws: equal images give equal results."""

OVERHEAD_BYTES = 512
"""What a kept image costs beside its pixels: the array object, its key and its entry."""


class ImageCache:
    """Keeps images by file name and channels while they fit into `limit` bytes. It may be used by several threads.

    Nothing is ever evicted. Every epoch reads each file exactly once, in a new order, so all images are equally likely
    to be read next, and replacing one by another would only decode more. What fits saves its share of the decoding.
    """

    def __init__(self, limit: int) -> None:
        """Limit 0 keeps nothing."""
        self.bytes = 0
        """The memory in use: at most `limit`."""
        self._limit = limit
        self._lock = threading.Lock()
        self._images: dict[tuple[str, int], Image] = {}

    def __len__(self) -> int:
        """Return the number of kept images."""
        return len(self._images)

    def get(self, name: str, channels: int) -> Image | None:
        """Return the image of file `name` with `channels` channels, or None if it is not kept."""
        return self._images.get((name, channels))

    def add(self, name: str, channels: int, image: Image) -> None:
        """Keep `image` unless it exceeds the memory that is left, or two threads have decoded the same file."""
        size = image.nbytes + OVERHEAD_BYTES
        with self._lock:
            if (name, channels) not in self._images and self.bytes + size <= self._limit:
                self._images[name, channels] = image
                self.bytes += size


class ResizedFiles:
    """Reads image files as arrays of `size` x `size` pixels, and keeps the arrays that fit into a cache.

    A result does not depend on the cache.
    """

    def __init__(self, files: ImageFiles, resize: Resize, size: int, *, cache_bytes: int = 0) -> None:
        self.root, self.unreadable = files.root, files.unreadable
        self.cache = ImageCache(cache_bytes)
        self._files, self._resize, self._size = files, resize, size

    def read(self, name: str, channels: int) -> Image | None:
        """Return the file `name` decoded and resized: uint8 [size, size, channels], read-only.

        Returns None if the file cannot be read; `unreadable` then maps its name to the reason.

        Raises:
            zorse_common.errors.FetchError: the object store failed.
        """
        kept = self.cache.get(name, channels)
        if kept is not None:
            return kept
        decoded = self._files.open(name, channels, least_side=self._size)
        if decoded is None:
            return None
        image = to_array(self._resize(decoded, self._size))
        image.flags.writeable = False  # the cache may give the same array to several examples
        self.cache.add(name, channels, image)
        return image


def squash(image: Pillow.Image, size: int) -> Pillow.Image:
    """Resize both sides to `size` (bicubic), whatever the aspect ratio."""
    return image.resize((size, size), Pillow.Resampling.BICUBIC)


def crop_centre(image: Pillow.Image, size: int) -> Pillow.Image:
    """Resize the shorter side to `size` (bicubic), keep the aspect ratio, and crop the centre: [size, size].

    Only the cropped part is computed.
    """
    scale = size / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    left, top = (width - size) // 2, (height - size) // 2
    # The crop in pixels of the decoded image. Multiplied first, for only so is the far corner exact at the border.
    x0, x1 = (x * image.width / width for x in (left, left + size))
    y0, y1 = (y * image.height / height for y in (top, top + size))
    return image.resize((size, size), Pillow.Resampling.BICUBIC, box=(x0, y0, x1, y1))
