"""Two unpaired collections of images, for unpaired translation."""

from __future__ import annotations

from functools import partial
from typing import Self

import numpy as np
from PIL import Image as Pillow
from pydantic import Field, model_validator

from trainer.data.base import Image
from trainer.data.photographs import RANGE_KEY, Order, Photographs, PhotographsConfig, mirrored, squashed
from trainer.errors import DataError
from trainer.registry import register
from zorse_common.files import ImageFiles
from zorse_common.image_facts import collection_facts, digest_of, unused_facts
from zorse_common.splits import split_folders

_ORDERS = {"A": Order("order/A", "augment/A"), "B": Order("order/B", "augment/B")}


@register("data", "unpaired")
class Unpaired:
    """The folders `trainA`, `trainB` and, held out, `testA`, `testB` of `root`, or of the one folder that wraps them.

    Images are augmented as CycleGAN does (Zhu et al. 2017): resized to `load_size` squared, cut at random, mirrored.
    """

    class Config(PhotographsConfig):
        """`load_size` is 286/256 of `size` by default. `flip` mirrors half of the images."""

        load_size: int | None = Field(default=None, le=8192)
        flip: bool = True

        @model_validator(mode="after")
        def _crop_fits(self) -> Self:
            if self.load_size is not None and self.load_size < self.size:
                raise ValueError(f"load_size ({self.load_size}) must be at least size ({self.size})")
            return self

    domains = ("A", "B")

    def __init__(self, config: Config, *, seed: int) -> None:
        """List the files.

        Raises:
            FilesError: `root` is missing or damaged.
            DataError: `trainA` or `trainB` holds no images, or there is more than one of them.
        """
        self.size, self.channels, self._config = config.size, config.channels, config
        self._load_size = config.load_size or round(config.size * 286 / 256)
        self._files = files = ImageFiles(config.root, value_range=config.value_range)
        folders = tuple(f"{split}{domain}" for split in ("train", "test") for domain in self.domains)
        names = split_folders(config.root, files.names, folders)
        for domain in self.domains:
            if not names[f"train{domain}"]:
                raise DataError(
                    f"data.root {config.root} has no images in train{domain}/: it needs trainA/ and trainB/, at its "
                    "root or below one wrapping folder"
                )
        self._collections = {name: Photographs(config, files, names[name], seed, _ORDERS[name[-1]]) for name in folders}
        self.digest = digest_of(files, [*names["trainA"], *names["trainB"]])

    @property
    def found(self) -> list[str]:
        """What was found and left out, one fact a line."""
        facts: list[str] = []
        used: list[str] = []
        for folder, collection in self._collections.items():
            facts += collection_facts(self._files, collection.names, folder, RANGE_KEY)
            used += collection.names
        return facts + unused_facts(self._files, used, f"not in {', '.join(self._collections)}")

    @property
    def skipped(self) -> list[str]:
        """One line for each unreadable file."""
        return self._files.skipped

    def count(self, domain: str) -> int:
        """Return how many training images `domain` has."""
        return len(self._collections[f"train{domain}"])

    def image(self, domain: str, number: int) -> Image:
        """Return the augmented training image of `domain` at position `number` of the run."""
        return self._collections[f"train{domain}"].training(number, self._augment)

    def held_out(self, domain: str, count: int) -> list[Image]:
        """Return evenly spaced images of `testA` or `testB`; of the training set if there is no such folder."""
        test = self._collections[f"test{domain}"]
        chosen = test if len(test) else self._collections[f"train{domain}"]
        return chosen.evenly_spaced(count, partial(squashed, size=self.size))

    def _augment(self, image: Pillow.Image, draw: np.random.Generator) -> Pillow.Image:
        top, left = draw.integers(0, self._load_size - self.size, size=2, endpoint=True).tolist()
        resized = squashed(image, self._load_size)
        cut = resized.crop((left, top, left + self.size, top + self.size))
        return mirrored(cut, draw) if self._config.flip else cut
