"""One collection of images from a folder or a zip."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from trainer.data.augmented_files import AugmentedFiles, DomainFiles, ImageFilesConfig, Selection, mirror_half
from trainer.data.base import DataSpec, Example, Image, ImageSpec
from trainer.data.resized_files import ResizedFiles, crop_centre
from trainer.errors import DataError
from trainer.registry import register
from zorse_common.files import ImageFiles, some_of
from zorse_common.image_facts import digest_of
from zorse_common.splits import split_folders, top_folders

_TRAIN, _HELD_OUT = "train", ("test", "val")


@register("data", "folder")
class Folder:
    """All images below `root`; if it has a folder `train`, those of `train`, with those of `test` or `val` held out.

    An image's shorter side is resized to `size` and the centre cropped, as for the DCGAN of Radford et al. 2016.
    """

    class Config(ImageFilesConfig):
        """`flip` mirrors half of the images. `splits` none takes all images, whatever their folders are called."""

        flip: bool = False
        splits: Literal["auto", "none"] = "auto"

        def spec(self) -> DataSpec:
            """Return one domain, "image"."""
            return DataSpec({"image": ImageSpec(self.size, self.channels)})

        def select(self, names: Sequence[str]) -> Selection:
            """Return the images to train on and those to hold out.

            Raises:
                DataError: there are no images, or a folder `train` beside images of other folders.
            """
            if not names:
                raise DataError(f"data.root {self.root} holds no images")
            training, held_out = self._split(names)
            return Selection({"training": training, "held out": held_out}, "in no split that is used")

        def _split(self, names: Sequence[str]) -> tuple[list[str], list[str]]:
            if self.splits == "none":
                return list(names), []
            folders = split_folders(self.root, names, (_TRAIN, *_HELD_OUT))
            train = folders[_TRAIN]
            if not train:
                return list(names), []
            others = set(names).difference(*folders.values())
            if others:
                raise DataError(
                    f"data.root {self.root} has {len(train)} images in {_TRAIN}/ and {len(others)} elsewhere "
                    f"({some_of(top_folders(others))}), and it is not clear whether {_TRAIN}/ is a split: set "
                    "data.splits=none to train on all of them, or data.root to the folder "
                    f"{_TRAIN} for its images alone"
                )
            return train, next((folders[folder] for folder in _HELD_OUT if folders[folder]), [])

    def __init__(self, config: Config, *, seed: int) -> None:
        """List the files.

        Raises:
            FilesError: `root` is missing or damaged.
            DataError: as `Config.select`.
        """
        self.spec, self._config = config.spec(), config
        self._files = ImageFiles(config.root, value_range=config.value_range)
        self._selection = config.select(self._files.names)
        resized = ResizedFiles(self._files, crop_centre, config.size, cache_bytes=config.cache_mib * 2**20)
        self._training, self._held_out = (
            AugmentedFiles(
                resized,
                {"image": DomainFiles(names, config.channels)},
                seed=seed,
                stream="image",
                max_unreadable=config.max_unreadable,
            )
            for names in self._selection.collections.values()
        )
        self.digest = digest_of(self._files, self._selection.collections["training"])

    @property
    def facts(self) -> list[str]:
        """One line for each collection, and one for the files that are not used."""
        return self._selection.facts(self._files)

    @property
    def skipped(self) -> list[str]:
        """One line for each unreadable file."""
        return self._files.skipped

    def count(self, domain: str) -> int:
        """Return the number of training images."""
        return len(self._training)

    def example(self, number: int) -> Example:
        """Return training example `number`: one image, uint8 [size, size, channels]."""
        return Example(self._training.augmented(number, self._augment))

    def held_out(self, domain: str, count: int) -> list[Image]:
        """Return `count` evenly spaced images of `test` or `val`; none if there is no such folder."""
        return [images[domain] for images in self._held_out.evenly_spaced(count)]

    def _augment(self, image: Image, draw: np.random.Generator) -> Image:
        return mirror_half(image, draw) if self._config.flip else image
