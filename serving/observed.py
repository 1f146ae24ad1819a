"""Gives each request an id, and counts, times and logs requests."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.access import Access
from serving.http import header_fields
from serving.logs import REQUEST_ID
from serving.metrics import ModelMetrics

OTHER = "other"
"""The name of all routes that have none in `routes`, such as those that do not exist."""
_GONE = 499
"""The status in metrics and logs of a request whose client left before the answer."""
_LOGGER = logging.getLogger("serving.access")


_Headers = list[tuple[bytes, bytes]]


class Observed:
    """An ASGI application around another one. `routes` are the names of paths in metrics and logs.

    The id is the header `X-Request-Id`. The proxy gives it to requests without one, and repeats it in every answer.
    With `access_log` each request is a line of the log.
    """

    def __init__(
        self,
        app: ASGIApp,
        routes: Mapping[str, str],
        access: Access,
        metrics: ModelMetrics | None = None,
        *,
        access_log: bool = False,
    ) -> None:
        self._app = app
        self._routes = routes
        self._access = access
        self._metrics = metrics
        self._access_log = access_log
        self._in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), _GONE
        REQUEST_ID.set(_stated_id(scope) or secrets.token_hex(16))
        preflight, added = self._browser_headers(scope)

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if added:
                    message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        self._count(1)
        try:
            if preflight is None:
                await self._app(scope, receive, answer)
            else:
                await answer({"type": "http.response.start", "status": 204, "headers": preflight})
                await answer({"type": "http.response.body", "body": b""})
        finally:
            self._count(-1)
            self._note(scope["method"], scope["path"], status, time.perf_counter() - began)

    def _browser_headers(self, scope: Scope) -> tuple[_Headers | None, _Headers]:
        """Return the headers of the answer to a preflight request, or None if it is none, and those of any answer."""
        if not self._access.has_cors:
            return None, []
        headers = header_fields(scope["headers"])
        preflight = self._access.preflight(scope["method"], headers)
        return None if preflight is None else _encoded(preflight), _encoded(self._access.cors(headers))

    def _count(self, change: int) -> None:
        self._in_flight += change
        if self._metrics is not None:
            self._metrics.in_flight(self._in_flight)

    def _note(self, method: str, path: str, status: int, seconds: float) -> None:
        route = self._routes.get(path.rstrip("/"), OTHER)
        if self._metrics is not None:
            self._metrics.request(route, status, seconds)
        if self._access_log:
            fields = {"route": route, "status": status, "seconds": round(seconds, 6)}
            _LOGGER.info("%s %s", method, path, extra={"fields": fields})


def _stated_id(scope: Scope) -> str | None:
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            stated: str = value.decode("latin-1")
            return stated
    return None


def _encoded(headers: Mapping[str, str]) -> _Headers:
    return [(name.encode(), value.encode()) for name, value in headers.items()]
