"""One collection of image files: their order, decoding and augmentation, and what happens to unreadable ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from PIL import Image as Pillow
from pydantic import AfterValidator, Field

from trainer.config import Place, Section
from trainer.data.base import Image
from trainer.data.sampler import position_to_index
from trainer.errors import DataError
from zorse_common.errors import printable
from zorse_common.files import ImageFiles, evenly_spaced, some_of
from zorse_common.images import check_range, to_array
from zorse_common.random import counter_rng

RANGE_KEY = "data.value_range"
"""What states the values of black and white in files of more than 8 bits."""

Augment = Callable[[Pillow.Image, np.random.Generator], Pillow.Image]
"""Makes a training image of a decoded file: [size, size], drawing from the generator."""


def _absolute(root: str) -> str:
    # A worker has another working directory than the command.
    return root if "://" in root else str(Path(root).absolute())


class PhotographsConfig(Section):
    """Which files are read, and what they become.

    `value_range` states the values of black and white in greys of more than 8 bits; without it each file's own facts
    count, or else the whole range of its integers. Each worker skips up to `max_unreadable` files of the source that
    cannot be decoded; one more stops the run.
    """

    root: Annotated[Place, AfterValidator(_absolute)]
    size: int = Field(ge=8, le=4096)
    channels: Literal[1, 3] = 3
    value_range: Annotated[tuple[float, float] | None, AfterValidator(check_range)] = None
    max_unreadable: int = Field(default=10, ge=0)


@dataclass(frozen=True)
class Order:
    """The streams of random numbers of one collection: one for the order of its images, one for their augmentation."""

    order: str = "order/image"
    augment: str = "augment/image"


class Photographs:
    """Training images cut from the files `names`; every draw is a function of (seed, number)."""

    def __init__(
        self, config: PhotographsConfig, files: ImageFiles, names: Sequence[str], seed: int, order: Order = Order()
    ) -> None:
        """`names` are sorted."""
        self.names = names
        self._config, self._files, self._seed, self._order = config, files, seed, order

    def __len__(self) -> int:
        return len(self.names)

    def training(self, number: int, augment: Augment) -> Image:
        """Return the augmented image at position `number` of the run: uint8 [size, size, channels].

        Where the file cannot be read, the next one that can takes its place.

        Raises:
            DataError: more than `max_unreadable` files cannot be read, or none can.
        """
        index = position_to_index(self._seed, self._order.order, number, len(self.names))
        _, image = next(self._readable(index))
        return to_array(augment(image, counter_rng(self._seed, self._order.augment, number)))

    def evenly_spaced(self, count: int, crop: Callable[[Pillow.Image], Pillow.Image]) -> list[Image]:
        """Return `count` images at equal distances in the order of names, not augmented: uint8 [size, size, channels].

        Raises:
            DataError: more than `max_unreadable` files cannot be read, or none can.
        """
        images: dict[str, Image] = {}
        for start in evenly_spaced(range(len(self.names)), count):
            name, image = next(self._readable(start))
            images.setdefault(name, to_array(crop(image)))
        return list(images.values())

    def _readable(self, start: int) -> Iterator[tuple[str, Pillow.Image]]:
        """Yield name and image from `start` round to the one before it, without those that cannot be read."""
        root, unreadable, limit = self._files.root, self._files.unreadable, self._config.max_unreadable
        for step in range(len(self.names)):
            name = self.names[(start + step) % len(self.names)]
            image = self._files.open(name, self._config.channels)
            if image is not None:
                yield name, image
            elif len(unreadable) > limit:
                raise DataError(
                    f"{root}: {len(unreadable)} images cannot be read (such as {some_of(list(unreadable))}), "
                    f"more than data.max_unreadable ({limit}) allows: repair or remove them"
                )
        if self.names and all(name in unreadable for name in self.names):
            example = f"{printable(self.names[start])}: {unreadable[self.names[start]]}"
            raise DataError(f"{root}: none of the {len(self.names)} images can be read ({example})")


def mirrored(image: Pillow.Image, draw: np.random.Generator) -> Pillow.Image:
    """Return the image, or with probability ½ its mirror image."""
    return image.transpose(Pillow.Transpose.FLIP_LEFT_RIGHT) if draw.random() < 0.5 else image


def centre_crop(image: Pillow.Image, size: int) -> Pillow.Image:
    """Resize the shorter side to `size` (bicubic) and cut out the middle: [size, size]."""
    scale = size / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    left, top = (width - size) // 2, (height - size) // 2
    resized = image.resize((width, height), Pillow.Resampling.BICUBIC)
    return resized.crop((left, top, left + size, top + size))


def squashed(image: Pillow.Image, size: int) -> Pillow.Image:
    """Resize both sides to `size` (bicubic)."""
    return image.resize((size, size), Pillow.Resampling.BICUBIC)
