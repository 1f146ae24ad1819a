"""Sends one process's part of a load from one event loop, and measures every request."""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import uvloop

from serving.bench.connection import NO_ANSWER, Answer, Connection
from serving.bench.load import Closed, Load, Open
from serving.bench.samples import FAILURE_TEXTS, Samples

SWEEP_SECONDS = 0.1
"""How often requests that have waited too long are given up."""
SLICE_SECONDS = 0.1
"""The longest time for which an open loop starts requests without a look at answers."""
RETRY_SECONDS = 0.01
"""How long a closed loop waits after a request without an answer, so that a dead server is not flooded."""
now = time.perf_counter


@dataclass(frozen=True)
class Target:
    """The server: `https` is whether the connection is encrypted."""

    host: str
    port: int
    https: bool = False


def send_load(target: Target, requests: Sequence[bytes], load: Load, ready: Callable[[], object]) -> Samples:
    """Send `load` to `target` and return its measured requests.

    `requests` are whole HTTP/1.1 requests, sent in turn. `ready` is called before the first is sent, and may block.
    """

    async def run() -> Samples:
        ready()
        return await _Sender(target, requests, load).run()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run())


@dataclass
class _Log:
    """The measured requests so far."""

    start: array[float] = field(default_factory=lambda: array("d"))
    latency: array[float] = field(default_factory=lambda: array("d"))
    lag: array[float] = field(default_factory=lambda: array("d"))
    status: array[int] = field(default_factory=lambda: array("q"))
    early_ends: array[float] = field(default_factory=lambda: array("d"))
    failures: dict[int, list[str]] = field(default_factory=dict)
    started: int = 0
    not_sent: int = 0

    def add(self, start: float, latency: float, lag: float, answer: Answer) -> None:
        """Add one request and its answer."""
        self.start.append(start)
        self.latency.append(latency)
        self.lag.append(lag)
        self.status.append(answer.status)
        if not 200 <= answer.status < 300:
            texts, text = self.failures.setdefault(answer.status, []), answer.body.decode(errors="replace")
            if len(texts) < FAILURE_TEXTS and text not in texts:
                texts.append(text)

    def samples(self, seconds: float) -> Samples:
        """Return the requests as arrays."""
        times = (self.start, self.latency, self.lag, self.early_ends)
        start, latency, lag, early_ends = (np.array(values, np.float64) for values in times)
        failures = {status: tuple(texts) for status, texts in self.failures.items()}
        status = np.array(self.status, np.int64)
        return Samples(start, latency, lag, status, early_ends, seconds, self.not_sent, failures)


class _Sender:
    """Runs one load. All times are those of `now`."""

    def __init__(self, target: Target, requests: Sequence[bytes], load: Load) -> None:
        self._target, self._load = target, load
        self._requests = itertools.cycle(requests)
        self._loop = asyncio.get_running_loop()
        self._log = _Log()
        self._idle: list[Connection] = []
        self._sent: dict[Connection, float] = {}
        self._in_flight = 0
        self._connecting: set[asyncio.Task[None]] = set()
        self._begin = now()
        self._measured = self._begin + load.warm_up
        self._end = self._measured + load.duration
        self._over = self._loop.create_future()
        self._last_answer = self._measured

    async def run(self) -> Samples:
        """Send the load, wait for the answers of what is in flight, and return the measured requests."""
        loop = self._load.loop
        self._loop.set_exception_handler(self._fail)
        sweep = self._loop.create_task(_every(SWEEP_SECONDS, self._give_up))
        if isinstance(loop, Closed):
            for _ in range(loop.concurrency):
                self._next_of_slot()
        else:
            self._arrive(loop, map(self._begin.__add__, loop.times(self._load.seed)), None)
        await self._over
        sweep.cancel()
        return self._log.samples(max(self._window(), 1e-9))

    def _window(self) -> float:
        """Return the seconds of the measurement: shorter than planned if the requests ran out."""
        planned = self._load.duration
        return min(planned, self._last_answer - self._measured) if self._exhausted() else planned

    def _exhausted(self) -> bool:
        return self._load.requests is not None and self._log.started >= self._load.requests

    def _finished(self, time: float) -> bool:
        return time >= self._end or self._exhausted()

    def _next_of_slot(self) -> None:
        """Send the next request of one slot of a closed loop."""
        time = now()
        if self._finished(time):
            self._end_if_idle()
        else:
            self._start(time, self._after_answer_in_slot)

    def _after_answer_in_slot(self, answer: Answer) -> None:
        if answer.status == NO_ANSWER:
            self._loop.call_later(RETRY_SECONDS, self._next_of_slot)
        else:
            self._next_of_slot()

    def _arrive(self, loop: Open, times: Iterator[float], due: float | None) -> None:
        """Start every request of an open loop that is due, and come back for the next.

        The requests of a rate that is too high for this process are not walked one by one after the end: those that are
        left are counted as not sent.
        """
        time = now()
        due = next(times) if due is None else due
        if time >= self._end and (due >= self._end or time >= self._end + SLICE_SECONDS):
            self._log.not_sent += round(loop.rate * max(0.0, self._end - max(due, self._measured)))
            self._end_if_idle()
            return
        while due <= time and now() < time + SLICE_SECONDS:
            if self._finished(due):
                self._end = min(self._end, due)
                self._end_if_idle()
                return
            if self._in_flight < loop.in_flight:
                self._start(due, lambda answer: self._end_if_idle())
            elif due >= self._measured:
                self._log.not_sent += 1
            due = next(times)
        # The loop's timers count whole milliseconds. A late start is part of the latency and is shown as lag.
        wait = max(0.0, min(due, self._end) - time)
        self._loop.call_later(math.ceil(wait * 1000) / 1000, self._arrive, loop, times, due)

    def _start(self, due: float, after: Callable[[Answer], None]) -> None:
        """Send the next request, whose intended start is `due`, and call `after` with its answer."""
        measured = due >= self._measured
        self._log.started += measured
        self._in_flight += 1
        connection = self._usable_connection()
        request = next(self._requests)
        if connection is not None:
            self._send(connection, request, due, after)
            return
        task = self._loop.create_task(self._connect_and_send(request, due, after))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    def _usable_connection(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
        return None

    async def _connect_and_send(self, request: bytes, due: float, after: Callable[[Answer], None]) -> None:
        target = self._target
        try:
            async with asyncio.timeout(self._load.timeout):
                _, connection = await self._loop.create_connection(
                    Connection, target.host, target.port, ssl=target.https or None
                )
        except (OSError, TimeoutError) as error:
            self._record(due, now(), Answer(NO_ANSWER, f"no connection can be made ({error})".encode()), after)
        else:
            self._send(connection, request, due, after)

    def _send(self, connection: Connection, request: bytes, due: float, after: Callable[[Answer], None]) -> None:
        sent = now()

        def on_answer(answer: Answer) -> None:
            del self._sent[connection]
            self._idle.append(connection)
            self._record(due, sent, answer, after)

        self._sent[connection] = sent
        connection.send(request, on_answer)

    def _record(self, due: float, sent: float, answer: Answer, after: Callable[[Answer], None]) -> None:
        time = now()
        self._in_flight -= 1
        if due >= self._measured:
            self._log.add(due - self._measured, time - due, sent - due, answer)
            self._last_answer = time
        elif time >= self._measured and 200 <= answer.status < 300:
            self._log.early_ends.append(time - self._measured)
        after(answer)

    def _give_up(self) -> None:
        """Abort the requests that have waited longer than the timeout."""
        oldest = now() - self._load.timeout
        for connection in [connection for connection, sent in self._sent.items() if sent < oldest]:
            connection.abort(f"no answer within {self._load.timeout:g} s")

    def _fail(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """End the measurement with the exception of a callback, which would otherwise never end it."""
        if not self._over.done():
            self._over.set_exception(context.get("exception") or RuntimeError(context["message"]))

    def _end_if_idle(self) -> None:
        if not self._finished(now()):
            return
        # A server that has as many connections as it takes accepts the next one when one is closed.
        while self._idle:
            self._idle.pop().abort("the measurement is over")
        if self._in_flight == 0 and not self._over.done():
            self._over.set_result(None)


async def _every(seconds: float, work: Callable[[], None]) -> None:
    while True:
        await asyncio.sleep(seconds)
        work()
