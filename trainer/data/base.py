"""The protocol of datasets: what an example is, and what a dataset says of its examples before it reads a file."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from trainer.config import Section

Image = NDArray[np.uint8]
"""One image: uint8 [height, width, channels]."""


@dataclass(frozen=True)
class ImageSpec:
    """The shape of a domain's images: `size` x `size` pixels with `channels` channels.

    Size None stands for any size. Only tasks use it, to say that they need no particular size.
    """

    size: int | None
    channels: int


@dataclass(frozen=True)
class DataSpec:
    """What examples consist of.

    Attributes:
        domains: the shape of the images of each domain. An example has one image per domain.
        classes: the number of classes, whose labels are 0 to classes - 1; None if examples have no label.
        paired: whether the images of one example show the same thing; otherwise they are independent draws.
    """

    domains: dict[str, ImageSpec]
    classes: int | None = None
    paired: bool = False


@dataclass(frozen=True)
class Example:
    """One training example: one image per domain, and the label in 0 to classes - 1 if the dataset has classes."""

    images: dict[str, Image]
    label: int | None = None


class DataConfig(Section):
    """The config of a dataset."""

    @abstractmethod
    def spec(self) -> DataSpec:
        """Return what the examples consist of. No file is read."""


class Dataset(Protocol):
    """Training examples and held-out images.

    A dataset is constructed as `Class(config, seed=…)`, where `config` is a `DataConfig`. The constructor lists the
    files and raises `trainer.errors.DataError` if a domain has none.
    """

    @property
    def spec(self) -> DataSpec:
        """What the examples consist of: `config.spec()`."""

    @property
    def digest(self) -> str:
        """A SHA-256 that changes when the training images change. Files are compared by names and sizes."""

    @property
    def facts(self) -> list[str]:
        """One line for each fact about the images: numbers, sizes, and what was left out and why.

        The lines are computed on each access.

        Raises:
            trainer.errors.DataError: the images contradict the config.
        """

    @property
    def skipped(self) -> list[str]:
        """One line for each image that could not be read, in the order of the attempts.

        Other threads may read images meanwhile. New lines are only ever added at the end.
        """

    def count(self, domain: str) -> int:
        """Return the number of different training images of `domain`."""

    def example(self, number: int) -> Example:
        """Return training example `number` (0, 1, 2, …) of the run, augmented.

        The result is a pure function of (seed, number): it depends on no earlier call, worker or thread. An unreadable
        file is replaced by the next readable one. In a paired dataset the whole example is replaced, so that images of
        different pairs never come together.

        Raises:
            trainer.errors.DataError: too many images cannot be read.
        """

    def held_out(self, domain: str, count: int) -> list[Image]:
        """Return at most `count` images of `domain` that are not trained on, without augmentation."""
