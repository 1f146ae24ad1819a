"""Two unpaired collections of images, for unpaired translation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
from pydantic import Field, model_validator

from trainer.data.augmented_files import AugmentedFiles, DomainFiles, ImageFilesConfig, Selection, mirror_half
from trainer.data.base import DataSpec, Example, Image, ImageSpec
from trainer.data.resized_files import ResizedFiles, squash
from trainer.errors import DataError
from trainer.registry import register
from zorse_common.files import ImageFiles
from zorse_common.image_facts import digest_of
from zorse_common.splits import split_folders

_DOMAINS = ("A", "B")


@register("data", "unpaired")
class Unpaired:
    """The folders `trainA`, `trainB` and, held out, `testA`, `testB` of `root`, or of the one folder that wraps them.

    Images are augmented as in CycleGAN (Zhu et al. 2017): resized to `load_size` squared, cropped at random, mirrored.
    """

    class Config(ImageFilesConfig):
        """`load_size` is 286/256 of `size` by default. `flip` mirrors half of the images."""

        load_size: int | None = Field(default=None, le=8192)
        flip: bool = True

        @model_validator(mode="after")
        def _crop_fits(self) -> Self:
            if self.load_size is not None and self.load_size < self.size:
                raise ValueError(f"load_size ({self.load_size}) must be at least size ({self.size})")
            return self

        def spec(self) -> DataSpec:
            """Return two unpaired domains, "A" and "B"."""
            return DataSpec({domain: ImageSpec(self.size, self.channels) for domain in _DOMAINS})

        def select(self, names: Sequence[str]) -> Selection:
            """Return the images in `trainA`, `trainB`, `testA` and `testB`.

            Raises:
                DataError: `trainA` or `trainB` holds no images.
                FilesError: there is more than one data set.
            """
            folders = tuple(f"{split}{domain}" for split in ("train", "test") for domain in _DOMAINS)
            collections = split_folders(self.root, names, folders)
            for domain in _DOMAINS:
                if not collections[f"train{domain}"]:
                    raise DataError(
                        f"data.root {self.root} has no images in train{domain}/: it needs trainA/ and trainB/, at its "
                        "root or below one wrapping folder"
                    )
            return Selection(collections, f"not in {', '.join(folders)}")

    def __init__(self, config: Config, *, seed: int) -> None:
        """List the files.

        Raises:
            FilesError: `root` is missing or damaged.
            DataError: as `Config.select`.
        """
        self.spec, self._config, self._seed = config.spec(), config, seed
        self._load_size = config.load_size or round(config.size * 286 / 256)
        self._files = ImageFiles(config.root, value_range=config.value_range)
        self._selection = config.select(self._files.names)
        names = self._selection.collections
        to_crop = ResizedFiles(self._files, squash, self._load_size, cache_bytes=config.cache_mib * 2**20)
        whole = ResizedFiles(self._files, squash, config.size)
        self._training = {domain: self._collection(to_crop, domain, names[f"train{domain}"]) for domain in _DOMAINS}
        self._held_out = {
            domain: self._collection(whole, domain, names[f"test{domain}"] or names[f"train{domain}"])
            for domain in _DOMAINS
        }
        self.digest = digest_of(self._files, [*names["trainA"], *names["trainB"]])

    def _collection(self, files: ResizedFiles, domain: str, names: list[str]) -> AugmentedFiles:
        domains = {domain: DomainFiles(names, self._config.channels)}
        limit = self._config.max_unreadable
        return AugmentedFiles(files, domains, seed=self._seed, stream=domain, max_unreadable=limit)

    @property
    def facts(self) -> list[str]:
        """One line for each collection, and one for the files that are not used."""
        return self._selection.facts(self._files)

    @property
    def skipped(self) -> list[str]:
        """One line for each unreadable file."""
        return self._files.skipped

    def count(self, domain: str) -> int:
        """Return the number of training images of `domain`."""
        return len(self._training[domain])

    def example(self, number: int) -> Example:
        """Return training example `number`: one image per domain, uint8 [size, size, channels].

        The images are independent draws, each from its domain's own order. An unreadable file is replaced by the next
        readable one of its domain; the other domain's image stays, since the two were never a pair.
        """
        images: dict[str, Image] = {}
        for collection in self._training.values():
            images |= collection.augmented(number, self._augment)
        return Example(images)

    def held_out(self, domain: str, count: int) -> list[Image]:
        """Return evenly spaced images of `testA` or `testB`, or training images if there is no such folder."""
        return [images[domain] for images in self._held_out[domain].evenly_spaced(count)]

    def _augment(self, image: Image, draw: np.random.Generator) -> Image:
        """Crop at a random place, then mirror with probability 1/2 if the config says so."""
        size = self._config.size
        top, left = draw.integers(0, self._load_size - size, size=2, endpoint=True).tolist()
        cropped = image[top : top + size, left : left + size]
        return mirror_half(cropped, draw) if self._config.flip else cropped
