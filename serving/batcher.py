"""Runs a model for concurrent requests: at once while the model is idle, in batches while it is busy."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Protocol

from serving.batching import BatchQueue, Key, Tensors, capacity, chunks, group_key, merge, rows, split
from serving.config import Batching
from serving.errors import DeadlineError, InternalError, ServingError

Outcome = Tensors | ServingError
"""The outputs of a job, or why there are none."""


class Submit(Protocol):
    """Queues the inputs of one request and returns its outputs. `deadline` is in the event loop's time."""

    def __call__(self, tensors: Tensors, deadline: float | None = None) -> Awaitable[Tensors]: ...


class BatchObserver(Protocol):
    """Takes note of runs and of the queue."""

    def batch(self, requests: int, rows: int, waited: Sequence[float], seconds: float) -> None:
        """Record a run that made `rows` rows in `seconds`.

        `requests` is the number of requests whose first part was in it, and `waited` how long each of those had waited.
        """

    def queued(self, images: int) -> None:
        """State how many rows wait."""


@dataclass(eq=False, slots=True)
class _Job:
    """A request, or a part of one that is larger than a batch. `is_first` is False for all parts but the first."""

    tensors: Tensors
    rows: int
    is_first: bool
    arrived: float
    deadline: float
    future: asyncio.Future[Tensors]


class Batcher:
    """Merges concurrent calls of `submit` into calls of `run`, one at a time.

    While nothing runs, the requests that arrive in the same turn of the event loop run at once. While something runs,
    requests gather; the next batch is chosen when the run has ended. Short runs (`inline`) are made on the event loop,
    others in one thread that lives as long as the batcher. If a batch fails, each of its requests runs alone, so that
    one bad input fails alone.
    """

    def __init__(
        self,
        run: Callable[[Tensors], Tensors],
        settings: Batching,
        *,
        inline: bool = False,
        observer: BatchObserver | None = None,
    ) -> None:
        self._run = run
        self._settings = settings
        self._observer = observer
        self._capacity: Callable[[Key], int] = lru_cache(maxsize=256)(partial(capacity, settings=settings))
        self._queue: BatchQueue[_Job] = BatchQueue()
        self._thread = None if inline else ThreadPoolExecutor(1, thread_name_prefix="model")
        self._is_scheduled = False
        self._is_running = False
        self._arrived = self._arrived_before = 0
        """The requests of this turn of the event loop, and of the last turn that had any."""

    async def submit(self, tensors: Tensors, deadline: float | None = None) -> Tensors:
        """Run `tensors`, and wait for the result until `deadline`, or for `timeout_s` at most.

        Requests of equal shapes are batched; a request larger than one batch is split and joined again.

        Raises:
            DeadlineError: there is no result by then.
            ServingError: `run` raised.
        """
        loop = asyncio.get_running_loop()
        # The clock of the event loop, which uvloop reads once a turn and in whole milliseconds.
        now = time.monotonic()
        limit = now + self._settings.timeout_s
        deadline = limit if deadline is None else min(limit, deadline)
        n = rows(tensors)
        self._arrived += 1
        if self._is_alone(n) and deadline > now:
            self._schedule(loop)
            return self._run_at_once(tensors, now)
        key = group_key(tensors)
        size = self._capacity(key)
        jobs = [
            _Job(part, rows(part), number == 0, now, deadline, loop.create_future())
            for number, part in enumerate((tensors,) if n <= size else chunks(tensors, size))
        ]
        for job in jobs:
            self._queue.push(job, key, job.rows, deadline)
        self._state_queue()
        self._schedule(loop)
        try:
            if self._thread is None:  # so short that `_start` notices late jobs in time, and a timer would cost more
                answers = [await job.future for job in jobs]
            else:
                async with asyncio.timeout_at(deadline):
                    answers = [await job.future for job in jobs]
        except TimeoutError as error:
            raise _late(jobs[0]) from error
        finally:
            # Parts still wait if the request was cancelled or late, or another part of it failed: they are not run.
            for job in jobs:
                self._abandon(job, key)
        return answers[0] if len(answers) == 1 else await asyncio.to_thread(merge, answers)

    def _is_alone(self, n: int) -> bool:
        """Return whether a short run of `n` rows need not wait for the end of this turn of the event loop.

        That is so for one row, if it is the first of its turn and the turn before it had no more than one. The time in
        which others of the turn could join it, a future and a task's change of turns would take a tenth of the answer.
        """
        return n == 1 == self._arrived and self._arrived_before <= 1 and self._thread is None and not self._queue

    def _run_at_once(self, tensors: Tensors, now: float) -> Tensors:
        outcome = self._run_alone(tensors)
        is_failed = isinstance(outcome, ServingError)
        if self._observer is not None:
            self._observer.batch(1, 0 if is_failed else 1, (0.0,), time.monotonic() - now)
        if isinstance(outcome, ServingError):
            raise outcome
        return outcome

    def _abandon(self, job: _Job, key: Key) -> None:
        """Take `job` from the queue, or, if it has failed, mark its exception as seen, so that asyncio is silent."""
        if job.future.done() and not job.future.cancelled():
            job.future.exception()
            return
        # The future that a cancelled request awaited is cancelled already.
        job.future.cancel()
        self._queue.remove(job, key)
        self._state_queue()

    def _state_queue(self) -> None:
        if self._thread is not None and self._observer is not None:  # short runs have no queue to speak of
            self._observer.queued(self._queue.rows)

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        """Choose a batch at the end of this turn of the event loop, unless something runs."""
        if not self._is_scheduled and not self._is_running:
            self._is_scheduled = True
            loop.call_soon(self._start, loop)

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._is_scheduled = False
        self._arrived_before, self._arrived = self._arrived, 0
        began = time.monotonic()
        batch = self._queue.pop_batch(self._capacity, lambda job: _is_live(job, began))
        self._state_queue()
        if not batch:
            return
        parts = [job.tensors for job in batch]
        if self._thread is None:
            self._end(loop, batch, began, self._run_together(parts))
            return
        self._is_running = True
        running = loop.run_in_executor(self._thread, self._run_together, parts)
        running.add_done_callback(partial(self._end_in_thread, loop, batch, began))

    def _end_in_thread(
        self,
        loop: asyncio.AbstractEventLoop,
        batch: list[_Job],
        began: float,
        running: asyncio.Future[list[Outcome]],
    ) -> None:
        self._is_running = False
        # Only what is no Exception, such as SystemExit, leaves `_run_together`.
        error = running.exception()
        outcomes = running.result() if error is None else [_internal(error) for _ in batch]
        self._end(loop, batch, began, outcomes)

    def _end(
        self, loop: asyncio.AbstractEventLoop, batch: list[_Job], began: float, outcomes: Sequence[Outcome]
    ) -> None:
        for job, outcome in zip(batch, outcomes, strict=True):
            if job.future.done():  # cancelled meanwhile
                continue
            if isinstance(outcome, ServingError):
                job.future.set_exception(outcome)
            else:
                job.future.set_result(outcome)
        if self._observer is not None:
            seconds = time.monotonic() - began
            waited = [began - job.arrived for job in batch if job.is_first]
            made = sum(
                job.rows for job, outcome in zip(batch, outcomes, strict=True) if not isinstance(outcome, ServingError)
            )
            self._observer.batch(len(waited), made, waited, seconds)
        if self._queue:
            self._schedule(loop)

    def _run_together(self, parts: Sequence[Tensors]) -> list[Outcome]:
        if len(parts) == 1:
            return [self._run_alone(parts[0])]
        try:
            return [*split(self._run(merge(parts)), [rows(part) for part in parts])]
        except Exception:  # noqa: BLE001 - which request is at fault shows when each runs alone
            return [self._run_alone(part) for part in parts]

    def _run_alone(self, part: Tensors) -> Outcome:
        try:
            return self._run(part)
        except ServingError as error:
            return error
        except Exception as error:  # noqa: BLE001 - whatever failed, the request must get an answer
            return _internal(error)


def _internal(error: BaseException) -> InternalError:
    """Return an error for a client; `error` is its cause in the log."""
    internal = InternalError()
    internal.__cause__ = error
    return internal


def _is_live(job: _Job, now: float) -> bool:
    """Return whether a client still waits for `job`; a job that is late fails."""
    if job.future.done():
        return False
    if job.deadline > now:
        return True
    job.future.set_exception(_late(job))
    return False


def _late(job: _Job) -> DeadlineError:
    return DeadlineError(f"there was no answer within {max(0.0, job.deadline - job.arrived):.3g} s")
