"""One HTTP/1.1 connection from HAProxy to a replica, and the requests on it, which come one after another.

HAProxy has parsed and limited each request before, so that this does little of what a public server must. For a small
model the work of a general server, as uvicorn, takes as long as the model's run.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import logging
import time
from collections.abc import Coroutine, Generator
from email.utils import formatdate
from http import HTTPStatus
from types import coroutine
from typing import Any, Protocol, cast
from urllib.parse import unquote

import httptools

from serving.errors import BadRequestError
from serving.exchange import Exchange
from serving.http import (
    PART_BYTES,
    ClientGoneError,
    HttpRequest,
    HttpResponse,
    SendResponse,
    content_fields,
    error_response,
    send_parts,
)

_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus}
_LOGGER = logging.getLogger("serving")


class HttpApplication(Protocol):
    """Answers requests. `is_quick` says of a request whose body has arrived whether its answer may begin at once.

    Such an answer is not begun by a task, so that it may not use what asks for the running task, as `asyncio.timeout`,
    before it has waited for something.
    """

    def is_quick(self, request: HttpRequest) -> bool: ...

    def answer(self, request: HttpRequest, send: SendResponse) -> Coroutine[Any, Any, None]: ...


class Connection(asyncio.Protocol):
    """Parses the requests of a connection and has the application `app` answer them.

    `connections` are those of the server that are open; `closed` is done when this one no longer is. What HAProxy sends
    seldom or never ends the connection after the answer: a request that arrives before the one before it was answered,
    `Upgrade`, and a chunked body, because the parser could take its trailers for headers of the next request.
    """

    def __init__(self, app: HttpApplication, connections: set[Connection]) -> None:
        self._app = app
        self._connections = connections
        self._loop = asyncio.get_running_loop()
        self.closed: asyncio.Future[None] = self._loop.create_future()
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""
        self._headers: dict[str, str] = {}
        self._exchange: Exchange | None = None
        self._task: asyncio.Task[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        """The event that the client has taken most of what was sent, while it has not."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self.transport = cast(asyncio.Transport, transport)  # uvloop has a class of its own
        self.transport.set_write_buffer_limits(PART_BYTES)
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the application that its client has gone."""
        self._connections.discard(self)
        self.closed.set_result(None)
        if self._exchange is not None:
            self._exchange.disconnect()
        self.resume_writing()

    def data_received(self, data: bytes) -> None:
        """Parse what has arrived, and begin to answer the request whose headers are complete."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # There is no other protocol: the request is answered as any other.
            assert self._exchange is not None
            self._exchange.keeps_alive = False
        except httptools.HttpParserError:
            self._refuse()
        exchange = self._exchange
        if exchange is None or exchange.has_begun:
            return
        exchange.has_begun = True
        if exchange.request.is_whole and self._app.is_quick(exchange.request):
            self._begin(exchange)
        else:
            self._task = self._loop.create_task(self._answer(exchange))

    def on_url(self, url: bytes) -> None:
        """Take a part of the URL. The parser calls this and the following methods."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """Take note of a new request."""
        if self._exchange is not None and not self._exchange.is_answered:
            raise httptools.HttpParserError("a request before the answer to the one before it")
        path, query = self._url, b""
        if not path.startswith(b"/") or b"?" in path:
            parsed = httptools.parse_url(path)
            path, query = parsed.path or b"/", parsed.query or b""
        method, decoded = self._parser.get_method().decode("ascii"), path.decode("ascii")
        if "%" in decoded:
            decoded = unquote(decoded)
        self._exchange = Exchange(self.transport, method, decoded, query.decode("ascii"), self._headers)
        self._exchange.keeps_alive = self._parser.should_keep_alive() and "transfer-encoding" not in self._headers
        self._url, self._headers = b"", {}

    def on_body(self, body: bytes) -> None:
        """Take a part of a request's body."""
        assert self._exchange is not None
        self._exchange.add(body)

    def on_message_complete(self) -> None:
        """Take note of the end of a request."""
        assert self._exchange is not None
        self._exchange.end()

    def pause_writing(self) -> None:
        """Take note that the client has not yet taken much of what was sent."""
        self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        """Take note that the client has taken most of what was sent."""
        if self._writable is not None:
            if not self._writable.done():
                self._writable.set_result(None)
            self._writable = None

    def close_when_idle(self) -> None:
        """Close the connection now, or after the answer that is in progress."""
        if self._exchange is None or self._exchange.is_answered:
            self.transport.close()
        else:
            self._exchange.keeps_alive = False

    def _begin(self, exchange: Exchange) -> None:
        """Answer a request now; from the first moment on at which the answer has to wait, in a task.

        Most answers of small models need not wait. A task and its turn of the event loop would take as long as a tenth
        of the answer.
        """
        context, answer = contextvars.copy_context(), self._answer(exchange)
        try:
            waiting = context.run(answer.send, None)
        except StopIteration:
            return
        self._task = self._loop.create_task(_continued(answer, waiting), context=context)

    async def _answer(self, exchange: Exchange) -> None:
        try:
            await self._app.answer(exchange.request, functools.partial(self._send, exchange))
        except Exception:
            _LOGGER.exception("%s %s failed", exchange.request.method, exchange.request.path)
        finally:
            if not exchange.is_answered:
                # `close` would wait for a client that does not take what was sent.
                self.transport.abort()

    async def _send(self, exchange: Exchange, response: HttpResponse, *, with_body: bool = True) -> None:
        """Send an answer: the headers and a short body in one system call. See `SendResponse`."""
        self._check_client()
        head, body = _head(response, keeps_alive=exchange.keeps_alive), response.body if with_body else b""
        if len(body) <= PART_BYTES:
            self.transport.write(head + body)
        else:
            self.transport.write(head)
            await asyncio.sleep(0)  # the rest needs a task
            await send_parts(body, self._send_part)
        exchange.finish()
        if not exchange.keeps_alive:
            self.transport.close()

    async def _send_part(self, part: bytes) -> None:
        self._check_client()
        self.transport.write(part)
        if self._writable is not None:
            await asyncio.shield(self._writable)

    def _check_client(self) -> None:
        """Raise ClientGoneError if the client has gone. asyncio and uvloop complain about writing then."""
        if self.transport.is_closing():
            raise ClientGoneError

    def _refuse(self) -> None:
        """Answer 400 to what is no request. The request before it is answered first, and alone; a broken body never."""
        exchange = self._exchange
        if exchange is not None and not exchange.is_answered:
            exchange.keeps_alive = False
            self.transport.pause_reading()
            if not exchange.has_ended:
                exchange.disconnect()
            return
        response = error_response(BadRequestError("the request is not valid HTTP"))
        self.transport.write(_head(response, keeps_alive=False) + response.body)
        self.transport.close()


async def _continued(answer: Coroutine[Any, Any, None], waiting: Any) -> None:
    """Go on with `answer`, which waits for the future `waiting`."""
    await _rest(answer, waiting)


@coroutine
def _rest(answer: Coroutine[Any, Any, None], waiting: Any) -> Generator[Any, Any, None]:
    while True:
        try:
            result = yield waiting
        except BaseException as error:  # noqa: BLE001 - as `await` would do, which is for coroutines that have not begun
            step = functools.partial(answer.throw, error)
        else:
            step = functools.partial(answer.send, result)
        try:
            waiting = step()
        except StopIteration:
            return


def _head(response: HttpResponse, *, keeps_alive: bool) -> bytes:
    """Return the status line and the headers of an answer.

    Raises:
        ValueError: a header has a line break, or a character that is not in Latin-1.
    """
    fields = content_fields(response)
    fields["date"] = _date(int(time.time()))
    if not keeps_alive:
        fields["connection"] = "close"
    lines = "".join([f"{name}: {value}\r\n" for name, value in fields.items()])
    if not lines.count("\r") == lines.count("\n") == len(fields):
        raise ValueError("a header of an answer has a line break")
    return f"{_STATUS_LINES[response.status]}{lines}\r\n".encode("latin-1")


@functools.lru_cache(maxsize=1)
def _date(now: int) -> str:
    """Return the value of the header Date at `now`, in seconds since 1970 (RFC 9110, section 6.6.1)."""
    return formatdate(now, usegmt=True)
