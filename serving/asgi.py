"""The HTTP applications of a model and of the gateway.

The routes that run a model are answered by handlers of `serving.http` types, because each request to a small model
costs less than FastAPI alone. FastAPI answers everything else: documentation, metadata, health.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import pkgutil
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal

from fastapi import APIRouter, Depends, FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from serving import endpoints
from serving.access import Access
from serving.admission import Admission
from serving.config import GatewaySettings, ModelSettings
from serving.endpoints.infer import INFER
from serving.errors import InternalError, MethodNotAllowedError, NotFoundError, ServingError
from serving.http import (
    ClientGoneError,
    ErrorBody,
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
)
from serving.metrics import ModelMetrics
from serving.observed import Observed
from serving.route import ModelRoute
from serving.service import ModelService
from serving.verb import VERBS
from serving.verb_routes import verb_routes
from zorse_common.errors import nearest_hint

_REFUSALS = {401, 403, 429, 503}
"""The statuses of requests that are refused because of the client or the load, and not because of what they are."""
Level = Literal["model_router", "server_router"]
_LOGGER = logging.getLogger("serving")


class Application:
    """Checks each request, reads its body, and has it answered by a handler or by the FastAPI application `rest`.

    `routes` are the handlers of POST by path. A HEAD request becomes GET and gets no body, OPTIONS gets the methods of
    the route, and a slash at the end of the path is ignored. With `watch_clients` a request is cancelled when its
    client disconnects; short requests are not worth the task that this takes.
    """

    def __init__(
        self,
        rest: FastAPI,
        routes: Mapping[str, Handler],
        access: Access,
        admission: Admission,
        max_bytes: int,
        *,
        metrics: ModelMetrics | None = None,
        watch_clients: bool = False,
    ) -> None:
        self._rest = rest
        self._routes = routes
        self._access = access
        self._admission = admission
        self._max_bytes = max_bytes
        self._metrics = metrics
        self._watch_clients = watch_clients

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._rest(scope, receive, send)
            return
        method, path = scope["method"], scope["path"].rstrip("/") or "/"
        handler = self._routes.get(path)
        try:
            headers = header_fields(scope["headers"])
            self._access.check(path, headers, asyncio.get_running_loop().time())
            length = check_length(headers, self._max_bytes)
            if handler is None:
                await self._pass_on(scope, method, path, headers, receive, send)
                return
            if method != "POST":
                response = _other_method(method, path)
            else:
                deadline = request_deadline(headers, asyncio.get_running_loop().time())
                with self._admission.request(length):
                    body = await read_body(headers, receive, self._max_bytes)
                    work = handler(
                        HttpRequest(method, path, scope["query_string"].decode("latin-1"), headers, body, deadline)
                    )
                    response = await (_until_disconnect(work, receive) if self._watch_clients else work)
        except ServingError as error:
            if error.is_internal:
                _LOGGER.exception("%s %s failed", method, path)
            if self._metrics is not None and error.status in _REFUSALS:
                self._metrics.rejected(error.code)
            response = error_response(error)
        except ClientGoneError:
            return
        except Exception:
            _LOGGER.exception("%s %s failed", method, path)
            response = error_response(InternalError())
        await send_response(response, send, method != "HEAD")

    async def _pass_on(
        self, scope: Scope, method: str, path: str, headers: dict[str, str], receive: Receive, send: Send
    ) -> None:
        """Have FastAPI answer. Its routes see the body whole and decompressed."""
        messages: list[Message] = []
        if method in ("POST", "PUT", "PATCH", "DELETE"):
            body = await read_body(headers, receive, self._max_bytes)
            messages.append({"type": "http.request", "body": body, "more_body": False})
        changed = {
            **scope,
            "method": "GET" if method == "HEAD" else method,
            "path": path,
            # Ray Serve puts the application's prefix into root_path, but the routes here are whole paths.
            "root_path": "",
            "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()],
        }

        async def replay() -> Message:
            return messages.pop() if messages else await receive()

        try:
            await self._rest(changed, replay, _bodiless(method, send) if method in ("HEAD", "OPTIONS") else send)
        except Exception:
            # FastAPI has answered already, and raises the error for the server's log.
            _LOGGER.exception("%s %s failed", method, path)


def model_app(service: ModelService, settings: ModelSettings) -> Observed:
    """Return the HTTP application of one model, with whole paths under `/v2/models/<name>`."""
    prefix, version = f"/v2/models/{settings.name}", service.manifest.version
    routes = [INFER, *verb_routes()]
    handlers: dict[str, Handler] = {}
    for route in routes:
        handler = _bound(route, service)
        handlers[f"{prefix}/{route.name}"] = handler
        handlers[f"{prefix}/versions/{version}/{route.name}"] = handler
    rest = _fastapi(settings.name, prefix, "model_router", routes, _check_version)
    rest.state.name = settings.name
    rest.state.service = service
    rest.state.folder = settings.folder
    access = Access(settings.access, settings.replicas)
    app = Application(
        rest,
        handlers,
        access,
        service.admission,
        # 64 KiB more for a form around the image; the image itself has its own, exact limit.
        settings.limits.bytes + 2**16,
        metrics=service.metrics,
        watch_clients=service.is_slow,
    )
    names = _route_names("model_router", prefix) | {path: path.rpartition("/")[2] for path in handlers}
    return Observed(app, names, access, service.metrics, access_log=settings.access_log)


def gateway_app(settings: GatewaySettings, not_ready: Callable[[], list[str]]) -> Observed:
    """Return the server-level application. `not_ready` returns the names of the models that cannot answer yet."""
    rest = _fastapi("zorse", "", "server_router", ())
    rest.description = "\n".join(
        f"- [{model.name}](/v2/models/{model.name}/docs): {model.kind}" for model in settings.models
    )
    rest.state.models = list(settings.models)
    rest.state.not_ready = not_ready
    rest.state.folder = settings.folder
    access = Access(settings.access)
    app = Application(rest, {}, access, Admission(), 2**20)
    return Observed(app, _route_names("server_router", ""), access, access_log=settings.access_log)


def _routers(level: Level) -> list[APIRouter]:
    """Return the routers of this level in the files of `endpoints/`."""
    names = [f"{endpoints.__name__}.{module.name}" for module in pkgutil.iter_modules(endpoints.__path__)]
    routers = [getattr(importlib.import_module(name), level, None) for name in names]
    return [router for router in routers if router is not None]


def _route_names(level: Level, prefix: str) -> dict[str, str]:
    """Return the names of the paths that FastAPI answers, for metrics and logs. Paths with parameters have none."""
    routes = [route.path for router in _routers(level) for route in router.routes if isinstance(route, Route)]
    paths = [prefix + route for route in ("/docs", "/openapi.json", *routes) if "{" not in route]
    return {path: path.rpartition("/")[2] for path in paths}


def _bound(route: ModelRoute, service: ModelService) -> Handler:
    def handle(request: HttpRequest) -> Awaitable[HttpResponse]:
        return route.answer(service, request)

    return handle


async def _check_version(request: Request) -> None:
    """Refuse a request whose path names another version than the one that is served."""
    served = str(request.app.state.service.manifest.version)
    version = request.path_params.get("version", served)
    if version != served:
        raise NotFoundError(f"version {version} of {request.app.state.name} is not served: version {served} is")


def _fastapi(
    title: str, prefix: str, level: Level, documented: Sequence[ModelRoute], *checks: Callable[[Request], Any]
) -> FastAPI:
    """Return a FastAPI application with the router of every file in `endpoints/` that has one for this level.

    Its OpenAPI document describes the routes `documented` too, which handlers answer.
    """
    responses: dict[int | str, dict[str, Any]] = {"4XX": {"model": ErrorBody}, "5XX": {"model": ErrorBody}}
    app = FastAPI(
        title=title,
        docs_url=f"{prefix}/docs",
        redoc_url=None,
        openapi_url=f"{prefix}/openapi.json",
        responses=responses,
        exception_handlers={
            ServingError: _on_serving_error,
            HTTPException: _on_http_error,
            Exception: _on_crash,
        },
    )
    for router in _routers(level):
        app.include_router(router, prefix=prefix, dependencies=[Depends(check) for check in checks])
    described = APIRouter(prefix=prefix, responses=responses)
    for route in documented:
        described.add_api_route(
            f"/{route.name}",
            _answered_by_a_handler,
            methods=["POST"],
            name=route.name,
            description=route.description,
            tags=[route.tag],
            response_class=Response,
            responses={200: {"description": "The answer.", "content": {name: {} for name in route.media_types}}},
            openapi_extra=dict(route.openapi),
        )

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = get_openapi(
                title=title, version=app.version, description=app.description, routes=[*app.routes, *described.routes]
            )
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
    return app


def _answered_by_a_handler() -> None:
    """Stand for a route in the OpenAPI document; it is never called."""


def _other_method(method: str, path: str) -> HttpResponse:
    """Return the answer to a method other than POST on a route of a handler."""
    if method != "OPTIONS":
        raise MethodNotAllowedError(f"Method Not Allowed: {method} {path} takes {allowed('POST')}", allowed("POST"))
    return HttpResponse(b"", {"allow": allowed("POST")}, 204)


async def _until_disconnect(work: Awaitable[HttpResponse], receive: Receive) -> HttpResponse:
    """Return the result of `work`, or cancel it when the client disconnects.

    Raises:
        ClientGoneError: the client disconnected.
    """
    task, is_gone = asyncio.current_task(), False
    assert task is not None

    async def watch() -> None:
        nonlocal is_gone
        while (await receive())["type"] != "http.disconnect":
            pass
        is_gone = True
        task.cancel()

    watcher = asyncio.create_task(watch())
    try:
        return await work
    except asyncio.CancelledError:
        if not is_gone:
            raise
        task.uncancel()
        raise ClientGoneError from None
    finally:
        watcher.cancel()


def _bodiless(method: str, send: Send) -> Send:
    """Return a `send` for HEAD, which drops the body of the answer, or for OPTIONS, which has the methods of a route.

    OPTIONS of a route that does not exist is answered with the error as it is.
    """
    is_dropped = method == "HEAD"

    async def answer(message: Message) -> None:
        nonlocal is_dropped
        if message["type"] == "http.response.body":
            if is_dropped:
                message = {**message, "body": b""}
        elif method == "OPTIONS" and message["status"] == 405:
            is_dropped = True
            allow = Headers(raw=message["headers"]).get("allow", "")
            message = {**message, "status": 204, "headers": [(b"allow", allow.encode())]}
        await send(message)

    return answer


async def _on_serving_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServingError)
    if error.is_internal:
        _LOGGER.error("%s %s failed", request.method, request.url.path, exc_info=error)
    response = error_response(error)
    return Response(response.body, response.status, dict(response.headers))


async def _on_http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    codes = {404: "not_found", 405: "method_not_allowed"}
    text = f"{error.detail}: {request.method} {request.url.path}"
    if error.status_code == 404 and request.method == "POST":
        text += nearest_hint(request.url.path.rpartition("/")[2], VERBS.names())
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers["Allow"] = allowed(headers.get("Allow", ""))
        text += f" takes {headers['Allow']}"
    body = ErrorBody(error=text, code=codes.get(error.status_code, "bad_request"))
    return JSONResponse(body.model_dump(), status_code=error.status_code, headers=headers)


async def _on_crash(request: Request, error: Exception) -> Response:
    response = error_response(InternalError())
    return Response(response.body, response.status, dict(response.headers))
