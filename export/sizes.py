"""The sizes of images that a translator accepts, in the standard library alone: a part of the artifact contract."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

DEFAULT_MAX_SIZE = 512
"""The largest height and width, in pixels, that a translator of small training images declares all the same."""


@dataclass(frozen=True)
class EdgeLimits:
    """The heights, or the widths, in pixels that a translator accepts: multiples of `multiple` in a closed interval."""

    multiple: int
    minimum: int
    maximum: int

    def __str__(self) -> str:
        return f"{self.minimum} to {self.maximum} in steps of {self.multiple}"

    def legal(self, edge: int) -> int:
        """The smallest legal one that is not under `edge`, or the largest one there is."""
        bounded = min(max(edge, self.minimum), self.maximum // self.multiple * self.multiple)
        return -(-bounded // self.multiple) * self.multiple


@dataclass(frozen=True)
class SizeLimits:
    """The images that a translator accepts; the server pads up to the next legal size."""

    height: EdgeLimits
    width: EdgeLimits

    def __str__(self) -> str:
        return f"heights of {self.height} and widths of {self.width} pixels"

    @staticmethod
    def square(multiple: int, minimum: int, maximum: int) -> SizeLimits:
        """The same limits for heights and widths."""
        edge = EdgeLimits(multiple, minimum, maximum)
        return SizeLimits(edge, edge)

    def legal(self, height: int, width: int) -> tuple[int, int]:
        """The smallest legal height and width that are not under these, or the largest ones there are."""
        return self.height.legal(height), self.width.legal(width)

    def from_edge(self, edge: int) -> SizeLimits:
        """Those of these limits that are not under `edge`."""
        height, width = (
            dataclasses.replace(axis, minimum=max(axis.minimum, min(edge, axis.maximum)))
            for axis in (self.height, self.width)
        )
        return SizeLimits(height, width)

    @property
    def smallest(self) -> tuple[int, int]:
        """The smallest legal height and width."""
        return self.legal(0, 0)

    @property
    def largest(self) -> tuple[int, int]:
        """The largest legal height and width."""
        return self.legal(self.height.maximum, self.width.maximum)
