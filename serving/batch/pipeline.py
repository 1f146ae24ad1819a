"""Overlaps the stages of a shard by threads, in order and with bounded memory."""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")


def ahead(pool: Executor, function: Callable[[S], T], values: Iterable[S], depth: int) -> Iterator[T]:
    """Yield `function(value)` for each of `values`, in order, while threads of `pool` work on up to `depth` next ones.

    `values` is read by the caller's thread, `depth` values before their results are needed.
    """
    waiting: deque[Future[T]] = deque()
    try:
        for value in values:
            waiting.append(pool.submit(function, value))
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def windows(values: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield consecutive lists of `size` values; the last one may be shorter."""
    iterator = iter(values)
    while window := list(itertools.islice(iterator, size)):
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
