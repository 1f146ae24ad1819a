"""One collection of images from a folder or a zip."""

from __future__ import annotations

from functools import partial
from typing import Literal

import numpy as np
from PIL import Image as Pillow

from trainer.data.base import Image
from trainer.data.photographs import RANGE_KEY, Photographs, PhotographsConfig, centre_crop, mirrored
from trainer.errors import DataError
from trainer.registry import register
from zorse_common.files import ImageFiles, some_of
from zorse_common.image_facts import collection_facts, digest_of, unused_facts
from zorse_common.splits import split_folders, top_folders

_TRAIN, _HELD_OUT = "train", ("test", "val")


@register("data", "folder")
class Folder:
    """All images below `root`; if it has a folder `train`, those of `train`, and those of `test` or `val` are held out.

    An image's shorter side is resized to `size` and the middle cut out, as for the DCGAN of Radford et al. 2016.
    """

    class Config(PhotographsConfig):
        """`flip` mirrors half of the images. `splits` none takes all images, whatever their folders are called."""

        flip: bool = False
        splits: Literal["auto", "none"] = "auto"

    domains = ("image",)

    def __init__(self, config: Config, *, seed: int) -> None:
        """List the files.

        Raises:
            FilesError: `root` is missing or damaged.
            DataError: it holds no images, or a folder `train` beside images of other folders.
        """
        self.size, self.channels, self._config = config.size, config.channels, config
        self._files = ImageFiles(config.root, value_range=config.value_range)
        if not self._files.names:
            raise DataError(f"data.root {config.root} holds no images")
        train, held_out = self._split(config)
        self._training = Photographs(config, self._files, train, seed)
        self._held_out = Photographs(config, self._files, held_out, seed)
        self.digest = digest_of(self._files, train)
        self._crop = partial(centre_crop, size=config.size)

    def _split(self, config: Config) -> tuple[list[str], list[str]]:
        """Return the names of the training images and of those held out."""
        names = self._files.names
        if config.splits == "none":
            return names, []
        found = split_folders(config.root, names, (_TRAIN, *_HELD_OUT))
        train = found[_TRAIN]
        if not train:
            return names, []
        others = set(names).difference(*found.values())
        if others:
            raise DataError(
                f"data.root {config.root} has {len(train)} images in {_TRAIN}/ and {len(others)} elsewhere "
                f"({some_of(top_folders(others))}), and it is not clear whether {_TRAIN}/ is a split: set "
                f"data.splits=none to train on all of them, or data.root to the folder {_TRAIN} for its images alone"
            )
        return train, next((found[folder] for folder in _HELD_OUT if found[folder]), [])

    @property
    def found(self) -> list[str]:
        """What was found and left out, one fact a line."""
        files = self._files
        train, held_out = self._training.names, self._held_out.names
        return [
            *collection_facts(files, train, "training", RANGE_KEY),
            *collection_facts(files, held_out, "held out", RANGE_KEY),
            *unused_facts(files, [*train, *held_out], "in no split that is used"),
        ]

    @property
    def skipped(self) -> list[str]:
        """One line for each unreadable file."""
        return self._files.skipped

    def count(self, domain: str) -> int:
        """Return how many training images there are."""
        return len(self._training)

    def image(self, domain: str, number: int) -> Image:
        """Return the augmented training image at position `number` of the run."""
        return self._training.training(number, self._augment)

    def held_out(self, domain: str, count: int) -> list[Image]:
        """Return `count` evenly spaced images of `test` or `val`; none if there is no such folder."""
        return self._held_out.evenly_spaced(count, self._crop)

    def _augment(self, image: Pillow.Image, draw: np.random.Generator) -> Pillow.Image:
        cut = self._crop(image)
        return mirrored(cut, draw) if self._config.flip else cut
