"""Dynamic batching: which of the waiting feeds run together, and how they are merged and split again.

All of this is pure: time is an argument, and nothing here waits. `serving.batcher` uses it on an event loop.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from serving.config import Batching

Tensors = Mapping[str, NDArray[Any]]
"""The inputs or the outputs of a model by name; all have the same first axis."""
Key = tuple[tuple[str, str, tuple[int, ...]], ...]
"""The (name, dtype, shape without the batch axis) of each tensor; see `group_key`."""


def rows(tensors: Tensors) -> int:
    """Return the length of the batch axis, which all `tensors` share."""
    return int(next(iter(tensors.values())).shape[0])


def group_key(tensors: Tensors) -> Key:
    """Return the names, dtypes and shapes without the batch axis. Feeds with equal keys can run together."""
    return tuple(sorted((name, array.dtype.str, array.shape[1:]) for name, array in tensors.items()))


def capacity(key: Key, settings: Batching) -> int:
    """Return how many rows of the group `key` may run together, at least one.

    For images, [height, width, channels] without the batch axis, `max_pixels` is a limit too.
    """
    pixels = max((math.prod(shape[:2]) for _, _, shape in key if len(shape) == 3), default=0)
    return max(1, min(settings.max_size, settings.max_pixels // pixels)) if pixels else settings.max_size


def merge(parts: Sequence[Tensors]) -> Tensors:
    """Concatenate the parts of one group along the batch axis."""
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def split(tensors: Tensors, counts: Sequence[int]) -> list[Tensors]:
    """Cut `tensors` into consecutive parts of `counts` rows, the inverse of `merge`."""
    stops = np.cumsum(counts)
    return [
        {name: array[stop - count : stop] for name, array in tensors.items()}
        for stop, count in zip(stops, counts, strict=True)
    ]


def chunks(tensors: Tensors, size: int) -> list[Tensors]:
    """Cut `tensors` into parts of at most `size` rows."""
    n = rows(tensors)
    return split(tensors, [min(size, n - start) for start in range(0, n, size)])


J = TypeVar("J")


class BatchQueue(Generic[J]):
    """Holds the jobs that wait, grouped by key, and chooses the next batch: the earliest deadline first.

    A job is any object. Jobs with equal deadlines keep their order of arrival. A job that waits is never overtaken by
    one with a later deadline. New jobs can overtake it only until their deadlines lie after its own.
    """

    def __init__(self) -> None:
        self._groups: dict[Key, list[tuple[float, int, int, J]]] = {}
        """Heaps of (deadline, number of arrival, rows, job)."""
        self._arrivals = 0
        self.rows = 0
        """The rows of all jobs that wait."""

    def __bool__(self) -> bool:
        """Whether a job waits."""
        return bool(self._groups)

    def push(self, job: J, key: Key, rows: int, deadline: float) -> None:
        """Add a job of `rows` rows."""
        heapq.heappush(self._groups.setdefault(key, []), (deadline, self._arrivals, rows, job))
        self._arrivals += 1
        self.rows += rows

    def remove(self, job: J, key: Key) -> None:
        """Remove `job`, of the group `key`, if it waits."""
        group = self._groups.get(key, [])
        index = next((index for index, entry in enumerate(group) if entry[-1] is job), None)
        if index is None:
            return
        self.rows -= group.pop(index)[2]
        heapq.heapify(group)
        if not group:
            del self._groups[key]

    def pop_batch(self, capacity: Callable[[Key], int], is_live: Callable[[J], bool] = lambda job: True) -> list[J]:
        """Remove and return the jobs of the next batch, the earliest deadline first.

        They are of one group, and have `capacity(key)` rows together at most, or are a single job. Jobs that are no
        longer live are dropped. The list is empty if no live job waits.
        """
        while self._groups:
            key = min(self._groups, key=lambda key: self._groups[key][0][:2])
            group = self._groups[key]
            if is_live(group[0][-1]):
                return self._pop_fitting(key, capacity(key), is_live)
            self._pop(key)
        return []

    def _pop_fitting(self, key: Key, room: int, is_live: Callable[[J], bool]) -> list[J]:
        """Remove and return the first live job of the group `key`, and the following ones while they fit."""
        batch: list[J] = []
        while group := self._groups.get(key):
            _, _, rows, job = group[0]
            if is_live(job):
                if batch and rows > room:
                    break
                batch.append(job)
                room -= rows
            self._pop(key)
        return batch

    def _pop(self, key: Key) -> None:
        group = self._groups[key]
        self.rows -= heapq.heappop(group)[2]
        if not group:
            del self._groups[key]
