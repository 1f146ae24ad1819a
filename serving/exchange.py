"""One request on a connection to a replica: its body, which arrives in parts, and how far its answer is."""

from __future__ import annotations

import asyncio

from starlette.types import Message

from serving.http import PART_BYTES, HttpRequest


class Exchange:
    """A request and the state of its answer."""

    def __init__(
        self, transport: asyncio.Transport, method: str, path: str, query: str, headers: dict[str, str]
    ) -> None:
        self._transport = transport
        self.request = HttpRequest(method, path, query, headers, self._receive)
        self.keeps_alive = True
        self.has_begun = False
        self.is_answered = False
        self._parts: list[bytes] = []
        self._held = 0
        """The bytes of `_parts`, which `_receive` has not returned yet."""
        self.has_ended = False
        self._is_read = False
        self._is_gone = False
        self._arrival: asyncio.Future[None] | None = None
        """The event for which `_receive` waits."""

    def add(self, body: bytes) -> None:
        """Take a part of the body. What arrives after the answer is dropped."""
        if self.is_answered:
            return
        self._parts.append(body)
        self._held += len(body)
        if self._held > PART_BYTES:
            self._transport.pause_reading()
        self._wake()

    def end(self) -> None:
        """Take note that the body is complete."""
        self.has_ended = True
        if not self.has_begun:
            self._parts = [b"".join(self._parts)]
            self.request.body, self.request.is_whole = self._parts[0], True
        self._wake()

    def finish(self) -> None:
        """Take note that the answer was sent. An idle connection holds no body, and the rest of one may arrive."""
        self.is_answered = True
        self.request.body = b""
        self._take()

    def disconnect(self) -> None:
        """Take note that the client has gone."""
        self._is_gone = True
        self._wake()

    def _wake(self) -> None:
        if self._arrival is not None:
            if not self._arrival.done():
                self._arrival.set_result(None)
            self._arrival = None

    async def _receive(self) -> Message:
        """Return what has arrived of the body, or wait for more; once it was returned, wait for the client to go."""
        while not (self._is_gone or self._held or (self.has_ended and not self._is_read)):
            self._arrival = asyncio.get_running_loop().create_future()
            await self._arrival
        if self._is_gone:
            return {"type": "http.disconnect"}
        self._is_read = self.has_ended
        return {"type": "http.request", "body": self._take(), "more_body": not self.has_ended}

    def _take(self) -> bytes:
        """Return what has arrived of the body and was not taken before, and let more arrive."""
        body, self._parts, is_paused, self._held = b"".join(self._parts), [], self._held > PART_BYTES, 0
        if is_paused and not self._transport.is_closing():
            self._transport.resume_reading()
        return body
