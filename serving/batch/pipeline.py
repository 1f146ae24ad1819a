"""Overlaps the stages of a shard by threads, in order and with bounded memory."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")
MOST_HELD = 2**25
"""The most bytes of files, or pixels of images, that a stage holds: 32 MB of files, 100 MB of colour images."""


def _free(value: object) -> int:
    return 0


def ahead(
    pool: Executor, function: Callable[[S], T], values: Iterable[S], depth: int, cost: Callable[[S], int] = _free
) -> Iterator[T]:
    """Yield `function(value)` for each of `values`, in order, while threads of `pool` work on up to `depth` next ones.

    `values` is read by the caller's thread, `depth` values before their results are needed. The values in work cost at
    most `MOST_HELD` together, or there is a single one.
    """
    waiting: deque[tuple[Future[T], int]] = deque()
    held = 0
    try:
        for value in values:
            weight = cost(value)
            while waiting and (len(waiting) > depth or held + weight > MOST_HELD):
                future, done = waiting.popleft()
                held -= done
                yield future.result()
            waiting.append((pool.submit(function, value), weight))
            held += weight
        while waiting:
            yield waiting.popleft()[0].result()
    finally:
        for future, _ in waiting:
            future.cancel()


def windows(values: Iterable[T], size: int, cost: Callable[[T], int] = _free) -> Iterator[list[T]]:
    """Yield consecutive lists of `size` values; the last one may be shorter.

    The values of a list cost at most `MOST_HELD` together, or there is a single one.
    """
    window: list[T] = []
    held = 0
    for value in values:
        weight = cost(value)
        if window and held + weight > MOST_HELD:
            yield window
            window, held = [], 0
        window.append(value)
        held += weight
        if len(window) == size:
            yield window
            window, held = [], 0
    if window:
        yield window


class Stopwatch:
    """Adds up the seconds that threads spend in each stage."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self.seconds: dict[str, float] = {}

    @contextmanager
    def measured(self, stage: str) -> Iterator[None]:
        """Add the time of the block to `stage`."""
        start = self._clock()
        try:
            yield
        finally:
            with self._lock:
                self.seconds[stage] = self.seconds.get(stage, 0.0) + self._clock() - start
