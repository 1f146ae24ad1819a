"""The ASGI application of a model or of the gateway: everything around the routes."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from fastapi import FastAPI
from starlette.types import Message, Receive, Scope, Send

from serving.access import Access
from serving.admission import Admission, Content
from serving.errors import InternalError, MethodNotAllowedError, ServingError
from serving.http import (
    ClientGoneError,
    Handler,
    HttpRequest,
    HttpResponse,
    SendResponse,
    allowed,
    check_length,
    check_size,
    error_response,
    header_fields,
    read_body,
    request_deadline,
    send_response,
    until_disconnect,
)
from serving.logs import REQUEST_ID, harmless
from serving.metrics import ModelMetrics

OTHER_ROUTE = "other"
"""The name in metrics and logs of all paths that have none, such as those that do not exist."""
_REFUSALS = {401, 403, 429, 503}
"""The statuses of requests that are refused because of the client or the load, and not because of what they are."""
_CLIENT_GONE = 499
"""The status in metrics and logs of a request whose client left before the answer."""
_OTHER_BODY_BYTES = 64 * 2**10
"""The largest body of a route that runs no model."""
_SHORT_BODY_BYTES = 16 * 2**10
"""A request to a fast model with a larger body is worth to be cancelled when its client disconnects."""
_LOGGER = logging.getLogger("serving")
_ACCESS_LOGGER = logging.getLogger("serving.access")


@dataclass(frozen=True)
class Application:
    """Checks each request, reads its body, has it answered by a handler or by FastAPI, and counts, times and logs it.

    `handlers` are those of POST by path; all other routes are those of the FastAPI application `rest`. `route_names`
    are the names of paths in metrics and logs. A HEAD request becomes GET and gets no body, OPTIONS gets the methods of
    the route, and a slash at the end of the path is ignored. Every answer has the request's id: the client's header
    `X-Request-Id`, or a new one. With `watch_clients` a request is cancelled when its client disconnects; short
    requests are not worth the task that this takes. With `access_log` each request is a line of the log.
    """

    rest: FastAPI
    handlers: Mapping[str, Handler]
    route_names: Mapping[str, str]
    access: Access
    admission: Admission
    max_bytes: int
    metrics: ModelMetrics | None = None
    access_log: bool = False
    watch_clients: bool = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request of an ASGI server."""
        if scope["type"] != "http":
            await self.rest(scope, receive, send)
            return
        query = scope["query_string"].decode("latin-1")
        request = HttpRequest(scope["method"], scope["path"], query, header_fields(scope["headers"]), receive)
        await self.answer(request, partial(send_response, send=send))

    def is_quick(self, request: HttpRequest) -> bool:
        """Return whether the answer to a whole request takes about a millisecond at most, and needs no task."""
        return (
            request.path in self.handlers
            and not self.watch_clients
            and len(request.body) <= _SHORT_BODY_BYTES
            and "content-encoding" not in request.headers
        )

    async def answer(self, request: HttpRequest, send: SendResponse) -> None:
        """Answer one request."""
        began = time.perf_counter()
        request.path = request.path.rstrip("/") or "/"
        request_id = harmless(request.headers.get("x-request-id") or secrets.token_hex(8))
        REQUEST_ID.set(request_id)
        with self.admission.content() as content:
            try:
                response = await self._respond(request, content)
            except ServingError as error:
                if error.is_internal:
                    _LOGGER.exception("%s %s failed", request.method, request.path)
                if self.metrics is not None and error.status in _REFUSALS:
                    self.metrics.rejected(error.code)
                response = error_response(error)
            except ClientGoneError:
                self._note(request, _CLIENT_GONE, began)
                return
            except Exception:
                _LOGGER.exception("%s %s failed", request.method, request.path)
                response = error_response(InternalError())
            content.keep(len(response.body))
            response.headers = {**response.headers, "x-request-id": request_id}
            if self.access.has_cors:
                response.headers |= self.access.cors(request.headers, response.headers.get("vary"))
            try:
                await send(response, with_body=request.method != "HEAD")
            except ClientGoneError:
                # The server closes the connection, as the answer is not complete.
                self._note(request, _CLIENT_GONE, began)
                return
        self._note(request, response.status, began)

    async def _respond(self, request: HttpRequest, content: Content) -> HttpResponse:
        """Return the answer to a request. Raises `ServingError` and `ClientGoneError`."""
        now = time.monotonic()
        method, path, headers = request.method, request.path, request.headers
        if self.access.has_cors and (preflight := self.access.preflight(method, headers)) is not None:
            return HttpResponse(b"", preflight, 204)
        self.access.check(path, headers, now)
        length = check_length(headers, self.max_bytes)
        handler = self.handlers.get(path)
        if handler is None:
            return await self._answer_by_fastapi(request, content)
        if method == "OPTIONS":
            return HttpResponse(b"", {"allow": allowed("POST")}, 204)
        if method != "POST":
            raise MethodNotAllowedError(f"Method Not Allowed: {method} {path} takes {allowed('POST')}", allowed("POST"))
        request.deadline = request_deadline(headers, now)
        self.admission.check(length)
        if request.is_whole and "content-encoding" not in headers:
            check_size(len(request.body), self.max_bytes)
            content.receive(len(request.body))
        else:
            request.body = await read_body(headers, request.receive, self.max_bytes, content.receive)
            request.is_whole = True
        with self.admission.request():
            if not self.watch_clients and len(request.body) <= _SHORT_BODY_BYTES:
                return await handler(request)
            self._state_in_flight()
            request.is_watched = True
            return await until_disconnect(handler(request), request.receive)

    async def _answer_by_fastapi(self, request: HttpRequest, content: Content) -> HttpResponse:
        """Return FastAPI's answer. The routes that read the body see it whole and decompressed."""
        is_read = False
        headers = request.headers
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "scheme": "http",
            "method": "GET" if request.method == "HEAD" else request.method,
            "path": request.path,
            # The routes here are whole paths.
            "root_path": "",
            "query_string": request.query.encode("latin-1"),
            "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()],
        }

        async def receive_whole() -> Message:
            nonlocal is_read
            if is_read:
                return await request.receive()
            is_read = True
            body = await read_body(headers, request.receive, _OTHER_BODY_BYTES, content.receive)
            return {"type": "http.request", "body": body, "more_body": False}

        response = HttpResponse(b"", {})

        async def collect(message: Message) -> None:
            if message["type"] == "http.response.start":
                response.status, response.headers = message["status"], header_fields(message["headers"])
            else:
                response.body += message.get("body", b"")

        await self.rest(scope, receive_whole, collect)
        if request.method == "OPTIONS" and response.status == 405:
            return HttpResponse(b"", {"allow": response.headers.get("allow", "")}, 204)
        return response

    def _note(self, request: HttpRequest, status: int, began: float) -> None:
        route, seconds = self.route_names.get(request.path, OTHER_ROUTE), time.perf_counter() - began
        if self.metrics is not None:
            self.metrics.request(route, status, seconds)
            if request.is_watched:
                self._state_in_flight()
        if self.access_log:
            fields = {"route": route, "status": status, "seconds": round(seconds, 6)}
            _ACCESS_LOGGER.info("%s %s", request.method, request.path, extra={"fields": fields})

    def _state_in_flight(self) -> None:
        if self.metrics is not None:
            self.metrics.in_flight(self.admission.requests)
