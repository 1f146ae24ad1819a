"""A metric of another package: the mean grey level of the scored images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trainer.config import Section
from trainer.registry import register


@register("metric")
class Brightness:
    """The mean of all values, in 0..255."""

    class Config(Section):
        """No keys."""

    def __init__(self, config: Config, *, seed: int) -> None:
        self._total, self._count = 0, 0

    def update(
        self,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64] | None = None,
        numbers: NDArray[np.int64] | None = None,
    ) -> None:
        """Add the values of the images."""
        self._total += int(images.sum(dtype=np.int64))
        self._count += images.size

    def state(self) -> tuple[int, int]:
        """Return the sum and the number of the values."""
        return self._total, self._count

    def merge(self, state: tuple[int, int]) -> None:
        """Add another worker's sum and number."""
        self._total, self._count = self._total + state[0], self._count + state[1]

    def compute(self) -> dict[str, float]:
        """Return the mean, and how many values it is of."""
        return {"brightness": self._total / self._count, "values": float(self._count)}
