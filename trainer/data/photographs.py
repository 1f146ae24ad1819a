"""One collection of image files: their order, decoding and augmentation, and what happens to unreadable ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from PIL import Image as Pillow
from pydantic import AfterValidator, Field, model_validator

from trainer.config import Section
from trainer.data.base import Image
from trainer.data.files import UNREADABLE, ImageFiles, to_array
from trainer.data.sampler import position_to_index
from trainer.errors import DataError
from trainer.rng import Stream, counter_rng


class PhotographsConfig(Section):
    """How files become training images.

    An image is resized to `load_size` squared (by default 286/256 of `size`, as CycleGAN does), a random part
    of `size` squared is cut out and, with `flip`, mirrored half of the time. Each worker skips up to
    `max_unreadable` files that cannot be decoded; one more stops the run.
    """

    # Absolute, because a worker has another working directory than the command.
    root: Annotated[str, AfterValidator(lambda root: str(Path(root).absolute()))]
    size: int = Field(ge=8, le=4096)
    channels: Literal[1, 3] = 3
    load_size: int | None = None
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
        self._unreadable: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._names)

    @property
    def skipped(self) -> list[str]:
        """One line for each file that was skipped because it could not be read."""
        return [f"skipped {name}: {reason}" for name, reason in self._unreadable.items()]

    def training(self, number: int) -> Image:
        """The augmented image at position `number` of the run: uint8 [size, size, channels].

        Raises:
            DataError: more than `max_unreadable` files could not be read.
        """
        image = self._readable(position_to_index(self._seed, self._order, number, len(self._names)))
        size, draw = self._config.size, counter_rng(self._seed, self._augment, number)
        top, left = draw.integers(0, self._load_size - size, size=2, endpoint=True).tolist()
        mirrored = self._config.flip and draw.random() < 0.5
        resized = image.resize((self._load_size, self._load_size), Pillow.Resampling.BICUBIC)
        array = to_array(resized.crop((left, top, left + size, top + size)), self._config.channels)
        return np.ascontiguousarray(array[:, ::-1]) if mirrored else array

    def plain(self, count: int) -> list[Image]:
        """The first `count` images resized, without augmentation: uint8 [size, size, channels]."""
        size = (self._config.size, self._config.size)
        images = [self._readable(index) for index in range(min(count, len(self._names)))]
        return [to_array(image.resize(size, Pillow.Resampling.BICUBIC), self._config.channels) for image in images]

    def _readable(self, index: int) -> Pillow.Image:
        """The file at `index`, or the next one that can be read."""
        for step in range(len(self._names)):
            name = self._names[(index + step) % len(self._names)]
            if name in self._unreadable:
                continue
            try:
                return self._files.open(name)
            except UNREADABLE as error:
                self._unreadable[name] = " ".join(str(error).split()) or type(error).__name__
            if len(self._unreadable) > self._config.max_unreadable:
                break
        named = ", ".join(list(self._unreadable)[:5])
        raise DataError(
            f"{self._files.root}: {len(self._unreadable)} images cannot be read ({named} …), more than "
            f"data.max_unreadable ({self._config.max_unreadable}) allows: mend or remove them"
        )
