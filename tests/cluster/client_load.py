"""Requests through the clients of the package, sent without pause from threads and from tasks of an event loop."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from serving.async_client import AsyncClient
from serving.client import Client
from serving.codec import File
from serving.errors import ServingError
from serving.retrying import DEFAULT_RETRY, ONCE, RetryPolicy

Request = Mapping[str, Any]
"""The arguments of `Client.fetch`."""


class Answer(NamedTuple):
    """What a request got: times of a monotonic clock in seconds, and 200 with the version, or the class of the error.

    `client` is the kind of the client.
    """

    sent: float
    ended: float
    status: int | str
    version: str
    client: str = ""


@dataclass
class ClientLoad:
    """Clients that send `requests` in turn, to one or several servers: in threads, in tasks, and without repeats.

    `clients` is the number of each of these kinds.
    """

    url: str | list[str]
    requests: list[Request]
    clients: int = 2
    retry: RetryPolicy = DEFAULT_RETRY
    answers: list[Answer] = field(default_factory=list)
    _ended: threading.Event = field(default_factory=threading.Event)
    _arrival: threading.Condition = field(default_factory=threading.Condition)

    @contextmanager
    def running(self) -> Iterator[ClientLoad]:
        """Send requests while the block runs, and wait for the last answers at its end."""
        sending: list[Callable[[], None]] = [self._send_async]
        for _ in range(self.clients):
            sending += [lambda: self._send("sync"), lambda: self._send("once")]
        threads = [threading.Thread(target=send) for send in sending]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self._ended.set()
            for thread in threads:
                thread.join()

    def wait_for(self, count: int) -> None:
        """Wait until `count` more requests have been answered."""
        target = len(self.answers) + count
        with self._arrival:
            assert self._arrival.wait_for(lambda: len(self.answers) >= target, 120)

    def failed(self, *clients: str) -> list[Answer]:
        """Return the failed requests of these kinds of clients: `sync`, `async`, and `once`, which repeats nothing."""
        return [answer for answer in self.answers if answer.client in clients and answer.status != 200]

    def summary(self) -> str:
        """Return the numbers of answers by the kind of the client and by what they are."""
        counts = Counter((answer.client, answer.status) for answer in self.answers)
        return ", ".join(f"{client} {count} x {status}" for (client, status), count in sorted(counts.items(), key=str))

    def _send(self, kind: str) -> None:
        with Client(self.url, retry=ONCE if kind == "once" else self.retry) as client:
            for request in self._requests():
                sent = time.monotonic()
                try:
                    self._add(sent, client.fetch(**request), kind)
                except ServingError as error:
                    self._add(sent, error, kind)
                    self._ended.wait(0.05)

    def _send_async(self) -> None:
        asyncio.run(self._send_tasks())

    async def _send_tasks(self) -> None:
        async with AsyncClient(self.url, retry=self.retry) as client:
            await asyncio.gather(*(self._send_task(client) for _ in range(self.clients)))

    async def _send_task(self, client: AsyncClient) -> None:
        for request in self._requests():
            sent = time.monotonic()
            try:
                self._add(sent, await client.fetch(**request), "async")
            except ServingError as error:
                self._add(sent, error, "async")

    def _requests(self) -> Iterable[Request]:
        return itertools.takewhile(lambda _: not self._ended.is_set(), itertools.cycle(self.requests))

    def _add(self, sent: float, result: File | ServingError, client: str) -> None:
        status = 200 if isinstance(result, File) else f"{type(result).__name__}: {result}"
        version = result.headers["zorse-version"] if isinstance(result, File) else ""
        with self._arrival:
            self.answers.append(Answer(sent, time.monotonic(), status, version, client))
            self._arrival.notify_all()
