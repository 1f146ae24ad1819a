"""Metadata of the server, the list of models, and the inputs and outputs of each."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

import numpy as np
from fastapi import APIRouter, Request

from export.interface import TensorSpec
from serving.config import ModelSummary
from serving.errors import NotFoundError
from serving.open_inference import ModelMetadata, ServerMetadata, TensorMetadata, datatype

server_router = APIRouter(tags=["metadata"])
model_router = APIRouter(tags=["metadata"])


@server_router.get("/v2")
async def server() -> ServerMetadata:
    """Return KServe v2 server metadata."""
    try:
        return ServerMetadata(version=version("zorse"))
    except PackageNotFoundError:  # run from a checkout
        return ServerMetadata(version="0")


@server_router.get("/v2/models")
async def models(request: Request) -> list[ModelSummary]:
    """List the models that are served. Each has its own documentation at `/v2/models/<name>/docs`."""
    summaries: list[ModelSummary] = request.app.state.models
    return summaries


@server_router.api_route("/v2/models/{name}", methods=["GET", "POST"], include_in_schema=False)
@server_router.api_route("/v2/models/{name}/{rest:path}", methods=["GET", "POST"], include_in_schema=False)
async def unknown_model(name: str, request: Request) -> None:
    """Answer 404: the paths of existing models are routed to their own applications."""
    names = ", ".join(summary.name for summary in request.app.state.models)
    raise NotFoundError(f"there is no model {name!r} on this server: it serves {names}")


@model_router.get("")
@model_router.get("/versions/{version}", include_in_schema=False)
async def model(request: Request) -> ModelMetadata:
    """Return KServe v2 model metadata."""
    manifest = request.app.state.service.manifest
    return ModelMetadata(
        name=request.app.state.name,
        versions=[str(manifest.version)],
        kind=manifest.interface.kind,
        inputs=[_tensor(tensor) for tensor in manifest.interface.inputs],
        outputs=[_tensor(tensor) for tensor in manifest.interface.outputs],
    )


@model_router.post("/versions/{version}/{rest:path}", include_in_schema=False)
async def unknown_version(version: str, request: Request) -> None:
    """Answer 404: this is no route of the version that is served; other versions are refused before."""
    raise NotFoundError(f"there is no POST {request.url.path}")


def _tensor(tensor: TensorSpec) -> TensorMetadata:
    shape = [axis if isinstance(axis, int) else -1 for axis in tensor.shape]
    return TensorMetadata(name=tensor.name, datatype=datatype(np.dtype(tensor.dtype)), shape=shape)
