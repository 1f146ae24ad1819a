"""What every metric can do, and how a generator is scored with one, on one worker or on several."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.uint8]
"""Images of equal shape: uint8 [n, height, width, channels]."""
Integers = NDArray[np.int64]
Generate = Callable[[Integers], tuple[Images, Integers | None]]
"""Maps numbers, int64 [n], to the generated images of these numbers and their class labels, int64 [n] or None."""


class Metric(Protocol):
    """A metric is constructed as `Class(config, seed=…)`, reads images in batches and then computes its figures.

    Several workers can share the images of one evaluation: each updates a metric of its own with its part, and one
    worker merges the states of the others before it computes. The memory does not grow with the number of images.
    """

    def update(self, images: Images, labels: Integers | None = None, numbers: Integers | None = None) -> None:
        """Add the next images, uint8 [n, h, w, c]; any number of calls.

        `labels` (int64 [n]) are the classes that the images should show. `numbers` (int64 [n]) are the positions of
        the images among all evaluated ones; without them, the images follow those of the last call.

        Raises:
            trainer.errors.DataError: the metric is not for such images.
        """

    def state(self) -> Any:
        """Return everything that the updates have added, as a picklable value."""

    def merge(self, state: Any) -> None:
        """Add the `state()` of another worker's metric of the same config, which had other images.

        Raises:
            trainer.errors.DataError: both had the same image, and it matters to this metric.
        """

    def compute(self) -> dict[str, float]:
        """Return the figures by name. It changes nothing: updates may follow.

        Raises:
            trainer.errors.DataError: there were too few images.
        """


class WorkerGroup(Protocol):
    """The workers of one evaluation, as `trainer.ranks.Ranks` has them: this worker's `rank` and how many there are."""

    @property
    def rank(self) -> int: ...

    @property
    def count(self) -> int: ...

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all workers in the order of their ranks on rank 0, and nothing on the others."""


class SingleWorker:
    """The group of a process that works alone."""

    rank, count = 0, 1

    def gather(self, value: Any) -> list[Any]:
        """Return the one value."""
        return [value]


def evaluate_generator(
    metric: Metric, generate: Generate, count: int, batch: int, workers: WorkerGroup | None = None
) -> dict[str, float]:
    """Score the generated images of the numbers 0 … `count` − 1, and return the metric's figures.

    The numbers are cut into batches of `batch`. The workers take the batches in turn, so the images of a batch do not
    depend on the number of workers. Every worker must make this call, with a `metric` that has no images yet. The
    result is empty on all workers but rank 0.

    Raises:
        trainer.errors.DataError: as the methods of `Metric`.
    """
    workers = workers or SingleWorker()
    for first in range(workers.rank * batch, count, workers.count * batch):
        numbers = np.arange(first, min(first + batch, count), dtype=np.int64)
        images, labels = generate(numbers)
        metric.update(images, labels, numbers)
    states = workers.gather(metric.state())
    if workers.rank != 0:
        return {}
    for state in states[1:]:
        metric.merge(state)
    return metric.compute()
