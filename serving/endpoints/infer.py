"""KServe v2 inference with JSON or binary tensors."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool

from serving.open_inference import HEADER_LENGTH, pack, parse_infer
from serving.service import ModelService

model_router = APIRouter(tags=["inference"])

_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"type": "object", "required": ["inputs"]}},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


@model_router.post("/infer", response_class=Response, openapi_extra=_BODY)
@model_router.post("/versions/{version}/infer", response_class=Response, include_in_schema=False)
async def infer(request: Request) -> Response:
    """Run the model on explicit tensors (KServe v2; binary tensors with `Inference-Header-Content-Length`)."""
    service: ModelService = request.app.state.service
    parsed, inputs = await run_in_threadpool(parse_infer, await request.body(), request.headers.get(HEADER_LENGTH))
    requested = parsed.requested_outputs([output.name for output in service.interface.outputs])
    outputs = await service.run(inputs)
    extra = {"model_name": request.app.state.name, "model_version": str(service.manifest.version)}
    if parsed.id is not None:
        extra["id"] = parsed.id
    content, headers = await run_in_threadpool(pack, "outputs", outputs, requested, extra)
    return Response(content, headers=headers)
