"""Generate images from a seed."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from numpy.typing import NDArray

from serving import codec
from serving.errors import BadRequestError
from serving.schemas import GenerateRequest
from serving.service import ModelService

model_router = APIRouter(tags=["images"])

_IMAGES = {"content": {"image/png": {}, "image/jpeg": {}, "application/zip": {}}, "description": "The images."}


@model_router.post("/generate", response_class=Response, responses={200: _IMAGES})
async def generate(
    request: Request, query: Annotated[GenerateRequest, Query()], body: GenerateRequest | None = None
) -> Response:
    """Images `first` … `first + n - 1` of `seed`, as one grid or as a ZIP of single files.

    Asked for by the query or by a JSON body of the same keys, but not by both.
    """
    if body is not None and request.query_params:
        raise BadRequestError("the request asks by its query and by its JSON body: leave one of them out")
    wanted = body or query
    service: ModelService = request.app.state.service
    images = await service.generate(wanted.n, wanted.seed, wanted.first)
    return await run_in_threadpool(_render, images, wanted)


def _render(images: NDArray[np.uint8], wanted: GenerateRequest) -> Response:
    if wanted.layout == "grid":
        return Response(codec.encode(codec.grid(images), wanted.format), media_type=codec.MEDIA_TYPES[wanted.format])
    names = (f"{wanted.seed}_{wanted.first + row:06d}.{wanted.format}" for row in range(len(images)))
    files = [(name, codec.encode(image, wanted.format)) for name, image in zip(names, images, strict=True)]
    return Response(codec.archive(files), media_type="application/zip")
