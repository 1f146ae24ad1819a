"""An HTTP/1.1 connection that sends prepared requests and reports each answer, as lean as Python allows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple, cast

import httptools

SAMPLE_BYTES = 2000
"""How much of a failed answer's body is kept."""
NO_ANSWER = 0
"""The status of a request that got no whole answer."""


class Answer(NamedTuple):
    """The answer to one request. `status` is `NO_ANSWER` where there is none, and `body` then says why.

    `body` is otherwise the start of the body of an answer that is not a success, and empty for a success.
    """

    status: int
    body: bytes


OnAnswer = Callable[[Answer], None]


class Connection(asyncio.Protocol):
    """Sends one request at a time over one connection.

    `on_answer` of `send` is called exactly once for each request, also if the connection is lost or aborted. After an
    answer `usable` says whether another request can be sent.
    """

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._on_answer: OnAnswer | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._kept: list[bytes] = []
        self._kept_bytes = 0

    @property
    def usable(self) -> bool:
        """Whether the connection is open and idle."""
        transport = self._transport
        return transport is not None and not transport.is_closing() and self._on_answer is None

    def send(self, request: bytes, on_answer: OnAnswer) -> None:
        """Send the bytes of a whole request. The connection must have been made, and must be idle."""
        assert self._transport is not None, "the connection has been made"
        self._on_answer = on_answer
        if self._transport.is_closing():
            asyncio.get_running_loop().call_soon(self.connection_lost, None)
        else:
            self._transport.write(request)

    def abort(self, why: str) -> None:
        """Close the connection at once; a request in flight is answered with `NO_ANSWER` and `why`."""
        if self._transport is not None:
            self._transport.abort()
        self._answer(Answer(NO_ANSWER, why.encode()))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        # uvloop's transports are not subclasses of asyncio's.
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Report that a request in flight will not be answered."""
        why = f"the connection was lost ({exc})" if exc else "the server closed the connection without an answer"
        self._answer(Answer(NO_ANSWER, why.encode()))

    def data_received(self, data: bytes) -> None:
        """Parse received bytes."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.abort(f"the answer is not HTTP/1.1 ({error})")

    def on_body(self, body: bytes) -> None:
        """Keep the start of a failed answer's body."""
        if self._parser.get_status_code() >= 300 and self._kept_bytes < SAMPLE_BYTES:
            self._kept.append(body[: SAMPLE_BYTES - self._kept_bytes])
            self._kept_bytes += len(self._kept[-1])

    def on_message_complete(self) -> None:
        """Report the answer. An informational one (1xx) is followed by the real one."""
        status = self._parser.get_status_code()
        if status < 200:
            return
        body = b"".join(self._kept)
        self._kept, self._kept_bytes = [], 0
        if not self._parser.should_keep_alive():
            assert self._transport is not None, "data comes through the transport"
            self._transport.close()
        self._answer(Answer(status, body))

    def _answer(self, answer: Answer) -> None:
        on_answer, self._on_answer = self._on_answer, None
        if on_answer is not None:
            on_answer(answer)
