"""The HTTP applications of a model and of the gateway.

The routes that run a model are answered by handlers of `serving.http` types, because each request to a small model
costs less than FastAPI alone. FastAPI answers everything else: documentation, metadata, health.
"""

from __future__ import annotations

import importlib
import logging
import pkgutil
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

from fastapi import APIRouter, Depends, FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, compile_path

from export.manifest import Manifest
from serving import endpoints, unknown_routes
from serving.access import Access
from serving.admission import Admission
from serving.application import Application
from serving.config import GatewaySettings, ModelSettings
from serving.endpoints.infer import INFER
from serving.errors import InternalError, ServingError
from serving.http import (
    ErrorBody,
    Handler,
    allowed,
    error_response,
)
from serving.idle_models import IDLE_PREFIX, IdleModels
from serving.route import ModelRoute
from serving.service import ModelService, check_version
from serving.surroundings import Surroundings, in_folder
from serving.verb import VERBS
from serving.verb_routes import verb_routes
from zorse_common.errors import nearest_hint

Level = Literal["model_router", "server_router"]
_LOGGER = logging.getLogger("serving")


def model_app(service: ModelService, settings: ModelSettings, surroundings: Surroundings | None = None) -> Application:
    """Return the HTTP application of one model, with whole paths under `/v2/models/<name>`.

    By default its `surroundings` are in the folder of the server.
    """
    prefix, version = f"/v2/models/{settings.name}", service.manifest.version
    routes = _running_routes()
    handlers: dict[str, Handler] = {}
    for route in routes:
        handler = partial(route.answer, service)
        handlers[f"{prefix}/{route.name}"] = handler
        handlers[f"{prefix}/versions/{version}/{route.name}"] = handler
    surroundings = surroundings or in_folder(settings)
    return Application(
        model_description(service.manifest, surroundings),
        handlers,
        _route_names("model_router", prefix) | {path: path.rpartition("/")[2] for path in handlers},
        Access(settings.access, settings.replicas.max),
        service.admission,
        settings.limits.body,
        metrics=service.metrics,
        access_log=settings.access_log,
        watch_clients=service.is_slow,
    )


def _running_routes() -> list[ModelRoute]:
    """Return the routes that run a model."""
    return [INFER, *verb_routes()]


def model_description(manifest: Manifest, surroundings: Surroundings) -> FastAPI:
    """Return the application of a model's routes that do not run it."""
    rest = _fastapi(manifest.name, f"/v2/models/{manifest.name}", "model_router", _running_routes(), _check_version)
    rest.state.manifest = manifest
    rest.state.families = surroundings.families
    return rest


def gateway_app(
    settings: GatewaySettings, not_ready: Callable[[], list[str]], surroundings: Surroundings | None = None
) -> Application:
    """Return the server-level application. `not_ready` returns the names of the models that cannot answer yet.

    By default its `surroundings` are in the folder of the server.
    """
    rest = _fastapi("zorse", "", "server_router", ())
    rest.description = "\n".join(
        f"- [{model.name}](/v2/models/{model.name}/docs): {model.kind}" for model in settings.models
    )
    surroundings = surroundings or in_folder(settings)
    rest.state.served = surroundings.served
    rest.state.families = surroundings.families
    rest.state.ask = surroundings.ask
    rest.state.not_ready = not_ready
    rest.state.access_log = settings.access_log
    describe = partial(model_description, surroundings=surroundings)
    rest.mount(IDLE_PREFIX, IdleModels(rest.state.served, not_ready, describe, rest))
    return Application(
        rest,
        {},
        _route_names("server_router", ""),
        Access(settings.access),
        Admission(),
        2**20,
        access_log=settings.access_log,
    )


def _routers(level: Level) -> list[APIRouter]:
    """Return the routers of this level in the files of `endpoints/`, and last the one of all paths that they lack."""
    names = [f"{endpoints.__name__}.{module.name}" for module in pkgutil.iter_modules(endpoints.__path__)]
    routers = [getattr(importlib.import_module(name), level, None) for name in names]
    return [*(router for router in routers if router is not None), getattr(unknown_routes, level)]


def _routes(level: Level) -> list[Route]:
    """Return the routes of the routers of this level, without the prefix of the application."""
    return [route for router in _routers(level) for route in router.routes if isinstance(route, Route)]


def _route_names(level: Level, prefix: str) -> dict[str, str]:
    """Return the names of the paths that FastAPI answers, for metrics and logs. Paths with parameters have none."""
    routes = ("/docs", "/openapi.json", *(route.path for route in _routes(level)))
    paths = [prefix + route for route in routes if "{" not in route]
    return {path: path.rpartition("/")[2] for path in paths}


def _path_methods(level: Level, prefix: str) -> list[tuple[re.Pattern[str], set[str]]]:
    """Return a pattern for each path of the level's routes, and the methods of all routes with that path."""
    methods: dict[str, set[str]] = {}
    for route in _routes(level):
        methods.setdefault(prefix + route.path, set()).update(route.methods or ())
    return [(compile_path(path)[0], names) for path, names in methods.items()]


async def _check_version(request: Request) -> None:
    """Refuse a request whose path names another version than the one that is served."""
    check_version(request.app.state.manifest, request.path_params.get("version", ""))


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
    app.state.path_methods = _path_methods(level, prefix)
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


async def _on_serving_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServingError)
    if error.is_internal:
        _LOGGER.error("%s %s failed", request.method, request.url.path, exc_info=error)
    response = error_response(error)
    return Response(response.body, response.status, dict(response.headers))


async def _on_http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    codes = {404: "not_found", 405: "method_not_allowed"}
    text = f"{error.detail}: {request.method} {request.url.path[:200]}"
    if error.status_code == 404 and request.method == "POST":
        text += nearest_hint(request.url.path.rpartition("/")[2], VERBS.names())
    headers = dict(error.headers or {})
    if error.status_code == 405:
        # Starlette names the methods of the first route with this path, and there may be one for each method.
        path = request.scope["path"]
        methods = next((names for pattern, names in request.app.state.path_methods if pattern.match(path)), None)
        headers["Allow"] = allowed(", ".join(methods) if methods else headers.get("Allow", ""))
        text += f" takes {headers['Allow']}"
    body = ErrorBody(error=text, code=codes.get(error.status_code, "bad_request"))
    return JSONResponse(body.model_dump(), status_code=error.status_code, headers=headers)


async def _on_crash(request: Request, error: Exception) -> Response:
    response = error_response(InternalError())
    return Response(response.body, response.status, dict(response.headers))
