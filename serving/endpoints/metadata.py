"""Metadata of the server, the list of models, and the inputs, outputs and configuration of each."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from pydantic import BaseModel

from export.interface import Kind, TensorSpec
from export.manifest import Manifest
from export.triton import model_config
from serving.config import ModelSummary
from serving.open_inference import datatype

server_router = APIRouter(tags=["metadata"])
model_router = APIRouter(tags=["metadata"])


class TensorMetadata(BaseModel):
    """One input or output; -1 stands for a dynamic axis."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(BaseModel):
    """KServe v2 model metadata, with the model's kind."""

    name: str
    versions: list[str]
    platform: str = "onnxruntime_onnx"
    kind: Kind
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ServerMetadata(BaseModel):
    """KServe v2 server metadata."""

    name: str = "zorse"
    version: str
    extensions: list[str] = ["binary_tensor_data", "model_configuration", "model_repository", "statistics"]


def _version() -> str:
    try:
        return version("zorse")
    except PackageNotFoundError:  # run from a checkout
        return "0"


SERVER = ServerMetadata(version=_version())


@server_router.get("/v2")
async def server() -> ServerMetadata:
    """Return KServe v2 server metadata."""
    return SERVER


@server_router.get("/v2/models")
async def models(request: Request) -> Sequence[ModelSummary]:
    """List the models that are served. Each has its own documentation at `/v2/models/<name>/docs`."""
    summaries: Sequence[ModelSummary] = request.app.state.served().models
    return summaries


@model_router.get("")
@model_router.get("/versions/{version}", include_in_schema=False)
async def model(request: Request) -> ModelMetadata:
    """Return KServe v2 model metadata."""
    return model_metadata(request.app.state.manifest)


def model_metadata(manifest: Manifest) -> ModelMetadata:
    """Return what clients may know of a model: its version, inputs and outputs."""
    return ModelMetadata(
        name=manifest.name,
        versions=[str(manifest.version)],
        kind=manifest.interface.kind,
        inputs=[_tensor(tensor) for tensor in manifest.interface.inputs],
        outputs=[_tensor(tensor) for tensor in manifest.interface.outputs],
    )


@model_router.get("/config")
@model_router.get("/versions/{version}/config", include_in_schema=False)
async def config(request: Request) -> dict[str, Any]:
    """Return the configuration with which a Triton server would load the model, as the JSON of its `ModelConfig`."""
    return model_config(request.app.state.manifest)


def _tensor(tensor: TensorSpec) -> TensorMetadata:
    shape = [axis if isinstance(axis, int) else -1 for axis in tensor.shape]
    return TensorMetadata(name=tensor.name, datatype=datatype(np.dtype(tensor.dtype)), shape=shape)
