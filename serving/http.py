"""ASGI middleware in front of the routes: the API key, the limit of the body, and the variants of HTTP in use."""

from __future__ import annotations

import hmac
import zlib
from typing import Any

from pydantic import BaseModel
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.errors import BadRequestError, ServingError, TooLargeError, UnauthorizedError, UnsupportedMediaError
from serving.open_inference import body_length
from zorse_common.errors import printable

_WINDOW_BITS = {"gzip": 31, "x-gzip": 31, "deflate": 15}
"""The argument of zlib's decoder for each encoding of a body."""


class ErrorBody(BaseModel):
    """The JSON body of every failed request."""

    error: str
    code: str


class Guard:
    """Refuses requests without the API key or with too large a body, and passes the others on in one form.

    The body is read whole and decompressed. HEAD becomes GET, and a slash at the end of the path is removed. The answer
    to HEAD has no body, and the answer to OPTIONS the methods of the route.
    """

    def __init__(self, app: ASGIApp, api_key: str | None, max_bytes: int) -> None:
        self._app = app
        self._api_key = api_key
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse the request or pass it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers, method = MutableHeaders(raw=list(scope["headers"])), scope["method"]
        if method in ("HEAD", "OPTIONS"):
            send = _answering(method, send)
        try:
            self._check(scope["path"], headers)
            body = await self._read_body(headers, receive)
        except ServingError as error:
            await error_response(error)(scope, receive, send)
            return
        except ClientDisconnect:
            return
        if headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
            # No route takes such forms, but `curl -d` sends this type with any body.
            headers["content-type"] = "application/json"
        changed = {
            **scope,
            "method": "GET" if method == "HEAD" else method,
            "path": scope["path"].rstrip("/") or "/",
            # Ray Serve puts the application's prefix into root_path, but the routes here are whole paths.
            "root_path": "",
            "headers": headers.raw,
        }
        messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return messages.pop() if messages else await receive()

        await self._app(changed, replay, send)

    def _check(self, path: str, headers: Headers) -> None:
        length = body_length(headers.get("content-length", "0"))
        if length is not None and length > self._max_bytes:
            raise TooLargeError(f"the request has {length} bytes and the server takes {self._max_bytes}")
        if self._api_key is None or path.startswith("/v2/health/"):
            return
        key = headers.get("x-api-key") or headers.get("authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(key.encode("latin-1"), self._api_key.encode()):
            raise UnauthorizedError("this server requires its API key, as 'Authorization: Bearer …' or 'X-API-Key: …'")

    async def _read_body(self, headers: MutableHeaders, receive: Receive) -> bytes:
        """Return the decompressed body, and remove the headers that describe the compressed one."""
        encoding = headers.get("content-encoding", "identity").strip().lower()
        decoder = None if encoding == "identity" else _decoder(encoding)
        if decoder is not None:
            del headers["content-encoding"], headers["content-length"]
        parts: list[bytes] = []
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                raise ClientDisconnect
            part, more = message.get("body", b""), message.get("more_body", False)
            if decoder is not None:
                part = _decompressed(decoder, encoding, part, self._max_bytes + 1 - size)
            size += len(part)
            if size > self._max_bytes:
                raise TooLargeError(f"the request has more than the {self._max_bytes} bytes that the server takes")
            parts.append(part)
        if decoder is not None and not decoder.eof:
            raise BadRequestError(f"the body ends in the middle of its {encoding} encoding")
        return b"".join(parts)


def error_response(error: ServingError) -> JSONResponse:
    """Return the answer that reports `error` to the client."""
    # A client can send characters that a JSON answer cannot contain.
    body = ErrorBody(error=printable(str(error)), code=error.code).model_dump()
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


def _decoder(encoding: str) -> Any:
    if encoding not in _WINDOW_BITS:
        known = ", ".join(sorted(_WINDOW_BITS))
        raise UnsupportedMediaError(
            f"the body's Content-Encoding is {encoding[:40]!r}: send it uncompressed, or in {known}"
        )
    return zlib.decompressobj(_WINDOW_BITS[encoding])


def _decompressed(decoder: Any, encoding: str, part: bytes, most: int) -> bytes:
    """Decompress a part of a body to at most `most` bytes."""
    try:
        content: bytes = decoder.decompress(part, most)
    except zlib.error as error:
        raise BadRequestError(f"the body is not in the encoding {encoding} ({error})") from error
    if decoder.unused_data:
        raise BadRequestError(f"the body continues after the end of its {encoding} encoding")
    return content
