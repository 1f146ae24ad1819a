"""HTTP requests and answers in one lean form: reading and decompressing bodies, and the answers to failures."""

from __future__ import annotations

import asyncio
import json
import math
import time
import zlib
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel
from starlette.types import Message, Receive, Send

from serving.compression import WINDOW_BITS
from serving.errors import (
    BadRequestError,
    InternalError,
    ServingError,
    SlowRequestError,
    TooLargeError,
    UnsupportedMediaError,
)
from serving.haproxy_text import SENDER_SECONDS
from serving.open_inference import body_length
from zorse_common.errors import printable

_WINDOW_BITS = {**WINDOW_BITS, "x-gzip": WINDOW_BITS["gzip"]}
"""The argument of zlib for each name of an encoding of a request's body."""
TIMEOUT = "x-request-timeout"
"""The header with the seconds within which the client needs the answer."""
JSON_HEADERS = {"content-type": "application/json"}


T = TypeVar("T")


class ErrorBody(BaseModel):
    """The JSON body of every failed request."""

    error: str
    code: str


class ClientGoneError(Exception):
    """The client closed the connection before it had the answer."""


@dataclass(slots=True)
class HttpRequest:
    """One request.

    `path` is decoded and `query` is not. Header names are lower-case; of a repeated header the last value counts.
    `receive` is that of ASGI: it returns parts of the body, and then waits for the client to disconnect. With
    `is_whole` the body has arrived and is in `body`; handlers get all requests so, decompressed. `deadline` is the time
    of `time.monotonic` after which the client no longer needs the answer, or None. `is_watched` says that something
    cancels the request already if the client disconnects.
    """

    method: str
    path: str
    query: str
    headers: dict[str, str]
    receive: Receive
    body: bytes = b""
    is_whole: bool = False
    deadline: float | None = None
    is_watched: bool = False


@dataclass(slots=True)
class HttpResponse:
    """One answer. Header names are lower-case; the content length is added when the answer is sent."""

    body: bytes
    headers: Mapping[str, str] = field(default_factory=lambda: JSON_HEADERS)
    status: int = 200


class SendResponse(Protocol):
    """Sends an answer, with its body or with the headers alone.

    Raises:
        ClientGoneError: the client does not take it.
    """

    def __call__(self, response: HttpResponse, *, with_body: bool = True) -> Awaitable[None]: ...


Handler = Callable[[HttpRequest], Awaitable[HttpResponse]]
"""Answers the requests of one route. It may raise `ServingError`."""


def header_fields(raw: list[tuple[bytes, bytes]]) -> dict[str, str]:
    """Return the headers of an ASGI scope by lower-case name; of a repeated header the last value counts."""
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in raw}


def request_deadline(headers: Mapping[str, str], now: float) -> float | None:
    """Return the time until which the client needs the answer, from the header `X-Request-Timeout` in seconds.

    Raises:
        BadRequestError: the header is not a positive number.
    """
    text = headers.get(TIMEOUT)
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise BadRequestError(f"X-Request-Timeout is {text[:40]!r}: give a positive number of seconds")
    return now + seconds


def check_length(headers: Mapping[str, str], max_bytes: int) -> int:
    """Return the length that the headers state for the body, 0 if they state none.

    Raises:
        TooLargeError: the body is larger than `max_bytes`.
    """
    stated = headers.get("content-length")
    length = 0 if stated is None else body_length(stated) or 0
    check_size(length, max_bytes)
    return length


def check_size(nbytes: int, max_bytes: int) -> None:
    """Raise TooLargeError if a body of `nbytes` bytes is larger than `max_bytes`."""
    if nbytes > max_bytes:
        raise TooLargeError(f"the request has {nbytes} bytes and the server takes {max_bytes}")


PART_BYTES = 256 * 2**10
"""Bodies are decompressed, and answers sent, in parts of so many bytes."""
_BODY_RATE = 64 * 2**10
"""The bytes of a body whose arrival gives it another second."""


async def read_body(
    headers: dict[str, str],
    receive: Receive,
    max_bytes: int,
    count: Callable[[int], None] = lambda nbytes: None,
    *,
    seconds: float = SENDER_SECONDS,
) -> bytes:
    """Return the decompressed body, and remove the headers that describe a compressed one.

    It may take `seconds`, and more in proportion to what has arrived.
    `count` is called with the number of bytes of each part that is held from then on.

    Raises:
        TooLargeError: the body is larger than `max_bytes`, compressed or not.
        BadRequestError, UnsupportedMediaError: the body is not in the encoding that the headers state.
        ClientGoneError: the client left before its body was complete.
        SlowRequestError: the body arrived too slowly.
    """
    encoding = headers.get("content-encoding", "identity").strip().lower()
    decoder = None if encoding == "identity" else _decoder(encoding)
    if decoder is not None:
        headers.pop("content-encoding")
        headers.pop("content-length", None)
    parts: list[bytes] = []
    size = received = 0
    start, more = time.monotonic(), True
    while more:
        message = await _next_part(receive, start, seconds, received)
        if message["type"] != "http.request":
            raise ClientGoneError
        part: bytes = message.get("body", b"")
        more = message.get("more_body", False)
        received += len(part)
        for content in (part,) if decoder is None else _decompressed(decoder, encoding, part):
            size += len(content)
            if size > max_bytes:
                raise TooLargeError(f"the request has more than the {max_bytes} bytes that the server takes")
            count(len(content))
            parts.append(content)
            if decoder is not None:
                # Decompression takes milliseconds a part: other requests have their turn in between.
                await asyncio.sleep(0)
    if decoder is not None and not decoder.eof:
        raise BadRequestError(f"the body ends in the middle of its {encoding} encoding")
    return parts[0] if len(parts) == 1 else b"".join(parts)


def content_fields(response: HttpResponse) -> dict[str, str]:
    """Return the headers of `response` with the length of its body."""
    if response.status in (204, 304):  # that of the answer with a body is not known
        return dict(response.headers)
    return {**response.headers, "content-length": str(len(response.body))}


async def send_response(response: HttpResponse, send: Send, *, with_body: bool = True) -> None:
    """Send `response` as messages of ASGI, with its body or with the headers alone.

    Raises:
        ClientGoneError: as `send_parts`.
    """
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in content_fields(response).items()]
    await send({"type": "http.response.start", "status": response.status, "headers": headers})

    async def send_part(part: bytes) -> None:
        await send({"type": "http.response.body", "body": part, "more_body": True})

    await send_parts(response.body if with_body else b"", send_part)
    await send({"type": "http.response.body", "body": b""})


async def send_parts(body: bytes, send: Callable[[bytes], Awaitable[None]]) -> None:
    """Send `body` in parts. `send` returns when the client has taken most of what was sent, so that buffers stay small.

    Raises:
        ClientGoneError: the client does not take a part within `SENDER_SECONDS`.
    """
    rest = memoryview(body)
    while rest:
        part, rest = rest[:PART_BYTES], rest[PART_BYTES:]
        try:
            async with asyncio.timeout(SENDER_SECONDS):
                await send(bytes(part))
        except TimeoutError:
            raise ClientGoneError from None


async def until_disconnect(work: Awaitable[T], receive: Receive) -> T:
    """Return the result of `work`, or cancel it when the client disconnects.

    Raises:
        ClientGoneError: the client disconnected.
    """
    task, watcher = asyncio.ensure_future(work), asyncio.create_task(_disconnected(receive))
    try:
        await asyncio.wait((task, watcher), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGoneError
        return task.result()
    finally:
        watcher.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait((task,))


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def error_response(error: ServingError) -> HttpResponse:
    """Return the answer that reports `error` to the client.

    What failed inside the server is not the client's business: the text of such an error stays in the log.
    """
    if error.is_internal:
        error = InternalError()
    # A client can send characters that a JSON answer cannot contain.
    body = json.dumps({"error": printable(str(error)), "code": error.code}).encode()
    headers = {name.lower(): value for name, value in error.headers.items()}
    return HttpResponse(body, headers | JSON_HEADERS, error.status)


def allowed(methods: str) -> str:
    """Return the value of the header Allow for a route with these methods."""
    names = {name.strip() for name in methods.split(",")} | {"OPTIONS"}
    return ", ".join(sorted(names | ({"HEAD"} if "GET" in names else set())))


async def _next_part(receive: Receive, start: float, seconds: float, received: int) -> Message:
    """Return the next part of a body of which `received` bytes have arrived since `start`, a time of the loop's clock.

    It must arrive within `seconds`, and the whole body as `read_body` says.

    Raises:
        ClientGoneError, SlowRequestError: as `read_body`.
    """
    pause = time.monotonic() + seconds
    try:
        async with asyncio.timeout_at(min(pause, start + seconds + received / _BODY_RATE)):
            return await receive()
    except TimeoutError:
        raise SlowRequestError(
            f"{received} bytes of the body arrived in time: send it faster than {_BODY_RATE // 1024} KiB/s"
        ) from None


def _decoder(encoding: str) -> Any:
    if encoding not in _WINDOW_BITS:
        known = ", ".join(sorted(_WINDOW_BITS))
        raise UnsupportedMediaError(
            f"the body's Content-Encoding is {encoding[:40]!r}: send it uncompressed, or in {known}"
        )
    return zlib.decompressobj(_WINDOW_BITS[encoding])


def _decompressed(decoder: Any, encoding: str, part: bytes) -> Iterator[bytes]:
    """Yield the content of a part of a body, in pieces of at most `PART_BYTES`."""
    content = b""
    # A full piece may have left content in the decoder, even if it has taken the whole part.
    while part or len(content) == PART_BYTES:
        try:
            content = decoder.decompress(part, PART_BYTES)
        except zlib.error as error:
            raise BadRequestError(f"the body is not in the encoding {encoding} ({error})") from error
        if decoder.unused_data:
            raise BadRequestError(f"the body continues after the end of its {encoding} encoding")
        yield content
        part = decoder.unconsumed_tail
