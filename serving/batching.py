"""Dynamic batching: feeds of equal shapes and dtypes are merged, run together, and split again.

The functions are pure. `Batcher` uses them on an event loop and runs the model in a separate thread.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.config import Batching
from serving.errors import DeadlineError, OverloadedError, ServingError

Tensors = Mapping[str, NDArray[Any]]
"""The inputs or the outputs of a model by name; all have the same first axis."""
Submit = Callable[[Tensors], Awaitable[Tensors]]
"""Queues the inputs of one request and returns its outputs."""
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


@dataclass(eq=False)
class _QueuedFeeds:
    key: Key
    tensors: Tensors
    arrived: float
    future: asyncio.Future[Tensors]

    @property
    def rows(self) -> int:
        return rows(self.tensors)


class Batcher:
    """Merges concurrent calls of `submit` into calls of `run`, one at a time, the oldest group first.

    Merging and `run` are done in one thread. An exception of `run` reaches every request of that batch and no other.
    """

    def __init__(self, run: Callable[[Tensors], Tensors], settings: Batching) -> None:
        self._run = run
        self._settings = settings
        self._queue: list[_QueuedFeeds] = []
        """The feeds that wait, in the order of arrival."""
        self._arrival = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batch")
        self._worker: asyncio.Task[None] | None = None

    async def submit(self, tensors: Tensors) -> Tensors:
        """Queue `tensors` and wait for the result.

        Requests of equal shapes are batched; a request larger than one batch is split and joined again.

        Raises:
            OverloadedError: the queue is full.
            DeadlineError: the request waited longer than the limit.
            ServingError: `run` raised.
        """
        waiting = sum(item.rows for item in self._queue)
        # If nothing waits, a request is accepted even if it is larger than the queue.
        if waiting and waiting + rows(tensors) > self._settings.queue:
            raise OverloadedError(
                f"{waiting} images wait already and the limit is {self._settings.queue}: try again later"
            )
        loop = asyncio.get_running_loop()
        if self._worker is None or self._worker.done():
            self._worker = loop.create_task(self._work())
        key = group_key(tensors)
        parts = chunks(tensors, capacity(key, self._settings))
        items = [_QueuedFeeds(key, part, loop.time(), loop.create_future()) for part in parts]
        self._queue += items
        self._arrival.set()
        try:
            answers = await asyncio.gather(*(item.future for item in items))
            return answers[0] if len(answers) == 1 else await asyncio.to_thread(merge, answers)
        finally:
            # Parts still wait if the request was cancelled, or another part of it failed.
            for item in items:
                item.future.cancel()
            self._queue = [item for item in self._queue if not item.future.done()]

    async def close(self) -> None:
        """Stop the worker and its thread. Requests that still wait fail with OverloadedError."""
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
        _fail(self._queue, OverloadedError("the server is stopping"))
        self._thread.shutdown(wait=False)

    def _group(self, key: Key) -> list[_QueuedFeeds]:
        return [item for item in self._queue if item.key == key]

    async def _work(self) -> None:
        while True:
            while not self._queue:
                self._arrival.clear()
                await self._arrival.wait()
            key = self._queue[0].key
            await self._fill(key)
            batch = self._take(key)
            if batch:
                await self._run_batch(batch)

    async def _fill(self, key: Key) -> None:
        """Wait until the group has a full batch, or its oldest request has waited for `max_delay_ms`."""
        loop = asyncio.get_running_loop()
        max_rows = capacity(key, self._settings)
        while group := self._group(key):
            remaining = group[0].arrived + self._settings.max_delay_ms / 1000 - loop.time()
            if remaining <= 0 or sum(item.rows for item in group) >= max_rows:
                return
            self._arrival.clear()
            try:
                await asyncio.wait_for(self._arrival.wait(), remaining)
            except TimeoutError:
                return

    def _take(self, key: Key) -> list[_QueuedFeeds]:
        """Take at most one batch from the group. Requests whose deadline has passed fail with DeadlineError."""
        now = asyncio.get_running_loop().time()
        max_rows = capacity(key, self._settings)
        batch: list[_QueuedFeeds] = []
        for item in self._group(key):
            if sum(part.rows for part in (*batch, item)) > max_rows:
                break
            self._queue.remove(item)
            if item.future.done():  # cancelled, but `submit` has not continued yet
                continue
            if now - item.arrived > self._settings.timeout_s:
                item.future.set_exception(DeadlineError(f"the request waited more than {self._settings.timeout_s:g} s"))
            else:
                batch.append(item)
        return batch

    async def _run_batch(self, batch: list[_QueuedFeeds]) -> None:
        loop = asyncio.get_running_loop()
        try:
            parts = await loop.run_in_executor(self._thread, self._run_together, [item.tensors for item in batch])
            for item, part in zip(batch, parts, strict=True):
                if not item.future.done():
                    item.future.set_result(part)
        except Exception as error:  # noqa: BLE001 - whatever failed, no request may wait for ever
            _fail(batch, error)
        finally:  # the worker may have been cancelled meanwhile
            _fail(batch, OverloadedError("the server is stopping"))

    def _run_together(self, parts: Sequence[Tensors]) -> list[Tensors]:
        return split(self._run(merge(parts)), [rows(part) for part in parts])


def _fail(items: Iterable[_QueuedFeeds], error: Exception) -> None:
    for item in items:
        if not item.future.done():
            item.future.set_exception(_copy(error))


def _copy(error: Exception) -> Exception:
    """Return an exception for one request: a shared exception would collect the tracebacks of all requests."""
    if isinstance(error, ServingError):
        return type(error)(*error.args)
    return ServingError(f"{type(error).__name__}: {error}")
