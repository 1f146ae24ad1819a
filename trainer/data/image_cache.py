"""A cache of decoded images within a stated memory."""

from __future__ import annotations

import threading

from trainer.data.base import Image

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
