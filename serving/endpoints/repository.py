"""Triton's model repository extension: the index of the models. Models are not loaded or unloaded by requests."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel

from serving.config import ModelSummary
from serving.errors import BadRequestError, NotFoundError, ServingError, UnsupportedError
from serving.json_bodies import json_object

server_router = APIRouter(prefix="/v2/repository", tags=["repository"])

_BODY: dict[str, Any] = {
    "requestBody": {
        "content": {"application/json": {"schema": {"type": "object", "properties": {"ready": {"type": "boolean"}}}}}
    }
}


class IndexEntry(BaseModel):
    """A model of the server in the form of Triton's repository index."""

    name: str
    version: str
    state: Literal["READY", "UNAVAILABLE"]
    reason: str = ""


@server_router.post("/index", openapi_extra=_BODY)
async def index(request: Request) -> list[IndexEntry]:
    """List the models with their states. With `{"ready": true}` only those that take requests are listed."""
    only_ready = json_object(await request.body()).get("ready", False)
    if not isinstance(only_ready, bool):
        raise BadRequestError(f"ready is {str(only_ready)[:40]!r}: give true or false")
    waiting = await run_in_threadpool(request.app.state.not_ready)
    served = request.app.state.served()
    return model_index(served.models, served.unavailable, waiting, only_ready=only_ready)


@server_router.post("/models/{name}/load")
@server_router.post("/models/{name}/unload")
async def load_or_unload(name: str, request: Request) -> None:
    """Refuse: the server loads the models of its repository when it starts."""
    raise no_loading(name, request.app.state.served().models)


def model_index(
    models: Sequence[ModelSummary], unavailable: Mapping[str, str], waiting: Collection[str], *, only_ready: bool
) -> list[IndexEntry]:
    """Return an entry for each of `models` and of those `unavailable`, or only for those that take requests.

    `waiting` are the names of models that do not take any yet, and `unavailable` is that of `GatewaySettings`.
    """
    served = [
        IndexEntry(name=model.name, version=str(model.version), state="READY")
        if model.name not in waiting
        else IndexEntry(name=model.name, version=str(model.version), state="UNAVAILABLE", reason="not started")
        for model in models
        if not (only_ready and model.name in waiting)
    ]
    return served if only_ready else [*served, *map(_unavailable, unavailable.items())]


def _unavailable(skipped: tuple[str, str]) -> IndexEntry:
    """Return the entry of a model that is not served, for `<model>/<version>` or `<model>` and the reason."""
    (name, _, version), reason = skipped[0].partition("/"), skipped[1]
    return IndexEntry(name=name, version=version, state="UNAVAILABLE", reason=reason)


def no_loading(name: str, models: Sequence[ModelSummary]) -> ServingError:
    """Return the error for a request to load or unload a model."""
    if name not in {model.name for model in models}:
        return NotFoundError(f"there is no model {name[:80]!r} on this server")
    return UnsupportedError(f"{name} cannot be loaded or unloaded by a request: start the server again to do so")
