"""KServe v2 inference with JSON or binary tensors."""

from __future__ import annotations

from typing import Any

from serving.http import HttpRequest, HttpResponse
from serving.open_inference import HEADER_LENGTH, pack, parse_infer
from serving.route import ModelRoute
from serving.service import ModelService

_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"type": "object", "required": ["inputs"]}},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


async def infer(service: ModelService, request: HttpRequest) -> HttpResponse:
    """Run the model on explicit tensors."""
    parsed, inputs = parse_infer(request.body, request.headers.get(HEADER_LENGTH.lower()))
    requested = parsed.requested_outputs([output.name for output in service.interface.outputs])
    outputs = await service.run(inputs, request.deadline)
    extra = {"model_name": service.manifest.name, "model_version": str(service.manifest.version)}
    if parsed.id is not None:
        extra["id"] = parsed.id
    body, headers = pack("outputs", outputs, requested, extra)
    return HttpResponse(body, headers)


INFER = ModelRoute(
    name="infer",
    answer=infer,
    description="Run the model on explicit tensors (KServe v2; binary ones with `Inference-Header-Content-Length`).",
    tag="inference",
    media_types=("application/json", "application/octet-stream"),
    openapi=_BODY,
)
