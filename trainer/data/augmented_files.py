"""Training examples from image files: their order, their augmentation, and the replacement of unreadable ones."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import AfterValidator, Field

from trainer.config import Place, Resume
from trainer.data.base import DataConfig, Image
from trainer.data.resized_files import ResizedFiles
from trainer.data.sampler import sample_index
from trainer.errors import DataError
from zorse_common.errors import printable
from zorse_common.files import ImageFiles, evenly_spaced, some_of
from zorse_common.image_facts import collection_facts, unused_facts
from zorse_common.images import check_range
from zorse_common.random import counter_rng

RANGE_KEY = "data.value_range"
"""The config key that states the values of black and white in files of more than 8 bits."""

Augment = Callable[[Image, np.random.Generator], Image]
"""Makes a training image of a resized one; all its randomness comes from the generator."""


def _absolute(root: str) -> str:
    # The working directory of a worker differs from that of the command.
    return root if "://" in root else str(Path(root).absolute())


@dataclass(frozen=True)
class Selection:
    """The files that a dataset uses: the names in each collection, such as "trainA", and why it uses no others."""

    collections: dict[str, list[str]]
    reason: str

    def facts(self, files: ImageFiles) -> list[str]:
        """Return one line or two for each collection, and one for the files that are not used.

        Raises:
            FilesError: greys of more than 8 bits use so little of their value range that it must be wrong.
        """
        facts: list[str] = []
        used: list[str] = []
        for collection, names in self.collections.items():
            facts += collection_facts(files, names, collection, RANGE_KEY)
            used += names
        return facts + unused_facts(files, used, self.reason)


class ImageFilesConfig(DataConfig):
    """The files of a dataset, and the shape of its images.

    `value_range` states the values of black and white in grey files of more than 8 bits. Without it they are those
    that each file states, or else the limits of its integers. Each worker skips up to `max_unreadable` files that
    cannot be decoded; one more stops the run. Each worker keeps decoded and resized images in up to `cache_mib` MiB of
    memory, 0 for none, so that later epochs need not decode them again.
    """

    root: Annotated[Place, AfterValidator(_absolute), Resume.MAY_CHANGE]
    size: int = Field(ge=8, le=4096)
    channels: Literal[1, 3] = 3
    value_range: Annotated[tuple[float, float] | None, AfterValidator(check_range)] = None
    max_unreadable: Annotated[int, Field(ge=0), Resume.MAY_CHANGE] = 10
    cache_mib: Annotated[int, Field(ge=0), Resume.MAY_CHANGE] = 1024

    @abstractmethod
    def select(self, names: Sequence[str]) -> Selection:
        """Return which of the image files `names`, all those below `root`, the dataset uses. No file is read.

        Raises:
            DataError, FilesError: a domain has no images, or the folders can be understood in two ways.
        """


@dataclass(frozen=True)
class DomainFiles:
    """The files of one domain by name, and the channels (1 or 3) to which they are decoded."""

    names: Sequence[str]
    channels: int


class AugmentedFiles:
    """Examples from the files of one domain, or from those of several domains that are paired.

    Files of several domains at the same index form one example. They share the index, the random draws of the
    augmentation, and their replacement: an example of which one file is unreadable is replaced as a whole.
    """

    def __init__(
        self, files: ResizedFiles, domains: Mapping[str, DomainFiles], *, seed: int, stream: str, max_unreadable: int
    ) -> None:
        """All domains have the same number of files.

        The order of the examples is drawn from the random stream "order/<stream>", the augmentation from
        "augment/<stream>".
        """
        self._files, self._domains, self._seed, self._stream = files, domains, seed, stream
        self._max_unreadable = max_unreadable
        (self._length,) = {len(domain.names) for domain in domains.values()}

    def __len__(self) -> int:
        """Return the number of examples."""
        return self._length

    def augmented(self, number: int, augment: Augment) -> dict[str, Image]:
        """Return the augmented images of training example `number` by domain.

        Where a file cannot be read, the next example of which all files can be read takes its place.

        Raises:
            DataError: more than `max_unreadable` files cannot be read, or no example can be read.
        """
        _, images = self._next_readable(sample_index(self._seed, f"order/{self._stream}", number, len(self)))
        return {
            # Equal draws for all domains: a generator of its own for each, in the same state.
            domain: augment(image, counter_rng(self._seed, f"augment/{self._stream}", number))
            for domain, image in images.items()
        }

    def evenly_spaced(self, count: int) -> list[dict[str, Image]]:
        """Return at most `count` examples at equal distances in the order of names, not augmented, by domain.

        Raises:
            DataError: as `augmented`.
        """
        examples = dict(self._next_readable(start) for start in evenly_spaced(range(len(self)), count))
        return list(examples.values())

    def _next_readable(self, start: int) -> tuple[int, dict[str, Image]]:
        """Return the first index from `start` on, cyclically, whose files can all be read, and their images."""
        unreadable = self._files.unreadable
        for offset in range(len(self)):
            index = (start + offset) % len(self)
            images = self._read(index)
            if images is not None:
                return index, images
            if len(unreadable) > self._max_unreadable:
                raise DataError(
                    f"{self._files.root}: {len(unreadable)} images cannot be read (such as "
                    f"{some_of(list(unreadable))}), more than data.max_unreadable ({self._max_unreadable}) allows: "
                    "repair or remove them"
                )
        names = [domain.names[start] for domain in self._domains.values()]
        reason = next(f"{printable(name)}: {unreadable[name]}" for name in names if name in unreadable)
        kind = "images" if len(self._domains) == 1 else "pairs"
        raise DataError(f"{self._files.root}: none of the {len(self)} {kind} can be read ({reason})")

    def _read(self, index: int) -> dict[str, Image] | None:
        """Return the images of the example at `index` by domain, or None if one of its files cannot be read."""
        images = {}
        for name, domain in self._domains.items():
            image = self._files.read(domain.names[index], domain.channels)
            if image is None:
                return None
            images[name] = image
        return images


def mirror_half(image: Image, draw: np.random.Generator) -> Image:
    """Return the image [h, w, c] or, with probability 1/2, its mirror image (left and right exchanged)."""
    if draw.random() >= 0.5:
        return image
    mirrored = np.empty_like(image)
    for channel in range(image.shape[2]):  # four times as fast as copying all channels at once
        mirrored[..., channel] = image[:, ::-1, channel]
    return mirrored
