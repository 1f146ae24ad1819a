"""The named inputs of one model call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

Feeds = Mapping[str, NDArray[Any]]
"""The array of each input by the input's name. The first axis of every array is the batch."""


def batch_size(feeds: Feeds) -> int:
    """Return the number of rows, which all inputs share."""
    return len(next(iter(feeds.values())))


def take_rows(feeds: Feeds, rows: slice) -> dict[str, NDArray[Any]]:
    """Return the `rows` of every input."""
    return {name: array[rows] for name, array in feeds.items()}


def shape_text(feeds: Feeds) -> str:
    """Return the shapes for a message: "(3, 8)" of one input, "latent (3, 8), label (3,)" of several."""
    if len(feeds) == 1:
        (array,) = feeds.values()
        return str(array.shape)
    return ", ".join(f"{name} {array.shape}" for name, array in feeds.items())


def total_bytes(feeds: Feeds) -> int:
    """Return the size in memory of all inputs."""
    return sum(array.nbytes for array in feeds.values())


@dataclass(frozen=True)
class Sample:
    """The feeds of one model call, and the images [batch, height, width, channels] that belong to them."""

    feeds: Feeds
    image: NDArray[Any]

    @property
    def nbytes(self) -> int:
        """The size in memory of all arrays."""
        return total_bytes(self.feeds) + self.image.nbytes
