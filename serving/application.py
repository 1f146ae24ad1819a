"""The ASGI application of a model or of the gateway: everything around the routes."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass

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
    allowed,
    check_length,
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
        """Answer one request."""
        if scope["type"] != "http":
            await self.rest(scope, receive, send)
            return
        began = time.perf_counter()
        method, path = scope["method"], scope["path"].rstrip("/") or "/"
        headers = header_fields(scope["headers"])
        request_id = harmless(headers.get("x-request-id") or secrets.token_hex(8))
        REQUEST_ID.set(request_id)
        with self.admission.content() as content:
            try:
                response = await self._answer(scope, method, path, headers, receive, content)
            except ServingError as error:
                if error.is_internal:
                    _LOGGER.exception("%s %s failed", method, path)
                if self.metrics is not None and error.status in _REFUSALS:
                    self.metrics.rejected(error.code)
                response = error_response(error)
            except ClientGoneError:
                self._note(method, path, _CLIENT_GONE, began)
                return
            except Exception:
                _LOGGER.exception("%s %s failed", method, path)
                response = error_response(InternalError())
            content.keep(len(response.body))
            added = {"x-request-id": request_id}
            if self.access.has_cors:
                added.update(self.access.cors(headers, response.headers.get("vary")))
            try:
                await send_response(response, send, added, with_body=method != "HEAD")
            except ClientGoneError:
                # The server closes the connection, as the answer is not complete.
                self._note(method, path, _CLIENT_GONE, began)
                return
        self._note(method, path, response.status, began)

    async def _answer(
        self, scope: Scope, method: str, path: str, headers: dict[str, str], receive: Receive, content: Content
    ) -> HttpResponse:
        """Return the answer to a request. Raises `ServingError` and `ClientGoneError`."""
        now = time.monotonic()
        if self.access.has_cors and (preflight := self.access.preflight(method, headers)) is not None:
            return HttpResponse(b"", preflight, 204)
        self.access.check(path, headers, now)
        length = check_length(headers, self.max_bytes)
        handler = self.handlers.get(path)
        if handler is None:
            return await self._answer_by_fastapi(scope, method, path, headers, receive, content)
        if method == "OPTIONS":
            return HttpResponse(b"", {"allow": allowed("POST")}, 204)
        if method != "POST":
            raise MethodNotAllowedError(f"Method Not Allowed: {method} {path} takes {allowed('POST')}", allowed("POST"))
        deadline = request_deadline(headers, now)
        self.admission.check(length)
        # A client without an address is HAProxy on the replica's socket. It has the start of a body before it connects.
        is_here = scope.get("client") is None
        body = await read_body(headers, receive, self.max_bytes, content.receive, is_here=is_here)
        with self.admission.request():
            query = scope["query_string"].decode("latin-1")
            request = HttpRequest(method, path, query, headers, body, deadline)
            if not self.watch_clients and len(body) <= _SHORT_BODY_BYTES:
                request.receive = receive
                return await handler(request)
            self._state_in_flight()
            return await until_disconnect(handler(request), receive)

    async def _answer_by_fastapi(
        self, scope: Scope, method: str, path: str, headers: dict[str, str], receive: Receive, content: Content
    ) -> HttpResponse:
        """Return FastAPI's answer. The routes that read the body see it whole and decompressed."""
        is_read = False
        changed = {
            **scope,
            "method": "GET" if method == "HEAD" else method,
            "path": path,
            # Ray Serve puts the application's prefix into root_path, but the routes here are whole paths.
            "root_path": "",
            "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()],
        }

        async def receive_whole() -> Message:
            nonlocal is_read
            if is_read:
                return await receive()
            is_read = True
            body = await read_body(headers, receive, _OTHER_BODY_BYTES, content.receive)
            return {"type": "http.request", "body": body, "more_body": False}

        response = HttpResponse(b"", {})

        async def collect(message: Message) -> None:
            if message["type"] == "http.response.start":
                response.status, response.headers = message["status"], header_fields(message["headers"])
            else:
                response.body += message.get("body", b"")

        await self.rest(changed, receive_whole, collect)
        if method == "OPTIONS" and response.status == 405:
            return HttpResponse(b"", {"allow": response.headers.get("allow", "")}, 204)
        return response

    def _note(self, method: str, path: str, status: int, began: float) -> None:
        route, seconds = self.route_names.get(path, OTHER_ROUTE), time.perf_counter() - began
        if self.metrics is not None:
            self.metrics.request(route, status, seconds)
            if self.watch_clients:
                self._state_in_flight()
        if self.access_log:
            fields = {"route": route, "status": status, "seconds": round(seconds, 6)}
            _ACCESS_LOGGER.info("%s %s", method, path, extra={"fields": fields})

    def _state_in_flight(self) -> None:
        if self.metrics is not None:
            self.metrics.in_flight(self.admission.requests)
