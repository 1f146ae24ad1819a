"""What every image source gives the loader."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
"""One image: uint8 [height, width, channels]."""


class Source(Protocol):
    """Images of one domain ("image") or of two unpaired ones ("A", "B").

    Constructed as `Class(config, seed=…)`. Construction finds the images and checks that there are enough.
    Every image is `size` x `size` with `channels` channels.
    """

    domains: tuple[str, ...]
    channels: int
    size: int

    def image(self, domain: str, number: int) -> Image:
        """The training image at position `number` of the run, augmented: a pure function of (seed, number).

        Raises:
            trainer.errors.DataError: too many images could not be read.
        """

    def held_out(self, domain: str, count: int) -> list[Image]:
        """The first `count` images (fewer if there are not so many) that training never sees, not augmented."""
