"""Application builders, and the server: one Ray Serve application a model, and the gateway."""

from __future__ import annotations

import hmac
import importlib
import io
import logging
import os
import pkgutil
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, Literal

from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from serving import artifacts, endpoints
from serving.config import ModelSettings, ServerSettings
from serving.engine import resolve_device
from serving.errors import ServingError, StartError, TooLargeError, UnauthorizedError
from serving.schemas import ErrorBody, ModelSummary
from serving.service import ModelService

_REPLICA_CPUS = 0.1
"""What a replica reserves: Ray places by it and limits nothing, so that two cores hold many models."""

Level = Literal["model_router", "server_router"]


class Guard:
    """ASGI middleware: the API key, the size of the body, and full paths whatever prefix Ray Serve cut off."""

    def __init__(self, app: ASGIApp, api_key: str | None, max_bytes: int) -> None:
        self._app = app
        self._api_key = api_key
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse the request or pass it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        try:
            self._check(scope["path"], headers)
        except ServingError as error:
            await _error_response(error)(scope, receive, send)
            return
        received = 0

        async def limited() -> Any:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_bytes:
                raise TooLargeError(f"the request has more than the {self._max_bytes} bytes that the server takes")
            return message

        # Ray Serve puts the application's prefix into root_path; the routes here hold whole paths.
        await self._app({**scope, "root_path": ""}, limited, send)

    def _check(self, path: str, headers: Headers) -> None:
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self._max_bytes:
            raise TooLargeError(f"the request has {length} bytes and the server takes {self._max_bytes}")
        if self._api_key is None or path.startswith("/v2/health/"):
            return
        given = headers.get("x-api-key") or headers.get("authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(given.encode(), self._api_key.encode()):
            raise UnauthorizedError("this server wants its API key, as 'Authorization: Bearer …' or 'X-API-Key: …'")


def routers(level: Level) -> Iterator[APIRouter]:
    """The routers of every file in `endpoints/` that has one for this level, in the files' order."""
    for module in pkgutil.iter_modules(endpoints.__path__):
        router = getattr(importlib.import_module(f"{endpoints.__name__}.{module.name}"), level, None)
        if router is not None:
            yield router


def model_app(service: ModelService, settings: ModelSettings) -> FastAPI:
    """The HTTP application of one model, with whole paths under `/v2/models/<name>`."""
    prefix = f"/v2/models/{settings.name}"
    app = _application(settings.name, prefix, "model_router", settings.limits.bytes, settings.api_key)
    app.state.name = settings.name
    app.state.service = service
    return app


def gateway_app(models: list[ModelSummary], not_ready: Callable[[], list[str]], api_key: str | None) -> FastAPI:
    """The server-level application; `not_ready` names the models that cannot answer yet."""
    app = _application("zorse", "", "server_router", 2**20, api_key)
    app.description = "\n".join(f"- [{model.name}](/v2/models/{model.name}/docs): {model.kind}" for model in models)
    app.state.models = models
    app.state.not_ready = not_ready
    return app


def _application(title: str, prefix: str, level: Level, max_bytes: int, api_key: str | None) -> FastAPI:
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
            RequestValidationError: _on_invalid,
            Exception: _on_crash,
        },
    )
    for router in routers(level):
        app.include_router(router, prefix=prefix)
    # The size of a form's overhead: the image in it has its own, exact limit.
    app.add_middleware(Guard, api_key=api_key, max_bytes=max_bytes + 2**16)
    return app


def _error_response(error: ServingError) -> JSONResponse:
    body = ErrorBody(error=str(error), code=error.code).model_dump()
    return JSONResponse(body, status_code=error.status, headers=error.headers)


async def _on_serving_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ServingError)
    return _error_response(error)


async def _on_http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    codes = {404: "not_found", 405: "method_not_allowed"}
    text = f"{error.detail}: {request.method} {request.url.path}"
    body = ErrorBody(error=text, code=codes.get(error.status_code, "bad_request"))
    return JSONResponse(body.model_dump(), status_code=error.status_code, headers=error.headers)


async def _on_invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return JSONResponse(ErrorBody(error=f"{where}: {first['msg']}", code="bad_request").model_dump(), status_code=422)


async def _on_crash(request: Request, error: Exception) -> JSONResponse:
    # Starlette logs the traceback; the client gets no internals.
    return JSONResponse(ErrorBody(error="internal error", code="internal").model_dump(), status_code=500)


@contextmanager
def running(settings: ServerSettings) -> Iterator[list[ModelSummary]]:
    """Serve every model of the repository on a Ray of our own while the block runs.

    Raises:
        ArtifactError: the repository is empty or an artifact is not sound; nothing was started.
        StartError: the address is taken or may not be used, or a model does not start.
    """
    _check_address(settings)
    models = {name: artifacts.load(path) for name, path in artifacts.find(Path(settings.repository)).items()}
    summaries = [ModelSummary(name=n, version=a.manifest.version, kind=a.manifest.kind) for n, a in models.items()]
    plans = _plans(settings, {name: artifact.path for name, artifact in models.items()})
    # Ray's sockets live in its folder and a socket's path may have 107 characters at most.
    folder = tempfile.mkdtemp(prefix="zorse-", dir="/tmp")
    try:
        with _environment(_ray_environment(settings.high_throughput)):
            _start(settings, plans, summaries, folder)
            yield summaries
    finally:
        _stop()
        shutil.rmtree(folder, ignore_errors=True)


def serve_repository(settings: ServerSettings, announce: Callable[[list[ModelSummary]], None]) -> None:
    """Serve until SIGINT or SIGTERM; `announce` is told once everything is ready. Raises as `running`."""
    stop = threading.Event()
    with running(settings) as models:
        before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            announce(models)
            stop.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _check_address(settings: ServerSettings) -> None:
    if settings.host not in {"127.0.0.1", "::1", "localhost"} or settings.high_throughput:
        what = "high-throughput mode listens" if settings.high_throughput else f"{settings.host} is"
        if not settings.api_key and not settings.insecure:
            raise StartError(f"{what} open to other machines: give --api-key (or ZORSE_API_KEY), or say --insecure")
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            raise StartError(
                f"cannot listen on {settings.host}:{settings.port} ({error.strerror}): choose another --port or --host"
            ) from error


def _plans(settings: ServerSettings, paths: dict[str, Path]) -> list[ModelSettings]:
    threads = max(1, len(os.sched_getaffinity(0)) // (len(paths) * settings.replicas))
    return [
        ModelSettings(
            name=name,
            artifact=str(path.resolve()),
            device=resolve_device(settings.device),
            threads=threads,
            batching=settings.batching,
            limits=settings.limits,
            api_key=settings.api_key,
        )
        for name, path in paths.items()
    ]


def _ray_environment(high_throughput: bool) -> dict[str, str]:
    """Ray reads these when its processes start.

    HAProxy is ten times as fast as Ray's own proxy and binds the replicas' ports on every interface, so it is asked
    for, not given. Without it the replicas need no ports of their own, which throughput mode would open. Ray's inner
    ports are on every interface whatever we ask: the token is what guards them.
    """
    flag = str(int(high_throughput))
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_ENABLE_HA_PROXY": flag,
        "RAY_SERVE_ENABLE_DIRECT_INGRESS": flag,
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0",
        # Workers must find this package where it is not installed but run from a checkout.
        "PYTHONPATH": os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")])),
    }


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _start(settings: ServerSettings, plans: list[ModelSettings], models: list[ModelSummary], folder: str) -> None:
    import ray
    from ray import serve
    from ray.serve.config import HTTPOptions
    from ray.serve.schema import LoggingConfig

    from serving.deployment import gateway_application, model_application

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    ray.init(
        address="local",
        namespace="zorse",
        include_dashboard=False,
        configure_logging=False,
        log_to_driver=False,
        object_store_memory=128 * 2**20,
        _temp_dir=folder,
    )
    quiet = LoggingConfig(log_level="WARNING", enable_access_log=False)
    serve.start(
        proxy_location="HeadOnly",
        http_options=HTTPOptions(host=settings.host, port=settings.port),
        logging_config=quiet,
    )
    resources = _resources(plans, settings.replicas, ray.cluster_resources().get("GPU", 0.0))
    targets = [
        serve.RunTarget(
            model_application(plan, settings.replicas, resources, model_app),
            name=plan.name,
            route_prefix=f"/v2/models/{plan.name}",
            logging_config=quiet,
        )
        for plan in plans
    ]
    gateway = gateway_application(models, settings.api_key, {"num_cpus": _REPLICA_CPUS}, gateway_app)
    targets.append(serve.RunTarget(gateway, name="gateway", route_prefix="/", logging_config=quiet))
    try:
        serve.run_many(targets)
    except RuntimeError as error:
        raise StartError(_reason(str(error))) from error


def _resources(plans: list[ModelSettings], replicas: int, gpus: float) -> dict[str, float]:
    if plans[0].device == "cpu":
        return {"num_cpus": _REPLICA_CPUS}
    if not gpus:
        raise StartError("CUDA was asked for and Ray sees no GPU: ask for --device cpu")
    return {"num_cpus": _REPLICA_CPUS, "num_gpus": min(1.0, int(100 * gpus / (len(plans) * replicas)) / 100)}


def _reason(text: str) -> str:
    """The line of a failed start that names our own error, without Ray's traceback around it."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    ours = [line.split(": ", 1)[1] for line in lines if line.startswith("serving.errors.") and ": " in line]
    return (ours or lines)[-1]


def _stop() -> None:
    import ray
    from ray import serve

    if ray.is_initialized():
        # Ray prints that the controller, which it has just ended itself, has failed.
        with redirect_stdout(io.StringIO()):
            serve.shutdown()
            ray.shutdown()
