"""A whole server in this process, without Ray: the model applications and the gateway, routed as Ray Serve does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import httpx
from starlette.types import ASGIApp, Receive, Scope, Send

from export.manifest import Manifest
from serving.asgi import gateway_app, model_app
from serving.batcher import Batcher, Submit
from serving.config import AccessSettings, Batching, GatewaySettings, Limits, ModelSettings, ModelSummary
from serving.keys import plain_key
from serving.metrics import ModelMetrics
from serving.service import ModelService
from tests.serving.fakes import FakeEngine, with_changes
from tests.serving.tiny import generator_manifest, inverter_manifest


def transport(
    *,
    manifests: Sequence[Manifest] = (),
    submit: Submit | None = None,
    batched: bool = False,
    limits: Limits | None = None,
    api_key: str | None = None,
    access: AccessSettings | None = None,
    not_ready: tuple[str, ...] = (),
    unavailable: dict[str, str] | None = None,
    folder: Path | None = None,
    access_log: bool = False,
) -> InProcess:
    """Return a server of `manifests` (by default `digits` and `invert`) on fake engines or `submit`.

    With `batched` the engines are behind batchers, whose runs are counted.
    """
    manifests = manifests or [generator_manifest(), inverter_manifest()]
    access = access or AccessSettings(keys=(plain_key(api_key),) if api_key else ())
    observation: dict[str, Any] = {"folder": folder and str(folder), "access_log": access_log}
    apps: dict[str, ASGIApp] = {}
    for manifest in manifests:
        settings = ModelSettings(
            name=manifest.name, artifact="", limits=limits or Limits(), access=access, **observation
        )
        metrics = ModelMetrics(manifest.name, manifest.version, settings.folder)
        engine = FakeEngine()
        batcher = Batcher(engine.run, Batching(), inline=True, observer=metrics)
        run = submit or (batcher.submit if batched else engine.submit)
        service = ModelService(manifest, run, settings.limits, metrics=metrics)
        apps[f"/v2/models/{manifest.name}"] = model_app(service, settings)
    summaries = [ModelSummary(name=m.name, version=m.version, kind=m.interface.kind) for m in manifests]
    gateway = GatewaySettings(
        models=tuple(summaries),
        manifests={m.name: m.to_json() for m in manifests},
        unavailable=unavailable or {},
        access=access,
        **observation,
    )
    apps[""] = gateway_app(gateway, lambda: list(not_ready), with_changes(gateway))
    return InProcess(apps)


class InProcess(httpx.BaseTransport):
    """Sends a synchronous client's requests to ASGI applications, the longest prefix first."""

    def __init__(self, apps: dict[str, ASGIApp]) -> None:
        self._apps = apps

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        async def call() -> httpx.Response:
            transport = httpx.ASGITransport(self.route, raise_app_exceptions=False)
            body = request.read()
            # A chunked body must not get a Content-Length, which bytes would.
            content = _pieces(body) if "transfer-encoding" in request.headers else body
            whole = httpx.Request(request.method, request.url, headers=request.headers, content=content)
            response = await transport.handle_async_request(whole)
            # The client that receives this answer decompresses it.
            content = b"".join([part async for part in response.aiter_raw()])
            return httpx.Response(response.status_code, headers=response.headers, content=content)

        return asyncio.run(call())

    async def route(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Route as Ray Serve does: the prefix goes into root_path, and the path stays whole."""
        for prefix in sorted(self._apps, key=len, reverse=True):
            if (scope["path"] + "/").startswith(prefix + "/"):
                await self._apps[prefix]({**scope, "root_path": prefix}, receive, send)
                return


async def _pieces(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 10_000):
        yield body[start : start + 10_000]


def server(**options: Any) -> httpx.Client:
    """Return a plain HTTP client of `transport(**options)`."""
    return httpx.Client(transport=transport(**options), base_url="http://server")
