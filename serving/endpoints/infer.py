"""KServe v2 inference with JSON or binary tensors."""

from __future__ import annotations

import math
import time
from typing import Any

from pydantic import BaseModel

from serving.compression import compress, response_encoding
from serving.config import Limits
from serving.errors import TooLargeError
from serving.http import HttpRequest, HttpResponse
from serving.json_bodies import check_json
from serving.open_inference import HEADER_LENGTH, InferRequest, json_length, pack, parse_infer
from serving.route import ModelRoute, openapi_schema
from serving.service import ModelService

_JSON_NUMBER_BYTES = 4
"""About the bytes of a grey level in JSON. Other numbers have up to five times as many."""


class OutputTensor(BaseModel):
    """One output of an inference: its data as numbers, or `binary_data_size` bytes after the JSON."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, int] = {}
    data: list[float] = []


class InferResponse(BaseModel):
    """The JSON of an answer to an inference request."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[OutputTensor]


_DESCRIPTION = """Run the model on explicit tensors (KServe v2; binary ones with `Inference-Header-Content-Length`).

The parameter `timeout` is in microseconds. `priority` and parameters of other names have no effect. The answer is
compressed if `Accept-Encoding` names gzip or deflate alone."""
_BINARY: dict[str, Any] = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
_OPENAPI: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": openapi_schema(InferRequest)}, **_BINARY},
    },
    "responses": {"200": {"content": {"application/json": {"schema": openapi_schema(InferResponse)}, **_BINARY}}},
}


async def infer(service: ModelService, request: HttpRequest) -> HttpResponse:
    """Run the model on explicit tensors."""
    received = time.monotonic()
    length = json_length(request.body, request.headers.get(HEADER_LENGTH))
    check_json(request.body, length)
    parsed, inputs = await service.decode(length, parse_infer, request.body, length)
    requested = parsed.requested_outputs([output.name for output in service.interface.outputs])
    deadline, timeout = request.deadline, parsed.timeout()
    if timeout is not None:
        deadline = min(received + timeout, math.inf if deadline is None else deadline)
    outputs = await service.run(inputs, deadline)
    _check_numbers(sum(outputs[name].size for name, in_binary in requested.items() if not in_binary), service.limits)
    extra = {"model_name": service.manifest.name, "model_version": str(service.manifest.version)}
    if parsed.id is not None:
        extra["id"] = parsed.id
    # A binary tensor is only copied.
    work = 0
    for name, in_binary in requested.items():
        work += outputs[name].nbytes // 64 if in_binary else outputs[name].size
    body, headers = await service.encode(work, pack, "outputs", outputs, requested, extra)
    encoding = response_encoding(request.headers.get("accept-encoding", ""))
    if encoding is not None:
        body = await service.work(len(body), compress, body, encoding)
        headers |= {"content-encoding": encoding, "vary": "accept-encoding"}
    return HttpResponse(body, headers)


def _check_numbers(count: int, limits: Limits) -> None:
    """Refuse an answer with `count` numbers in JSON that would have many more bytes than a request may have.

    Raises:
        TooLargeError: there are more numbers than that.
    """
    most = limits.bytes // _JSON_NUMBER_BYTES
    if count > most:
        raise TooLargeError(
            f"the answer has {count} numbers and JSON takes {most}: ask for binary tensors (binary_data_output)"
        )


INFER = ModelRoute(
    name="infer",
    answer=infer,
    description=_DESCRIPTION,
    tag="inference",
    media_types=("application/json", "application/octet-stream"),
    openapi=_OPENAPI,
)
