"""Dynamic batching: rows of equal shape and dtype are merged, run together, and split again.

The first half is pure; `Batcher` puts it on an event loop and runs the model in a thread of its own.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.config import Batching
from serving.errors import DeadlineError, OverloadedError, ServingError

Tensors = Mapping[str, NDArray[Any]]
Submit = Callable[[Tensors], Awaitable[Tensors]]
Key = tuple[tuple[str, str, tuple[int, ...]], ...]


def rows(tensors: Tensors) -> int:
    """The length of the batch axis, which all `tensors` share."""
    return int(next(iter(tensors.values())).shape[0])


def bucket(tensors: Tensors) -> Key:
    """What requests must agree on to run together: names, dtypes, and shapes without the batch axis."""
    return tuple(sorted((name, array.dtype.str, array.shape[1:]) for name, array in tensors.items()))


def capacity(key: Key, settings: Batching) -> int:
    """How many rows of the bucket `key` may run together, at least one.

    Images, [height, width, channels] without the batch axis, are bounded by `max_pixels` too.
    """
    pixels = max((math.prod(shape[:2]) for _, _, shape in key if len(shape) == 3), default=0)
    return max(1, min(settings.max_size, settings.max_pixels // pixels)) if pixels else settings.max_size


def merge(parts: Sequence[Tensors]) -> Tensors:
    """Concatenate the parts of one bucket along the batch axis."""
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def split(tensors: Tensors, counts: Sequence[int]) -> list[Tensors]:
    """The inverse of `merge`: consecutive parts of `counts` rows."""
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
class _Waiting:
    key: Key
    tensors: Tensors
    arrived: float
    future: asyncio.Future[Tensors]
    rows: int = field(init=False)

    def __post_init__(self) -> None:
        self.rows = rows(self.tensors)


class Batcher:
    """Merges concurrent calls of `submit` into calls of `run`, one at a time, oldest bucket first.

    `run` is called in one thread, and so is the merging. What it raises reaches every request of that batch and no
    other.
    """

    def __init__(self, run: Callable[[Tensors], Tensors], settings: Batching) -> None:
        self._run = run
        self._settings = settings
        self._buckets: dict[Key, deque[_Waiting]] = {}
        self._waiting_rows = 0
        self._arrival = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batch")
        self._worker: asyncio.Task[None] | None = None

    async def submit(self, tensors: Tensors) -> Tensors:
        """Run `tensors` in company; more rows than one batch holds are run in several.

        Raises:
            OverloadedError: the queue is full.
            DeadlineError: the queue did not move in time.
            ServingError: what `run` raised.
        """
        n = rows(tensors)
        # A request larger than the queue is still served, alone.
        if self._waiting_rows and self._waiting_rows + n > self._settings.queue:
            raise OverloadedError(
                f"{self._waiting_rows} images wait already, {self._settings.queue} may: try again later"
            )
        loop = asyncio.get_running_loop()
        if self._worker is None or self._worker.done():
            self._worker = loop.create_task(self._work())
        key = bucket(tensors)
        parts = chunks(tensors, capacity(key, self._settings))
        waiting = [_Waiting(key, part, loop.time(), loop.create_future()) for part in parts]
        for item in waiting:
            self._buckets.setdefault(key, deque()).append(item)
            self._waiting_rows += item.rows
        self._arrival.set()
        try:
            answers = await asyncio.gather(*(item.future for item in waiting))
            return answers[0] if len(answers) == 1 else await asyncio.to_thread(merge, answers)
        finally:
            for item in waiting:
                self._forget(item)

    async def close(self) -> None:
        """Stop the worker and its thread; requests that still wait fail."""
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
        for queue in self._buckets.values():
            _fail(queue, OverloadedError("the server is stopping"))
        self._thread.shutdown(wait=False)

    def _forget(self, item: _Waiting) -> None:
        """Drop `item` where it still waits: its request was cancelled, or another part of it failed."""
        item.future.cancel()
        queue = self._buckets.get(item.key)
        if queue is not None and item in queue:
            queue.remove(item)
            self._waiting_rows -= item.rows
            if not queue:
                del self._buckets[item.key]

    async def _work(self) -> None:
        while True:
            key = await self._oldest_bucket()
            await self._fill(key)
            batch = self._take(key)
            if batch:
                await self._answer(batch)

    async def _oldest_bucket(self) -> Key:
        while not self._buckets:
            self._arrival.clear()
            await self._arrival.wait()
        return min(self._buckets, key=lambda key: self._buckets[key][0].arrived)

    async def _fill(self, key: Key) -> None:
        """Wait until the bucket holds a full batch or its oldest request has waited long enough."""
        loop = asyncio.get_running_loop()
        full = capacity(key, self._settings)
        while queue := self._buckets.get(key):
            left = queue[0].arrived + self._settings.max_delay_ms / 1000 - loop.time()
            if left <= 0 or sum(item.rows for item in queue) >= full:
                return
            self._arrival.clear()
            try:
                await asyncio.wait_for(self._arrival.wait(), left)
            except TimeoutError:
                return

    def _take(self, key: Key) -> list[_Waiting]:
        """Take at most one batch of requests whose deadline has not passed; those late are told so."""
        queue = self._buckets.get(key, deque())
        now = asyncio.get_running_loop().time()
        full = capacity(key, self._settings)
        batch: list[_Waiting] = []
        taken = 0
        while queue and taken + queue[0].rows <= full:
            item = queue.popleft()
            self._waiting_rows -= item.rows
            if item.future.done():  # cancelled, and its request has not yet come to `_forget` it
                continue
            if now - item.arrived > self._settings.timeout_s:
                item.future.set_exception(DeadlineError(f"the request waited more than {self._settings.timeout_s:g} s"))
                continue
            batch.append(item)
            taken += item.rows
        if not queue:
            self._buckets.pop(key, None)
        return batch

    async def _answer(self, batch: list[_Waiting]) -> None:
        loop = asyncio.get_running_loop()
        try:
            parts = await loop.run_in_executor(self._thread, self._run_together, [item.tensors for item in batch])
            for item, part in zip(batch, parts, strict=True):
                if not item.future.done():
                    item.future.set_result(part)
        except Exception as error:  # noqa: BLE001 - whatever failed, every waiting request must hear of it
            _fail(batch, error)
        finally:  # a worker that is cancelled meanwhile leaves nobody waiting
            _fail(batch, OverloadedError("the server is stopping"))

    def _run_together(self, parts: Sequence[Tensors]) -> list[Tensors]:
        return split(self._run(merge(parts)), [rows(part) for part in parts])


def _fail(items: Iterable[_Waiting], error: Exception) -> None:
    for item in items:
        if not item.future.done():
            item.future.set_exception(_copy(error))


def _copy(error: Exception) -> Exception:
    """One exception per request: a shared one would collect every request's traceback."""
    if isinstance(error, ServingError):
        return type(error)(*error.args)
    return ServingError(f"{type(error).__name__}: {error}")
