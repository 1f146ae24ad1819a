"""What Ray Serve's own proxy answers: JSON in place of its texts, and a second attempt where a replica died.

With `--proxy ray` it is the front of the server. Behind HAProxy it takes the requests to models without a live replica.
Ray Serve finds `proxy_middlewares` by its name in an environment variable.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import Callable
from functools import partial
from urllib.parse import unquote

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.errors import NotFoundError, ServingError, UnavailableError
from serving.http import error_response, send_response
from serving.idle_models import IDLE_PREFIX, is_question
from serving.logs import harmless

WAIT_SECONDS = 10.0
"""How long a request may take that HAProxy passes on because the model has no live replica."""
START_SECONDS = 60.0
"""How long the same may take where models may have none: the start of a replica is part of it."""
_KEPT_BYTES = 64 * 2**10
"""The largest body that is kept for a second attempt."""
_ID = b"x-request-id"
_TIMEOUT = b"x-request-timeout-seconds"
"""A header with which a client could set or end Ray's own time limit."""


def proxy_environment(*, to_zero: bool) -> dict[str, str]:
    """Return the environment variable with which Ray Serve's proxies find their middleware.

    It is `idle_proxy_middlewares` with `to_zero`, where models may have no replica, and else `proxy_middlewares`.
    """
    function = idle_proxy_middlewares if to_zero else proxy_middlewares
    return {"RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": f"{__name__}:{function.__name__}"}


def proxy_middlewares() -> list[Middleware]:
    """Return the middleware of a proxy, and none for a replica: Ray Serve asks in both."""
    return _middlewares(WAIT_SECONDS if _is_behind_haproxy() else None)


def idle_proxy_middlewares() -> list[Middleware]:
    """Return the middleware as `proxy_middlewares`, where models may have no replica."""
    return _middlewares(START_SECONDS, to_zero=True)


def _middlewares(wait_seconds: float | None, *, to_zero: bool = False) -> list[Middleware]:
    import ray

    if (ray.get_runtime_context().get_actor_name() or "").startswith("SERVE_REPLICA"):
        return []
    return [Middleware(ProxyAnswers, wait_seconds, is_front=not _is_behind_haproxy(), to_zero=to_zero)]


def _is_behind_haproxy() -> bool:
    return os.environ.get("RAY_SERVE_ENABLE_HA_PROXY") == "1"


class ProxyAnswers:
    """Answers in place of Ray Serve's proxy `app` where that would answer a text, or not at all.

    With `wait_seconds`, a request gets 503 whose answer has not begun that time after its body arrived. With `to_zero`
    models may have no replica, and questions about them go to the gateway, so that no replica starts for them.

    If the proxy `is_front` of the server, requests get an id, and answers repeat it once, which Ray Serve's own do
    twice. Otherwise HAProxy has done so; and Ray's route `/-/healthz` stays, because HAProxy needs it.
    """

    def __init__(
        self, app: ASGIApp, wait_seconds: float | None = None, *, is_front: bool = True, to_zero: bool = False
    ) -> None:
        self._app = app
        self._wait_seconds, self._is_front, self._to_zero = wait_seconds, is_front, to_zero

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if self._is_front:
            send = _with_id(scope, send)
        try:
            if unquote(scope["path"]).startswith("/-/"):
                if self._is_front:
                    raise NotFoundError("there is no such route: GET /v2 describes the server")
                await self._app(scope, receive, send)
                return
            scope["headers"] = [field for field in scope["headers"] if field[0] != _TIMEOUT]
            if self._to_zero and is_question(scope["method"], scope["path"]):
                scope["path"] = IDLE_PREFIX + scope["path"]
            async with asyncio.timeout(None) as limit:
                attempt = _Attempt(self._app, scope, receive, send, partial(self._limit, limit))
                # A replica that dies leaves its requests unanswered.
                if not await attempt.run() and attempt.may_repeat:
                    await attempt.run()
            if not attempt.started and not attempt.is_client_gone:
                raise UnavailableError
        except TimeoutError:
            if not attempt.started:
                await send_response(error_response(UnavailableError()), send)
        except ServingError as error:
            await send_response(error_response(error), send)

    def _limit(self, limit: asyncio.Timeout, is_waiting: bool) -> None:
        """Set the time limit of a request from now on, for as long as the request `is_waiting` for an answer."""
        if self._wait_seconds is not None:
            # After the end of the time, or of the request, there is nothing to set.
            with contextlib.suppress(RuntimeError):
                limit.reschedule(asyncio.get_running_loop().time() + self._wait_seconds if is_waiting else None)


class _Attempt:
    """One request to Ray's proxy, which can be repeated while nothing was answered.

    `wait` is called with True when the body has arrived, and with False when the answer begins.
    """

    def __init__(
        self, app: ASGIApp, scope: Scope, receive: Receive, send: Send, wait: Callable[[bool], object]
    ) -> None:
        self._app, self._scope, self._receive, self._send, self._wait = app, scope, receive, send, wait
        self._kept: list[Message] = []
        self._kept_bytes = 0
        self._replaces = False
        self.started = False
        self.is_client_gone = False

    @property
    def may_repeat(self) -> bool:
        """Whether the client still waits and the body, as far as it was read, is at hand."""
        return not self.is_client_gone and self._kept_bytes <= _KEPT_BYTES

    async def run(self) -> bool:
        """Pass the request on, and return whether it was answered."""
        kept = list(self._kept)

        async def receive() -> Message:
            if kept:
                return kept.pop(0)
            message = await self._receive()
            self._keep(message)
            return message

        await self._app(dict(self._scope), receive, self._answer)
        return self.started

    def _keep(self, message: Message) -> None:
        if message["type"] == "http.disconnect":
            self.is_client_gone = True
            return
        if not message.get("more_body", False):
            self._wait(True)
        self._kept_bytes += len(message.get("body", b""))
        if self._kept_bytes <= _KEPT_BYTES:
            self._kept.append(message)
        else:
            self._kept.clear()

    async def _answer(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            self._wait(False)
            self._replaces = _is_text_of_ray(message)
            if self._replaces:
                # Ray has no application at the path: the gateway's is at /, so that none or not all of them run.
                await send_response(error_response(UnavailableError()), self._send)
                return
        if not self._replaces:
            await self._send(message)


def _with_id(scope: Scope, send: Send) -> Send:
    """Give the request the id that its client stated, as far as it is harmless, or a new one, and repeat it once."""
    stated = [value.decode("latin-1") for name, value in scope["headers"] if name == _ID]
    field = (_ID, (harmless(stated[-1]) if stated and stated[-1] else secrets.token_hex(16)).encode())
    scope["headers"] = [*(other for other in scope["headers"] if other[0] != _ID), field]

    async def answer(message: Message) -> None:
        if message["type"] == "http.response.start":
            others = [other for other in message.get("headers", ()) if other[0].lower() != _ID]
            message = {**message, "headers": [*others, field]}
        await send(message)

    return answer


def _is_text_of_ray(start: Message) -> bool:
    """Return whether an answer is a failure that Ray reports. Those of the applications are JSON."""
    return start["status"] >= 400 and any(
        name.lower() == b"content-type" and value.startswith(b"text/plain") for name, value in start["headers"]
    )
