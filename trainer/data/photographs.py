"""One collection of image files: their order, decoding and augmentation, and what happens to unreadable ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from PIL import Image as Pillow
from pydantic import AfterValidator, Field, model_validator

from trainer.config import Section
from trainer.data.base import Image
from trainer.data.files import ImageFiles, to_array
from trainer.data.sampler import position_to_index
from trainer.errors import DataError
from zorse_common.random import Stream, counter_rng


class PhotographsConfig(Section):
    """How files become training images.

    An image is resized to `load_size` squared (by default 286/256 of `size`, as CycleGAN does), a random part
    of `size` squared is cut out and, with `flip`, mirrored half of the time. Each worker skips up to
    `max_unreadable` files of the source that cannot be decoded; one more stops the run.
    """

    # Absolute, because a worker has another working directory than the command.
    root: Annotated[str, AfterValidator(lambda root: root if "://" in root else str(Path(root).absolute()))]
    size: int = Field(ge=8, le=4096)
    channels: Literal[1, 3] = 3
    load_size: int | None = Field(default=None, le=8192)
    flip: bool = True
    max_unreadable: int = Field(default=10, ge=0)

    @model_validator(mode="after")
    def _crop_fits(self) -> Self:
        if self.load_size is not None and self.load_size < self.size:
            raise ValueError(f"load_size ({self.load_size}) must be at least size ({self.size})")
        return self


class Photographs:
    """Training images cut from `names`, a sorted list of files; every draw is a function of (seed, number)."""

    def __init__(
        self,
        config: PhotographsConfig,
        files: ImageFiles,
        names: Sequence[str],
        seed: int,
        streams: tuple[Stream, Stream] = (Stream.ORDER_A, Stream.AUGMENT_A),
    ) -> None:
        """`streams` are those of the order and of the augmentation."""
        self._config, self._files, self._names, self._seed = config, files, names, seed
        self._order, self._augment = streams
        self._load_size = config.load_size or round(config.size * 286 / 256)

    def __len__(self) -> int:
        return len(self._names)

    def training(self, number: int) -> Image:
        """The augmented image at position `number` of the run: uint8 [size, size, channels].

        Where the file cannot be read, the next one that can stands in.

        Raises:
            DataError: more than `max_unreadable` files cannot be read, or none can.
        """
        image = next(self._readable(position_to_index(self._seed, self._order, number, len(self._names))))
        size, draw = self._config.size, counter_rng(self._seed, self._augment, number)
        top, left = draw.integers(0, self._load_size - size, size=2, endpoint=True).tolist()
        mirrored = self._config.flip and draw.random() < 0.5
        resized = image.resize((self._load_size, self._load_size), Pillow.Resampling.BICUBIC)
        array = to_array(resized.crop((left, top, left + size, top + size)), self._config.channels)
        return np.ascontiguousarray(array[:, ::-1]) if mirrored else array

    def plain(self, count: int) -> list[Image]:
        """The first `count` images that can be read, without augmentation: uint8 [size, size, channels].

        Raises:
            DataError: more than `max_unreadable` files cannot be read, or none can.
        """
        size = (self._config.size, self._config.size)
        resized = (image.resize(size, Pillow.Resampling.BICUBIC) for image in islice(self._readable(0), count))
        return [to_array(image, self._config.channels) for image in resized]

    def _readable(self, start: int) -> Iterator[Pillow.Image]:
        """The images from `start` round to the one before it, without those that cannot be read."""
        root, unreadable, limit = self._files.root, self._files.unreadable, self._config.max_unreadable
        for step in range(len(self._names)):
            image = self._files.open(self._names[(start + step) % len(self._names)])
            if image is not None:
                yield image
            elif len(unreadable) > limit:
                raise DataError(
                    f"{root}: {len(unreadable)} images cannot be read (such as {', '.join(list(unreadable)[:5])}), "
                    f"more than data.max_unreadable ({limit}) allows: mend or remove them"
                )
        if self._names and all(name in unreadable for name in self._names):
            example = f"{self._names[start]}: {unreadable[self._names[start]]}"
            raise DataError(f"{root}: none of the {len(self._names)} images can be read ({example})")
