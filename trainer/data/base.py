"""What every image source gives the loader."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

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
    digest: str
    """A SHA-256 that differs where the training images do: of the names and sizes of files."""

    @property
    def found(self) -> list[str]:
        """What was found and what was left out and why, one fact a line; made when it is asked for.

        Raises:
            trainer.errors.DataError: the images are not what the config says.
        """

    @property
    def skipped(self) -> list[str]:
        """One line for each image that could not be read and was left out, in the order they were met.

        It may be asked while other threads read images, and only ever grows at its end.
        """

    def count(self, domain: str) -> int:
        """How many different training images `domain` has."""

    def image(self, domain: str, number: int) -> Image:
        """The training image at position `number` of the run, augmented: a pure function of (seed, number).

        Raises:
            trainer.errors.DataError: too many images could not be read.
        """

    def held_out(self, domain: str, count: int) -> list[Image]:
        """Return `count` images (fewer if there are not so many) that are not trained on, not augmented."""


def to_tensor(images: list[Image]) -> Tensor:
    """uint8 [h, w, c] images as one float32 tensor [n, c, h, w] in -1..1."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float().div(127.5).sub(1).contiguous()
