"""ASGI middleware for the variants of HTTP that clients use: HEAD, OPTIONS, end slashes, compression, `curl -d`."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.errors import BadRequestError, ServingError, UnsupportedMediaError
from serving.schemas import ErrorBody

_PIECE = 2**20
"""A decompressed body is passed on in pieces of at most this many bytes, so that a limit is noticed early."""
_WINDOW_BITS = {"gzip": 31, "x-gzip": 31, "deflate": 15}
_FORM, _JSON = "application/x-www-form-urlencoded", b"application/json"


class Http:
    """Changes each request to a form that the routes accept, and each answer to the form that its method requires."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on the request, or refuse it if its encoding is not known."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        method, changed = scope["method"], dict(scope)
        changed["path"] = scope["path"].rstrip("/") or "/"
        changed["method"] = "GET" if method == "HEAD" else method
        headers = MutableHeaders(raw=list(scope["headers"]))
        changed["headers"] = headers.raw
        encoding = headers.get("content-encoding", "identity").strip().lower()
        if headers.get("content-type", "").startswith(_FORM):
            # No route takes such forms, but `curl -d` sends this type with any body.
            headers["content-type"] = _JSON.decode()
        try:
            if encoding != "identity":
                del headers["content-encoding"], headers["content-length"]
                receive = _decoded(encoding, receive)
        except ServingError as error:
            await error_response(error)(scope, receive, send)
            return
        await self._app(changed, receive, _answering(method, send) if method in ("HEAD", "OPTIONS") else send)


def error_response(error: ServingError) -> JSONResponse:
    """Return the answer that reports `error` to the client."""
    body = ErrorBody(error=str(error), code=error.code).model_dump()
    return JSONResponse(body, status_code=error.status, headers=error.headers)


def allowed(methods: str) -> str:
    """Return the value of the header Allow for a route with these methods."""
    names = {name.strip() for name in methods.split(",")} | {"OPTIONS"}
    return ", ".join(sorted(names | ({"HEAD"} if "GET" in names else set())))


def _answering(method: str, send: Send) -> Send:
    """Return a `send` that drops the body of the answer, and answers OPTIONS with the methods of the route."""

    async def answer(message: Message) -> None:
        if message["type"] == "http.response.body":
            message = {**message, "body": b""}
        elif method == "OPTIONS" and message["status"] == 405:
            allow = Headers(raw=message["headers"]).get("allow", "")
            message = {**message, "status": 204, "headers": [(b"allow", allow.encode())]}
        await send(message)

    return answer


def _decoded(encoding: str, receive: Receive) -> Receive:
    """Return a `receive` that decompresses the body.

    Raises:
        UnsupportedMediaError: no such encoding is known.
    """
    if encoding not in _WINDOW_BITS:
        known = ", ".join(sorted(_WINDOW_BITS))
        raise UnsupportedMediaError(
            f"the body's Content-Encoding is {encoding[:40]!r}: send it uncompressed, or in {known}"
        )
    decoder = zlib.decompressobj(_WINDOW_BITS[encoding])
    pieces: Iterator[bytes] = iter(())
    more = True

    async def decoded() -> Message:
        nonlocal pieces, more
        while True:
            piece = next(pieces, None)
            if piece is not None:
                return {"type": "http.request", "body": piece, "more_body": True}
            if not more:
                if not decoder.eof:
                    raise BadRequestError(f"the body ends in the middle of its {encoding} encoding")
                return {"type": "http.request", "body": b"", "more_body": False}
            message: Message = await receive()
            if message["type"] != "http.request":
                return message
            more = message.get("more_body", False)
            pieces = _pieces(decoder, encoding, message.get("body", b""))

    return decoded


def _pieces(decoder: Any, encoding: str, body: bytes) -> Iterator[bytes]:
    while body:
        try:
            piece = decoder.decompress(body, _PIECE)
        except zlib.error as error:
            raise BadRequestError(f"the body is not in the encoding {encoding} ({error})") from error
        if piece:
            yield piece
        if decoder.eof and decoder.unused_data:
            raise BadRequestError(f"the body continues after the end of its {encoding} encoding")
        body = decoder.unconsumed_tail
