"""A gRPC server on a Unix socket, without Ray and HAProxy: the gateway, which passes calls on to models' applications.

All of it is in an event loop in a thread, for clients that block.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from export.manifest import Manifest
from serving.admission import Admission
from serving.asgi import gateway_app, model_app
from serving.batcher import Batcher, Submit
from serving.config import AccessSettings, Batching, GatewaySettings, Limits, ModelSettings, ModelSummary
from serving.errors import NotFoundError
from serving.grpc.application import GrpcApplication
from serving.grpc.calls import GatewayCalls, ModelCalls
from serving.grpc.server import GrpcServer
from serving.metrics import ModelMetrics
from serving.service import ModelService
from serving.surroundings import in_folder
from tests.serving.fakes import FakeEngine, with_changes

T = TypeVar("T")


class InProcess:
    """Models in this process, in place of `ServedPartners`."""

    def __init__(self) -> None:
        self.calls: dict[str, ModelCalls] = {}

    async def answer(self, model: str, method: str, content: bytes, seconds: float | None) -> bytes:
        """See `OtherModels`."""
        if model not in self.calls:
            raise NotFoundError(f"there is no model {model}")
        deadline = None if seconds is None else time.monotonic() + seconds
        return await self.calls[model].answer(method, content, deadline)


@dataclass(frozen=True)
class LiveGrpc:
    """A running server: its gateway's socket, and each model's."""

    folder: Path
    loop: asyncio.AbstractEventLoop
    servers: dict[str, GrpcServer]
    metrics: dict[str, ModelMetrics]
    admissions: dict[str, Admission]

    def target(self, model: str = "") -> str:
        """Return the address of a model's server, or of the gateway's."""
        return f"unix:{self.folder}/{model or 'gateway'}"

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Return the result of `work` in the server's event loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(60)


@contextmanager
def live_grpc(
    folder: Path,
    manifests: Sequence[Manifest],
    *,
    submit: Submit | None = None,
    limits: Limits | None = None,
    access: AccessSettings | None = None,
    access_log: bool = False,
) -> Iterator[LiveGrpc]:
    """Serve `manifests` on fake engines or `submit` while the block runs. `folder` has a short path."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    live = LiveGrpc(folder, loop, {}, {}, {})
    observation: dict[str, Any] = {
        "folder": str(folder),
        "access_log": access_log,
        "access": access or AccessSettings(),
        "limits": limits or Limits(),
    }

    async def start() -> None:
        others = InProcess()
        for manifest in manifests:
            settings = ModelSettings(name=manifest.name, artifact="", **observation)
            metrics = live.metrics[manifest.name] = ModelMetrics(manifest.name, manifest.version, folder)
            batcher = Batcher(FakeEngine().run, Batching(), inline=True, observer=metrics)
            service = ModelService(manifest, submit or batcher.submit, settings.limits, metrics=metrics)
            live.admissions[manifest.name] = service.admission
            calls = others.calls[manifest.name] = ModelCalls(service, in_folder(settings), others)
            app = GrpcApplication.beside(model_app(service, settings), calls, settings.limits.bytes)
            live.servers[manifest.name] = GrpcServer(app, folder / manifest.name)
        models = [ModelSummary(name=m.name, version=m.version, kind=m.interface.kind) for m in manifests]
        texts = {m.name: m.to_json() for m in manifests}
        gateway = GatewaySettings(models=tuple(models), manifests=texts, **observation)
        around = with_changes(gateway)
        calls_of_server = GatewayCalls(gateway, around, lambda: [], others)
        app = gateway_app(gateway, lambda: [], around)
        application = GrpcApplication.beside(app, calls_of_server, gateway.limits.bytes)
        live.servers["gateway"] = GrpcServer(application, folder / "gateway")

    async def stop() -> None:
        for server in live.servers.values():
            await server.close()

    try:
        live.run(start())
        yield live
    finally:
        live.run(stop())
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
        loop.close()
