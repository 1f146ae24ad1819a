"""Triton's model repository extension: the index of the models, and requests to load and unload one."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, Literal

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel

from serving.changes import Action, Ask
from serving.errors import BadRequestError, UnsupportedError
from serving.json_bodies import json_object
from serving.served import Served
from zorse_common.errors import printable

server_router = APIRouter(prefix="/v2/repository", tags=["repository"])


def _body(properties: dict[str, Any]) -> dict[str, Any]:
    """Return the description of a body with an object of these properties."""
    schema = {"type": "object", "properties": properties}
    return {"requestBody": {"content": {"application/json": {"schema": schema}}}}


_INDEX = _body({"ready": {"type": "boolean"}})
_CHANGE = _body({"parameters": {"type": "object"}})


class IndexEntry(BaseModel):
    """A model of the server in the form of Triton's repository index."""

    name: str
    version: str
    state: Literal["READY", "LOADING", "UNAVAILABLE"]
    reason: str = ""


@server_router.post("/index", openapi_extra=_INDEX)
async def index(request: Request) -> list[IndexEntry]:
    """List the models with their states. With `{"ready": true}` only those that take requests are listed."""
    only_ready = json_object(await request.body()).get("ready", False)
    if not isinstance(only_ready, bool):
        raise BadRequestError(f"ready is {str(only_ready)[:40]!r}: give true or false")
    waiting = await run_in_threadpool(request.app.state.not_ready)
    return model_index(request.app.state.served(), waiting, only_ready=only_ready)


@server_router.post("/models/{name}/load", openapi_extra=_CHANGE)
async def load(name: str, request: Request) -> dict[str, Any]:
    """Run the version of the model that the repository names now. The answer comes once it has taken over.

    If that version is not sound, the answer is an error, and what ran before runs on.
    """
    await change("load", name, _parameters(await request.body()), request.app.state.ask)
    return {}


@server_router.post("/models/{name}/unload", openapi_extra=_CHANGE)
async def unload(name: str, request: Request) -> dict[str, Any]:
    """Answer the model's requests in flight and stop it. It stays away until it is loaded."""
    await change("unload", name, _parameters(await request.body()), request.app.state.ask)
    return {}


def _parameters(body: bytes) -> dict[str, Any]:
    parameters = json_object(body).get("parameters", {})
    if not isinstance(parameters, dict):
        raise BadRequestError("parameters are not an object: give one, or leave them out")
    return parameters


async def change(action: Action, model: str, parameters: Iterable[str], ask: Ask) -> None:
    """Load or unload `model`. `parameters` are the names of those of the request.

    Raises:
        UnsupportedError: a parameter is for what the server does not do.
        ServingError: as `Ask`.
    """
    for name in parameters:
        # No model depends on another one.
        if name != "unload_dependents":
            raise UnsupportedError(
                f"the request has the parameter {printable(name)}: models come from the repository as they are, "
                "leave it out"
            )
    await ask(action, model)


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
