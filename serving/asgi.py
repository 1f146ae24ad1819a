"""The HTTP applications of a model and of the gateway: their routes, and the form of their errors."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import Any, Literal

from fastapi import Depends, FastAPI
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import Request

from serving import endpoints
from serving.config import ModelSettings, ModelSummary
from serving.errors import NotFoundError, ServingError
from serving.http import ErrorBody, Guard, allowed, error_response
from serving.service import ModelService
from serving.verb import VERBS
from serving.verb_routes import verb_router
from zorse_common.errors import nearest_hint

Level = Literal["model_router", "server_router"]


def model_app(service: ModelService, settings: ModelSettings) -> FastAPI:
    """Return the HTTP application of one model, with whole paths under `/v2/models/<name>`."""
    prefix = f"/v2/models/{settings.name}"
    app = _application(settings.name, prefix, "model_router", settings.limits.bytes, settings.api_key, _check_version)
    app.include_router(verb_router(), prefix=prefix)
    app.state.name = settings.name
    app.state.service = service
    return app


def gateway_app(models: list[ModelSummary], not_ready: Callable[[], list[str]], api_key: str | None) -> FastAPI:
    """Return the server-level application. `not_ready` returns the names of the models that cannot answer yet."""
    app = _application("zorse", "", "server_router", 2**20, api_key)
    app.description = "\n".join(f"- [{model.name}](/v2/models/{model.name}/docs): {model.kind}" for model in models)
    app.state.models = models
    app.state.not_ready = not_ready
    return app


async def _check_version(request: Request) -> None:
    """Refuse a request whose path names another version than the one that is served."""
    served = str(request.app.state.service.manifest.version)
    version = request.path_params.get("version", served)
    if version != served:
        raise NotFoundError(f"version {version} of {request.app.state.name} is not served: version {served} is")


def _application(
    title: str, prefix: str, level: Level, max_bytes: int, api_key: str | None, *checks: Callable[[Request], Any]
) -> FastAPI:
    """Return an application with the router of every file in `endpoints/` that has one for this level."""
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
    for module in pkgutil.iter_modules(endpoints.__path__):
        router = getattr(importlib.import_module(f"{endpoints.__name__}.{module.name}"), level, None)
        if router is not None:
            app.include_router(router, prefix=prefix, dependencies=[Depends(check) for check in checks])
    # 64 KiB more for a form around the image; the image itself has its own, exact limit.
    app.add_middleware(Guard, api_key=api_key, max_bytes=max_bytes + 2**16)
    return app


async def _on_serving_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ServingError)
    return error_response(error)


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


async def _on_crash(request: Request, error: Exception) -> JSONResponse:
    # Starlette logs the traceback; the client gets no internals.
    return error_response(ServingError("internal error"))
