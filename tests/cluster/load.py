"""Clients that send requests to a server without pause, and what they were answered."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Answer:
    """What one request got: times of a monotonic clock in seconds, and the status, or None without an answer.

    `code` is that of a JSON error. `is_reused` says that the connection had served a request before, and `has_begun`
    that the status and headers of an answer arrived.
    """

    sent: float
    ended: float
    status: int | None
    code: str = ""
    error: str = ""
    is_reused: bool = False
    has_begun: bool = False
    retry_after: str | None = None

    @property
    def is_refused(self) -> bool:
        """Whether the request never reached the server."""
        return self.error == "ConnectionRefusedError"

    @property
    def is_closed(self) -> bool:
        """Whether the connection was closed before anything of an answer arrived."""
        return not self.has_begun and self.error in ("RemoteDisconnected", "ConnectionResetError", "BrokenPipeError")


@dataclass
class Load:
    """`clients` that send the same request again and again, every second one on a new connection each time."""

    port: int
    path: str
    body: bytes
    content_type: str = "application/json"
    clients: int = 8
    answers: list[Answer] = field(default_factory=list)
    _ended: threading.Event = field(default_factory=threading.Event)
    _arrival: threading.Condition = field(default_factory=threading.Condition)

    @contextmanager
    def running(self) -> Iterator[Load]:
        """Send requests while the block runs, and wait for the last answers at its end."""
        threads = [threading.Thread(target=self._send, args=(bool(number % 2),)) for number in range(self.clients)]
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

    def summary(self) -> str:
        """Return the numbers of answers by what they are."""
        kinds = Counter(str(a.status or a.error) + (f" {a.code}" if a.code else "") for a in self.answers)
        return ", ".join(f"{count} x {kind}" for kind, count in kinds.most_common())

    def _send(self, keep: bool) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        while not self._ended.is_set():
            answer = self._ask(connection)
            with self._arrival:
                self.answers.append(answer)
                self._arrival.notify_all()
            if answer.is_refused:
                self._ended.wait(0.05)
            if not keep or answer.status is None:
                connection.close()
        connection.close()

    def _ask(self, connection: http.client.HTTPConnection) -> Answer:
        is_reused, has_begun, sent = connection.sock is not None, False, time.monotonic()
        try:
            connection.request("POST", self.path, self.body, {"Content-Type": self.content_type})
            response = connection.getresponse()
            has_begun = True
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            name = type(error).__name__
            return Answer(sent, time.monotonic(), None, error=name, is_reused=is_reused, has_begun=has_begun)
        code = "" if response.status < 400 else _code(content)
        return Answer(
            sent,
            time.monotonic(),
            response.status,
            code,
            is_reused=is_reused,
            has_begun=has_begun,
            retry_after=response.headers["Retry-After"],
        )


def _code(content: bytes) -> str:
    """Return the code of a JSON error, or "not JSON"."""
    try:
        body = json.loads(content)
        return str(body["code"]) if set(body) == {"error", "code"} else "not JSON"
    except (ValueError, KeyError, TypeError):
        return "not JSON"
