"""An HTTP server in a thread of the tests, whose answers and delays are known."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

Respond = Callable[[int, bytes], Awaitable[bytes]]
"""Makes the raw answer to a request of its number, from 0, and its body. An empty answer closes the connection."""


def answer(status: str = "200 OK", body: bytes = b"", *headers: str) -> bytes:
    """Return a raw HTTP/1.1 answer."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


class TimedServer:
    """Answers requests with `respond` and keeps them in `requests` as (head, body).

    It reads from at most `most` connections at a time. Further ones wait until one of them is closed.
    """

    def __init__(self, respond: Respond, most: int = 1000) -> None:
        self._slots = asyncio.Semaphore(most)
        self._respond = respond
        self.requests: list[tuple[str, bytes]] = []
        self.connections = 0
        self.port = 0

    async def serve(self, started: Callable[[], object], stop: asyncio.Event) -> None:
        """Serve on a free port of the loopback interface until `stop` is set."""
        server = await asyncio.start_server(self._handle, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        started()
        async with server:
            await stop.wait()

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            await self._slots.acquire()
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = (
                    0
                    if head.startswith("GET")
                    else int(head.lower().partition("content-length: ")[2].partition("\r\n")[0])
                )
                body = await reader.readexactly(length)
                self.requests.append((head, body))
                raw = await self._respond(len(self.requests) - 1, body)
                if not raw:
                    break
                writer.write(raw)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the client is done, or the test is
        finally:
            self._slots.release()
            writer.close()


@contextmanager
def timed_server(respond: Respond, most: int = 1000) -> Iterator[TimedServer]:
    """Run a server until the block ends."""
    server, started = TimedServer(respond, most), threading.Event()
    stops: list[Callable[[], object]] = []

    async def run() -> None:
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        stops.append(lambda: loop.call_soon_threadsafe(stop.set))
        await server.serve(started.set, stop)

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    assert started.wait(30)
    try:
        yield server
    finally:
        stops[0]()
        thread.join()
