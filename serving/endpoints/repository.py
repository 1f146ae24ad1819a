"""Triton's model repository extension: the index of the models. Models are not loaded or unloaded by requests."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Literal

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel

from serving.config import ModelSummary
from serving.errors import BadRequestError, NotFoundError, ServingError, UnsupportedError
from serving.json_bodies import json_object
from serving.served import Served

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
    state: Literal["READY", "LOADING", "UNAVAILABLE"]
    reason: str = ""


@server_router.post("/index", openapi_extra=_BODY)
async def index(request: Request) -> list[IndexEntry]:
    """List the models with their states. With `{"ready": true}` only those that take requests are listed."""
    only_ready = json_object(await request.body()).get("ready", False)
    if not isinstance(only_ready, bool):
        raise BadRequestError(f"ready is {str(only_ready)[:40]!r}: give true or false")
    waiting = await run_in_threadpool(request.app.state.not_ready)
    return model_index(request.app.state.served(), waiting, only_ready=only_ready)


@server_router.post("/models/{name}/load")
@server_router.post("/models/{name}/unload")
async def load_or_unload(name: str, request: Request) -> None:
    """Refuse: the server loads the models of its repository when it starts."""
    raise no_loading(name, request.app.state.served().models)


def model_index(served: Served, waiting: Collection[str], *, only_ready: bool) -> list[IndexEntry]:
    """Return an entry for each version that is served, is being started or is not served, or only for the first ones.

    `waiting` are the names of models that do not take requests yet.
    """
    ready = [
        IndexEntry(name=model.name, version=str(model.version), state="READY")
        if model.name not in waiting
        else IndexEntry(name=model.name, version=str(model.version), state="UNAVAILABLE", reason="not started")
        for model in served.models
        if not (only_ready and model.name in waiting)
    ]
    if only_ready:
        return ready
    loading = [_entry(key, "LOADING") for key in served.loading]
    return [*ready, *loading, *(_entry(key, "UNAVAILABLE", reason) for key, reason in served.unavailable.items())]


def _entry(key: str, state: Literal["LOADING", "UNAVAILABLE"], reason: str = "") -> IndexEntry:
    """Return the entry of a `key`, which is `<model>/<version>` or `<model>`."""
    name, _, version = key.partition("/")
    return IndexEntry(name=name, version=version, state=state, reason=reason)


def no_loading(name: str, models: Sequence[ModelSummary]) -> ServingError:
    """Return the error for a request to load or unload a model."""
    if name not in {model.name for model in models}:
        return NotFoundError(f"there is no model {name[:80]!r} on this server")
    return UnsupportedError(f"{name} cannot be loaded or unloaded by a request: start the server again to do so")
