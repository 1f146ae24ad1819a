"""The calls of the protocol: what a model's replica and the gateway answer, as bytes of messages."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Protocol

from google.protobuf.json_format import ParseDict
from pydantic import BaseModel

from export.manifest import Manifest
from export.triton import model_config
from serving.changes import Action
from serving.config import GatewaySettings, ModelSummary
from serving.endpoints.metadata import SERVER, model_metadata
from serving.endpoints.repository import change, model_index
from serving.endpoints.settings import TRACE, log_settings_of, unchanged
from serving.endpoints.shared_memory import NO_SHARED_MEMORY, no_region
from serving.endpoints.statistics import statistics_of
from serving.errors import NotFoundError, ServingError, UnsupportedError
from serving.grpc import open_inference_pb2 as pb
from serving.grpc.messages import add_outputs, infer_request, numbers, parameters, parsed
from serving.service import ModelService, check_version
from serving.surroundings import Surroundings
from serving.verb import GRPC_INFER
from zorse_common.errors import printable

INFER = "ModelInfer"
Call = tuple[Any, Callable[[Any, float | None], Awaitable[Any]]]
"""The class of a call's request, and the function that makes the answer from it and the deadline."""


class OtherModels(Protocol):
    """The models in other processes of the server."""

    async def answer(self, model: str, method: str, content: bytes, seconds: float | None) -> bytes:
        """Return a model's answer to the message `content`, within `seconds`.

        Raises:
            NotFoundError: there is no such model.
            ServingError: as that model's `ModelCalls.answer`.
        """


class Calls(Protocol):
    """What a process answers. `methods` are the names of the calls."""

    @property
    def methods(self) -> Iterable[str]: ...

    async def answer(self, method: str, content: bytes, deadline: float | None) -> bytes:
        """Return the answer to the message `content`. `deadline` is in the event loop's time.

        Raises:
            ServingError: there is no answer.
        """


def route_name(method: str) -> str:
    """Return the name of a call in metrics and logs, such as `grpc_model_ready`."""
    return GRPC_INFER if method == INFER else "grpc" + re.sub("([A-Z])", r"_\1", method).lower()


class ModelCalls:
    """The calls about the model of `service`. Inference of other models is passed on to `others`.

    Answers are counted and timed in the model's metrics.
    """

    def __init__(self, service: ModelService, surroundings: Surroundings, others: OtherModels) -> None:
        self._service, self._surroundings, self._others = service, surroundings, others
        self._calls: dict[str, Call] = {
            "ModelReady": (pb.ModelRequest, self._ready),
            "ModelMetadata": (pb.ModelRequest, self._metadata),
            "ModelConfig": (pb.ModelRequest, self._config),
            "ModelStatistics": (pb.ModelRequest, self._statistics),
            INFER: (pb.ModelInferRequest, self._infer),
        }

    @property
    def methods(self) -> Iterable[str]:
        """The calls that name a model."""
        return self._calls

    async def answer(self, method: str, content: bytes, deadline: float | None) -> bytes:
        """See `Calls`."""
        began, status = time.perf_counter(), 499
        kind, call = self._calls[method]
        try:
            request = parsed(kind, content)
            name = request.model_name if method == INFER else request.name
            if name != self._service.manifest.name:
                status = 0
                return await self._others.answer(name, method, content, _remaining(deadline))
            answer = await call(request, deadline)
            message: bytes = answer if method == INFER else answer.SerializeToString()
            status = 200
        except ServingError as error:
            status = status and error.status
            raise
        except Exception:
            status = status and 500
            raise
        finally:
            # The other model counts what is passed on.
            if status:
                self._service.metrics.request(route_name(method), status, time.perf_counter() - began)
        return message

    async def _ready(self, request: Any, deadline: float | None) -> Any:
        served = str(self._service.manifest.version)
        return pb.ModelReadyResponse(ready=request.version in ("", served))

    async def _metadata(self, request: Any, deadline: float | None) -> Any:
        return _metadata_of(self._service.manifest, request.version)

    async def _config(self, request: Any, deadline: float | None) -> Any:
        return _config_of(self._service.manifest, request.version)

    async def _statistics(self, request: Any, deadline: float | None) -> Any:
        check_version(self._service.manifest, request.version)
        manifest = self._service.manifest
        models = [(manifest.name, str(manifest.version))]
        families = await self._surroundings.families()
        return _message(pb.ModelStatisticsResponse, statistics_of(families, models))

    async def _infer(self, request: Any, deadline: float | None) -> bytes:
        """Return the bytes of the answer: those of a large one are made in a thread, as its tensors are."""
        received, service = time.monotonic(), self._service
        check_version(service.manifest, request.model_version)
        checked, inputs = await service.decode(numbers(request), infer_request, request)
        names = checked.requested_outputs([output.name for output in service.interface.outputs])
        if (timeout := checked.timeout()) is not None:
            deadline = min(received + timeout, math.inf if deadline is None else deadline)
        outputs = await service.run(inputs, deadline)
        # A raw tensor is only copied.
        work = sum(outputs[name].nbytes for name in names) // 64

        def encoded() -> bytes:
            name, version = service.manifest.name, str(service.manifest.version)
            response = pb.ModelInferResponse(model_name=name, model_version=version, id=request.id)
            add_outputs(response, outputs, names)
            content: bytes = response.SerializeToString()
            return content

        return await service.encode(work, encoded)


class GatewayCalls:
    """The calls about the server and its models. Those that run a model, and came here, are passed on to `models`.

    HAProxy does not find the name in a message that is compressed, or if a stream begins without one, and models may
    have no replica. `not_ready` returns the names of the models that cannot answer yet.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        surroundings: Surroundings,
        not_ready: Callable[[], Sequence[str]],
        models: OtherModels,
    ) -> None:
        self._surroundings, self._access_log, self._served = surroundings, settings.access_log, surroundings.served
        self._not_ready, self._models = not_ready, models
        self._calls: dict[str, Call] = {
            "ServerLive": (pb.Empty, self._live),
            "ServerReady": (pb.Empty, self._ready),
            "ServerMetadata": (pb.Empty, self._metadata),
            "ModelReady": (pb.ModelRequest, self._model_ready),
            "ModelMetadata": (pb.ModelRequest, self._model_metadata),
            "ModelConfig": (pb.ModelRequest, self._model_config),
            "ModelStatistics": (pb.ModelRequest, self._statistics),
            "RepositoryIndex": (pb.RepositoryIndexRequest, self._index),
            "RepositoryModelLoad": (pb.RepositoryModelRequest, self._load),
            "RepositoryModelUnload": (pb.RepositoryModelRequest, self._unload),
            "TraceSetting": (pb.TraceSettings, self._trace),
            "LogSettings": (pb.LogSettings, self._log),
        }
        for kind in ("System", "Cuda"):
            self._calls |= {
                f"{kind}SharedMemoryStatus": (pb.SharedMemoryRequest, _region_status(kind.lower())),
                f"{kind}SharedMemoryRegister": (pb.SharedMemoryRequest, _register),
                f"{kind}SharedMemoryUnregister": (pb.SharedMemoryRequest, _unregister),
            }

    @property
    def methods(self) -> Iterable[str]:
        """All calls of the protocol."""
        return (*self._calls, INFER)

    async def answer(self, method: str, content: bytes, deadline: float | None) -> bytes:
        """See `Calls`."""
        if method == INFER:
            name = parsed(pb.ModelInferRequest, content).model_name
            return await self._models.answer(name, method, content, _remaining(deadline))
        kind, call = self._calls[method]
        message: bytes = (await call(parsed(kind, content), deadline)).SerializeToString()
        return message

    async def _live(self, request: Any, deadline: float | None) -> Any:
        return pb.ServerLiveResponse(live=True)

    async def _ready(self, request: Any, deadline: float | None) -> Any:
        return pb.ServerReadyResponse(ready=not self._not_ready())

    async def _metadata(self, request: Any, deadline: float | None) -> Any:
        return _message(pb.ServerMetadataResponse, SERVER)

    async def _model_ready(self, request: Any, deadline: float | None) -> Any:
        waiting = self._not_ready()
        models = (model for model in self._served().models if model.name not in waiting)
        return pb.ModelReadyResponse(ready=any(_is(model, request.name, request.version) for model in models))

    async def _model_metadata(self, request: Any, deadline: float | None) -> Any:
        return _metadata_of(self._manifest(request.name), request.version)

    async def _model_config(self, request: Any, deadline: float | None) -> Any:
        return _config_of(self._manifest(request.name), request.version)

    def _manifest(self, name: str) -> Manifest:
        text = self._served().manifests.get(name)
        if text is None:
            names = ", ".join(sorted(self._served().names))
            raise NotFoundError(f"there is no model {printable(name)}: the server has {names}")
        return Manifest.from_json(text)

    async def _statistics(self, request: Any, deadline: float | None) -> Any:
        name, version = request.name, request.version
        models = [(m.name, str(m.version)) for m in self._served().models if not name or _is(m, name, version)]
        if not models:
            raise NotFoundError(f"there is no model {name[:80]!r} of version {version[:20]!r} on this server")
        return _message(pb.ModelStatisticsResponse, statistics_of(await self._surroundings.families(), models))

    async def _index(self, request: Any, deadline: float | None) -> Any:
        entries = model_index(self._served(), self._not_ready(), only_ready=request.ready)
        return _message(pb.RepositoryIndexResponse, {"models": [entry.model_dump() for entry in entries]})

    async def _load(self, request: Any, deadline: float | None) -> Any:
        return await self._change("load", request)

    async def _unload(self, request: Any, deadline: float | None) -> Any:
        return await self._change("unload", request)

    async def _change(self, action: Action, request: Any) -> Any:
        if request.repository_name:
            raise NotFoundError(f"there is no repository {printable(request.repository_name)}: leave its name out")
        await change(action, request.model_name, request.parameters, self._surroundings.ask)
        return pb.Empty()

    async def _trace(self, request: Any, deadline: float | None) -> Any:
        name = request.model_name
        if name and name not in {model.name for model in self._served().models}:
            raise NotFoundError(f"there is no model {name[:80]!r} on this server")
        values = {key: list(value.value) for key, value in request.settings.items()}
        # A setting without a value stands for the present one.
        wanted = {k: v if isinstance(TRACE.get(k), list) else ", ".join(v) for k, v in values.items() if v}
        settings = unchanged(TRACE, dict.fromkeys(values) | wanted)
        answer = pb.TraceSettings()
        for key, value in settings.items():
            answer.settings[key].value.extend(value if isinstance(value, list) else [value])
        return answer

    async def _log(self, request: Any, deadline: float | None) -> Any:
        wanted = dict.fromkeys(request.settings) | parameters(request.settings)
        settings = unchanged(log_settings_of(access_log=self._access_log), wanted)
        fields = {bool: "bool_param", int: "uint32_param", str: "string_param"}
        return _message(pb.LogSettings, {"settings": {k: {fields[type(v)]: v} for k, v in settings.items()}})


def _region_status(kind: str) -> Callable[[Any, float | None], Awaitable[Any]]:
    async def status(request: Any, deadline: float | None) -> Any:
        if request.name:
            raise no_region(kind, request.name)
        return pb.Empty()

    return status


async def _register(request: Any, deadline: float | None) -> Any:
    raise UnsupportedError(NO_SHARED_MEMORY)


async def _unregister(request: Any, deadline: float | None) -> Any:
    return pb.Empty()


def _metadata_of(manifest: Manifest, version: str) -> Any:
    check_version(manifest, version)
    return _message(pb.ModelMetadataResponse, model_metadata(manifest))


def _config_of(manifest: Manifest, version: str) -> Any:
    check_version(manifest, version)
    return _message(pb.ModelConfigResponse, {"config": model_config(manifest)})


def _is(model: ModelSummary, name: str, version: str) -> bool:
    return model.name == name and version in ("", str(model.version))


def _message(kind: Any, content: BaseModel | dict[str, Any]) -> Any:
    """Return the message of the class `kind` with the fields of JSON that it has."""
    fields = content.model_dump() if isinstance(content, BaseModel) else content
    return ParseDict(fields, kind(), ignore_unknown_fields=True)


def _remaining(deadline: float | None) -> float | None:
    return None if deadline is None else deadline - time.monotonic()
